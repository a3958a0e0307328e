"""templates/checkpoint_utils.py, piece by piece."""

from __future__ import annotations

import collections
import json
import math
import os
import random
import signal
import sys
import threading
from pathlib import Path

import numpy
import pytest
import torch

from grader.harness.inside.digest import digest, rng_digests
from grader.harness.launch import run_life
from grader.harness.launcher import Limits
from grader.tests.templates import synced

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "templates"))

import functools
import operator

import checkpoint_utils as cu

EVERYTHING = {
    "float32": torch.randn(3, 5),
    "bfloat16": torch.randn(7).to(torch.bfloat16),
    "int64": torch.arange(9).reshape(3, 3),
    "bool": torch.tensor([True, False, True]),
    "complex": torch.randn(2, 2, dtype=torch.complex64),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "transposed": torch.randn(4, 6).t(),
    "view": torch.randn(1000)[10:20],
    "odd": torch.tensor([math.nan, -0.0, math.inf]),
    "numbers": [1, -(2**80), 0.1, math.inf, -0.0, True, None, "ä\n", b"\x00\xff"],
    "nested": {1: (2, [3, {"four": (5,)}]), None: {}, (6, 7): [], 1.5: "key"},
    "metric": numpy.float64(0.25),
}


# --- one file


def test_a_state_comes_back_bit_for_bit(tmp_path):
    cu.write_file(tmp_path / "a", EVERYTHING)
    back = cu.read_file(tmp_path / "a")
    assert digest(back) == digest(EVERYTHING | {"metric": 0.25})
    assert type(back["nested"][1]) is tuple and back["numbers"][5] is True


def test_any_single_flipped_bit_is_found(tmp_path):
    path = tmp_path / "a"
    cu.write_file(path, {"w": torch.randn(40), "step": 3})
    data = bytearray(path.read_bytes())
    for at in range(len(data)):
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        with pytest.raises(cu.CheckpointError):
            cu.read_file(path)
        data[at] ^= 1 << at % 8


def test_a_file_cut_anywhere_is_found(tmp_path):
    path = tmp_path / "a"
    cu.write_file(path, {"w": torch.randn(10), "step": 3})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(cu.CheckpointError):
            cu.read_file(path)
    path.write_bytes(data + b"x")
    with pytest.raises(cu.CheckpointError):
        cu.read_file(path)


def test_large_tensors_are_read_as_they_were_written_in_pieces(tmp_path):
    state = {"a": torch.randint(255, (cu.CHUNK * 2 + 5,), dtype=torch.uint8), "b": torch.randn(3)}
    cu.write_file(tmp_path / "a", state)
    assert digest(cu.read_file(tmp_path / "a")) == digest(state)
    assert cu._read(tmp_path / "a", keep=False)[1] == cu._read(tmp_path / "a")[1]


@pytest.mark.parametrize(
    "value",
    [
        numpy.array([None]),
        Path("x"),
        {1, 2},
        object(),
        torch.zeros(2).to_sparse(),
        collections.defaultdict(int),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_isnt_data_is_refused_by_its_place(tmp_path, value):
    with pytest.raises(TypeError, match=r"state\['deep'\]\[1\]"):
        cu.write_file(tmp_path / "a", {"deep": [0, value]})


def test_a_tensor_and_its_conjugate_are_two(tmp_path):
    x = torch.randn(3, dtype=torch.complex64)
    cu.write_file(tmp_path / "a", {"x": x, "y": x.conj()})
    back = cu.read_file(tmp_path / "a")
    assert torch.equal(back["x"], x) and torch.equal(back["y"], x.conj())


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    w = torch.randn(1000)
    cu.write_file(tmp_path / "one", {"a": w})
    cu.write_file(tmp_path / "two", {"a": w, "b": w})
    assert (tmp_path / "two").stat().st_size < (tmp_path / "one").stat().st_size + 200
    back = cu.read_file(tmp_path / "two")
    assert back["a"].data_ptr() == back["b"].data_ptr()


# --- the manager


class Count:
    """The smallest thing that has a state."""

    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def manager(path, **options):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    options.setdefault("every_steps", 1)
    return cu.CheckpointManager(
        path,
        {"model": model, "optimizer": optimizer, "scheduler": None, "count": Count()},
        **options,
    )


def train(ckpt, steps):
    for _ in range(steps):
        ckpt.state["model"](torch.randn(2, 4)).sum().backward()
        ckpt.state["optimizer"].step()
        ckpt.state["optimizer"].zero_grad()
        ckpt.state["count"].value += 1
        if ckpt.step():
            break


def state_of(ckpt):
    return digest(
        [
            ckpt.state["model"].state_dict(),
            ckpt.state["optimizer"].state_dict(),
            ckpt.state["count"].value,
            ckpt.steps,
        ]
    )


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_newest_checkpoint_is_resumed_and_older_ones_go(tmp_path, asynchronous):
    with manager(tmp_path, asynchronous=asynchronous, keep=2) as ckpt:
        train(ckpt, 5)
    assert ckpt.outcome == "done"
    assert ckpt.directory.names() == ["step-000000000005-1", "step-000000000004-1"]
    again = manager(tmp_path)
    assert again.resume() and state_of(again) == state_of(ckpt)
    drawn = rng_digests()
    torch.rand(3), random.random(), numpy.random.rand()
    manager(tmp_path).resume()
    assert rng_digests() == drawn


@synced.needs_proc
def test_folders_that_the_first_save_makes_are_durable_too(tmp_path, monkeypatch):
    folders = synced.record(monkeypatch)
    with manager(tmp_path / "runs" / "7") as ckpt:
        train(ckpt, 1)
        assert {tmp_path, tmp_path / "runs", tmp_path / "runs" / "7"} <= folders
        folders.clear()
        train(ckpt, 1)
    assert folders and tmp_path not in folders  # once is enough


def test_an_asynchronous_save_holds_the_state_of_its_moment(tmp_path, monkeypatch):
    """It is written while training changes the weights: the copy must not change."""
    may_write, write = threading.Event(), cu._write_files

    def late(*args):
        assert may_write.wait(20)
        return write(*args)

    monkeypatch.setattr(cu, "_write_files", late)
    with (
        pytest.raises(ZeroDivisionError),
        manager(tmp_path, asynchronous=True, every_steps=2) as ckpt,
    ):
        train(ckpt, 2)
        at_the_save = state_of(ckpt)
        train(ckpt, 1)
        assert state_of(ckpt) != at_the_save
        may_write.set()
        raise ZeroDivisionError  # nothing is saved on the way out, then
    again = manager(tmp_path)
    again.resume()
    assert state_of(again) == at_the_save


def test_an_asynchronous_failure_is_raised_by_the_next_call_and_the_old_checkpoint_stays(
    tmp_path, monkeypatch
):
    with pytest.raises(OSError, match="no space"), manager(tmp_path, asynchronous=True) as ckpt:
        train(ckpt, 1)
        ckpt.flush()

        def full(*_):
            raise OSError(28, "no space")

        with monkeypatch.context() as m:
            m.setattr(cu, "_write_files", full)
            train(ckpt, 1)
            train(ckpt, 1)
    assert ckpt.outcome == "failed" and ckpt.exit_status == 1
    again = manager(tmp_path)
    assert again.resume() and again.steps == 1
    assert not [n for n in os.listdir(tmp_path) if n.startswith("tmp-step-000000000001")]


def test_the_last_asynchronous_save_is_durable_when_the_block_is_left(tmp_path):
    with manager(tmp_path, asynchronous=True, every_steps=3) as ckpt:
        train(ckpt, 3)
    assert manager(tmp_path).directory.names() == ["step-000000000003-1"]


def test_damaged_checkpoints_are_passed_over_aloud_and_none_intact_is_an_error(tmp_path, capsys):
    with manager(tmp_path, keep=3) as ckpt:
        train(ckpt, 3)
    newest, second, third = ckpt.directory.names()
    (tmp_path / newest / "manifest.json").write_text("{}")
    (tmp_path / second / "rank-0.json").unlink()
    again = manager(tmp_path)
    assert again.resume() and again.steps == 1
    told = capsys.readouterr().err
    assert newest in told and second in told
    with open(tmp_path / third / "shared.json", "r+b") as f:
        f.truncate(100)
    with pytest.raises(cu.CheckpointError):
        manager(tmp_path).resume()
    assert len(ckpt.directory.names()) == 3  # nothing was cleared away


def test_a_file_of_another_checkpoint_is_no_part_of_this_one(tmp_path):
    with manager(tmp_path, keep=2) as ckpt:
        train(ckpt, 2)
    newest, older = ckpt.directory.names()
    (tmp_path / newest / "shared.json").write_bytes((tmp_path / older / "shared.json").read_bytes())
    again = manager(tmp_path)
    assert again.resume() and again.steps == 1


def test_retention_counts_only_intact_checkpoints(tmp_path):
    with manager(tmp_path, keep=9) as ckpt:
        train(ckpt, 4)
    names = ckpt.directory.names()
    for name in names[:2]:
        with open(tmp_path / name / "shared.json", "r+b") as f:
            f.seek(200)
            f.write(b"\x00\x01\x02")
    fresh = cu.CheckpointDirectory(tmp_path)
    fresh.prune(1)
    assert fresh.names() == [names[2]]


def test_a_checkpoint_that_vanishes_while_it_is_looked_at_is_passed_over(tmp_path, monkeypatch):
    """Another job's retention may be at work."""
    with manager(tmp_path, keep=2) as ckpt:
        train(ckpt, 2)
    newest, _ = ckpt.directory.names()
    read = cu.CheckpointDirectory.read

    def gone(self, name, *file):
        if name == newest:
            cu.shutil.rmtree(self.path / name, ignore_errors=True)
        return read(self, name, *file)

    monkeypatch.setattr(cu.CheckpointDirectory, "read", gone)
    again = manager(tmp_path)
    assert again.resume() and again.steps == 1


def test_the_best_is_kept_apart(tmp_path):
    with manager(tmp_path, every_epochs=1, every_steps=None, keep=1) as ckpt:
        for metric in (3.0, 2.0, float("nan"), 2.5):
            train(ckpt, 1)
            ckpt.end_epoch(metric)
    assert ckpt.best == 2.0 and len(ckpt.directory.names("best")) == 1
    best = manager(tmp_path)
    assert best.resume("best") and best.steps == 2
    newest = manager(tmp_path)
    assert newest.resume() and newest.steps == 4 and newest.best == 2.0 and newest.epoch == 4


def test_a_run_that_begins_anew_isnt_pruned_away_by_the_old_one(tmp_path):
    with manager(tmp_path, keep=2) as old:
        train(old, 9)
    with manager(tmp_path, keep=2) as new:
        new.start_over()
        train(new, 3)
        assert new.directory.names() == ["step-000000000003-1", "step-000000000002-1"]
    again = manager(tmp_path)
    assert again.resume() and again.steps == 3 and state_of(again) == state_of(new)
    assert any("step-000000000009" in n for n in os.listdir(tmp_path))  # kept, out of the way


def test_what_was_done_since_the_last_save_is_saved_at_the_end(tmp_path):
    with manager(tmp_path, every_steps=10) as ckpt:
        train(ckpt, 9)
    again = manager(tmp_path)
    assert again.resume() and again.steps == 9 and state_of(again) == state_of(ckpt)


def test_a_job_that_saved_only_its_best_goes_on_from_there(tmp_path):
    with pytest.raises(ZeroDivisionError), manager(tmp_path, every_steps=None) as ckpt:
        train(ckpt, 2)
        ckpt.end_epoch(1.0)
        raise ZeroDivisionError
    again = manager(tmp_path)
    assert again.resume() and again.steps == 2


def test_moments_keep_their_type_and_their_strides(tmp_path):
    def make():
        ckpt = manager(tmp_path)
        model = torch.nn.Conv2d(3, 4, 3).to(torch.bfloat16).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters())
        ckpt.state |= {"model": model, "optimizer": optimizer}
        return ckpt, model, optimizer

    ckpt, model, optimizer = make()
    for p in model.parameters():
        moments = {k: torch.randn_like(p, dtype=torch.float32) for k in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": torch.tensor(3.0), **moments}
    with ckpt:
        ckpt.steps = 1
        ckpt.save()
    again, model_2, optimizer_2 = make()
    again.resume()
    for p, q in zip(model.parameters(), model_2.parameters(), strict=False):
        for k, v in optimizer.state[p].items():
            w = optimizer_2.state[q][k]
            assert (w.dtype, w.stride()) == (v.dtype, v.stride()) and torch.equal(v, w)


def test_schedulers_that_count_their_milestones_go_on_past_them(tmp_path):
    def make():
        ckpt = manager(tmp_path)
        parts = [torch.optim.lr_scheduler.LinearLR(ckpt.state["optimizer"], 0.1, total_iters=2)]
        parts.append(torch.optim.lr_scheduler.MultiStepLR(ckpt.state["optimizer"], [2, 4]))
        ckpt.state["scheduler"] = torch.optim.lr_scheduler.SequentialLR(
            ckpt.state["optimizer"], parts, [2]
        )
        return ckpt

    def steps(ckpt, number):
        rates = []
        for _ in range(number):
            ckpt.state["optimizer"].step()
            ckpt.state["scheduler"].step()
            rates.append(ckpt.state["optimizer"].param_groups[0]["lr"])
            ckpt.step()
        return rates

    whole = steps(cu.CheckpointManager(tmp_path / "w", make().state), 9)
    with make() as ckpt:
        begun = steps(ckpt, 1)
    again = make()
    again.resume()
    assert begun + steps(again, 8) == whole


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "tmp-notes.txt").write_text("mine")
    (tmp_path / "tmp-data").mkdir()
    with manager(tmp_path, keep=1) as ckpt:
        train(ckpt, 2)
    assert (tmp_path / "tmp-notes.txt").read_text() == "mine" and (tmp_path / "tmp-data").is_dir()


def test_a_hiccup_of_the_file_system_deletes_nothing(tmp_path, monkeypatch, capsys):
    with manager(tmp_path, keep=3) as ckpt:
        train(ckpt, 3)

    def stale(*_, **__):
        raise cu.CheckpointError("can't be read") from OSError(116, "stale file handle")

    fresh = cu.CheckpointDirectory(tmp_path)
    monkeypatch.setattr(fresh, "verify", stale)
    fresh.prune(1)
    assert len(fresh.names()) == 3 and capsys.readouterr().err.count("is kept") == 3


@pytest.mark.parametrize("text", ["null", "[]", "{", ""])
def test_a_status_file_that_says_nothing_is_no_status(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    with manager(tmp_path) as ckpt:
        ckpt.resume()
        train(ckpt, 1)
    assert json.loads((tmp_path / "status.json").read_text())["outcome"] == "done"


def test_a_forked_process_can_save_too(tmp_path):
    cu.write_file(tmp_path / "parent", {"w": torch.randn(9)})
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        cu.write_file(tmp_path / "child", {"w": torch.arange(9)})
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert cu.read_file(tmp_path / "child")["w"].tolist() == list(range(9))


def test_a_job_ends_though_its_workers_are_still_there(launcher, tmp_path):
    result = run_life(
        launcher,
        tmp_path / "life",
        Path(__file__).parent / "jobs" / "workers_stay.py",
        [str(tmp_path / "ck")],
        None,
        Limits(wall=30),
    )
    assert (result["status"], result["ended"]) == (0, None), (
        tmp_path / "life" / "output"
    ).read_text()


def test_another_model_is_a_mismatch_that_names_the_key(tmp_path):
    with manager(tmp_path) as ckpt:
        train(ckpt, 1)
    other = manager(tmp_path)
    other.state["model"] = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with pytest.raises(cu.Mismatch, match="0.weight"):
        other.resume()
    scheduled = manager(tmp_path)
    scheduled.state["scheduler"] = torch.optim.lr_scheduler.StepLR(scheduled.state["optimizer"], 1)
    with pytest.raises(cu.Mismatch, match="scheduler"):
        scheduled.resume()


def test_no_wrapper_leaves_its_prefix(tmp_path):
    with manager(tmp_path) as ckpt:
        ckpt.state["model"] = torch.nn.DataParallel(
            torch.compile(ckpt.state["model"], backend="eager")
        )
        ckpt.steps = 1
        ckpt.save()
    saved = ckpt.directory.read(ckpt.directory.names()[0], "shared.json")
    assert sorted(saved["model"]) == ["bias", "weight"]
    plain = manager(tmp_path)
    assert plain.resume()
    assert digest(plain.state["model"].state_dict()) == digest(
        cu.bare(ckpt.state["model"]).state_dict()
    )


def test_accumulated_gradients_come_back_if_asked(tmp_path):
    with manager(tmp_path, gradients=True) as ckpt:
        ckpt.state["model"](torch.ones(1, 4)).sum().backward()
        ckpt.save()
    again = manager(tmp_path, gradients=True)
    again.resume()
    assert digest([p.grad for p in again.state["model"].parameters()]) == digest(
        [p.grad for p in ckpt.state["model"].parameters()]
    )


def test_saves_come_when_minutes_are_over_and_before_the_time_is_up(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(cu.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cu.time, "time", lambda: now[0])
    with manager(tmp_path, every_steps=None, every_minutes=10, end_time=4000, margin=30) as ckpt:
        train(ckpt, 1)
        assert ckpt.directory.names() == []
        now[0] += 601
        train(ckpt, 1)
        assert [n.split("-")[1] for n in ckpt.directory.names()] == ["000000000002"]
    assert ckpt.outcome == "done"


def test_a_job_stops_so_early_that_its_last_save_is_durable_in_time(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(cu.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cu.time, "time", lambda: now[0])
    with manager(tmp_path, every_steps=None, end_time=4000, margin=30) as ckpt:
        ckpt.saver.cost = (
            100.0  # a save takes so long: two of them, a step and the margin must still fit
        )
        while not ckpt.stopping:
            now[0] += 20
            train(ckpt, 1)
        assert 4000 - 30 - 2 * 100 - 20 < now[0] <= 4000 - 30 - 2 * 100
    assert ckpt.outcome == "preempted" and ckpt.exit_status == 75
    assert ckpt.directory.names() == [f"step-{ckpt.steps:012d}-1"]


# --- stopping


def test_a_signal_raises_a_flag_and_the_old_handlers_come_back():
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)}
    with cu.StopSignal() as stop:
        assert stop.received is None
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == "SIGUSR1"
    assert {s: signal.getsignal(s) for s in before} == before


def test_a_crash_loop_ends_and_a_new_checkpoint_begins_the_count_anew(tmp_path):
    def life(steps: int, dies: bool):
        ckpt = manager(tmp_path, max_stuck=3)
        sampler = ckpt.state["sampler"] = cu.ResumableSampler(9, 1)
        with ckpt:
            ckpt.resume()
            next(sampler.follow(iter(range(9))))
            train(ckpt, steps)
            if dies:
                raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            life(0, dies=True)
    with pytest.raises(cu.CheckpointError):
        life(0, dies=True)
    (tmp_path / "status.json").unlink()
    for _ in range(5):  # each gets a step further
        with pytest.raises(ZeroDivisionError):
            life(1, dies=True)
    life(1, dies=False)
    assert json.loads((tmp_path / "status.json").read_text())["outcome"] == "done"


def test_a_preempted_life_is_no_crash(tmp_path):
    for _ in range(6):
        with manager(tmp_path, max_stuck=2) as ckpt:
            ckpt.resume()
            os.kill(os.getpid(), signal.SIGTERM)
            assert ckpt.should_stop()
        assert ckpt.outcome == "preempted"


# --- position in the data


def test_a_sampler_goes_on_where_it_was_and_shows_every_sample_once_an_epoch():
    def epoch(sampler, stop=None):
        out = []
        for batch in sampler.follow(sampler):
            out.append(batch)
            if stop and len(out) == stop:
                break
        return out

    whole = cu.ResumableSampler(20, 4, seed=3)
    first = epoch(whole)
    assert sorted(functools.reduce(operator.iadd, first, [])) == list(range(20))
    whole.next_epoch()
    second = epoch(whole)
    assert second != first and sorted(functools.reduce(operator.iadd, second, [])) == list(
        range(20)
    )
    part = cu.ResumableSampler(20, 4, seed=3)
    begun = epoch(part, stop=2)
    rest = cu.ResumableSampler(20, 4, seed=3)
    rest.load_state_dict(part.state_dict())
    assert begun + epoch(rest) == first
    at_the_end = cu.ResumableSampler(20, 4, seed=3)
    at_the_end.load_state_dict(part.state_dict() | {"samples": 20})
    assert epoch(at_the_end) == []


def test_a_sampler_refuses_other_data_and_too_few_of_them():
    state = cu.ResumableSampler(20, 4, seed=3).state_dict()
    for other in (cu.ResumableSampler(21, 4, seed=3), cu.ResumableSampler(20, 4, seed=4)):
        with pytest.raises(ValueError):
            other.load_state_dict(state)
    with pytest.raises(ValueError):
        cu.ResumableSampler(3, 4)


@pytest.mark.parametrize(("size", "world"), [(20, 1), (23, 1), (23, 2), (23, 3), (13, 3), (2, 1)])
def test_a_last_smaller_batch_is_shared_by_the_ranks_if_asked(monkeypatch, size, world):
    def sampler(rank: int) -> cu.ResumableSampler:
        monkeypatch.setattr(cu, "_rank_and_world", lambda: (rank, world))
        return cu.ResumableSampler(size, 4, seed=3, drop_last=False)

    ranks = [sampler(rank) for rank in range(world)]
    seen = [list(one.follow(one)) for one in ranks]
    assert {len(batches) for batches in seen} == {len(one) for one in ranks}
    assert {one.batch for one in ranks} == {len(ranks[0])}
    shown = sorted(index for batches in seen for batch in batches for index in batch)
    assert len(set(shown)) == len(shown) > size - world
    for together in zip(*seen, strict=True):
        lengths = [len(batch) for batch in together]
        assert 1 <= max(lengths) <= 4 and max(lengths) - min(lengths) <= 1
    for done in range(len(ranks[0]) + 1):
        again = [sampler(rank) for rank in range(world)]
        for one, batches in zip(again, seen, strict=True):
            samples = min(done * 4 * world, size)
            one.load_state_dict(one.state_dict() | {"samples": samples})
            assert one.batch == done and list(one.follow(one)) == batches[done:]
    fresh = sampler(0)
    fresh.samples = size
    with pytest.raises(RuntimeError, match="all trained"):
        next(fresh.follow(fresh))


def test_batches_that_workers_have_fetched_ahead_arent_done():
    sampler = cu.ResumableSampler(40, 4)
    loader = torch.utils.data.DataLoader(torch.arange(40), batch_sampler=sampler, num_workers=2)
    for n, _ in enumerate(sampler.follow(loader), 1):
        assert sampler.samples == 4 * n
        if n == 3:
            break


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_epoch_draws_no_number_more_than_a_whole_one(workers):
    def drawn(sampler, stop=99):
        loader = torch.utils.data.DataLoader(
            torch.arange(40), batch_sampler=sampler, num_workers=workers
        )
        steps = zip(range(stop), sampler.follow(loader), strict=False)
        return [torch.rand(1).item() for _ in steps]

    torch.manual_seed(0)
    whole = drawn(cu.ResumableSampler(40, 4))
    torch.manual_seed(0)
    begun = cu.ResumableSampler(40, 4)
    first = drawn(begun, stop=3)
    begun = cu.ResumableSampler(40, 4)
    begun.load_state_dict(begun.state_dict() | {"samples": 4 * len(first)})
    assert first + drawn(begun) == whole


def test_every_generator_comes_back():
    state = cu.rng_state()
    before = rng_digests()
    torch.rand(2), random.random(), numpy.random.rand()
    cu.set_rng_state(state)
    assert rng_digests() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_stateful_loader_goes_on_where_it_was(tmp_path, workers):
    loaders = pytest.importorskip("torchdata.stateful_dataloader")

    def run(path, most=99):
        torch.manual_seed(0)
        loader = loaders.StatefulDataLoader(
            list(range(24)),
            batch_size=4,
            shuffle=True,
            num_workers=workers,
            generator=torch.Generator(),
        )
        ckpt = manager(path)
        ckpt.per_rank["loader"] = loader
        seen = []
        with ckpt:
            ckpt.resume()
            while ckpt.epoch < 2:
                loader.generator.manual_seed(ckpt.epoch)
                for batch in loader:
                    seen.append((batch.tolist(), torch.rand(1).item()))
                    if len(seen) > most:
                        return seen[:most]
                    ckpt.step()
                ckpt.end_epoch()
        return seen

    assert run(tmp_path / "killed", most=3) + run(tmp_path / "killed") == run(tmp_path / "whole")


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(range(16))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stateful_loader_that_would_skip_too_much_is_refused_at_the_first_step(
    tmp_path, workers, capsys
):
    loaders = pytest.importorskip("torchdata.stateful_dataloader")
    loader = loaders.StatefulDataLoader(Stream(), batch_size=4, num_workers=workers)
    ckpt = cu.CheckpointManager(tmp_path, {}, per_rank={"loader": loader})
    with pytest.raises(TypeError, match="'loader': the data set of this StatefulDataLoader"), ckpt:
        ckpt.resume()
        next(iter(loader))
        ckpt.step()
    assert ckpt.steps == 0 and "Give it generator=" in capsys.readouterr().err


def test_a_gradient_scaler_is_restored(tmp_path):
    with manager(tmp_path) as ckpt:
        ckpt.state["scaler"] = torch.amp.GradScaler("cpu", init_scale=8.0)
        ckpt.state["scaler"].scale(torch.tensor(1.0))  # it comes into being when it is used
        ckpt.state["scaler"].update(4.0)
        ckpt.save()
    again = manager(tmp_path)
    again.state["scaler"] = torch.amp.GradScaler("cpu")
    again.resume()
    assert again.state["scaler"].state_dict() == ckpt.state["scaler"].state_dict()
