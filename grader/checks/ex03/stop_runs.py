"""Runs of exercise 3's training job: arguments, signals, and the baseline without student code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from grader.checks.ex03 import expected_times, foreign_files
from grader.harness.costs import Costs
from grader.harness.lab import Lab
from grader.harness.preemption import NUMBERS, Preempt, last_word, proof
from grader.harness.run import Process, Run, schedule_of
from grader.verdicts import Inconclusive, Struck

SCRIPT = "ex03/train_preempt.py"

SAVE_EVERY = 4  # steps between two regular saves, unless a check asks for others
GRACE = 4.0  # s between the first signal and SIGKILL, the same
EPOCHS = 2
STEPS = (5, 7)  # per epoch: no regular save is due at the end of one
COURSE = (
    "--seed",
    "--epochs",
    "--steps-per-epoch",
    "--workers",
)  # what the course of training depends on


def job(lab: Lab, *more: object) -> tuple:
    """The arguments of a run."""
    return (SCRIPT, "--seed", lab.seed, "--steps-per-epoch", steps_per_epoch(lab), *more)


def steps_per_epoch(lab: Lab) -> int:
    return lab.shared.choice(STEPS)


def all_steps(lab: Lab) -> int:
    return EPOCHS * steps_per_epoch(lab)


def between_saves(lab: Lab) -> int:
    """A step of the second epoch after which no save is due, and which isn't the epoch's last."""
    per_epoch = steps_per_epoch(lab)
    return lab.draw.choice([n for n in range(per_epoch + 1, 2 * per_epoch) if n % SAVE_EVERY])


def any_signal(lab: Lab) -> str:
    return lab.draw.choice(["term", "usr1"])


def each_signal(lab: Lab) -> list[str]:
    """Both, for two checks of a grading that send one each."""
    return lab.shared.sample(["term", "usr1"], 2)


def option(args: tuple, name: str, otherwise: object) -> Any:
    """The value of an option among a run's arguments."""
    return args[args.index(name) + 1] if name in args else otherwise


def launch(
    lab: Lab,
    *args,
    faults: tuple,
    ranks: int | None = None,
    directory: Path | None = None,
    since: int = 0,
    saved: bool = True,
) -> Run:
    """A run. In notes: what status.json said after each of its lives ("words"), and of which step
    the newest checkpoint was then ("newest").

    directory  of an earlier run, which this one continues; its newest checkpoint is of step
               `since`
    saved      a life that gets a signal has the time for a last save
    """
    planted = {}
    if directory is None:
        directory = lab.bench.folder() / "my checkpoints"
        directory.mkdir()
        planted = foreign_files.plant(directory, lab.draw)
    words, newest = [], []

    def look(directory: Path) -> None:
        words.append(last_word(directory))
        newest.append(newest_checkpoint(directory))

    token = f"{lab.draw.getrandbits(128):032x}"
    every = int(option(args, "--save-every", SAVE_EVERY))
    resumes = iter(_resume_steps(faults, every, since, saved))
    run = lab.launch(
        *args,
        faults=faults,
        ranks=ranks,
        directory=directory,
        since=since,
        before_relaunch=look,
        kept=lambda _: next(resumes),
        given={"token": token},
    )
    look(directory)
    run.notes |= {"words": words, "newest": newest, "token": token}
    foreign_files.untouched(directory, planted)
    for life in run.lives:
        for rank, one in enumerate(life.processes):
            as_sent(one, run, token)
            reckoned(args, one, rank)
    return run


def reckoned(args: tuple, life: Process, rank: int = 0) -> expected_times.Times:
    """The life's times; Inconclusive, if its clock doesn't add up."""
    here = option(args, "--end-of-rank", rank) == rank and (
        life.fault or "--end-of-signalled" not in args
    )
    end = float(option(args, "--end", "inf")) if here else float("inf")
    costs = Costs.parse(str(option(args, "--costs", ""))).of_rank(rank)
    return expected_times.times(life, costs, end, float(option(args, "--grace", GRACE)))


def reported(life: Process, event: str, token: str | None) -> list[dict[str, Any]]:
    """What the node's daemon reported, without duplicates: the job has no `token` to sign with."""
    found = {}
    for each in life.all(event):
        what = {k: v for k, v in each.items() if k not in ("event", "t", "proof", "printed")}
        if token is None or each.get("proof") == proof(token, event, what):
            found[each.get("n")] = each
    return list(found.values())


def as_sent(life: Process, run: Run, token: str | None) -> None:
    """The node's daemon sent every signal that was due, to the right processes.

    Without a token, under torchrun, its reports are believed.
    """
    sent = [
        (e["signal"], "group" if e["group"] else "" if e["job"] else "agent")
        for e in reported(life, "sent", token)
    ]
    due = [(int(NUMBERS[e["signal"]]), e["to"]) for e in life.all("signal")]
    if sent != due:
        rows = [
            Struck(run.story),
            ("but", "a signal was due, but the daemon that sends signals wasn't asked for it"),
        ]
        raise Inconclusive("signal-not-sent", rows, schedule_of(run))


def newest_checkpoint(directory: Path) -> int | None:
    """Its step; None, if there is none."""
    found = [re.fullmatch(r"step-(\d{6})\.pt", path.name) for path in directory.iterdir()]
    return max((int(m[1]) for m in found if m), default=None)


def _resume_steps(faults: tuple, every: int, since: int, saved: bool) -> list[int]:
    """For each fault, the step that the next life resumes from at the earliest."""
    steps = []
    for fault in faults:
        if (
            isinstance(fault, Preempt)
            and saved
            and not any(s.phase == "failing" for s in fault.signals)
        ):
            since = max(since, fault.step)
        else:
            since = max(since, (fault.step - 1) // every * every)
        steps.append(since)
    return steps


def yardstick(lab: Lab, args: tuple, ranks: int | None = None) -> Run:
    """The course of training as it is without any of the student's code, once a grading."""
    course = [word for name in COURSE if name in args for word in (name, option(args, name, None))]
    whole = lab.trusted(SCRIPT, *course, ranks=ranks)
    if not whole.last.finished:
        raise Inconclusive(
            "machine",
            [("machine", f"a run without your code didn't end well: {whole.last.text()[-300:]}")],
        )
    return whole


def fault_row(run: Run) -> list[tuple[str, str]]:
    return [Struck(run.story)] if run.schedule else []
