"""The harness on real processes: faults fire where they say, and both launchers tell the same."""

from __future__ import annotations

import signal
import sys

import pytest

from grader import course, engine, mutants
from grader.harness.faults import Kill, KillInSave, Tear
from grader.harness.lab import Bench, Lab
from grader.harness.launcher import ForkServer, Limits, Plain

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fork server is Linux's")


@pytest.fixture
def lab(launcher, ex01):
    """A lab of the solution."""
    bench = Bench(course.submission(ex01, None, solution=True), launcher, seed=0, jobs=2)
    yield Lab(bench, "harness")
    bench.close()


pytestmark = pytest.mark.needs_solution


def test_two_undisturbed_runs_are_equal_bit_for_bit(lab):
    first, second = (lab.launch("train.py", "--save-every", 5, "--workers", 2) for _ in range(2))
    assert first.finished and second.finished
    assert first.trajectory == second.trajectory
    assert len(first.trajectory.steps) == 30


def test_another_seed_is_another_run(lab):
    runs = [lab.launch("train_epochs.py", "--bare", "--seed", seed) for seed in (1, 2)]
    assert runs[0].trajectory != runs[1].trajectory


def test_a_kill_after_a_step_ends_the_life_there(lab):
    run = lab.launch("train.py", "--save-every", 5, faults=(Kill(12),))
    killed, resumed = run.lives
    assert killed.died_of_fault and killed.status == -signal.SIGKILL
    assert killed.steps[-1]["step"] == 12
    assert resumed.resumed_at == 10 and run.steps_lost == [2] and run.finished


@pytest.mark.parametrize("fault", [KillInSave(10, 0), KillInSave(10, 3), Tear(10, 1000)])
def test_a_fault_in_a_save_falls_into_that_save(lab, fault):
    run = lab.launch("train.py", "--save-every", 5, faults=(fault,))
    killed, resumed = run.lives
    assert killed.died_of_fault
    assert [e["step"] for e in killed.all("saving")] == [5, 10]
    assert [e["step"] for e in killed.all("saved")] == [5]
    assert resumed.resumed_at == 5 and run.finished


def test_a_save_is_seen_event_by_event(lab):
    run = lab.launch("train.py", "--save-every", 5)
    names = [e.split()[0] for e in run.last.first("saved")["events"]]
    assert names == ["mkdir", "open", "fsync", "rename", "fsync"]


def test_a_fault_that_never_fires_ends_no_life(lab):
    run = lab.launch("train.py", "--save-every", 5, faults=(Kill(500),))
    assert len(run.lives) == 1 and run.last.finished and not run.last.fault_fired
    assert not run.finished


def test_the_life_leaves_what_it_held_and_no_process(lab):
    run = lab.launch("train.py", "--save-every", 5, "--workers", 2, faults=(Kill(7),))
    assert run.lives[0].result["left_behind"] >= 2  # the loader's workers, which the guardian ended
    assert run.lives[1].result["left_behind"] == 0


def test_a_limit_ends_a_life_and_is_named(launcher, ex01):
    work = course.Submission(ex01.solution, ex01.module, {ex01.module: b"import time\ntime.sleep(1000)"})
    bench = Bench(work, launcher, seed=0, jobs=1, limits=Limits(wall=1))
    try:
        run = Lab(bench, "limit").launch("train.py")
        assert run.last.ended == "wall" and not run.finished
    finally:
        bench.close()


# --- both launchers, the same verdicts ---------------------------------------------------------------


def verdicts(exercise, work, launcher, tasks=None):
    result = engine.grade(exercise, work, launcher, seed=3, tasks=tasks)
    return [(t.id, t.verdict, t.message) for t in result.tasks]


@linux
def test_both_launchers_give_the_solution_full_marks_with_equal_trajectories(ex01):
    work = course.submission(ex01, None, solution=True)
    trajectories = []
    for launcher in (ForkServer(), Plain()):
        bench = Bench(work, launcher, seed=0, jobs=2)
        try:
            trajectories.append(Lab(bench, "x").launch("train.py", "--save-every", 5, faults=(Kill(12),)).trajectory)
        finally:
            bench.close()
            launcher.close()
    assert trajectories[0] == trajectories[1]


@linux
@pytest.mark.parametrize("name,task", [("numpy-rng-forgotten", 2), ("in-place", 3), ("unsafe-load", 1)])
def test_both_launchers_give_the_same_verdict_and_message(launcher, ex01, name, task):
    mutant = next(m for m in mutants.load(ex01) if m.name == name)
    work = mutants.submission(ex01, mutant)
    assert verdicts(ex01, work, launcher, [task]) == verdicts(ex01, work, Plain(), [task])


@linux
def test_plain_processes_give_the_solution_full_marks(ex01):
    result = engine.grade(ex01, course.submission(ex01, None, solution=True), Plain(), seed=6)
    assert result.score == ex01.points, [t.message for t in result.tasks]
