"""Assertions on runs, asked of histories that are written down here: no process runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from grader.checks import endings, trajectories
from grader.checks.ex03 import status_file
from grader.checks.left_open import nothing_left_open
from grader.harness.faults import Kill
from grader.harness.launcher import Limits
from grader.harness.run import Life, Process, Run
from grader.verdicts import FAIL, INCONCLUSIVE, Finding

STEPS = 6


def life(
    first: int = 1,
    last: int = STEPS,
    *,
    fault: Kill | None = None,
    saves: int = 2,
    lost: int | None = None,
    end: bool = True,
    status: int = 0,
    **more,
) -> Life:
    """A life that trained the steps from `first` to `last`, and saved after every `saves`-th.

    lost  the step from which on its generator isn't the undisturbed run's
    more  events that it also reported: name=fields
    """
    events: list[dict] = [{"event": "life", "step": first - 1, "epoch": 0}]
    for n in range(first, last + 1):
        rng = "other" if lost and n >= lost else f"rng {n}"
        state = {"weights": f"weights {n}", "torch RNG": rng}
        events.append({"event": "step", "step": n, "indices": [n], "samples": [], "state": state})
        events.append({"event": "loss", "step": n, "loss": f"loss {n} {rng}"})
        if n % saves == 0:
            events += [{"event": "saving", "step": n}, {"event": "saved", "step": n, "events": []}]
    if fault:
        events.append({"event": "fault", "step": last})
        status = -9
    elif end and status == 0:
        events.append({"event": "end", "step": last, "state": {"weights": f"weights {last + 1}"}})
    events += [{"event": name, **fields} for name, fields in more.items()]
    result = {"status": status, "ended": None, "wall": 1.0, "cpu": 1.0}
    return Life([Process(Path("/nowhere"), fault, result).with_events(events)], fault)


def group(*ranks: Life, fault: Kill | None = None) -> Life:
    return Life([rank.process for rank in ranks], fault)


def run(*lives: Life, faults: tuple = ()) -> Run:
    return Run(list(lives), faults, Path("/nowhere/checkpoints"), "train.py --seed 1")


class Controls:
    """Controls that were run already."""

    limits = Limits()

    def __init__(self, again: Run | None = None, bare: tuple[Run, Run] | None = None):
        self._again, self._bare = again or UNDISTURBED, bare or (UNDISTURBED, UNDISTURBED)

    def again(self, undisturbed: Run) -> Run:
        return self._again

    def bare(self, number: int) -> Run:
        return self._bare[number]

    def too_slow(self) -> bool:
        return False


UNDISTURBED = run(life())
KILL, KILL_1 = Kill(3), Kill(3, rank=1)
PAIR = run(group(life(), life()))


def resumed(first: int = 3, **more) -> Run:
    """Killed after step 3; relaunched from the checkpoint of step `first` - 1."""
    return run(life(1, 3, fault=KILL), life(first, **more), faults=(KILL,))


def found(assertion, *args) -> Finding:
    with pytest.raises(Finding) as raised:
        assertion(*args)
    return raised.value


def test_a_run_that_rejoins_raises_nothing():
    trajectories.rejoins(Controls(), resumed(), UNDISTURBED)


def test_a_lost_generator_is_named_with_the_step_at_which_it_shows():
    finding = found(trajectories.rejoins, Controls(), resumed(lost=3), UNDISTURBED)
    assert (finding.code, finding.about, finding.data["step"]) == ("state-lost", "torch RNG", 3)
    assert finding.fault == "kill@3" and finding.means and finding.think
    assert {"weights", "batch indices"} <= set(finding.data["same"])


def test_a_run_that_starts_over_has_lost_its_progress():
    finding = found(trajectories.rejoins, Controls(), resumed(first=1), UNDISTURBED)
    assert finding.code == "progress" and "started over" in finding.means


def test_a_run_that_skips_steps_has_lost_its_progress():
    finding = found(trajectories.progress_kept, resumed(first=5))
    assert finding.code == "progress" and "never trained" in finding.means


def test_a_resume_from_the_save_in_progress_is_progress_kept():
    killed = life(1, 3, fault=KILL, saving={"step": 3})
    trajectories.progress_kept(run(killed, life(4), faults=(KILL,)))


def test_a_fault_that_never_fired_proves_nothing():
    alive = life()
    alive.fault = KILL
    finding = found(endings.finished, Controls(), run(alive, life(), faults=(KILL,)))
    assert (finding.verdict, finding.code) == (INCONCLUSIVE, "fault")


def test_a_life_that_leaves_with_0_before_the_end_is_told():
    finding = found(endings.finished, Controls(), run(life(1, 4, end=False)))
    assert (finding.code, finding.about) == ("exit", "0") and "scheduler" in finding.means


def test_a_crash_says_what_was_lost_before_it():
    crash = {"type": "ValueError", "message": "too late", "frames": []}
    lost = resumed(lost=3, status=1, crash=crash)
    finding = found(trajectories.rejoins, Controls(), lost, UNDISTURBED)
    assert finding.code == "state-lost"
    assert finding.rows[-1] == ("later", "the run ended early: ValueError: too late")


def test_undisturbed_runs_that_differ_are_not_reproducible():
    noisy = run(life(lost=2))
    finding = found(trajectories.same_trajectory, Controls(again=noisy), noisy, UNDISTURBED)
    assert (finding.verdict, finding.code) == (FAIL, "not-reproducible")


def test_a_machine_on_which_bare_runs_differ_shows_nothing():
    noisy = run(life(lost=2))
    controls = Controls(again=noisy, bare=(noisy, UNDISTURBED))
    finding = found(trajectories.same_trajectory, controls, noisy, UNDISTURBED)
    assert (finding.verdict, finding.code) == (INCONCLUSIVE, "machine")


def test_saving_that_changes_the_run_is_told_with_what_it_changed():
    finding = found(trajectories.quiet, Controls(), run(life(lost=4)), UNDISTURBED)
    assert (finding.code, finding.about) == ("save-changes-run", "torch RNG")


def test_of_ranks_the_first_that_differs_is_named():
    killed = group(life(1, 3, fault=KILL), life(1, 3), fault=KILL)
    relaunched = group(life(3), life(3, lost=3))
    apart = run(killed, relaunched, faults=(KILL,))
    finding = found(trajectories.rejoins, Controls(again=PAIR), apart, PAIR)
    assert (finding.code, finding.data["rank"]) == ("state-lost", 1)


def test_a_group_that_rejoins_on_every_rank_raises_nothing():
    killed = group(life(1, 3), life(1, 3, fault=KILL), fault=KILL_1)
    rejoined = run(killed, group(life(3), life(3)), faults=(KILL_1,))
    trajectories.rejoins(Controls(again=PAIR), rejoined, PAIR)


def test_of_a_group_the_rank_that_went_wrong_by_itself_is_told():
    crash = {"type": "ValueError", "message": "mine", "frames": []}
    broken = group(life(1, 3, end=False), life(1, 3, status=1, crash=crash))
    finding = found(endings.finished, Controls(), run(broken))
    assert (finding.code, finding.ending) == ("crashed", "ValueError: mine")
    assert ("rank", "1 (of 2)") in finding.rows
    assert finding.rows[-1] == ("rank 0", "has ended, with exit status 0")


def test_a_group_whose_fault_struck_no_rank_proves_nothing():
    alive = group(life(), life(), fault=KILL_1)
    finding = found(endings.finished, Controls(), run(alive, PAIR.last, faults=(KILL_1,)))
    assert (finding.verdict, finding.code) == (INCONCLUSIVE, "fault")


def test_a_group_that_crashes_says_what_a_rank_had_lost_before():
    crash = {"type": "ValueError", "message": "too late", "frames": []}
    killed = group(life(1, 3, fault=KILL), life(1, 3), fault=KILL)
    crashed = group(life(3, status=1, crash=crash), life(3, lost=3))
    finding = found(
        trajectories.rejoins, Controls(again=PAIR), run(killed, crashed, faults=(KILL,)), PAIR
    )
    assert (finding.code, finding.data["rank"]) == ("state-lost", 1)
    assert finding.rows[-1] == ("later", "the run ended early: ValueError: too late")


def test_a_rank_that_has_lost_progress_is_found_though_rank_0_has_not():
    killed = group(life(1, 3, fault=KILL), life(1, 3), fault=KILL)
    finding = found(
        trajectories.progress_kept, run(killed, group(life(3), life(5)), faults=(KILL,))
    )
    assert finding.code == "progress" and "never trained" in finding.means


def test_saving_that_changes_one_rank_is_told_with_that_rank():
    changed = run(group(life(), life(lost=4)))
    finding = found(trajectories.quiet, Controls(), changed, PAIR)
    assert (finding.code, finding.about) == ("save-changes-run", "torch RNG")
    assert ("rank", "1 (of 2)") in finding.rows


def test_ranks_that_resume_from_different_steps_disagree():
    killed = group(life(1, 3, fault=KILL), life(1, 3), fault=KILL)
    apart = run(killed, group(life(3), life(1)), faults=(KILL,))
    finding = found(trajectories.rejoins, Controls(again=PAIR), apart, PAIR)
    assert finding.code == "ranks-disagree"


def status_says(events: list[dict]) -> None:
    process = life(end=False, status=1).process.with_events(events)
    status_file.not_said_too_soon(run(Life([process], None)), 0)


def evaluates(says: str, t: float) -> dict:
    return {"event": "part", "step": 5, "t": t, "says": says}


def test_a_rank_that_works_on_may_see_that_another_one_has_failed():
    ended = {"event": "killed", "t": 2.0}
    status_says([evaluates("running", 1.0), ended, evaluates("failed", 3.0)])
    # a crash is recorded after the word is written
    status_says([evaluates("failed", 3.0), {"event": "crash", "t": 4.0}])
    for said_too_soon in ([evaluates("failed", 1.0), ended], [ended, evaluates("done", 3.0)]):
        with pytest.raises(Finding) as raised:
            status_says(said_too_soon)
        assert raised.value.code == "told-too-soon"


def second_life(*ranks: list[dict]) -> Run:
    """The first life left as preempted; in the second one, these were the events of each rank."""
    processes = [life(3).process.with_events(events) for events in ranks]
    made = run(group(life(1, 3), life(1, 3)), Life(processes, None))
    made.notes["words"] = ["preempted", "preempted"]
    return made


def test_a_status_is_stale_only_if_this_life_has_written_none():
    working = evaluates("preempted", 3.0)
    stale = found(status_file.not_said_too_soon, second_life([], [working]), 1)
    assert stale.code == "stale-status" and "this one has written nothing" in stale.rows[-2][1]
    wrote = [{"event": "word", "t": 2.0, "what": "open status.json"}]
    soon = found(status_file.not_said_too_soon, second_life(wrote, [working]), 1)
    assert soon.code == "told-too-soon"
    assert soon.rows[-1] == ("written", "in this life, by rank 0 (of 2)")


@pytest.mark.parametrize(
    "after, story",
    [
        (3, "relaunched from the checkpoint of step 2"),
        (5, "relaunched; it continued at step 4"),  # no life has saved that step
        (1, "relaunched"),
    ],
)
def test_a_story_names_only_checkpoints_that_exist(after, story):
    assert resumed(after).story == f"{KILL.story}; {story}"


def test_a_fault_that_never_came_is_told_as_that():
    hangs = Life([Process(Path("/nowhere"), KILL, {"status": -9}).with_events([])], KILL)
    assert run(hangs, faults=(KILL,)).story == f"{KILL.story}, which never came"
    assert run(life(1, 3, fault=KILL), faults=(KILL,)).story == KILL.story


@pytest.mark.parametrize(
    "files, threads, left",
    [
        (range(10, 16), [1] * 6, "each call leaves a file open"),
        ([10, 11, 12, 13, 14, 14], [1] * 6, None),  # a cache that is full
        ([10] * 6, range(1, 7), None),  # a pool that isn't
        ([10] * 24, range(1, 25), "each call leaves a thread running"),
    ],
)
def test_only_what_every_call_leaves_is_left_open(files, threads, left):
    held = [{"files": f, "threads": t} for f, t in zip(files, threads, strict=True)]
    if left is None:
        nothing_left_open(held, "write_checkpoint")
    else:
        finding = found(nothing_left_open, held, "write_checkpoint")
        assert finding.code == "left-open" and finding.rows[1][1] == left
