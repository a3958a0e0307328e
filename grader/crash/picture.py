"""Draws a failing state: the operations up to the crash, which of them reached the disk, and what
was on the disk then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grader.crash.crashtest import Report
from grader.crash.description import SHOWN, _text, advice, story
from grader.crash.enumeration import PROCESS
from grader.crash.operations import Mark, Sync, SyncAll
from grader.crash.promise import Failure

GOOD, BAD, QUIET = "#2b7a4b", "#b3261e", "#6b6f76"


def draw(report: Report, failure: Failure, path: Path) -> None:
    """Write the picture to `path` (PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = of(report, failure, pyplot)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    pyplot.close(figure)


def of(report: Report, failure: Failure, pyplot: Any) -> Any:
    it, moment = story(report, failure), failure.state.moment
    begin = max(0, moment - SHOWN)
    ops = report.record.ops[begin:moment]
    of_process = PROCESS in failure.state.models
    where = "the files are as the calls left them" if of_process else ", ".join(it["on"])
    below = [
        ("crash", f"{it['crash']}: {where}"),
        *(("lost", what) for what in it["lost"]),
    ]
    below += [("on disk", what) for what in (it["disk"] or ["nothing"])]
    below += [("load", it["load"]), ("promised", it["promised"]), *advice(report)]
    rows = len(ops) + len(below) + 1
    figure, axes = pyplot.subplots(figsize=(9, 0.3 * rows + 0.4))
    axes.set_xlim(0, 10)
    axes.set_ylim(rows, -1)
    axes.axis("off")
    for n, op in enumerate(ops):
        mark, sync = isinstance(op, Mark), isinstance(op, (Sync, SyncAll))
        lost = any(op.text and op.text in what for what in it["lost"])
        color = BAD if lost else GOOD if sync else QUIET if mark else "black"
        if not mark:
            axes.plot(
                [0.55],
                [n],
                marker="s" if sync else "o",
                color=color,
                markersize=6,
                fillstyle="none" if lost else "full",
            )
        axes.text(
            0.9,
            n,
            _text(op) + ("   (not on the disk)" if lost else ""),
            va="center",
            fontsize=9,
            color=color,
            style="italic" if mark else "normal",
        )
        axes.text(0.2, n, str(begin + n + 1), va="center", ha="right", fontsize=7, color=QUIET)
    axes.plot([0.55, 0.55], [-0.4, len(ops) - 0.6], color="#d0d3d8", linewidth=2, zorder=0)
    axes.plot([0, 10], [len(ops) - 0.45] * 2, color=BAD, linewidth=1.5, linestyle="--")
    for n, (label, what) in enumerate(below, len(ops)):
        first = n == len(ops) or below[n - len(ops) - 1][0] != label
        axes.text(
            0,
            n + 0.2,
            label if first else "",
            va="center",
            fontsize=9,
            color=BAD if label in ("crash", "lost", "load") else QUIET,
            weight="bold",
        )
        axes.text(1.3, n + 0.2, what, va="center", fontsize=9)
    return figure
