"""Jobs whose time is up: at the end of a time limit, or when a grace is over.

All times are in seconds of the scheduler's clock (grader/workload/ex03/virtual_clock.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from grader.checks import trajectories
from grader.checks.ex03 import exits, status_file, stop_assertions, stop_runs
from grader.checks.ex03.expected_times import Times
from grader.checks.ex03.stop_assertions import stopped_and_resumed
from grader.checks.ex03.stop_runs import (
    EPOCHS,
    SAVE_EVERY,
    any_signal,
    fault_row,
    job,
    launch,
    steps_per_epoch,
    yardstick,
)
from grader.checks.ranks import rank_row
from grader.harness.costs import Costs
from grader.harness.lab import Lab
from grader.harness.preemption import both, send
from grader.harness.run import Process, Run, schedule_of
from grader.verdicts import Finding, Found, Inconclusive

# times the longest step and save may be left when a job stops by itself: margins are welcome,
# idling isn't
EARLY = 3
PARTS = 12  # of an evaluation
SOON = 4  # steps or parts of an evaluation: ranks may agree only every few of them


@dataclass(frozen=True)
class Done:
    """Something that a plain loop has done, and when."""

    what: str  # "step", "part" or "save"
    step: int
    at: float


def plain_course(lab: Lab, costs: Costs, save_every: int = SAVE_EVERY) -> list[Done]:
    """What a loop does that saves when a save is due, and that nothing stops."""
    steps, found = steps_per_epoch(lab), []
    now, numbers = 2 * costs.build, {"step": 0, "part": 0, "save": 0}

    def does(what: str, step: int) -> None:
        nonlocal now
        now += costs.takes(what, numbers[what], float("inf"))
        numbers[what] += 1
        found.append(Done(what, step, now))

    for step in range(1, EPOCHS * steps + 1):
        does("step", step)
        if step % save_every == 0:
            does("save", step)
        if step % steps == 0:
            for _ in range(PARTS):
                does("part", step)
    return found


# --- time limits ----------------------------------------------------------------------------------


# Each limit falls where it hurts: when a wrong job would still begin a step and a right one has
# stopped. There, a right one
# needs more than is left: as long as the longest step, and half as long again as the longest save.


def before_the_time_limit(lab: Lab, ranks: int | None = None, *more: object) -> None:
    """A step fits in, and no save after it. One rank alone has the limit, if there are several."""
    costs = Costs(step=10, save=6)
    stops_in_time(lab, costs, _before_a_step(lab, costs) + 15, ranks, *more)


def before_the_first_save(lab: Lab) -> None:
    """The limit comes before any save is due: no life knows how long a save takes, but another step
    no longer fits.
    """
    costs = Costs(step=10, save=2)
    step = lab.draw.randint(2, SAVE_EVERY)
    begins = 2 * costs.build + (step - 1) * costs.step
    stops_in_time(lab, costs, begins + 8)


def in_an_evaluation(lab: Lab, ranks: int | None = None) -> None:
    """A part of an evaluation takes much longer than a step; one fits in, and no save after it."""
    costs = Costs(step=2, save=6, part=20)
    parts = [done.at for done in plain_course(lab, costs) if done.what == "part"]
    which = EPOCHS - 1 if ranks is None else 0  # a save comes after the last evaluation
    stops_in_time(lab, costs, parts[which * PARTS + lab.draw.randint(4, 8)] + 25, ranks)


def with_a_grace_known(lab: Lab) -> None:
    """The grace is given, too, and long; the end of the time limit comes first, without a
    signal.
    """
    before_the_time_limit(lab, None, "--grace", 500, "--tell-grace")


def slower_saves(lab: Lab) -> None:
    """Each save takes one and a half times as long as the one before. After one of them there is
    time for a step and a save, if that save doesn't take much longer than the last.
    """
    costs = Costs(step=2, save=6, slower=1.49)
    per_epoch = steps_per_epoch(lab)
    step = 2 * lab.draw.randint(per_epoch // 2 + 1, per_epoch - 1)
    saves = [
        done
        for done in plain_course(lab, costs, save_every=2)
        if done.what == "save" and done.step <= step
    ]
    longest = costs.takes("save", len(saves) - 1, float("inf"))
    stops_in_time(lab, costs, int(saves[-1].at + 2 + 1.45 * longest), None, "--save-every", 2)


def uneven(lab: Lab) -> None:
    """The first step and the first save take long, later ones don't; those for which little time is
    left take long again.
    """
    costs = Costs(step=2, save=3, first=4, near=20, last=4)
    stops_in_time(
        lab, costs, _before_a_step(lab, costs, save_every=1) + 18, None, "--save-every", 1
    )


def _before_a_step(lab: Lab, costs: Costs, save_every: int = SAVE_EVERY) -> float:
    """When a plain loop begins a step of the second epoch: not the first, and not the first after a
    regular save.
    """
    per_epoch = steps_per_epoch(lab)
    step = lab.draw.choice([n for n in range(per_epoch + 2, 2 * per_epoch) if n % SAVE_EVERY != 1])
    return max(done.at for done in plain_course(lab, costs, save_every) if done.step < step)


def stops_in_time(
    lab: Lab, costs: Costs, end: float, ranks: int | None = None, *more: object
) -> None:
    """With SIGKILL after `end` seconds (on rank 1 alone, if there are ranks), the job stops before
    that, as late as its margins allow, loses nothing, and continues where it stopped.
    """
    end = round(end)
    args = job(lab, "--costs", str(costs), *more)
    limit = ("--end", end) if ranks is None else ("--end", end, "--end-of-rank", 1)
    run = launch(lab, *args, *limit, faults=(), ranks=ranks)
    who = "" if ranks is None else " of rank 1"
    when = [
        (
            "time limit",
            f"SIGKILL{who} {end} s after the job's start; "
            "SLURM_JOB_END_TIME says so, and no signal comes",
        )
    ]
    life = run.last
    lives = life.processes
    if all(one.finished for one in lives):
        raise Inconclusive("fault", [*when, ("but", "training was done before that")])
    if not life.preempted:
        finding = exits.ended_early(lab, run, life)
        finding.rows = [*when, *finding.rows]
        raise finding
    status_file.status_says(run.notes["words"][-1], "preempted", when)
    _late_enough(
        lives[-1].reached,
        stop_runs.reckoned((*args, *limit), lives[-1], len(lives) - 1),
        end,
        when,
    )
    again = launch(lab, *args, faults=(), ranks=ranks, directory=run.directory, since=life.reached)
    joined = Run([life, again.last], (), run.directory, notes=run.notes)
    stop_assertions.rejoined(lab, joined, yardstick(lab, args, ranks), when)


def _late_enough(reached: int, times: Times, end: float, when: list) -> None:
    if not reached:
        rows = [
            *when,
            ("stopped", "before its first step"),
            ("expected", "it trains for as long as it can"),
        ]
        raise Finding(
            "stopped-at-once",
            rows,
            think=(
                "how much time is left by the clock that main was given, and which clock does your "
                "code use?"
            ),
        )
    last_save = times.saves[-1][0] if times.saves else 0.0
    stopped_at = last_save if times.steps and last_save >= times.steps[-1][1] else times.left or end
    longest_save = max((b - a for a, b in times.saves), default=0)
    step = max((b - a for a, b in times.steps), default=0)
    left, most = end - stopped_at, EARLY * (longest_save + step)
    if left > most:
        rows = [
            *when,
            (
                "stopped",
                f"{left:g} s before that, when a step had taken at most "
                f"{step:g} s and a save {longest_save:g} s",
            ),
            (
                "expected",
                "it trains for as long as it can: no more than "
                f"{most:g} s are left ({EARLY} times both)",
            ),
        ]
        raise Finding(
            "too-early",
            rows,
            means="you give back cluster time that you had waited for",
            think="what must still fit in before the end, and how long does it take?",
        )


# --- a grace after the signal ---------------------------------------------------------------------


def long_enough(lab: Lab) -> None:
    """A step and three saves fit in."""
    args = _told(lab, Costs(step=2, save=6), 21)
    for schedule in lab.schedules((send(any_signal(lab), _after_a_save(lab)),)):
        stopped_and_resumed(lab, args, schedule)


def not_used_up(lab: Lab, ranks: int | None) -> None:
    """Half of the training would fit in. Jobs that agree only every few steps stop a little later
    than others.
    """
    first = send(any_signal(lab), 1, rank=None if ranks is None else lab.draw.randrange(ranks))
    later = send(any_signal(lab), steps_per_epoch(lab), "evaluation", 1)
    for schedule in lab.schedules((first, later)):
        args = _told(lab, Costs(step=2, save=6), 60)
        run = launch(lab, *args, faults=schedule, ranks=ranks)
        for life in run.lives:
            for rank, one in enumerate(life.processes):
                _stopped_soon(run, rank, one)
        stop_assertions.stopped_well(lab, run, yardstick(lab, args, ranks))


def _stopped_soon(run: Run, rank: int, life: Process) -> None:
    signals = [n for n, e in enumerate(life.events) if e["event"] == "signal"]
    if not signals:
        return
    went_on = [e for e in life.events[signals[0] :] if e["event"] in ("trained", "part")]
    if len(went_on) - 1 > SOON:
        rows = [
            *fault_row(run),
            *rank_row(run.last.world, rank),
            Found(
                f"after the step or the part of an evaluation in which the signal came, "
                f"{len(went_on) - 1} more"
            ),
            ("expected", "it stops as soon as it can, however long the grace is"),
        ]
        raise Finding(
            "grace-used-up",
            rows,
            schedule_of(run),
            think="what does a signal ask for, and what is the grace for?",
        )


def too_short(lab: Lab, ranks: int | None = None) -> None:
    """Half a save fits. With several ranks, the last one gets the signal: the others have plenty of
    time.
    """
    _leaves_the_last_one(lab, _told(lab, Costs(step=2, save=10), 6), ranks, which=bool(ranks))


def counts_from_the_signal(lab: Lab) -> None:
    """The signal comes in the middle of a long step: when it's over, most of the grace is, too."""
    _leaves_the_last_one(lab, _told(lab, Costs(step=26, save=5), 16), which=1)


def counts_from_the_first(lab: Lab) -> None:
    """The same, and when the step is over, another signal comes: it doesn't extend the grace."""
    step = _after_a_save(lab)
    first, second = lab.draw.sample(["term", "usr1"], 2)
    signals = both(send(first, step), send(second, step, "end"))
    args = _told(lab, Costs(step=26, save=5), 16)
    for schedule in lab.schedules((signals,)):
        trajectories.progress_kept(stopped_and_resumed(lab, args, schedule, saved=False))


def unknown_save(lab: Lab) -> None:
    """The signal comes before the life's first save: it doesn't know how long a save takes, and
    there is time for one.
    """
    args = _told(lab, Costs(step=2, save=4), 9)
    for schedule in lab.schedules((send(any_signal(lab), lab.draw.randint(1, SAVE_EVERY - 1)),)):
        stopped_and_resumed(lab, args, schedule)


def end_before_the_grace(lab: Lab) -> None:
    """A signal comes in a step that takes unexpectedly long. Then the time limit is nearer than a
    save takes, and the grace is long.
    """
    costs = Costs(step=2, save=10, near=41, last=17)
    step = SAVE_EVERY + 1
    begun = next(done.at for done in plain_course(lab, costs) if done.what == "save")
    args = (*_told(lab, costs, 200), "--end", round(begun) + 40, "--end-of-signalled")
    _leaves_the_last_one(lab, args, step=step)


def grace_before_the_end(lab: Lab) -> None:
    """A signal comes, with a grace in which no save fits; the time limit ends long after."""
    _leaves_the_last_one(lab, (*_told(lab, Costs(step=2, save=10), 6), "--end", 900))


def _leaves_the_last_one(
    lab: Lab, args: tuple, ranks: int | None = None, step: int | None = None, which: int = 0
) -> None:
    """`which` of the two signals: a grading sends both."""
    rank = None if ranks is None else ranks - 1
    name = lab.shared.sample(["term", "usr1"], 2)[which]
    for schedule in lab.schedules((send(name, step or _after_a_save(lab), rank=rank),)):
        run = stopped_and_resumed(lab, args, schedule, ranks=ranks, saved=False)
        trajectories.progress_kept(run)


def _told(lab: Lab, costs: Costs, grace: float) -> tuple:
    return job(lab, "--costs", str(costs), "--grace", grace, "--tell-grace")


def _after_a_save(lab: Lab) -> int:
    """A step of the second epoch, soon after the last save: this life knows how long one takes."""
    return lab.draw.choice(
        [
            n
            for n in range(steps_per_epoch(lab) + 1, 2 * steps_per_epoch(lab))
            if n % SAVE_EVERY in (1, 2)
        ]
    )
