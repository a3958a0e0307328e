"""templates/checkpoint_utils.py under every crash: saves, asynchronous ones, retention, two
ranks.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from grader.crash import crashtest, description, enumeration, rank_group
from grader.crash.recorder import mark
from grader.harness.inside.digest import digest
from grader.tests.crash.traced import traced

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "templates"))
import checkpoint_utils as cu

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
    assert report.passed, "\n".join(description.text(report))
    return report


@pytest.mark.parametrize("asynchronous", [False, True], ids=["in turn", "asynchronous"])
def test_all_states_of_saves_and_of_a_retention_pass(asynchronous):
    """keep=1: the second save removes the first one."""
    report = survives(
        crashtest.Program({"": saves(2, keep=1, asynchronous=asynchronous)}, load, fresh="none"),
        errors=not asynchronous,
        flips=not asynchronous,
        most_trees=150,
    )
    assert sum(op.text.startswith("rmdir") for op in report.record.ops) >= 1


def on_rank(rank: int, store: str):
    def run(directory: str) -> None:
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(store, 2),
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=60),
        )
        saves(2, rank, keep=1)(directory)
        dist.destroy_process_group()

    return run


def test_all_states_of_saves_by_two_ranks():
    with tempfile.TemporaryDirectory() as d:
        ranks = {f"rank {rank}": on_rank(rank, f"{d}/store") for rank in range(2)}
        report = survives(
            crashtest.Program(ranks, load, fresh="none"), errors=False, most_trees=150
        )
    assert {op.who for op in report.record.ops} == {"rank 0", "rank 1"}


def _sharded(directory: str, rank: int, store: str, seed: int):
    """A CheckpointManager of a model that two ranks hold in shards, with an optimizer that has made
    a step.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(store, 2),
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    torch.manual_seed(seed)
    model = torch.nn.Linear(16, 8)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    ckpt = cu.CheckpointManager(
        directory, {"model": model, "optimizer": optimizer}, timeout=60, keep=1
    )

    def train() -> None:
        model(torch.ones(2, 16)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        ckpt.steps += 1

    def told() -> str:
        parts = [model.state_dict(), optimizer.state_dict()["state"]]
        return digest(
            [
                ckpt.steps,
                torch.utils._pytree.tree_map(
                    lambda t: t.to_local() if hasattr(t, "to_local") else t, parts
                ),
            ]
        )

    return ckpt, train, told


@pytest.mark.skipif(version("torch").startswith("2.6"), reason="FSDP2 of torch 2.6 needs CUDA")
def test_all_states_of_saves_of_a_sharded_model():
    """Each rank writes its shards (torch.distributed.checkpoint); both read them back. (What a
    killed rank leaves: test_templates_train.py.)
    """
    import torch.distributed.fsdp  # noqa: F401  (once, and not in each of the processes that are forked)

    with tempfile.TemporaryDirectory() as d:

        def save(rank: int):
            def run(directory: str) -> None:
                ckpt, train, told = _sharded(directory, rank, f"{d}/save", seed=1)
                ckpt.start_over()
                for n in (1, 2):
                    train()
                    with rank_group.marked(n, told()):
                        ckpt.save()

            return run

        def load_both(directory: str) -> str | None:
            store = tempfile.mktemp(dir=d)

            def resume(rank: int) -> list:
                ckpt, _, told = _sharded(directory, rank, store, seed=2)
                return [bool(ckpt.resume()), told()]

            return rank_group.load(2, resume)

        program = crashtest.Program(
            {f"rank {rank}": save(rank) for rank in range(2)}, load_both, fresh="none"
        )
        report = survives(
            program, models=list(enumeration.MODELS), errors=False, flips=False, most_trees=20
        )
    assert any("shards/" in op.text for op in report.record.ops)


@pytest.mark.parametrize("missing", ["file", "directory"])
def test_a_template_without_its_syncs_is_caught(monkeypatch, missing):
    real = cu._fsync
    monkeypatch.setattr(cu, "_fsync_path" if missing == "directory" else "_fsync", lambda *_: None)
    if missing == "directory":
        monkeypatch.setattr(cu, "_fsync", real)
    report = crashtest.test(
        crashtest.Program({"": saves(2, keep=1)}, load), errors=False, flips=False, most_trees=60
    )
    assert report.failing and report.remedies
