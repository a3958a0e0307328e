"""What ranks do to each other: a deadlock, a rank that is gone, ranks that don't agree."""

from __future__ import annotations

from collections.abc import Sequence

from grader.checks.crashes import left_with, raised_at, student_frames
from grader.checks.stacks import ended_by_the_grader
from grader.harness import scratch
from grader.harness.inside.ranks import PATIENCE
from grader.harness.run import Process, Run, schedule_of
from grader.verdicts import Finding, Found, Gist, Inconclusive, Struck


def never_met(crashes: list[dict]) -> Inconclusive | None:
    """The machine doesn't let ranks talk, which they try before any of the student's code is
    there.
    """
    for crash in crashes:
        inside = [
            f
            for f in crash["frames"]
            if f["file"].endswith("/harness/inside/ranks.py") and f["function"].startswith("join")
        ]
        if inside and not student_frames(crash):
            error = next(iter(crash["message"].splitlines()), "")[:200]
            return Inconclusive(
                "no-meeting",
                [
                    (
                        "machine",
                        "ranks can't reach each other here over the loopback device: "
                        f"{crash['type']}: {error}",
                    )
                ],
            )
    return None


def deadlock(
    processes: list[Process],
    when: Sequence[tuple[str, str]],
    fault: str | None = None,
    left: dict[int, str] | None = None,
) -> Finding:
    """Ranks waited for each other, in different places. `left`: for ranks that had already left,
    the text to show instead of where they are now.

    If the machine kept a rank from running at that time, an Inconclusive.
    """
    if late := starved(processes, when, fault):
        return late
    last = [_last_collective(process) for process in processes]
    if all(s and s["open"] for s in last) and len({_identity(s) for s in last if s}) == 1:
        slow = (
            f"too slow now: ranks that were in the same collective waited {PATIENCE:g} s for each "
            "other"
        )
        return Inconclusive("slow", [*when, ("machine", slow)], fault)
    waited = f"no rank continues: a collective failed after waiting {PATIENCE:g} s for the others"
    rows = [
        *when,
        ("deadlock", waited),
        *by_rank(standing(processes) | (left or {})),
        *_parted(processes),
    ]
    return Finding(
        "deadlock",
        rows,
        fault,
        about=_line(next((s for s in last if s and s["open"]), None)),
        ending=waited,
    )


def starved(
    processes: list[Process], when: Sequence[tuple[str, str]], fault: str | None = None
) -> Inconclusive | None:
    """While one rank waited for the others, the machine kept one of them from running.

    A collective's patience is wall time: a rank that gets no processor for so long comes too late,
    whatever its code does. A rank that waits in the wrong place doesn't need a processor.
    """
    gave_up = [
        event["t"]
        for one in processes
        for event in [*one.all("collective failed"), *one.all("crash"), *one.events[-1:]]
    ]
    for rank, process in enumerate(processes):
        stalled = max((process.stalled(t - PATIENCE, t) for t in gave_up), default=0.0)
        if stalled > PATIENCE / 2:
            busy = (
                f"busy: in the {PATIENCE:g} s that another rank waited, rank {rank} waited "
                f"{stalled:.0f} s for a processor"
            )
            return Inconclusive("starved", [*when, ("machine", busy)], fault)
    return None


def left_by(function: str, error: dict) -> str:
    """The text for a rank that left the function by its own error."""
    message = next(iter(error["message"].splitlines()), "")[:150]
    return f"left {function} by {error['type']}: {message}{raised_at(error)}"


def _identity(entered: dict) -> tuple:
    return entered["n"], entered["name"], entered.get("line")


def _parted(processes: list[Process]) -> list[tuple[str, str]]:
    """Where the ranks first called different collectives, if that isn't where they are now: any two
    barriers match, so the ranks continue until something doesn't match.
    """
    of_ranks = [process.all("collective") for process in processes]
    for entered in zip(*of_ranks, strict=False):  # as far as all of them came
        if len({_identity(e) for e in entered}) == 1:
            continue
        if all(e["n"] == of_rank[-1]["n"] for e, of_rank in zip(entered, of_ranks, strict=True)):
            return []
        came = (f"rank {r} reached {e['name']}, {_line(e)}" for r, e in enumerate(entered))
        return [("parted", "; ".join(came) + ", which matched by accident")]
    return []


def by_others(process: Process, crash: dict) -> bool:
    """A rank isn't the culprit if its collective fails because another rank is gone or never
    comes."""
    failed = process.all("collective failed")
    if (
        failed
        and (last := _last_collective(process))
        and last["open"]
        and crash["type"] == failed[-1]["type"]
    ):
        return True
    # in DDP's passes, which aren't watched: the error comes from torch, not from a line of the
    # submission's own
    return "gloo" in crash["message"] and not scratch.submitted(
        crash["frames"][-1]["file"] if crash["frames"] else ""
    )


def left_well(process: Process) -> bool:
    return process.first("end") is not None


def _last_collective(process: Process) -> dict | None:
    """The collective that the rank entered last; "open": it never returned from it."""
    entered = process.all("collective")
    if not entered:
        return None
    left = {e["n"] for e in process.all("collective left")}
    return entered[-1] | {"open": entered[-1]["n"] not in left}


def standing(processes: list[Process]) -> dict[int, str]:
    """Rank -> where it was at the end."""
    return {rank: _stood(process) for rank, process in enumerate(processes)}


def _stood(process: Process) -> str:
    last = _last_collective(process)
    if last and last["open"]:
        return f"waits in {last['name']}, {_line(last)}"
    if process.ended:
        return ended_by_the_grader(process)
    if crash := process.first("crash"):
        inner = [
            f
            for f in crash["frames"]
            if "/grader/workload/" in f["file"] or scratch.submitted(f["file"])
        ][-1:]
        if by_others(process, crash) and inner:
            return f"waits for the others in {_line(inner[0])}: {inner[0]['text']}"
        message = crash["message"].splitlines()[0][:200] if crash["message"] else ""
        return f"raised {crash['type']}: {message}{raised_at(crash)}"
    if left_well(process):
        return "reached the end of the script"
    text = f"has ended, with {left_with(process.status)}"
    if last:
        text += f"; its last collective was {last['name']}, {_line(last)}"
    return text


def rank_row(world: int, rank: int) -> list[tuple[str, str]]:
    """As evidence: which of several ranks; nothing for a single process."""
    return [("rank", f"{rank} (of {world})")] if world > 1 else []


def by_rank(texts: dict[int, str]) -> list[tuple[str, str]]:
    """As evidence: the text for each rank."""
    return [(f"rank {rank}", text) for rank, text in texts.items()]


def _line(where: dict | None) -> str:
    if not where or "file" not in where:
        return "in torch"
    if own := scratch.submitted(where["file"]):
        return f"{own}:{where['line']} in {where['function']}"
    return f"{where['file'].rpartition('/')[2]}:{where['line']} (the training script)"


def left_early(
    held: str, who: str, function: str, think: str, until: str = "the checkpoint is complete"
) -> Finding:
    """A rank that was held showed that another one doesn't wait for it."""
    back = f"{who} has already returned from {function}"
    rows = [
        ("held", held),
        Found(back),
        ("expected", f"no rank returns before {until}"),
    ]
    return Finding(
        "left-early",
        rows,
        means=(
            "a rank that continues may report a checkpoint that doesn't exist, delete the one "
            "before it, or end the job"
        ),
        think=think,
    )


def together(run: Run) -> None:
    """All ranks of a life resumed at the same step."""
    for life in run.lives:
        at = [process.resumed_at for process in life.processes]
        if len(set(at)) > 1:
            resumed = ", ".join(f"rank {rank} at step {step}" for rank, step in enumerate(at))
            raise Finding(
                "ranks-disagree",
                [Struck(run.story), Gist("resumed", resumed)],
                schedule_of(run),
                means="the ranks train different jobs, and average their gradients",
                think="which rank decides which checkpoint it is, and how do the others find out?",
            )
