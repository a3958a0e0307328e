"""Popular savers under every crash: makes the table in SAVERS.md.

    python -m grader.bench.public_savers [--only NAME] [--write]

Seven popular savers, used as their documentation describes, each saving three times into one
directory. After a crash, the program loads the newest checkpoint as that library finds it. Except
for DCP, which syncs its files, none of them promises that a save is durable when it returns: what a
power loss destroys isn't their bug, but what you must add if you need durability.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from grader.bench.saver_adapters import SAVERS, Saver
from grader.course.catalog import ROOT
from grader.crash.enumeration import TITLES

MOST_TREES = 300  # for each saver
TABLE = ROOT / "grader" / "crash" / "SAVERS.md"


def one(name: str) -> dict:
    """Test one saver in this process."""
    import torch

    from grader.crash import crashtest, description

    torch.set_num_threads(1)
    run, load = SAVERS[name].make()
    report = crashtest.test(crashtest.Program({"": run}, load), seconds=120, most_trees=MOST_TREES)
    return description.as_data(report) | {"text": description.text(report)}


def _versions(saver: Saver) -> str | None:
    try:
        return ", ".join(f"{p} {version(p)}" for p in saver.packages)
    except PackageNotFoundError:
        return None


def _in_its_own_process(name: str) -> dict:
    with tempfile.TemporaryDirectory(prefix="g-") as made:
        env = os.environ | {
            "TMPDIR": made,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
        }
        out = Path(made, "result.json")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "grader.bench.public_savers",
                "--child",
                name,
                "--out",
                str(out),
            ],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=1800,
            start_new_session=True,
        )
        if not out.exists():
            raise click.ClickException(
                f"{name}: {done.stderr.strip().splitlines()[-1:] or done.returncode}"
            )
        return json.loads(out.read_text())


def _short(title: str) -> str:
    return (
        title.replace("the process dies", "process dies")
        .replace("ext4, data=ordered", "ext4")
        .replace("ext4, data=writeback", "ext4 writeback")
        .replace("network file system", "network FS")
        .replace("POSIX, no more", "POSIX")
    )


def rows(results: dict[str, dict]) -> list[str]:
    """The table's lines."""
    head = ["saver", *(_short(t) for t in TITLES.values()), "disk errors", "flipped bits"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, found in results.items():
        cells = [f"{m['kept']}/{m['states']}" for m in found["models"].values()]
        for what in ("errors", "flips"):
            cells.append(
                f"{found[what]['tried'] - len(found[what]['failed'])}/{found[what]['tried']}"
            )
        cells = [c if c.split("/")[0] == c.split("/")[1] else f"**{c}**" for c in cells]
        lines.append(f"| {SAVERS[name].title} | " + " | ".join(cells) + " |")
    return lines


def written(results: dict[str, dict], today: str) -> str:
    """When, by what and with which versions the table was made."""
    installed = [v for n in results if (v := _versions(SAVERS[n]))]
    versions = dict.fromkeys(v for text in installed for v in text.split(", "))
    return (
        f"Written by `python -m grader.bench.public_savers --write` on {today}: "
        f"{'; '.join(versions)}. States kept / states tried;"
    )


def page(results: dict[str, dict], today: str) -> str:
    """The text of SAVERS.md."""
    out = [
        "# Savers that people use, under every crash",
        "",
        written(results, today),
        "[README.md](README.md) says what they are and what is promised.",
        "",
        __doc__.strip().split("\n\n", 2)[2].replace("\n", " "),
        "",
        *rows(results),
        "",
        "The smallest failing state of each:",
    ]
    for name, found in results.items():
        out += [
            "",
            f"## {SAVERS[name].title}",
            "",
            f"Used: {SAVERS[name].use}.",
            "",
            "```",
            *[line.rstrip() for line in found["text"]],
            "```",
        ]
    return "\n".join(out) + "\n"


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(list(SAVERS)))
@click.option("--write", is_flag=True, help="Write SAVERS.md.")
@click.option("--child", hidden=True)
@click.option("--out", hidden=True)
def main(only, write, child, out):
    if child:
        Path(out).write_text(json.dumps(one(child)))
        return
    results = {}
    for name in only or SAVERS:
        if _versions(SAVERS[name]) is None:
            click.echo(f"{name}: not installed (pip install -e '.[bench]')", err=True)
            continue
        results[name] = _in_its_own_process(name)
        click.echo(
            f"--- {SAVERS[name].title} ({_versions(SAVERS[name])})\n"
            + "\n".join(results[name]["text"])
        )
    if write:
        TABLE.write_text(page(results, date.today().isoformat()))


if __name__ == "__main__":
    main()
