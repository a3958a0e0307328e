"""templates/checkpoint_utils.py used wrongly: what is wrong is said at once, and no work is lost by
it.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from grader.course.catalog import ROOT
from grader.tests.templates.test_templates_utils import cu, manager, state_of, train


def names(path) -> list[str]:
    return sorted(p.name for p in Path(path).iterdir() if p.is_dir())


def test_training_without_resume_overtakes_nothing(tmp_path):
    with manager(tmp_path) as first:
        train(first, 3)
    before = names(tmp_path)
    with pytest.raises(cu.CheckpointError, match="resume"), manager(tmp_path) as second:
        train(second, 1)
    assert names(tmp_path) == before


def test_starting_over_keeps_what_was_there(tmp_path):
    with manager(tmp_path, keep=1) as first:
        train(first, 3)
        first.end_epoch(0.5)
    with manager(tmp_path, keep=1) as second:
        second.start_over()
        train(second, 1)
    assert len([n for n in names(tmp_path) if n.startswith("abandoned-")]) >= 2
    with manager(tmp_path) as third:
        third.resume()
        assert third.steps == 1


@pytest.mark.parametrize("kind", ["step", "best"])
def test_who_only_looks_changes_nothing(tmp_path, kind):
    with manager(tmp_path) as first:
        first.resume()
        train(first, 2)
        first.end_epoch(0.5)
        train(first, 3)
        first.signal.received = "SIGTERM"
        train(first, 1)
    before, status = names(tmp_path), first.status()["outcome"]
    assert status == "preempted"
    with manager(tmp_path) as second:
        second.resume(kind)
        assert second.steps == (6 if kind == "step" else 2)
    assert names(tmp_path) == before and second.status()["outcome"] == "preempted"
    assert second.exit_status == 0


def test_a_second_job_in_the_directory_is_refused_and_harms_nothing(tmp_path):
    with manager(tmp_path) as first:
        first.resume()
        train(first, 1)
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT / 'templates')!r})\n"
            "import torch, checkpoint_utils as cu\n"
            "m = torch.nn.Linear(4, 4)\n"
            f"with cu.CheckpointManager({str(tmp_path)!r}, {{'model': m}}, every_steps=1) as c:\n"
            "    c.start_over()\n    c.step()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 1 and "another job" in done.stderr
        # nor does it touch what the other says of itself
        assert first.status()["outcome"] == "running"
        train(first, 1)
        assert [n for n in names(tmp_path) if n.startswith("step-")] == [
            "step-000000000001-1",
            "step-000000000002-1",
        ]
    with manager(tmp_path) as again:  # the lock went with its holder
        again.start_over()
        train(again, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"keep": 0},
        {"keep": None},
        {"every_steps": -5},
        {"every_steps": 0.5},
        {"every_minutes": 0},
        {"every_epochs": 0},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        manager(tmp_path, **options)


def test_what_cant_be_saved_is_refused_by_name_before_training(tmp_path):
    with pytest.raises(TypeError, match="'noise'"):
        cu.CheckpointManager(tmp_path, {"model": torch.nn.Linear(1, 1), "noise": object()})
    with pytest.raises(ValueError, match="gradients"):
        cu.CheckpointManager(tmp_path, {}, gradients=True)


def test_a_file_in_the_directorys_place_is_said(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(cu.CheckpointError, match="file"):
        manager(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["file/run", "link", "link/run"])
def test_a_path_that_no_directory_can_have_is_said_at_once(tmp_path, place):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(
        cu.CheckpointError, match=rf"{place.split('/')[0]} is a (file|link to nothing)"
    ):
        cu.CheckpointManager(tmp_path / place, {})


def test_a_directory_that_cant_be_written_is_said_before_the_first_step(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    ckpt = cu.CheckpointManager(tmp_path / "run", {})
    monkeypatch.setattr(cu.os, "replace", refuse)
    with pytest.raises(cu.CheckpointError, match=r"run can't be written.*Permission denied"):
        ckpt.step()
    assert ckpt.steps == 0


def test_one_of_several_ranks_without_a_group_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(cu.CheckpointError, match="init_process_group"):
        manager(tmp_path)


def parts(optimizer=torch.optim.AdamW, **more):
    model = torch.nn.Linear(4, 4)
    return {"model": model, "optimizer": optimizer(model.parameters(), lr=0.1), **more}


def scheduler_of(state, kind=torch.optim.lr_scheduler.CosineAnnealingLR, *args):
    return kind(state["optimizer"], *args)


@pytest.mark.parametrize(
    "wrong", ["left out", "another name", "another optimizer", "another schedule", "one more"]
)
def test_a_job_made_of_other_parts_is_a_mismatch_that_names_them(tmp_path, wrong):
    saved = parts()
    saved["scheduler"] = scheduler_of(saved, torch.optim.lr_scheduler.CosineAnnealingLR, 9)
    with cu.CheckpointManager(tmp_path, saved) as ckpt:
        ckpt.step()
    new = parts(torch.optim.SGD) if wrong == "another optimizer" else parts()
    kind = (
        torch.optim.lr_scheduler.StepLR
        if wrong == "another schedule"
        else torch.optim.lr_scheduler.CosineAnnealingLR
    )
    if wrong != "left out":
        new["scheduler"] = scheduler_of(new, kind, 9)
    if wrong == "another name":
        new["net"] = new.pop("model")
    if wrong == "one more":
        new["second"] = torch.nn.Linear(1, 1)
    told = {
        "left out": "'scheduler'",
        "another name": "'net'",
        "another optimizer": "SGD",
        "another schedule": "StepLR",
        "one more": "'second'",
    }
    with pytest.raises(cu.Mismatch, match=told[wrong]), cu.CheckpointManager(tmp_path, new) as ckpt:
        ckpt.resume()


def test_a_sampler_that_isnt_registered_ends_no_run_as_done(tmp_path):
    data = list(range(12))
    sampler = cu.ResumableSampler(12, 4)
    loader = DataLoader(data, batch_sampler=sampler)
    with (
        pytest.raises(RuntimeError, match="manager"),
        cu.CheckpointManager(tmp_path, parts()) as ckpt,
    ):
        for _ in range(2):
            for _ in sampler.follow(loader):
                ckpt.step()
            ckpt.end_epoch()


def test_an_epoch_that_was_resumed_at_its_end_has_no_batch_left():
    sampler = cu.ResumableSampler(12, 4)
    loader = DataLoader(list(range(12)), batch_sampler=sampler)
    assert len(list(sampler.follow(loader))) == 3
    again = cu.ResumableSampler(12, 4)
    again.load_state_dict(sampler.state_dict())
    assert list(again.follow(DataLoader(list(range(12)), batch_sampler=again))) == []
    again.next_epoch()
    assert len(list(again.follow(DataLoader(list(range(12)), batch_sampler=again)))) == 3


class Doubles(torch.nn.Module):
    """Its second version holds twice what the first one held."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(2))

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if (metadata.get("version") or 1) < 2:
            state[prefix + "w"] = state[prefix + "w"] * 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_a_modules_version_is_saved(tmp_path):
    with cu.CheckpointManager(tmp_path, {"model": torch.nn.Sequential(Doubles())}) as ckpt:
        ckpt.step()
    model = torch.nn.Sequential(Doubles())
    with cu.CheckpointManager(tmp_path, {"model": model}) as ckpt:
        ckpt.resume()
    assert model[0].w.tolist() == [1, 1]


def test_interrupting_by_hand_is_no_crash_loop(tmp_path):
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt), manager(tmp_path) as ckpt:
            ckpt.resume()
            raise KeyboardInterrupt
    with manager(tmp_path) as ckpt:
        ckpt.resume()


def test_an_intact_best_is_mentioned_when_nothing_else_is(tmp_path):
    with manager(tmp_path) as ckpt:
        train(ckpt, 1)
        ckpt.end_epoch(0.5)
        wanted = state_of(ckpt)
    for file in tmp_path.glob("step-*/shared.json"):
        file.write_bytes(b"")
    with pytest.raises(cu.CheckpointError, match="best"), manager(tmp_path) as again:
        again.resume()
    with manager(tmp_path) as again:
        again.resume("best")
        assert state_of(again) == wanted


def test_a_home_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with manager("~/runs") as ckpt:
        train(ckpt, 1)
    assert json.loads((tmp_path / "runs" / "status.json").read_text())["outcome"] == "done"
