"""Savers that people use, under every crash: the table in SAVERS.md.

    python -m grader.crash.savers [--only NAME] [--write]

Each is used as its documentation says, by a program that saves three times into one directory and, after a crash, loads the
newest checkpoint as that library finds it. But for DCP, which syncs its files, none of them says that a save is durable
when it returns: what a power failure takes is no bug of theirs, it is what a user who needs that has to add.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from grader.course import ROOT
from grader.crash.recorder import mark
from grader.crash.states import TITLES

SAVES = 3
MOST_TREES = 300  # of one saver
TABLE = Path(__file__).with_name("SAVERS.md")


@dataclass
class Saver:
    """`run(directory)` saves SAVES times and marks when; `load(directory)` gives the digest of what a job would resume."""

    title: str
    packages: tuple[str, ...]
    use: str  # how it is used
    make: Callable[[], tuple[Callable[[str], None], Callable[[str], str | None]]]


def _plain(save: Callable[[str, int, dict], None], load: Callable[[str], object]):
    """For savers of a dictionary."""
    import torch

    from grader.harness.digest import digest

    def state(n: int) -> dict:
        return {"weight": torch.randn(40, 40, generator=torch.Generator().manual_seed(n)), "step": torch.tensor(n)}

    def run(directory: str) -> None:
        for n in range(1, SAVES + 1):
            mark("began", n, digest(state(n)))
            save(directory, n, state(n))
            mark("returned", n)

    def loaded(directory: str) -> str | None:
        found = load(directory)
        return None if found is None else digest(found)

    return run, loaded


def _newest(directory: str, pattern: str) -> list[str]:
    """Paths whose names match, the highest number first."""
    found = [(int(m[1]), name) for name in os.listdir(directory) if (m := re.fullmatch(pattern, name))]
    return [os.path.join(directory, name) for _, name in sorted(found, reverse=True)]


def torch_save():
    import torch

    return _plain(lambda d, n, state: torch.save(state, f"{d}/checkpoint.pt"), _load_checkpoint_pt)


def torch_save_renamed():
    import torch

    def save(directory, n, state):
        torch.save(state, f"{directory}/checkpoint.pt.tmp")
        os.replace(f"{directory}/checkpoint.pt.tmp", f"{directory}/checkpoint.pt")

    return _plain(save, _load_checkpoint_pt)


def _load_checkpoint_pt(directory):
    import torch

    path = f"{directory}/checkpoint.pt"
    return torch.load(path, weights_only=True) if os.path.exists(path) else None


def safetensors():
    from safetensors.torch import load_file, save_file

    def load(directory):
        path = f"{directory}/model.safetensors"
        return load_file(path) if os.path.exists(path) else None

    return _plain(lambda d, n, state: save_file(state, f"{d}/model.safetensors"), load)


def dcp():
    import torch
    import torch.distributed.checkpoint as dcp

    def load(directory):
        # a directory without .metadata is unfinished, by DCP's own rule
        whole = [p for p in _newest(directory, r"step-(\d+)") if os.path.exists(f"{p}/.metadata")]
        if not whole:
            return None
        state = {"weight": torch.zeros(40, 40), "step": torch.tensor(0)}
        dcp.load(state, checkpoint_id=whole[0], no_dist=True)
        return state

    return _plain(lambda d, n, state: dcp.save(state, checkpoint_id=f"{d}/step-{n}", no_dist=True), load)


def lightning():
    from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

    io = TorchCheckpointIO()

    def load(directory):
        files = _newest(directory, r"step-(\d+)\.ckpt")
        return io.load_checkpoint(files[0]) if files else None

    return _plain(lambda d, n, state: io.save_checkpoint(state, f"{d}/step-{n}.ckpt"), load)


SAVERS = {
    "torch-save": Saver("torch.save", ("torch",), "over the same file", torch_save),
    "torch-save-renamed": Saver("torch.save, then rename", ("torch",), "to another name, then os.replace", torch_save_renamed),
    "safetensors": Saver("safetensors.torch.save_file", ("safetensors",), "over the same file", safetensors),
    "dcp": Saver("torch.distributed.checkpoint.save", ("torch",), "a directory for each save; one without .metadata is passed over. It syncs its files (sync_files=True): the data, and .metadata before its bytes have left Python's buffer (filesystem.py, finish)", dcp),
    "lightning": Saver("Lightning, TorchCheckpointIO", ("lightning",), "a file for each save; the newest is loaded", lightning),
}


def one(name: str) -> dict:
    """Test one of them, in this process."""
    import torch

    from grader.crash import crashtest, story

    torch.set_num_threads(1)
    run, load = SAVERS[name].make()
    report = crashtest.test(crashtest.Program({"": run}, load), seconds=120, most_trees=MOST_TREES)
    return story.as_data(report) | {"text": story.text(report)}


# --- the table --------------------------------------------------------------------------------------------


def _versions(saver: Saver) -> str | None:
    try:
        return ", ".join(f"{p} {version(p)}" for p in saver.packages)
    except PackageNotFoundError:
        return None


def _in_its_own_process(name: str) -> dict:
    with tempfile.TemporaryDirectory(prefix="g-") as made:
        env = os.environ | {"TMPDIR": made, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        out = Path(made, "result.json")
        done = subprocess.run([sys.executable, "-m", "grader.crash.savers", "--child", name, "--out", str(out)], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=1800, start_new_session=True)
        if not out.exists():
            raise click.ClickException(f"{name}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
        return json.loads(out.read_text())


def _short(title: str) -> str:
    return title.replace("the process dies", "process dies").replace("ext4, data=ordered", "ext4").replace("ext4, data=writeback", "ext4 writeback").replace("network file system", "network FS").replace("POSIX, no more", "POSIX")


def table(results: dict[str, dict], today: str) -> str:
    head = ["saver", *(_short(t) for t in TITLES.values()), "disk errors", "flipped bits"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, found in results.items():
        cells = [f"{m['kept']}/{m['states']}" for m in found["models"].values()]
        for what in ("errors", "flips"):
            cells.append(f"{found[what]['tried'] - len(found[what]['failed'])}/{found[what]['tried']}")
        cells = [c if c.split("/")[0] == c.split("/")[1] else f"**{c}**" for c in cells]
        lines.append(f"| {SAVERS[name].title} | " + " | ".join(cells) + " |")
    out = [
        "# Savers that people use, under every crash",
        "",
        f"Written by `python -m grader.crash.savers --write` on {today}: {'; '.join(dict.fromkeys(_versions(SAVERS[n]) for n in results))}. States kept / states tried;",
        "what they are, and what is promised, stands in [README.md](README.md).",
        "",
        __doc__.strip().split("\n\n", 2)[2].replace("\n", " "),
        "",
        *lines,
        "",
        "The smallest failing state of each:",
    ]
    for name, found in results.items():
        out += ["", f"## {SAVERS[name].title}", "", f"Used: {SAVERS[name].use}.", "", "```", *[line.rstrip() for line in found["text"]], "```"]
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
        click.echo(f"--- {SAVERS[name].title} ({_versions(SAVERS[name])})\n" + "\n".join(results[name]["text"]))
    if write:
        TABLE.write_text(table(results, date.today().isoformat()))


if __name__ == "__main__":
    main()
