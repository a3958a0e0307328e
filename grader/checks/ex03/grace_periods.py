"""Jobs that get a signal: SIGKILL comes when the grace is over, or the time limit."""

from __future__ import annotations

from dataclasses import replace

from grader.checks import trajectories
from grader.checks.ex03 import stop_assertions
from grader.checks.ex03.plain_course import long, plain_course, short, until
from grader.checks.ex03.stop_assertions import stopped_and_resumed
from grader.checks.ex03.stop_runs import (
    SAVE_EVERY,
    any_signal,
    each_signal,
    job,
    launch,
    steps_per_epoch,
    yardstick,
)
from grader.harness.costs import Costs
from grader.harness.lab import Lab
from grader.harness.preemption import both, send

# left when a job must decide whether to save, in times its longest save: less than the next one may
# take, and more than the longest one took. That is how long it takes, if it begins
TOO_LITTLE, LATE = 1.3, 1.4


def long_enough(lab: Lab) -> None:
    """A step and three saves fit in. Where steps take longer than saves, none but the one in
    progress does.
    """
    for costs, grace, unit in (
        (Costs(step=2, save=6), 21, long(lab)),
        (Costs(step=20, save=2), 17, short(lab)),
    ):
        args = _told(lab, costs, grace, unit)
        for schedule in lab.schedules((send(any_signal(lab), _after_a_save(lab)),)):
            stopped_and_resumed(lab, args, schedule)


def not_told(lab: Lab) -> None:
    """The grace is long, and the job doesn't know it."""
    unit = long(lab)
    costs = Costs(step=2, save=6).in_units(unit)
    args = job(lab, "--costs", costs, "--grace", 21 * unit)
    for schedule in lab.schedules((send(any_signal(lab), _after_a_save(lab)),)):
        stopped_and_resumed(lab, args, schedule)


def not_used_up(lab: Lab, ranks: int | None) -> None:
    """Half of the training would fit in. A signal in an evaluation comes soon after its beginning,
    or not long before its end.
    """
    first = send(any_signal(lab), 1, rank=None if ranks is None else lab.draw.randrange(ranks))
    part = lab.draw.randint(7, 8) if ranks is None else 1
    later = send(any_signal(lab), steps_per_epoch(lab), "evaluation", part)
    for schedule in lab.schedules((first, later)):
        args = _told(lab, Costs(step=2, save=6), 60)
        run = launch(lab, *args, faults=schedule, ranks=ranks)
        stop_assertions.stopped_well(lab, run, yardstick(lab, args, ranks))


def too_short(lab: Lab, ranks: int | None = None) -> None:
    """With several ranks, the last one gets the signal: the others have plenty of time."""
    costs, unit = _late(Costs(step=2, save=10)), long(lab) if ranks else short(lab)
    grace = costs.step / 2 + TOO_LITTLE * costs.save
    _leaves_the_last_one(lab, _told(lab, costs, grace, unit), ranks, which=bool(ranks))


def counts_from_the_signal(lab: Lab) -> None:
    """The signal comes in the middle of a long step: when it's over, most of the grace is, too."""
    _leaves_the_last_one(lab, _told(lab, Costs(step=26, save=5), 16, short(lab)), which=1)


def counts_from_the_first(lab: Lab) -> None:
    """The same, and when the step is over, another signal comes: it doesn't extend the grace."""
    step = _after_a_save(lab)
    first, second = lab.draw.sample(["term", "usr1"], 2)
    signals = both(send(first, step), send(second, step, "end"))
    args = _told(lab, Costs(step=26, save=5), 16, long(lab))
    for schedule in lab.schedules((signals,)):
        trajectories.progress_kept(stopped_and_resumed(lab, args, schedule, saved=False))


def unknown_save(lab: Lab) -> None:
    """The signal comes before the life's first save: it doesn't know how long a save takes, and
    there is time for one.
    """
    args = _told(lab, Costs(step=2, save=4), 9, short(lab))
    for schedule in lab.schedules((send(any_signal(lab), lab.draw.randint(1, SAVE_EVERY - 1)),)):
        stopped_and_resumed(lab, args, schedule)


def end_before_the_grace(lab: Lab, told: bool) -> None:
    """A signal comes in a step that takes unexpectedly long. Then the time limit is nearer than a
    save may take, and the grace is long; or the job doesn't know it.
    """
    unit, step = short(lab) if told else long(lab), SAVE_EVERY + 1
    costs = _late(Costs(step=2, save=10, peak=17, peak_step=step - 1)).in_units(unit)
    over = until(plain_course(lab, costs), lambda done: done.step == step)[-1].at
    args = job(lab, "--costs", costs, "--grace", 200 * unit, *(["--tell-grace"] if told else []))
    end = over + TOO_LITTLE * costs.save
    _leaves_the_last_one(lab, (*args, "--end", end, "--end-of-signalled"), step=step, which=told)


def grace_before_the_end(lab: Lab) -> None:
    """A signal comes, with a grace in which no save fits; the time limit ends long after."""
    unit = short(lab)
    args = _told(lab, Costs(step=2, save=10), 6, unit)
    _leaves_the_last_one(lab, (*args, "--end", 900 * unit))


def _late(costs: Costs) -> Costs:
    """When little time is left, a save takes longer than ever, and so does a step."""
    return replace(costs, near=2 * costs.save, late_save=LATE * costs.save, late_step=costs.step)


def _leaves_the_last_one(
    lab: Lab, args: tuple, ranks: int | None = None, step: int | None = None, which: int = 0
) -> None:
    """`which` of the two signals: a grading sends both."""
    rank = None if ranks is None else ranks - 1
    name = each_signal(lab)[which]
    for schedule in lab.schedules((send(name, step or _after_a_save(lab), rank=rank),)):
        run = stopped_and_resumed(lab, args, schedule, ranks=ranks, saved=False)
        trajectories.progress_kept(run)


def _told(lab: Lab, costs: Costs, grace: float, unit: float = 1.0) -> tuple:
    """`costs` and `grace` in units of so many seconds."""
    return job(lab, "--costs", costs.in_units(unit), "--grace", grace * unit, "--tell-grace")


def _after_a_save(lab: Lab) -> int:
    """A step of the second epoch, soon after the last save: this life knows how long one takes."""
    return lab.draw.choice(
        [
            n
            for n in range(steps_per_epoch(lab) + 1, 2 * steps_per_epoch(lab))
            if n % SAVE_EVERY in (1, 2)
        ]
    )
