"""Trajectories, on small literal histories: no process, no cluster, no torch."""

from __future__ import annotations

import pytest

from grader.checks.lost_state import MEANINGS, meaning
from grader.harness import faults
from grader.harness.faults import DiskFull, Kill, KillInSave, Tear
from grader.harness.trajectory import COMPONENTS, Trajectory

SAME = {"weights": "w", "optimizer exp_avg": "m", "torch RNG": "r", "global step": "s"}


def record(step: int, loss: str = "l", indices=(1, 2), **state) -> dict:
    return {"step": step, "loss": loss, "indices": list(indices), "state": SAME | state}


def history(*records: dict, resumes=(), end=SAME) -> Trajectory:
    return Trajectory({r["step"]: r for r in records}, {"state": end}, list(resumes))


def test_equal_histories_are_equal():
    assert history(record(1), record(2)) == history(record(1), record(2))


def test_the_first_step_that_differs_is_named_with_its_cause_first():
    lost = history(
        record(1),
        record(2, loss="x", **{"torch RNG": "other", "optimizer exp_avg": "0"}),
        record(3, weights="x"),
        resumes=[1],
    )
    found = lost.diverges_from(history(record(1), record(2), record(3)))
    assert (found.step, found.cause, found.first_after_resume) == (2, "optimizer exp_avg", True)
    assert found.different == ["optimizer exp_avg", "torch RNG", "loss"]
    assert "weights" in found.same


def test_other_batches_are_told_from_other_randomness():
    found = history(record(1, indices=(7, 8), loss="x")).diverges_from(history(record(1)))
    assert found.different == ["batch indices", "loss"]


def test_a_difference_after_the_last_step_is_one_of_the_final_state():
    found = history(record(1), end=SAME | {"weights": "x"}).diverges_from(history(record(1)))
    assert (found.step, found.different) == (2, ["weights"])


@pytest.mark.parametrize("shorter", [True, False])
def test_steps_too_few_or_too_many_differ(shorter):
    one, two = history(record(1)), history(record(1), record(2))
    got, want = (one, two) if shorter else (two, one)
    assert got.diverges_from(want).step == 2


def test_a_later_life_replaces_the_steps_that_it_does_again():
    killed = Trajectory({n: record(n, loss="first") for n in (1, 2, 3)}, None)
    resumed = Trajectory({n: record(n, loss="again") for n in (3, 4)}, {"state": SAME}, [2])
    joined = killed.join(resumed)
    assert [joined.steps[n]["loss"] for n in (1, 2, 3, 4)] == ["first", "first", "again", "again"]


def test_a_life_that_died_before_its_first_step_adds_nothing():
    killed = Trajectory({1: record(1), 2: record(2)}, None)
    assert set(killed.join(Trajectory({}, None, [1])).steps) == {1}


def test_every_component_has_a_meaning():
    for component in COMPONENTS:
        assert component in MEANINGS, component
    assert meaning(["optimizer exp_avg_sq", "loss"]) == MEANINGS["optimizer"]


@pytest.mark.parametrize(
    "fault",
    [
        Kill(12),
        KillInSave(20, 3),
        Tear(20, 4096),
        DiskFull(20, 0),
        Kill(12, rank=1),
        KillInSave(20, 3, rank=0),
        faults.Fault("error", 20, event=3, rank=1),
    ],
)
def test_a_fault_reads_back_from_its_text(fault):
    assert faults.parse(str(fault)) == fault


@pytest.mark.parametrize(
    "text", ["", "kill", "kill@", "kill@x", "tear@3", "full@3", "kill@1:2", "kill@1 2", "boom@1"]
)
def test_what_is_no_fault_is_refused(text):
    with pytest.raises(ValueError, match="kill@12"):
        faults.parse(text)


def test_each_component_is_compared_at_each_step_that_both_have():
    got = history(record(1), record(2, loss="x"), record(3, loss="x"))
    compared = got.by_component(history(record(1), record(2), record(4)))
    assert compared["loss"] == {1: True, 2: False}
    assert all(compared[name] == {1: True, 2: True} for name in compared if name != "loss")
    assert list(compared)[-1] == "loss"
