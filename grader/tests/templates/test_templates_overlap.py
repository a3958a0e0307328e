"""Saves whose copy runs beside the next forward and backward pass (overlap=True)."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import _global_optimizer_pre_hooks as hooks

from grader.harness.inside.digest import digest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "templates"))

import checkpoint_utils as cu


class Training:
    """A model with a buffer that forward passes change; large enough for a copy beside them."""

    def __init__(self, seed: int = 0):
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(128, 256), torch.nn.BatchNorm1d(256), torch.nn.Linear(256, 128)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.state = {"model": self.model, "optimizer": self.optimizer}

    def forward_and_backward(self) -> None:
        self.model(torch.randn(8, 128)).square().mean().backward()

    def digest(self) -> str:
        return digest({name: part.state_dict() for name, part in self.state.items()})

    def manager(self, path, **options) -> cu.CheckpointManager:
        options = {"asynchronous": True, "overlap": True, "every_steps": 1, "keep": 9} | options
        return cu.CheckpointManager(path, self.state, **options)


@pytest.fixture
def copying(monkeypatch):
    """The copy beside the training begins when this event is set."""
    may_begin, finish = threading.Event(), cu._Staging.finish

    def late(staging):
        assert not staging.later or may_begin.wait(20)
        finish(staging)

    monkeypatch.setattr(cu._Staging, "finish", late)
    return may_begin


@pytest.mark.parametrize("compiled", [False, True])
def test_the_next_step_waits_for_the_copy(tmp_path, copying, compiled):
    """The copy begins when the step waits for it, or else after the step."""

    class Awaited(threading.Event):
        def wait(self, timeout=None):
            copying.set()
            return super().wait(timeout)

    training = Training()
    step = training.optimizer.step
    if compiled:
        step = torch.compile(step, backend="eager")
    wanted = []
    with training.manager(tmp_path) as ckpt:
        ckpt.saver.staging.finished = Awaited()
        for _ in range(4):
            copying.clear()
            training.forward_and_backward()
            step()
            copying.set()
            ckpt.flush()
            copying.clear()
            ckpt.step()
            wanted.append(training.digest())
            training.optimizer.zero_grad()
        copying.set()
    found = []
    for name in reversed(ckpt.directory.names()):
        other = Training(1)
        (there := tmp_path / "one").mkdir()
        (tmp_path / name).rename(there / name)
        assert cu.CheckpointManager(there, other.state).resume()
        found.append(other.digest())
        (there / name).rename(tmp_path / name)
        there.rmdir()
    assert found == wanted


def test_what_a_forward_pass_changes_is_copied_at_once(tmp_path, copying):
    training = Training()
    with training.manager(tmp_path) as ckpt:
        training.forward_and_backward()
        training.optimizer.step()
        ckpt.step()
        running = training.model[1].running_mean.clone()
        random = torch.get_rng_state()
        training.forward_and_backward()
        assert not torch.equal(running, training.model[1].running_mean)
        copying.set()
    other = Training(1)
    assert cu.CheckpointManager(tmp_path, other.state).resume()
    assert torch.equal(other.model[1].running_mean, running)
    assert torch.equal(torch.get_rng_state(), random)


def test_only_what_an_optimizer_changes_is_copied_later(tmp_path, copying):
    training = Training()
    training.model[2].weight.requires_grad_(False)
    average = torch.optim.swa_utils.AveragedModel(training.model)
    training.state["average"] = average
    with training.manager(tmp_path, every_steps=None) as ckpt:
        training.forward_and_backward()
        training.optimizer.step()
        ckpt.step()
        ckpt.save()
        later = {cu._where(one.state.paths[one.number]) for one in ckpt.saver.staging.later}
        copying.set()
    moments = {f"state['optimizer']['state'][0]['{m}']" for m in ("exp_avg", "exp_avg_sq")}
    assert later == {"state['model']['0.weight']", *moments}


def in_place(weight):
    with torch.no_grad():
        weight.mul_(2)


def in_one_place(weight):
    with torch.no_grad():
        weight[1, 1] += 1


def through_data(weight):
    weight.data.mul_(2)


@pytest.mark.parametrize("change", [in_place, in_one_place, through_data])
def test_a_change_that_is_no_step_fails_the_save_by_name(tmp_path, copying, change):
    training = Training()
    with (
        pytest.raises(cu.CheckpointError, match=r"'0.weight'\] changed while it was copied"),
        training.manager(tmp_path) as ckpt,
    ):
        training.forward_and_backward()
        training.optimizer.step()
        ckpt.step()
        change(training.model[0].weight)
        copying.set()
        ckpt.flush()
    assert not list(tmp_path.glob("step-*"))


def test_weights_may_change_after_flush(tmp_path):
    training = Training()
    with training.manager(tmp_path) as ckpt:
        training.forward_and_backward()
        training.optimizer.step()
        ckpt.step()
        wanted = training.digest()
        ckpt.flush()
        in_place(training.model[0].weight)
    other = Training(1)
    assert cu.CheckpointManager(tmp_path, other.state).resume()
    assert other.digest() == wanted


def test_a_closed_manager_holds_no_optimizer_up(tmp_path):
    before = dict(hooks)
    training = Training()
    with training.manager(tmp_path) as ckpt:
        training.forward_and_backward()
        training.optimizer.step()
        ckpt.step()
        assert len(hooks) == len(before) + 1
    assert hooks == before


def test_overlap_is_for_asynchronous_saves(tmp_path):
    with pytest.raises(ValueError, match="asynchronous"):
        cu.CheckpointManager(tmp_path, {}, overlap=True)
