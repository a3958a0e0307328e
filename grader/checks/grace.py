"""Jobs whose time is up: at the end of a time limit, or when a grace is over.

All times are seconds of the scheduler's clock (grader/workload/scheduler.py).
"""

from __future__ import annotations

from grader.checks import expect, preempted
from grader.checks.preempted import any_signal, job, launch, steps_per_epoch, stopped_and_resumed
from grader.harness.lab import Lab
from grader.harness.preemption import send, told
from grader.harness.run import Life, Run
from grader.verdicts import Finding, Inconclusive

EARLY = 3  # times the longest step and save may be left when a job stops by itself: margins are welcome, idling isn't


# --- time limits -------------------------------------------------------------------------------------------


def before_the_time_limit(lab: Lab, ranks: int | None = None, *more: object) -> None:
    """... of one rank alone, if there are several."""
    args = job(lab, "--costs", "step=2,save=6", *more)
    whole = preempted.undisturbed(lab, *args, ranks=ranks).last.processes[-1]
    step = lab.draw.choice([n for n in range(steps_per_epoch(lab) + 2, 2 * steps_per_epoch(lab)) if n % 4])
    stops_in_time(lab, args, _at(whole, "trained", step) + lab.draw.randint(8, 14), ranks)


def in_an_evaluation(lab: Lab, ranks: int | None = None) -> None:
    """The evaluation takes longer than a step and a save together; one rank alone has the limit, if there are several."""
    args = job(lab, "--costs", "step=2,save=6,part=3")
    whole = preempted.undisturbed(lab, *args, ranks=ranks).last.processes[-1]
    stops_in_time(lab, args, [e["clock"] for e in whole.all("part")][lab.draw.randint(7, 9)], ranks)


def with_a_grace_known(lab: Lab) -> None:
    """The grace is told, too, and long; the end of the time limit comes first, without a signal."""
    before_the_time_limit(lab, None, "--grace", 500, "--tell-grace")


def slower_saves(lab: Lab) -> None:
    """When the limit is near, the next save takes longer than what is left, by the measure of the longest so far."""
    args = job(lab, "--costs", "step=2,save=4,slower=1.4", "--save-every", 2)
    whole = preempted.undisturbed(lab, *args).last
    step = 2 * lab.draw.randint(steps_per_epoch(lab) // 2 + 1, steps_per_epoch(lab) - 1) + 1  # the step after a save
    longest = max(b["clock"] - a["clock"] for a, b in _saves(whole) if a["step"] < step)
    stops_in_time(lab, args, _at(whole, "trained", step) + longest + 3)


def stops_in_time(lab: Lab, args: tuple, end: float, ranks: int | None = None) -> None:
    """With SIGKILL after `end` seconds (on rank 1 alone, if there are ranks), the job stops before that, as late as its
    margins allow, loses nothing, and goes on where it stopped."""
    end = round(end)
    whole = lab.undisturbed(*args, ranks=ranks)
    limit = ("--end", end) if ranks is None else ("--end", end, "--end-of-rank", 1)
    run = launch(lab, *args, *limit, faults=(), ranks=ranks)
    who = "" if ranks is None else " of rank 1"
    when = [("time limit", f"SIGKILL{who} {end} s after the job's begin; SLURM_JOB_END_TIME says so, no signal comes")]
    life = run.last
    lives = life.processes
    if all(one.finished for one in lives):
        raise Inconclusive("fault", [*when, ("but", "training was done before that")])
    if not life.preempted:
        finding = preempted.ended_early(lab, run, life)
        finding.rows[:0] = when
        raise finding
    preempted.status_says(told(run.directory), "preempted", when)
    _late_enough(lives[-1], end, when)
    again = launch(lab, *args, faults=(), ranks=ranks, directory=run.directory)
    preempted.rejoined(lab, Run([life, again.last], (), run.directory, command=whole.command), whole, when)


def _late_enough(life: Life, end: float, when: list) -> None:
    if not life.steps:
        rows = [
            *when,
            ("stopped", "before its first step"),
            ("expected", "it trains as long as it can"),
            ("think", "how much time is left by the clock that main was given, and by which one does yours reckon?"),
        ]
        raise Finding("too early:at once", rows)
    saves, left = _saves(life), life.first("left") or life.events[-1]
    stopped_at = saves[-1][0]["clock"] if saves and saves[-1][0]["step"] == max(s["step"] for s in life.steps) else left.get("clock", end)
    longest_save = max((b["clock"] - a["clock"] for a, b in saves), default=0)
    ends = [e["clock"] for e in life.events if e["event"] in ("trained", "part")]
    step = max((b - a for a, b in zip(ends, ends[1:]) if b - a < 10), default=0)
    left, most = end - stopped_at, EARLY * (longest_save + step)
    if left > most:
        rows = [
            *when,
            ("stopped", f"{left:g} s before that, when a step had taken at most {step:g} s and a save {longest_save:g} s"),
            ("expected", f"it trains as long as it can: no more than {most:g} s are left ({EARLY} times both)"),
            ("means", "time on the cluster that was waited for, and is given back unused"),
            ("think", "what must still fit in before the end, and how long does it take?"),
        ]
        raise Finding("too early", rows)


# --- a grace after the signal ------------------------------------------------------------------------------


def long_enough(lab: Lab) -> None:
    """A step and three saves fit in."""
    args = _told(lab, "step=2,save=6", 21)
    for schedule in lab.schedules((send(any_signal(lab), _after_a_save(lab)),)):
        stopped_and_resumed(lab, args, schedule)


def too_short(lab: Lab, ranks: int | None = None) -> None:
    """Half a save fits in. Of several ranks, one gets the signal: the others have all the time in the world."""
    _leaves_the_last_one(lab, _told(lab, "step=2,save=10", 6), ranks)


def counts_from_the_signal(lab: Lab) -> None:
    """The signal comes in the middle of a long step: when it's over, most of the grace is, too."""
    _leaves_the_last_one(lab, _told(lab, "step=26,save=5", 16))


def _leaves_the_last_one(lab: Lab, args: tuple, ranks: int | None = None) -> None:
    rank = None if ranks is None else lab.draw.randrange(ranks)
    for schedule in lab.schedules((send(any_signal(lab), _after_a_save(lab), rank=rank),)):
        run = stopped_and_resumed(lab, args, schedule, ranks=ranks, saved=False)
        expect.progress_kept(run)


def _told(lab: Lab, costs: str, grace: float) -> tuple:
    return job(lab, "--costs", costs, "--grace", grace, "--tell-grace")


def _after_a_save(lab: Lab) -> int:
    """A step of the second epoch, soon after the last save: this life knows how long one takes."""
    return lab.draw.choice([n for n in range(steps_per_epoch(lab) + 1, 2 * steps_per_epoch(lab)) if n % 4 in (1, 2)])


def _at(life: Life, event: str, step: int) -> float:
    return next(e["clock"] for e in life.all(event) if e["step"] == step)


def _saves(life: Life) -> list[tuple[dict, dict]]:
    """(begin, end) of each finished save."""
    return list(zip(life.all("saving"), life.all("saved")))
