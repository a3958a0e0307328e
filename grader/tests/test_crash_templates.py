"""templates/checkpoint_utils.py under every crash: saves, asynchronous ones, retention, two ranks."""

from __future__ import annotations

import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from grader.crash import crashtest, story
from grader.crash.recorder import mark
from grader.harness.digest import digest
from grader.tests.test_crash import traced

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "templates"))
import checkpoint_utils as cu  # noqa: E402

pytestmark = traced


class Part:
    """Something with a state."""

    def __init__(self, n: int):
        self.value = torch.randn(300, generator=torch.Generator().manual_seed(n))

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value = state["value"]

    def train(self, n: int) -> None:
        """In place, as optimizers do it: a save that holds on to the tensor would be torn."""
        self.value.copy_(Part(n).value)


def of(ckpt, part: Part) -> str:
    return digest([ckpt.steps, part.value])


def saves(number: int, rank: int | None = None, **options):
    def run(directory: str) -> None:
        torch.set_num_threads(1)
        part = Part(1)
        ckpt = cu.CheckpointManager(directory, {"part": part}, timeout=60, **options)
        ckpt.start_over()
        for n in range(1, number + 1):
            part.train(n)
            ckpt.steps = n
            if not rank:
                mark("began", n, of(ckpt, part))
            ckpt.save()
            if options.get("asynchronous"):
                part.train(n + 100)  # training goes on beside the save
                ckpt.flush()
            if not rank:
                mark("returned", n)

    return run


def load(directory: str) -> str | None:
    part = Part(0)
    ckpt = cu.CheckpointManager(directory, {"part": part}, timeout=60)
    return of(ckpt, part) if ckpt.resume() else None


def survives(program: crashtest.Program, **more) -> crashtest.Report:
    report = crashtest.test(program, **more)
    assert report.passed, "\n".join(story.text(report))
    return report


@pytest.mark.parametrize("asynchronous", [False, True], ids=["in turn", "asynchronous"])
def test_all_states_of_saves_and_of_a_retention_pass(asynchronous):
    """keep=2: the fourth save removes the second one."""
    report = survives(crashtest.Program({"": saves(4, keep=2, asynchronous=asynchronous)}, load, fresh="none"), errors=not asynchronous, flips=not asynchronous)
    assert len(report.digests) == 4


def on_rank(rank: int, store: str):
    def run(directory: str) -> None:
        dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2, timeout=timedelta(seconds=60))
        saves(2, rank, keep=1)(directory)
        dist.destroy_process_group()

    return run


def test_all_states_of_saves_by_two_ranks():
    with tempfile.TemporaryDirectory() as d:
        ranks = {f"rank {rank}": on_rank(rank, f"{d}/store") for rank in range(2)}
        report = survives(crashtest.Program(ranks, load, fresh="none"), errors=False)
    assert {op.who for op in report.record.ops} == {"rank 0", "rank 1"}


@pytest.mark.parametrize("missing", ["file", "directory"])
def test_a_template_without_its_syncs_is_caught(monkeypatch, missing):
    real = cu._fsync
    monkeypatch.setattr(cu, "_fsync_path" if missing == "directory" else "_fsync", lambda *_: None)
    if missing == "directory":
        monkeypatch.setattr(cu, "_fsync", real)
    report = crashtest.test(crashtest.Program({"": saves(2, keep=1)}, load), errors=False, flips=False)
    assert report.failing and report.remedies
