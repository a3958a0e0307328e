"""The savers' figures as a picture for the README."""

from __future__ import annotations

from pathlib import Path


def draw(found: dict[int, dict], path: Path) -> None:
    """Draw stall, time to durable and time to load, in s/GiB, one group of bars a size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(next(iter(found.values())))
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), sharey=True)
    for ax, (key, title) in zip(
        axes,
        (
            ("stall", "training stalls"),
            ("durable", "until it is durable"),
            ("load", "until it is loaded"),
        ),
        strict=False,
    ):
        for n, (size, rows) in enumerate(found.items()):
            values = [
                (rows[name][key] or 0) / (rows[name]["bytes"] / (1 << 30)) if name in rows else 0
                for name in names
            ]
            height = 0.8 / len(found)
            bars = ax.barh(
                [y + n * height for y in range(len(names))],
                values,
                height * 0.9,
                color=plt.cm.viridis(0.15 + 0.7 * n / max(1, len(found) - 1)),
                label=f"{size} MiB",
            )
            for bar, value in zip(bars, values, strict=False):
                if value:
                    ax.text(
                        bar.get_width(),
                        bar.get_y() + bar.get_height() / 2,
                        f" {value:.2f}",
                        va="center",
                        fontsize=6,
                    )
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_xlabel("seconds per GiB", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks([y + 0.4 - 0.4 / len(found) for y in range(len(names))], names)
    axes[0].invert_yaxis()
    axes[-1].legend(fontsize=8, frameon=False, loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
