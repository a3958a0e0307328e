"""The next life continues where the stopped one left: no step is lost, no checkpoint is torn, and
the trajectory is the baseline's.
"""

from __future__ import annotations

from itertools import pairwise

from grader.checks import trajectories
from grader.checks.ex03.stop_runs import fault_row
from grader.checks.lost_state import meaning
from grader.harness.lab import Lab
from grader.harness.preemption import Preempt
from grader.harness.run import Life, Process, Run, schedule_of
from grader.verdicts import Finding, Gist, Inconclusive


def same_course(lab: Lab, run: Run, whole: Run) -> None:
    """On every rank, the course of training is the yardstick's, bit for bit."""
    found = trajectories.first_parting(run, whole)
    if found is None:
        return
    rank, parting = found
    machine_repeats(lab, whole)
    means, think = meaning(parting.different)
    rows = trajectories.parting_rows(run, rank, parting)
    in_hand = any(
        saving[-1]["in_hand"] for life in run.lives[:-1] if (saving := life.all("saving"))
    )
    if in_hand:
        rows.append(("saved", "when the next batch had been fetched but not trained"))
        means = (
            "its augmentation had already drawn random numbers; the resumed run fetches it again "
            "and draws different ones"
        )
        think = "at which point in your loop is no work half done?"
    raise Finding(
        "batch-in-hand" if in_hand else "state-lost",
        rows,
        schedule_of(run),
        about=parting.component,
        means=means,
        think=think,
        step=parting.step,
        different=parting.different,
        same=parting.same,
    )


def machine_repeats(lab: Lab, whole: Run) -> None:
    """Two runs without the student's code are the same; else nothing is proved here.

    `whole` may be a run with it: workers may draw as they like.
    """
    script, *argv = whole.command.split()
    first = lab.trusted(script, *argv, ranks=whole.ranks)
    again = lab.launch(script, *argv, ranks=whole.ranks, trusted=True)
    if not again.finished or trajectories.first_parting(again, first):
        raise Inconclusive(
            "machine", [("machine", "two undisturbed runs differ even without your code")]
        )


def steps_lost(life: Life) -> str:
    """The steps that a killed life trained and didn't save."""
    saved = max([e["step"] for e in life.all("saved")], default=life.resumed_at)
    lost = life.reached - saved
    return f"{finished_steps(lost)} lost" if lost else ""


def finished_steps(number: int) -> str:
    return f"{number} finished steps are" if number > 1 else "a finished step is"


def not_torn(run: Run, life: Process, whole: Run) -> None:
    """No checkpoint holds weights of two different steps."""
    of_step: dict[str, dict[str, int]] = {}
    for known in whole.last.all("trained") + whole.last.all(
        "begins"
    ):  # the salt of a step comes between the two
        for name, digest in known["tensors"].items():
            of_step.setdefault(name, {}).setdefault(digest, known["step"])
    for saving in life.all("saving"):
        steps: dict[int, list[str]] = {}
        for name, digest in saving["tensors"].items():
            if (step := of_step.get(name, {}).get(digest)) is not None:
                steps.setdefault(step, []).append(name)
        if len(steps) > 1:
            (old, older), (new, newer) = sorted(steps.items())[0], sorted(steps.items())[-1]
            rows = [
                *fault_row(run),
                (
                    "saved",
                    f"while the optimizer was updating the weights in step {saving['step'] + 1}",
                ),
                (
                    "torn",
                    f"this checkpoint, of step {saving['step']}, holds "
                    "the weights of two different steps",
                ),
                (f"of step {new}", _some(newer)),
                (f"of step {old}", _some(older)),
            ]
            raise Finding(
                "torn-state",
                rows,
                schedule_of(run),
                means=(
                    "no step of training ever had these weights, and no error says so: the resumed "
                    "run continues from a model that never existed"
                ),
                think=(
                    "between which two lines of your program can a handler run? And what may it do "
                    "there?"
                ),
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")


def nothing_lost(run: Run, always: bool = False) -> None:
    """Each relaunch after a preemption (or `always`) continues exactly where the job stopped."""
    reached, to_keep = 0, False
    for number, (life, after) in enumerate(pairwise(run.lives)):
        # a life that ends before it resumes has reached nothing itself
        reached = max(reached, life.reached)
        to_keep = to_keep or always or isinstance(life.fault, Preempt)
        if after.first("life") is None:
            continue
        if not to_keep:
            reached = after.resumed_at
            continue
        to_keep = False
        if after.resumed_at != reached:
            rows = [
                *fault_row(run),
                ("stopped", f"after step {reached}, as preempted"),
                Gist("resumed", f"at step {after.resumed_at}"),
            ]
            again = finished_steps(reached - after.resumed_at)
            raise Finding(
                "steps-lost",
                rows,
                schedule_of(run),
                means=f"{again} done again, though there was time for a save",
                think="what is the last thing that your job does before it exits?",
            )
        if (run.notes["newest"][number] or 0) != reached:
            rows = [
                *fault_row(run),
                (
                    "but",
                    "the newest checkpoint in the directory isn't of "
                    f"step {reached}: nothing was proved",
                ),
            ]
            raise Inconclusive("save-not-proved", rows, schedule_of(run))
