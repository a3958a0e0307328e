"""Options of the templates' manager: signals, what is kept, changes on resuming, frozen parts."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys

import numpy
import pytest
import torch

from grader.course.catalog import ROOT
from grader.harness.inside.digest import digest
from grader.tests.templates.test_templates_utils import Count, cu, manager, train


def test_other_signals_stop_the_job_and_others_dont(tmp_path):
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        with manager(tmp_path, signals=[signal.SIGUSR2]) as ckpt:
            os.kill(os.getpid(), signal.SIGUSR1)
            train(ckpt, 1)
            assert seen == [signal.SIGUSR1] and not ckpt.stopping
            os.kill(os.getpid(), signal.SIGUSR2)
            train(ckpt, 1)
            assert ckpt.stopping
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ckpt.outcome == "preempted" and ckpt.status()["reason"] == "SIGUSR2"


AFTER = """
import os, signal, subprocess, sys
sys.path.insert(0, sys.argv[1])
import atexit, checkpoint_utils as cu
late = lambda: os.kill(os.getpid(), signal.SIGTERM)
with cu.CheckpointManager(sys.argv[2], {"n": {"a": 1}}) as ckpt:
    if sys.argv[3] == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    ckpt.step()
late()
child = subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 15)"])
assert child.returncode == -15
atexit.register(late)
sys.exit(ckpt.exit_status)
"""


def test_a_real_time_signal_stops_the_job_and_is_named_by_its_number(tmp_path):
    number = getattr(signal, "SIGRTMIN", signal.SIGUSR2 - 2) + 2
    with manager(tmp_path, signals=[number]) as ckpt:
        os.kill(os.getpid(), number)
        assert ckpt.step()
    told = f"signal {number}" if hasattr(signal, "SIGRTMIN") else "SIGUSR2"
    assert ckpt.reason == told and ckpt.outcome == cu.PREEMPTED


def test_a_handler_that_somebody_replaces_is_told_once(tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    with manager(tmp_path) as ckpt:
        ckpt.step()
        assert "handler" not in capsys.readouterr().err
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ckpt.step()
        ckpt.step()
    assert capsys.readouterr().err.count("SIGTERM has another handler now (SIG_DFL)") == 1
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("how, status", [("stop", 75), ("go on", -signal.SIGTERM)])
def test_a_second_signal_doesnt_end_a_process_that_is_ending(tmp_path, how, status):
    argv = [sys.executable, "-c", AFTER, str(ROOT / "templates"), str(tmp_path), how]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr


def test_workers_ignore_each_signal_that_stops_a_job():
    with cu.StopSignal([signal.SIGALRM]):
        pid = os.fork()
        if not pid:
            cu.ignore_signals()
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
                os.kill(os.getpid(), number)
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@pytest.mark.parametrize(
    "options",
    [
        {"signals": [signal.SIGKILL]},
        {"signals": ["SIGUSR2"]},
        {"signals": signal.SIGUSR2},
        {"signals": [0]},
        {"signals": [999]},
        {"every_steps": "5"},
        {"every_minutes": math.nan},
        {"wait_for_space": "long"},
        {"margin": -1},
        {"timeout": math.nan},
        {"end_time": "12:00"},
        {"max_stuck": None},
        {"asynchronous": "no"},
        {"keep_best": 0},
        {"keep_every": 0},
        {"keep_every": 2.5},
    ],
    ids=str,
)
def test_options_that_cant_work_are_refused_at_once(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        manager(tmp_path, **options)


def test_an_option_that_doesnt_exist_is_a_type_error(tmp_path):
    with pytest.raises(TypeError, match="every_step"):
        manager(tmp_path, every_step=3)


def test_options_may_come_as_an_object_and_be_overridden(tmp_path):
    config = cu.Config(every_steps=2, keep=5)
    with cu.CheckpointManager(tmp_path, {"count": Count()}, config, keep=1) as ckpt:
        for _ in range(4):
            ckpt.step()
    assert ckpt.directory.names() == ["step-000000000004-1"]


def steps_of(names: list[str]) -> list[int]:
    return [int(name.split("-")[1]) for name in names]


def test_milestones_and_the_best_few_are_kept(tmp_path):
    with manager(tmp_path, keep=2, keep_every=3, keep_best=2) as ckpt:
        for metric in (5.0, 6.0, 4.0, 4.0, 3.0, 9.0, float("nan")):
            train(ckpt, 1)
            assert ckpt.save_best(metric) is (metric in (5.0, 4.0, 3.0) and ckpt.steps != 4)
    assert steps_of(ckpt.directory.names()) == [7, 6, 5, 3]
    assert steps_of(ckpt.directory.names("best")) == [5, 3]
    again = manager(tmp_path)
    assert again.resume("best") and (again.steps, again.best) == (5, 3.0)


def test_a_learning_rate_is_changed_on_purpose_and_aloud(tmp_path, capsys):
    with manager(tmp_path) as ckpt:
        train(ckpt, 2)
    again = manager(tmp_path)
    before = again.state["optimizer"].param_groups[0]["lr"]
    assert again.resume(change={"optimizer": {"lr": 0.125}})
    assert [g["lr"] for g in again.state["optimizer"].param_groups] == [0.125]
    assert f"changed on resuming: optimizer: lr {before} -> 0.125" in capsys.readouterr().err
    assert manager(tmp_path / "new").resume(change={"optimizer": {"lr": 1.0}}) is False


def test_a_scheduler_that_would_undo_the_change_is_named(tmp_path, capsys):
    def job():
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.5))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
        return cu.CheckpointManager(tmp_path, parts)

    with job() as ckpt:
        ckpt.step()
    again = job()
    again.resume(change={"optimizer": {"lr": 0.25}})
    assert again.state["optimizer"].param_groups[0]["lr"].item() == 0.25
    assert "'scheduler' computes it from base_lrs" in capsys.readouterr().err
    job().resume(change={"optimizer": {"lr": 0.25}, "scheduler": {"base_lrs": [0.25]}})
    assert "computes it" not in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"critic": {"lr": 1}}, {"optimizer": {"rate": 1}}])
def test_what_cant_be_changed_is_refused_before_anything_is_loaded(tmp_path, change):
    with manager(tmp_path) as ckpt:
        train(ckpt, 1)
    again = manager(tmp_path)
    with pytest.raises(ValueError, match="change: "):
        again.resume(change=change)
    assert again.steps == 0


def test_the_batch_number_goes_on_after_a_resume(tmp_path):
    sampler = cu.ResumableSampler(12, 2, seed=3)
    loader = torch.utils.data.DataLoader(range(12), batch_sampler=sampler)
    with cu.CheckpointManager(tmp_path, {"sampler": sampler}, every_steps=2) as ckpt:
        for number, _ in enumerate(sampler.follow(loader), sampler.batch):
            assert sampler.batch == number + 1
            if number == 3:
                break
            ckpt.step()
    sampler = cu.ResumableSampler(12, 2, seed=3)
    loader = torch.utils.data.DataLoader(range(12), batch_sampler=sampler)
    assert cu.CheckpointManager(tmp_path, {"sampler": sampler}).resume()
    numbers = [n for n, _ in enumerate(sampler.follow(loader), sampler.batch)]
    assert numbers == list(range(sampler.batch - len(numbers), 6)) and numbers


def test_workers_that_a_signal_would_kill_are_told_once(capsys):
    for told, options in ((1, {}), (0, {"worker_init_fn": cu.ignore_signals})):
        sampler = cu.ResumableSampler(4, 2)
        loader = torch.utils.data.DataLoader(
            range(4), batch_sampler=sampler, num_workers=1, **options
        )
        for _ in range(2):
            list(sampler.follow(loader))
            sampler.next_epoch()
        assert capsys.readouterr().err.count("don't ignore signals") == told


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_save_waits_for_room(tmp_path, monkeypatch, capsys, asynchronous):
    real, tries, slept = cu._write_files, [], []

    def full_at_first(*args):
        tries.append(args)
        if len(tries) < 3:
            raise OSError(cu.errno.ENOSPC, "no space left")
        return real(*args)

    monkeypatch.setattr(cu, "_write_files", full_at_first)
    monkeypatch.setattr(cu.time, "sleep", slept.append)
    with manager(tmp_path, wait_for_space=60, asynchronous=asynchronous) as ckpt:
        train(ckpt, 1)
    assert len(tries) == 3 and len(slept) == 2 and steps_of(ckpt.directory.names()) == [1]
    assert capsys.readouterr().err.count("no room for the checkpoint of step 1") == 1


@pytest.mark.parametrize("error", [cu.errno.ENOSPC, cu.errno.EIO])
def test_a_save_doesnt_wait_for_ever_nor_for_another_error(tmp_path, monkeypatch, error):
    now, slept = [1000.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    def fail(*_):
        raise OSError(error, "it fails")

    monkeypatch.setattr(cu.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cu.time, "sleep", sleep)
    monkeypatch.setattr(cu, "_write_files", fail)
    with (
        pytest.raises(OSError, match="it fails"),
        manager(tmp_path, wait_for_space=12) as ckpt,
    ):
        train(ckpt, 1)
    assert slept == ([5.0, 5.0, 2.0] if error == cu.errno.ENOSPC else [])


# --- frozen parts


def adapted(seed: int = 0, frozen: int = 0) -> torch.nn.Module:
    """A large frozen layer of weights `frozen`, and a small adapter that is trained."""
    torch.manual_seed(seed)
    model = torch.nn.ModuleDict({"base": torch.nn.Linear(50, 50), "lora": torch.nn.Linear(2, 2)})
    model["norm"] = torch.nn.BatchNorm1d(2)
    for p in model["base"].parameters():
        torch.nn.init.constant_(p, frozen)
        p.requires_grad_(False)
    return model


def test_frozen_parameters_are_left_out_and_the_rest_comes_back(tmp_path):
    model = adapted(seed=1)
    model["norm"](torch.randn(4, 2))
    with cu.CheckpointManager(tmp_path, {"model": model}, trainable_only=True) as ckpt:
        ckpt.step()
    assert (tmp_path / ckpt.directory.names()[0] / "model.safetensors").stat().st_size < 2000
    again = adapted(seed=2)
    assert cu.CheckpointManager(tmp_path, {"model": again}).resume()
    assert digest(dict(again.state_dict())) == digest(dict(model.state_dict()))


def test_other_frozen_parameters_are_a_mismatch(tmp_path):
    with cu.CheckpointManager(tmp_path, {"model": adapted()}, trainable_only=True) as ckpt:
        ckpt.step()
    thawed = adapted()
    thawed["base"].bias.requires_grad_(True)
    for model in (adapted(frozen=1), thawed):
        with pytest.raises(cu.Mismatch, match="frozen"):
            cu.CheckpointManager(tmp_path, {"model": model}, trainable_only=True).resume()


def test_what_is_frozen_may_change_while_it_trains(tmp_path):
    model = adapted()
    with cu.CheckpointManager(
        tmp_path, {"model": model}, trainable_only=True, every_steps=1
    ) as ckpt:
        ckpt.step()
        for p in model["base"].parameters():
            p.requires_grad_(True)
            torch.nn.init.constant_(p, 3)
        ckpt.step()
    again = adapted()
    again["base"].requires_grad_(True)
    assert cu.CheckpointManager(tmp_path, {"model": again}).resume()
    assert again["base"].weight.unique().tolist() == [3.0]


# --- generators, and gradients of several models


def draws(generators: dict) -> list:
    return [
        torch.rand(2, generator=generators["torch"]).tolist(),
        generators["python"].random(),
        generators["numpy"].random(2).tolist(),
        generators["twister"].random(2).tolist(),
        generators["old"].normal(size=3).tolist(),
        numpy.random.Generator(generators["bits"]).random(2).tolist(),
        numpy.random.random(2).tolist(),
    ]


def generators(seed: int) -> dict:
    return {
        "torch": torch.Generator().manual_seed(seed),
        "python": random.Random(seed),
        "numpy": numpy.random.default_rng(seed),
        "twister": numpy.random.Generator(numpy.random.MT19937(seed)),
        "old": numpy.random.RandomState(seed),
        "bits": numpy.random.PCG64DXSM(seed),
    }


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "Philox", "SFC64"])
def test_generators_go_on_where_they_were(tmp_path, kind):
    before = numpy.random.get_bit_generator()
    numpy.random.set_bit_generator(getattr(numpy.random, kind)(7))
    try:
        mine = generators(1)
        draws(mine)
        with cu.CheckpointManager(tmp_path, mine) as ckpt:
            ckpt.step()
        wanted = draws(mine)
        others = generators(2)
        draws(others)
        assert cu.CheckpointManager(tmp_path, others).resume()
        assert draws(others) == wanted
    finally:
        numpy.random.set_bit_generator(before)


def test_a_generator_of_another_kind_is_a_mismatch(tmp_path):
    with cu.CheckpointManager(tmp_path, {"rng": numpy.random.default_rng(1)}) as ckpt:
        ckpt.step()
    other = numpy.random.Generator(numpy.random.Philox(1))
    with pytest.raises(cu.Mismatch, match="'rng'"):
        cu.CheckpointManager(tmp_path, {"rng": other}).resume()


def test_a_generator_without_a_state_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match="'rng'"):
        cu.CheckpointManager(tmp_path, {"rng": random.SystemRandom()})


def test_gradients_of_every_model_are_saved(tmp_path):
    def job():
        return {name: torch.nn.Linear(2, 2) for name in ("generator", "critic")}

    models, again = job(), job()
    for n, model in enumerate(models.values()):
        (model(torch.ones(1, 2)).sum() * (n + 1)).backward()
    with cu.CheckpointManager(tmp_path, models, gradients=True) as ckpt:
        ckpt.step()
    assert cu.CheckpointManager(tmp_path, again, gradients=True).resume()
    for name, model in models.items():
        mine = [p.grad for p in again[name].parameters()]
        assert digest(mine) == digest([p.grad for p in model.parameters()]), name


def test_a_default_device_changes_nothing(tmp_path):
    whole = numpy.arange(9.0)
    box, again = Count({"array": whole, "part": whole[2:5], "t": torch.ones(2)}), Count()
    with torch.device("meta"):
        with cu.CheckpointManager(tmp_path, {"box": box}, asynchronous=True) as ckpt:
            ckpt.step()
        assert cu.CheckpointManager(tmp_path, {"box": again}).resume()
    assert again.value["t"].tolist() == [1.0, 1.0]
    assert again.value["part"].tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "Philox", "SFC64"])
def test_the_generators_states_are_plain_data_whatever_numpys_generator(tmp_path, kind):
    before = numpy.random.get_bit_generator()
    try:
        numpy.random.set_bit_generator(getattr(numpy.random, kind)(7))
        numpy.random.randn(1)  # keeps a second number
        torch.save(cu.rng_state(), tmp_path / "state.pt")
        drawn = numpy.random.randn(3), numpy.random.rand(3)
        cu.set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
        again = numpy.random.randn(3), numpy.random.rand(3)
    finally:
        numpy.random.set_bit_generator(before)
    assert all((a == b).all() for a, b in zip(drawn, again, strict=True))
