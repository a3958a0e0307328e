"""Popular savers under every crash: makes the table in SAVERS.md.

    python -m grader.bench.public_savers [--only NAME] [--write]

Public savers, used as their documentation describes, each saving three times into one directory.
After a crash, the program loads the newest checkpoint as that library finds it. DCP syncs its
files. torch_checkpointing's documentation calls a finished save durable, but 0.1.1 calls no fsync.
The others promise nothing of that kind: what a power loss destroys isn't their bug, but what you
must add if you need durability. The last row is this course's smallest template.

Two more were tried. ravex 0.10.1 isn't in the table because loading with its engine (moonclip
0.3.1) didn't return in the forked processes that judge states. In an undisturbed run, it gave back
weights and random numbers bit for bit. syckpt 0.0.9 isn't in it either: in our use of it, the third
save gave back other weights, and no save an optimizer's state, without any crash.
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


HEAD = ["saver", *(_short(t) for t in TITLES.values()), "disk errors", "flipped bits", "tested"]


def row(name: str, found: dict, today: str) -> str:
    """A saver's line of the table."""
    cells = [f"{m['kept']}/{m['states']}" for m in found["models"].values()]
    for what in ("errors", "flips"):
        cells.append(f"{found[what]['tried'] - len(found[what]['failed'])}/{found[what]['tried']}")
    cells = [c if c.split("/")[0] == c.split("/")[1] else f"**{c}**" for c in cells]
    cells.append(f"{_versions(SAVERS[name])}; {today}")
    return f"| {SAVERS[name].title} | " + " | ".join(cells) + " |"


def section(name: str, found: dict) -> str:
    """A saver's smallest failing state."""
    lines = [f"Used: {SAVERS[name].use}.", "", "```", *found["text"], "```"]
    return "\n".join([f"## {SAVERS[name].title}", "", *(line.rstrip() for line in lines)])


def page(results: dict[str, dict], today: str, old: str = "") -> str:
    """The text of SAVERS.md. A saver without a result keeps what `old`, the page before, says."""
    table, _, details = old.partition("\n## ")
    kept_rows = {line.split(" | ")[0][2:]: line for line in table.splitlines() if line[:2] == "| "}
    kept = {text.partition("\n")[0]: f"## {text.strip()}" for text in details.split("\n## ")}
    lines, sections = [], []
    for name, saver in SAVERS.items():
        if name in results:
            lines.append(row(name, results[name], today))
            sections.append(section(name, results[name]))
        elif saver.title in kept_rows:
            lines.append(kept_rows[saver.title])
            sections.append(kept[saver.title])
    return "\n".join(
        [
            "# Savers that people use, under every crash",
            "",
            "Written by `python -m grader.bench.public_savers --write` (with `--only NAME`, it",
            "keeps the other rows). States kept / states tried;",
            "[README.md](README.md) says what they are and what is promised.",
            "",
            "\n\n".join(text.replace("\n", " ") for text in __doc__.strip().split("\n\n")[2:]),
            "",
            "| " + " | ".join(HEAD) + " |",
            "|---" * len(HEAD) + "|",
            *lines,
            "",
            "The smallest failing state of each:",
            "",
            "\n\n".join(sections),
            "",
        ]
    )


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
            click.echo(f"{name}: not installed (pip install -e '.[bench,savers]')", err=True)
            continue
        results[name] = _in_its_own_process(name)
        click.echo(
            f"--- {SAVERS[name].title} ({_versions(SAVERS[name])})\n"
            + "\n".join(results[name]["text"])
        )
    if write:
        TABLE.write_text(page(results, date.today().isoformat(), TABLE.read_text()))


if __name__ == "__main__":
    main()
