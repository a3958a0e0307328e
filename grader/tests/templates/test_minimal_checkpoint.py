"""templates/minimal_checkpoint.py: the loop in its docstring under faults, and its pieces."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import resource
import signal
import sys
import threading
from pathlib import Path

import numpy
import pytest
import torch

from grader.crash import crashtest, description
from grader.crash.recorder import mark
from grader.harness import scratch
from grader.harness.inside.digest import digest, rng_digests
from grader.tests.crash.traced import traced
from grader.tests.templates import synced
from grader.tests.templates.disturbed import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "templates"))
import minimal_checkpoint as mc

JOB = Path(__file__).parent / "jobs" / "minimal.py"
EPOCHS, STEPS, EVERY = 2, 20, 4  # of that job; a checkpoint every EVERY steps


# --- the docstring's loop, disturbed


class Loop(Run):
    def __init__(self, launcher, top: Path, workers: int = 0):
        super().__init__(launcher, top, JOB, "{top}", workers)

    @property
    def outcome(self) -> tuple[str, dict[int, list[str]]]:
        """A digest of the final weights, and what each step said last: its loss and its batch."""
        final = torch.load(self.top / "final.pt", weights_only=True)
        assert final["epoch"] == EPOCHS
        lines = [json.loads(line) for line in (self.top / "losses").read_text().splitlines()]
        return digest(final["model"]), {step: rest for step, *rest in lines}


@pytest.fixture(scope="module")
def whole(launcher):
    """An undisturbed run, and its only life."""
    top = scratch.make()
    run = Loop(launcher, top)
    life = run.live()
    assert life.status == 0, life.text
    assert sorted(run.outcome[1]) == list(range(1, STEPS + 1))
    yield run, life
    scratch.remove(top)


@pytest.fixture
def loop(launcher, short_path):
    """A run of its own for each call."""
    made = []

    def make(workers: int = 0) -> Loop:
        made.append(Loop(launcher, short_path / str(len(made)), workers))
        return made[-1]

    return make


def finish(run: Loop, whole) -> None:
    """Its next life ends where the undisturbed run ended, with the same losses on the way."""
    after = run.live()
    assert after.status == 0, after.text
    assert run.outcome == whole[0].outcome


def test_a_run_killed_before_any_event_of_a_save_ends_where_an_undisturbed_one_ends(loop, whole):
    events = whole[1].events
    begins = [n for n, name in enumerate(events) if name == "mkdir ."]
    # one whole save: the first that removes an older checkpoint, until the next one begins
    removed = next(n for n, name in enumerate(events) if name.startswith("remove step-"))
    first = max(n for n in begins if n < removed)
    last = min(n for n in begins if n > removed)
    assert events[first:last] == [
        "mkdir .",
        "open unfinished.tmp",
        "fsync unfinished.tmp",
        "rename unfinished.tmp",
        "fsync .",
        "remove step-000000000000.pt",
    ]
    for event in (*range(begins[1] + 1), *range(first, last + 1)):
        run = loop()
        killed = run.live(f"event:{event}")
        assert killed.status == -signal.SIGKILL, killed.text
        finish(run, whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_at_steps_ends_where_an_undisturbed_one_ends(loop, whole, workers):
    for step in (1, 7, 12):
        run = loop(workers)
        assert run.live(f"step:{step}").status == -signal.SIGKILL
        assert run.live("step:3").status == -signal.SIGKILL  # and again, in the same epoch
        finish(run, whole)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("do", ["term", "term-group", "term-twice"])
def test_a_signal_stops_a_run_after_the_step_with_everything_saved(loop, whole, workers, do):
    run = loop(workers)
    ended = run.live("step:6", do)
    assert ended.status == mc.PREEMPTED and "Traceback" not in ended.text, ended.text
    assert "step-000000000006.pt" in run.files()
    finish(run, whole)
    steps = [json.loads(line)[0] for line in (run.top / "losses").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))  # no step was made twice
    again = run.live()  # run again when it's done: it trains nothing
    assert again.status == 0 and run.outcome == whole[0].outcome


@pytest.mark.parametrize("at", ["event:1", "event:7", f"step:{STEPS // EPOCHS}", f"step:{STEPS}"])
def test_a_signal_in_a_save_or_at_an_epochs_end_loses_nothing(loop, whole, at):
    run = loop()
    ended = run.live(at, "term")
    assert ended.happened and ended.status == mc.PREEMPTED, ended.text
    finish(run, whole)


def test_a_damaged_newest_checkpoint_is_skipped(loop, whole):
    run = loop()
    assert run.live("step:10").status == -signal.SIGKILL
    newest = run.checkpoints / "step-000000000008.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    finish(run, whole)


def test_a_run_ends_though_its_workers_are_still_there(launcher, short_path):
    """They ignore the SIGTERM with which Python would end them."""
    life = Run(launcher, short_path / "run", JOB, "{top}", 2, "--persistent").live()
    assert (life.status, life.process.result["ended"]) == (0, None), life.text


# --- every state that a crash may leave


class Part:
    """Something with a state; it changes in place, as weights do."""

    def __init__(self, number: int):
        self.value = torch.full((300,), float(number))

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value.copy_(state["value"])


def checkpoints(directory, number: int = 0, **options) -> mc.Checkpoints:
    return mc.Checkpoints(directory, {"part": Part(number)}, **options)


def save(mine: mc.Checkpoints, step: int, value: float | None = None) -> None:
    mine.parts["part"].value.fill_(step if value is None else value)
    mine.save(step)


def found(directory) -> list[float] | None:
    """The newest checkpoint's step and value; None if nothing is there."""
    mine = checkpoints(directory)
    if not mine.paths():
        return None
    return [mine.resume(), mine.parts["part"].value[0].item()]


def saves(directory: str) -> None:
    """The second save removes the first one, and the third replaces the second."""
    torch.set_num_threads(1)
    mine = checkpoints(directory, keep=1)
    for number, (step, value) in enumerate([(0, 0.0), (3, 1.0), (3, 2.0)], 1):
        mark("began", number, digest([step, value]))
        mine.resume() if number == 1 else save(mine, step, value)
        mark("returned", number)


def load(directory: str) -> str | None:
    state = found(directory)
    return None if state is None else digest(state)


@traced
def test_all_states_of_saves_and_of_their_retention_pass():
    report = crashtest.test(crashtest.Program({"": saves}, load, fresh="none"), most_trees=100)
    assert report.passed, "\n".join(description.text(report))
    ops = [op.text for op in report.record.ops]
    assert sum(text.startswith("unlink step-") for text in ops) == 1
    # the file and the directory, in each save
    assert sum(text.startswith("fsync") for text in ops) == 2 * 3


@traced
@pytest.mark.parametrize("missing", ["file", "directory"])
def test_without_one_of_its_two_syncs_it_is_caught(monkeypatch, missing):
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}") != (missing == "directory"):
            real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    report = crashtest.test(
        crashtest.Program({"": saves}, load), errors=False, flips=False, most_trees=60
    )
    assert report.failing and report.remedies


@synced.needs_proc
def test_folders_that_the_first_save_makes_are_durable_too(tmp_path, monkeypatch):
    folders = synced.record(monkeypatch)
    mine = checkpoints(tmp_path / "runs" / "7")
    mine.resume()
    assert {tmp_path, tmp_path / "runs", tmp_path / "runs" / "7"} <= folders
    folders.clear()
    save(mine, 7)
    assert tmp_path not in folders  # once is enough


# --- its pieces


def test_torch_load_reads_a_checkpoint_as_it_is(tmp_path):
    mine = checkpoints(tmp_path)
    mine.resume()
    save(mine, 7)
    state = torch.load(tmp_path / "step-000000000007.pt", weights_only=True)
    assert state["step"] == 7 and state["parts"]["part"]["value"][0] == 7


def test_any_flipped_bit_and_any_cut_is_found(tmp_path):
    mine = checkpoints(tmp_path)
    mine.resume()
    (path,) = mine.paths()
    data = path.read_bytes()
    places = range(0, len(data), 31)
    for damaged in (
        *(data[:n] + bytes([data[n] ^ 1 << n % 8]) + data[n + 1 :] for n in places),
        *(data[:n] for n in places),
        data + b"\0",
    ):
        path.write_bytes(damaged)
        assert not checkpoints(tmp_path)._is_intact(path)


def test_none_intact_is_an_error_and_nothing_is_removed(tmp_path, caplog):
    mine = checkpoints(tmp_path)
    mine.resume()
    save(mine, 1)
    paths = mine.paths()
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(mc.CheckpointError, match="no checkpoint in .* is intact"):
        checkpoints(tmp_path).resume()
    assert mine.paths() == paths and str(paths[0]) in caplog.text


def test_retention_counts_only_intact_checkpoints(tmp_path):
    mine = checkpoints(tmp_path, keep=9)
    mine.resume()
    for step in range(1, 6):
        save(mine, step)
    for step in (4, 5):
        with open(tmp_path / f"step-{step:012d}.pt", "r+b") as f:
            f.truncate(200)
    after = checkpoints(tmp_path, keep=2)
    assert after.resume() == 3
    save(after, 6)
    # 4 and 5 don't count, and don't push out 3, the last good one
    assert [int(p.stem[5:]) for p in after.paths()] == [6, 5, 4, 3]
    save(after, 7)
    assert [int(p.stem[5:]) for p in after.paths()] == [7, 6]


def test_files_of_others_are_left_alone(tmp_path):
    others = ["notes.txt", "step-1.pt", "step-000000000001.pt.bak", "best-000000000009.pt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    mine = checkpoints(tmp_path, keep=1)
    assert mine.resume() == 0
    save(mine, 2)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "step-000000000002.pt"])


def test_a_full_disk_costs_only_the_save_that_fails(tmp_path):
    mine = checkpoints(tmp_path)
    mine.resume()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises((OSError, RuntimeError)):
            save(mine, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["step-000000000000.pt"]
    save(mine, 2)
    assert found(tmp_path) == [2, 2.0]


def test_saving_before_resuming_is_refused(tmp_path):
    with pytest.raises(mc.CheckpointError, match="resume"):
        save(checkpoints(tmp_path), 1)


@pytest.mark.parametrize("value", [numpy.float64(1), Path("x"), threading.Lock()], ids=type)
def test_what_couldnt_be_loaded_is_refused_before_training_starts(tmp_path, value):
    part = Part(0)
    part.state_dict = lambda: {"value": part.value, "metric": value}
    with pytest.raises((pickle.PickleError, TypeError)):
        mc.Checkpoints(tmp_path, {"part": part}).resume()
    assert not os.listdir(tmp_path)


def test_other_parts_than_the_checkpoints_are_refused(tmp_path):
    checkpoints(tmp_path).resume()
    with pytest.raises(mc.CheckpointError, match=r"\['part'\], but the job has \['ema', 'part'\]"):
        mc.Checkpoints(tmp_path, {"ema": Part(1), "part": Part(0)}).resume()


def test_every_generator_comes_back(tmp_path):
    checkpoints(tmp_path).resume()
    before = rng_digests()
    random.random(), numpy.random.rand(), torch.rand(2)
    assert rng_digests() != before
    checkpoints(tmp_path).resume()
    assert rng_digests() == before


def test_a_signal_raises_a_flag_and_the_old_handlers_come_back():
    before = [signal.getsignal(s) for s in mc.STOP]
    with mc.StopSignal() as stop:
        assert stop.received is None
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == "SIGUSR1"
    assert [signal.getsignal(s) for s in mc.STOP] == before


def test_workers_survive_a_signal():
    loader = torch.utils.data.DataLoader(
        torch.arange(40),
        num_workers=2,
        worker_init_fn=mc.ignore_signals,
        multiprocessing_context="fork",
    )
    batches = iter(loader)
    seen = [next(batches), next(batches)]  # each worker has begun
    for worker in batches._workers:
        os.kill(worker.pid, signal.SIGTERM)
    seen += batches
    assert torch.cat(seen).tolist() == list(range(40))


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_sampler_continues_and_shows_every_sample_once_an_epoch(shuffle):
    def batches(sampler: mc.ResumableSampler, number: int) -> list[list[int]]:
        seen = []
        while len(seen) < number:
            for batch in sampler.follow(sampler):
                seen.append(batch)
                if len(seen) == number:
                    break
        return seen

    whole = batches(mc.ResumableSampler(10, 4, shuffle, seed=5), 9)
    for epoch in range(3):
        assert sorted(itertools.chain(*whole[3 * epoch : 3 * epoch + 3])) == list(range(10))
    assert (whole[:3] == whole[3:6]) == (not shuffle)
    for first in range(1, 9):
        before, after = (mc.ResumableSampler(10, 4, shuffle, seed=5) for _ in range(2))
        trained = batches(before, first)
        after.load_state_dict(before.state_dict())
        assert trained + batches(after, 9 - first) == whole


def test_a_sampler_refuses_an_order_that_isnt_its_own():
    state = mc.ResumableSampler(10, 4, seed=5).state_dict()
    mc.ResumableSampler(10, 2, seed=5).load_state_dict(state)  # the position counts samples
    with pytest.raises(mc.CheckpointError, match="seed was 5"):
        mc.ResumableSampler(10, 4, seed=6).load_state_dict(state)
