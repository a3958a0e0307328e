"""Jobs whose time limit ends. They stop by themselves: in time, and no earlier than they must."""

from __future__ import annotations

from dataclasses import replace

from grader.checks.ex03 import exits, status_file, stop_assertions, stop_runs
from grader.checks.ex03.expected_times import Times
from grader.checks.ex03.plain_course import (
    PARTS,
    Done,
    limited,
    long,
    plain_course,
    short,
    until,
)
from grader.checks.ex03.stop_runs import (
    EPOCHS,
    SAVE_EVERY,
    job,
    launch,
    steps_per_epoch,
    yardstick,
)
from grader.harness.costs import Costs, shown
from grader.harness.lab import Lab
from grader.harness.run import Run
from grader.verdicts import Finding, Inconclusive

# times the longest step and save may be left when a job stops by itself: margins are welcome,
# idling isn't
EARLY = 3
LONG_AGO = 5  # epochs, in which a hundred steps or parts of evaluations follow the longest one


# Each limit falls where it hurts: when a wrong job would still begin a step and a right one has
# stopped (plain_course.limited).


def before_a_step(lab: Lab) -> None:
    """A step and a save nearly fit in. Building the job takes longer than both."""
    costs = Costs(build=60, step=10, save=6).in_units(short(lab))
    _stops_in_time(lab, costs, _before_a_step(lab, plain_course(lab, costs)))


def before_the_first_save(lab: Lab) -> None:
    """The limit comes before any save is due: no life knows how long a save takes, but another step
    no longer fits.
    """
    costs = Costs(step=10, save=2).in_units(short(lab))
    step = lab.draw.randint(1, SAVE_EVERY - 1)
    _stops_in_time(lab, costs, plain_course(lab, costs)[:step])


def in_an_evaluation(lab: Lab) -> None:
    """A part of an evaluation takes much longer than a step."""
    costs = Costs(step=2, save=6, part=20).in_units(long(lab))
    _stops_in_time(lab, costs, _in_an_evaluation(lab, costs, EPOCHS - 1, _odd(lab)))


def in_an_evaluation_of_ranks(lab: Lab) -> None:
    """Rank 1 alone has the limit. A part of an evaluation takes much less time than a step, and
    counts as one.
    """
    costs = Costs(step=20, save=6, part=4).in_units(short(lab))
    # a save comes after the last evaluation
    course = _in_an_evaluation(lab, costs, 0, 1 - _odd(lab))
    _stops_in_time(lab, costs, course, 2, "--end-of-rank", 1)


def of_slower_ranks(lab: Lab) -> None:
    """Both have the limit, but rank 1's steps take longer."""
    costs = Costs(step=10, save=1, rank=3).in_units(long(lab))
    course = _before_a_step(lab, plain_course(lab, costs.of_rank(1)))
    _stops_in_time(lab, costs, course, 2)


def with_a_grace_known(lab: Lab) -> None:
    """The grace is given, too, and long; the end of the time limit comes first, without a signal:
    before the first step of an epoch. The steps that took longest were parts of an evaluation.
    """
    unit = long(lab)
    costs = Costs(step=2, save=6, part=20).in_units(unit)
    steps = steps_per_epoch(lab)
    course = until(plain_course(lab, costs), lambda done: done.step > steps)[:-1]
    _stops_in_time(lab, costs, course, None, "--grace", 500 * unit, "--tell-grace")


def slower_saves(lab: Lab) -> None:
    """Each save takes one and a half times as long as the one before. After one of them there is
    nearly time for a step and a save, if that save takes as long again.
    """
    costs = Costs(step=2, save=6, slower=1.49).in_units(long(lab))
    per_epoch, every = steps_per_epoch(lab), 2
    step = 2 * lab.draw.randint(per_epoch // 2 + 1, per_epoch - 1)
    course = until(
        plain_course(lab, costs, every), lambda done: (done.what, done.step) == ("save", step)
    )
    _stops_in_time(lab, costs, course, None, "--save-every", every)


def uneven(lab: Lab) -> None:
    """The first step and the first save take long, and all later ones don't, but those for which
    little time is left.
    """
    costs = Costs(step=2, save=3, peak=6, peak_step=0, peak_save=0).in_units(short(lab))
    epochs = LONG_AGO
    course = _before_a_step(lab, plain_course(lab, costs, 1, epochs), epochs - 1)
    _stops_in_time(lab, costs, course, None, "--save-every", 1, "--epochs", epochs)


def _before_a_step(lab: Lab, course: list[Done], epoch: int = 1) -> list[Done]:
    """Up to a step of this epoch (from 0): not the first, and not the first after a regular
    save.
    """
    steps = steps_per_epoch(lab)
    numbers = range(epoch * steps + 2, (epoch + 1) * steps)
    step = lab.draw.choice([n for n in numbers if n % SAVE_EVERY != 1])
    return [done for done in course if done.step < step]


def _odd(lab: Lab) -> int:
    """0 or 1: a job may look at the time before every other part only, for two parts."""
    return lab.shared.randrange(2)


def _in_an_evaluation(lab: Lab, costs: Costs, epoch: int, odd: int) -> list[Done]:
    """Up to a part of this epoch's evaluation: an odd one, or an even one."""
    course = plain_course(lab, costs)
    parts = [number for number, done in enumerate(course) if done.what == "part"]
    return course[: parts[epoch * PARTS + 2 * lab.draw.randint(2, 4) + odd]]


def _stops_in_time(
    lab: Lab, costs: Costs, course: list[Done], ranks: int | None = None, *more: object
) -> None:
    """With a limit soon after this course (on all ranks, if there are any, or on one alone), the
    job stops before that, as late as its margins allow, loses nothing, and continues where it
    stopped.
    """
    costs, end = limited(course, costs)
    lone = "--end-of-rank" in more
    args = job(lab, "--costs", costs, *(() if lone else more))
    limit = ("--end", end, *(more if lone else ()))
    run, when = _with_a_limit(lab, args, limit, ranks)
    life = run.last
    _late_enough(
        life.reached,
        stop_runs.reckoned((*args, *limit), life.processes[-1], life.world - 1),
        end,
        when,
    )
    _continues(lab, run, args, when, life.reached, ranks)


def _with_a_limit(
    lab: Lab, args: tuple, limit: tuple, ranks: int | None = None
) -> tuple[Run, list[tuple[str, str]]]:
    """A life that stops by itself before its limit, and what a message says of that."""
    run = launch(lab, *args, *limit, faults=(), ranks=ranks)
    who = " of rank 1" if "--end-of-rank" in limit else ""
    when = [
        (
            "time limit",
            f"SIGKILL{who} {shown(limit[1])} s after the job's start; "
            "SLURM_JOB_END_TIME says so, and no signal comes",
        )
    ]
    life = run.last
    if all(one.finished for one in life.processes):
        raise Inconclusive("fault", [*when, ("but", "training was done before that")])
    if not life.preempted:
        finding = exits.ended_early(lab, run, life)
        finding.rows = [*when, *finding.rows]
        raise finding
    status_file.status_says(run.notes["words"][-1], "preempted", when)
    return run, when


def _continues(
    lab: Lab,
    run: Run,
    args: tuple,
    when: list,
    since: int,
    ranks: int | None = None,
    saved: bool = True,
) -> None:
    """The next life, without a limit, continues from step `since` or later."""
    again = launch(lab, *args, faults=(), ranks=ranks, directory=run.directory, since=since)
    joined = Run([run.last, again.last], (), run.directory, notes=run.notes)
    stop_assertions.rejoined(lab, joined, yardstick(lab, args, ranks), when, saved)


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
                f"{shown(left)} s before that, when a step had taken at most "
                f"{shown(step)} s and a save {shown(longest_save)} s",
            ),
            (
                "expected",
                "it trains for as long as it can: no more than "
                f"{shown(most)} s are left ({EARLY} times both)",
            ),
        ]
        raise Finding(
            "too-early",
            rows,
            means="you give back cluster time that you had waited for",
            think="what must still fit in before the end, and how long does it take?",
        )


# --- a step that takes longer than ever -----------------------------------------------------------


def after_a_long_step(lab: Lab, due: bool) -> None:
    """A step of the second epoch takes much longer than any before. When it's over, a save might
    not fit any more, even if one is `due`; one that begins all the same takes as long as it may.
    """
    steps = steps_per_epoch(lab)
    numbers = range(steps + 2, EPOCHS * steps)
    step = lab.draw.choice([n for n in numbers if (n % SAVE_EVERY == 0) == due])
    unit = short(lab) if due else long(lab)
    costs = Costs(step=2, save=10, peak=30, peak_step=step - 1).in_units(unit)
    long_one = until(plain_course(lab, costs), lambda done: done.step == step)[-1]
    end = long_one.at + 1.3 * costs.save
    near, late = 2 * costs.save, 1.4 * costs.save
    costs = replace(costs, near=near, late_step=long_one.took, late_save=late)
    args = job(lab, "--costs", costs)
    run, when = _with_a_limit(lab, args, ("--end", end))
    when.append(("meanwhile", f"step {step} takes {shown(long_one.took)} s, longer than ever"))
    if run.last.reached < step:
        times = stop_runs.reckoned((*args, "--end", end), run.last.processes[0])
        _late_enough(run.last.reached, times, end, when)
    since = (step - 1) // SAVE_EVERY * SAVE_EVERY
    _continues(lab, run, args, when, since, saved=False)
