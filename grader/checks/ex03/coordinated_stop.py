"""Ranks that stop together, or not at all."""

from __future__ import annotations

import signal
from itertools import product
from pathlib import Path

from grader.checks import endings
from grader.checks.crashes import crashed
from grader.checks.ex03 import (
    exits,
    resumption,
    status_file,
    stop_assertions,
    stop_runs,
    undisturbed,
)
from grader.checks.ex03.stop_assertions import stopped_and_resumed
from grader.checks.ex03.stop_runs import between_saves, job, launch
from grader.checks.left_open import nothing_left_open
from grader.checks.ranks import by_others, by_rank, rank_row
from grader.checks.stacks import rows_of
from grader.harness import scratch
from grader.harness.costs import Costs
from grader.harness.lab import Lab
from grader.harness.preemption import Preempt, last_word
from grader.harness.run import PREEMPTED, Life, Process, Run
from grader.verdicts import Finding, Found, Gist, Inconclusive, Struck

TOGETHER = "ex03/together_cases.py"
GRACE = ("--grace", 6)  # s: an agreement every few steps is soon enough
SKEW = 1.7  # of two ranks' steps, by their own clocks: an interval on one isn't one on the other
MOST = 2  # collectives for every question whether to stop


def stops(lab: Lab, *preemptions: Preempt, ranks: int = 2, ranks_per_node: int = 1) -> None:
    """One life after the other gets its signals."""
    for schedule in lab.schedules(preemptions):
        stopped_and_resumed(
            lab, job(lab, *GRACE, "--ranks-per-node", ranks_per_node), schedule, ranks=ranks
        )


def just_finished(lab: Lab) -> None:
    undisturbed.just_finished(lab, ranks=2)


# --- stop_together, alone -------------------------------------------------------------------------


def same_answer(lab: Lab) -> None:
    """Each rank says whether it has to stop, in every combination and in any order; each gets to
    know whether one has to. Without ranks, the process gets what it says.
    """
    for world in (3, None):
        every = list(product((False, True), repeat=world or 1))
        asked = [*lab.draw.sample(every, len(every)), *lab.draw.choices(every, k=4)]
        run = lab.launch(TOGETHER, ranks=world, given={"asked": asked})
        exits.finished(lab, run)
        for number, mine in enumerate(asked):
            _answers_right(run, number, mine)
        for life in run.last.processes:
            nothing_left_open([e["held"] for e in life.all("answer")], "stop_together")


def _answers_right(run: Run, number: int, mine: tuple[bool, ...]) -> None:
    said = {}
    for rank, life in enumerate(run.last.processes):
        answer = next((e for e in life.all("answer") if e["n"] == number), None)
        if answer is None:
            raise Inconclusive("answer", [Found(f"rank {rank} reported no answer {number + 1}")])
        said[rank] = answer["said"]
    if set(said.values()) == {any(mine)}:
        return
    who = [rank for rank, has_to in enumerate(mine) if has_to]
    if run.last.world > 1:
        ranks = ("ranks " if len(who) > 1 else "rank ") + ", ".join(map(str, who))
        why = f"{ranks} must stop" if who else "no rank has to stop"
        rows = [
            ("call", f"number {number + 1}, of three ranks"),
            *by_rank({rank: f"stop_together({has_to})" for rank, has_to in enumerate(mine)}),
            Found(", ".join(f"{answer} on rank {rank}" for rank, answer in said.items())),
            ("expected", f"{any(mine)} on every rank: {why}"),
        ]
    else:
        rows = [
            ("call", f"stop_together({mine[0]}), in a job of one process"),
            Found(f"{said[0]}"),
            ("expected", f"{mine[0]}"),
        ]
    raise Finding(
        "stop-not-together",
        rows,
        means=(
            "a rank that doesn't know about it continues, and waits for one that has exited"
            if any(mine)
            else "the job stops for no reason, and waits in the queue again"
        ),
        think="what does each rank know, and what must all of them know after the call?",
    )


# --- what it costs --------------------------------------------------------------------------------


def costs_little(lab: Lab) -> None:
    """At most MOST collectives of the student's for every step and every part of an evaluation; the
    time that they take is reported. By their own clocks, the ranks' steps take different times, as
    they do on a cluster: when to ask can't depend on that.
    """
    args = job(lab, *GRACE, "--costs", Costs(rank=SKEW))
    run = launch(lab, *args, faults=(), ranks=2)
    exits.finished(lab, run)
    resumption.same_course(lab, run, stop_runs.yardstick(lab, args, ranks=2))
    status_file.one_writes(run)
    own, share = _agreement(run.last.processes[0])
    asked = len(run.last.steps) + len(run.last.all("part"))
    if own > MOST * asked + 10:
        rows = [
            Found(
                f"{own} collectives of yours in {len(run.last.steps)} steps and "
                f"{len(run.last.all('part'))} parts of evaluations",
            ),
            ("expected", f"at most {MOST} each"),
        ]
        raise Finding(
            "costly-agreement",
            rows,
            means="every collective is a moment in which all ranks wait for the slowest",
            think="how many questions must the ranks ask each other after a step?",
        )
    lab.measured(
        "agreement",
        f"{own / asked:.2g} collectives a step, {share:.0%} of rank "
        "0's time (much, as these steps take milliseconds)",
    )


def _agreement(life: Process) -> tuple[int, float]:
    """Collectives that the submission calls (what a save calls isn't counted), and their share of
    the time of training.
    """
    began, number, spent, saving = {}, 0, 0.0, False
    for event in life.events:
        saving = event["event"] == "saving" or (saving and event["event"] != "saved")
        if (
            event["event"] == "collective"
            and not saving
            and scratch.submitted(event.get("file", ""))
        ):
            number += 1
            began[event["n"]] = event["t"]
        elif event["event"] == "collective left" and event["n"] in began:
            spent += event["t"] - began[event["n"]]
    return number, spent / max(1e-9, life.events[-1]["t"] - life.events[0]["t"])


# --- the real launcher ----------------------------------------------------------------------------


def under_torchrun(lab: Lab) -> None:
    """torchrun gets SIGTERM and forwards it, one rank after the other; then all are launched again
    without it.
    """
    step = between_saves(lab)
    args = job(lab, *GRACE)
    folder = lab.bench.folder() / "checkpoints"
    folder.mkdir()
    script, *flags = args
    events = folder.parent / "rank"
    run = lab.launch(
        "ex03/under_torchrun.py",
        "--script",
        script,
        "--events",
        events,
        "--fault",
        f"term@{step}:agent:rank0",
        "--",
        *flags,
        directory=folder,
        network=True,
        reports=[events.with_name(f"rank{rank}") for rank in range(2)],
    )
    lives = [Process.of_events(events.with_name(f"rank{rank}")) for rank in range(2)]
    when = [
        Struck(
            f"SIGTERM to torchrun after step {step} had begun; torchrun forwards it to its "
            f"workers, one by one",
        )
    ]
    if run.last.process.ended or not all(life.events for life in lives):
        try:
            endings.finished(lab, run)
        except Finding as early:
            if stood := _stood(lives, run.last.process.code):
                own = [row for row in early.rows if row[0] != "stood at"]  # torchrun's
                early.rows = [*own, *by_rank(stood)]
            raise
        raise Inconclusive(
            "no-torchrun", [("torchrun", f"didn't start its workers: {run.last.text()[-300:]}")]
        )
    for rank, life in enumerate(lives):
        if (crash := life.first("crash")) and not by_others(life, crash):
            raise crashed(crash, [*when, *rank_row(len(lives), rank)])
    left = [life.first("left") for life in lives]
    if not all(e and e["status"] == PREEMPTED for e in left):
        rows = [
            *when,
            Gist("ended", "; ".join(f"rank {r} {_left(life)}" for r, life in enumerate(lives))),
            ("expected", "both exit as preempted"),
        ]
        raise Finding(
            "not-preempted-under-torchrun",
            rows,
            think=(
                "what does each rank do when it learns of the signal from the others before its "
                "own signal comes?"
            ),
        )
    word, newest = last_word(folder), stop_runs.newest_checkpoint(folder)
    status_file.status_says(word, "preempted", when)
    for life in lives:
        stop_runs.as_sent(life, run, None)
        stop_runs.reckoned(args, life)
    again = launch(lab, *args, faults=(), ranks=2, directory=folder, since=step)
    notes = {"words": [word], "newest": [newest]}
    joined = Run([Life(lives, None), again.last], (), folder, notes=notes)
    stop_assertions.rejoined(lab, joined, stop_runs.yardstick(lab, args, ranks=2), when)


def _stood(lives: list[Process], code: Path | None) -> dict[int, str]:
    """Rank -> where it stood when the grader ended the job."""
    stacks = [life.text(f"rank{rank}.stack") for rank, life in enumerate(lives)]
    rows = {rank: rows_of(stack, code) for rank, stack in enumerate(stacks)}
    return {rank: f"stood at {stood[-1][1]}" for rank, stood in rows.items() if stood}


def _left(life: Process) -> str:
    if life.all("killed"):
        return "was killed by SIGKILL when the grace period was over"
    if left := life.first("left"):
        return f"exited with status {left['status']}"
    if crash := life.first("crash"):
        return (
            f"crashed after step {life.reached}: {crash['type']}: "
            f"{crash['message'].splitlines()[0] if crash['message'] else ''}"
        )
    return f"is gone after step {life.reached}: {signal.SIGTERM.name} may have killed it"
