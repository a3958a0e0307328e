"""Sweeps over one save: a rank is held before each of its events, or each of them fails."""

from __future__ import annotations

from typing import Any

from grader.checks.crashes import crashed
from grader.checks.ex02.hangs import hang, none_went_on_alone
from grader.checks.ex02.observations import Seen, left
from grader.checks.ex02.rank_assertions import works
from grader.checks.ranks import left_by, left_early
from grader.verdicts import Finding, Found, Gist, Inconclusive, Struck


def nobody_left_early_of(
    points: list[Seen], function: str, what: str = "the checkpoint is complete"
) -> None:
    """For each rank that was held; a rank that writes nothing can't be."""
    for point in points:
        works(point, function)
    held = [point for point in points if any(point.all(rank, "held") for rank in point.ranks)]
    _held_inside(points)
    for point in held or points:
        nobody_left_early(point, function, what)


def _held_inside(points: list[Seen]) -> None:
    """At least one rank was held in the middle of a save, and not only before it."""
    held = [e for point in points for rank in point.ranks for e in point.all(rank, "held")]
    if not any(e["before"] for e in held):
        raise Inconclusive(
            "blind", [("watching", "no save raised a file-system event at which a rank was held")]
        )


def nobody_left_early(seen: Seen, function: str, what: str = "the checkpoint is complete") -> None:
    """While one rank was held in a save, no other rank returned from it; and what was saved is
    there."""
    works(seen, function)
    held = [e for rank in seen.ranks for e in seen.all(rank, "held") if e["shown"]]
    if not held:
        raise Inconclusive(
            "blind", [("watching", "the save raised no file-system event that Python can see")]
        )
    for e in held:
        if e["shown"] == "returned":
            raise left_early(
                stands_still(e),
                "another rank",
                function,
                "what is the last thing that a rank does in your save, and what do the others "
                "wait for?",
                until=what,
            )
    loads_what_was_saved(seen, "a rank was held in the save")


def stands_still(held: dict) -> str:
    before = held["before"] or "its call of the function"
    return f"rank {held['rank']} is held just before: {before}"


def loads_what_was_saved(seen: Seen, when: str) -> None:
    """Each load of a sweep gives what was saved before it."""
    for rank in seen.ranks:
        holds, saved = None, {}
        for e in seen.events[rank]:
            if e["event"] == "saved point" and not e["raised"]:
                holds = saved[e["step"]] = e
            elif e["event"] == "loaded point" and holds:
                holds = saved.get(e["of"], holds)
                if e["raised"]:
                    raise crashed(
                        e["raised"],
                        [("saved", f"step {holds['step']}; {when}"), ("rank", str(rank))],
                    )
                if seen.point["call"] == "save_checkpoint_ddp" and e["returned"] != str(
                    holds["step"]
                ):
                    raise Finding(
                        "epoch",
                        [
                            ("saved", f"epoch {holds['step']}"),
                            Gist("returned", f"load_checkpoint_ddp returned {e['returned']}"),
                        ],
                    )
                if different := compared(holds["holds"], e["holds"], seen.point["call"]):
                    rows = [
                        ("saved", f"step {holds['step']}; {when}"),
                        ("rank", f"{rank} loads something different: {', '.join(different[:5])}"),
                    ]
                    raise Finding(
                        "state-lost",
                        rows,
                        about=different[0],
                        think=(
                            "does each rank get back all that it saved, even if another rank was "
                            "slow?"
                        ),
                    )


ONLY_IN_DDP = ("weights", "buffers", "optimizer")


def compared(want: dict, got: dict, call: str) -> list[str]:
    """The parts that differ, among those that this function should save."""
    names = [k for k in want if call != "save_checkpoint_ddp" or k.startswith(ONLY_IN_DDP)]
    return [k for k in names if got.get(k) != want[k]]


def all_hear_of_failures_of(points: list[Seen], function: str) -> None:
    """For each rank that failed; a rank that writes nothing can't."""
    failing = [point for point in points if not point.instead and point.all(0, "failing")]
    for point in points:
        (all_hear_of_failures if point in failing or not failing else works)(point, function)


def all_hear_of_failures(seen: Seen, function: str) -> None:
    """In each save in which one rank failed, every rank raises; or the save didn't need what
    failed, and all can load it."""
    failing = seen.all(0, "failing")
    sweeper = seen.point["ops"][0]["rank"]
    struck = {e["step"] for e in seen.all(sweeper, "fault")}
    if not failing:
        works(seen, function)
        raise Inconclusive(
            "blind", [("watching", "the save raised no file-system event that Python can see")]
        )
    for number, fault in enumerate(failing):
        asked: tuple[str, str] = Struck(refused(fault, sweeper))
        if fault["fault"]["kind"] == "blocked":
            asked = Gist("happened", "rank 0 couldn't write: the directory of `path` is a file")
        did = _all_come_back(seen, function, number, asked)
        if fault["step"] not in struck:
            continue
        _told_alike(did, function, sweeper, asked)
        _saves_again(seen, number, asked)
        if not any(d["raised"] for d in did):
            _can_load(seen, function, number, did, asked)
            _reached_the_disk(function, fault, did[sweeper]["events"], asked)
    if not struck:
        rows = [Struck(f"the disk is full for rank {sweeper}"), ("but", "it never fired")]
        raise Inconclusive("fault", rows)
    works_after_failures(seen, function)


def refused(failing: dict, rank: int) -> str:
    """What a rank meets in a save that fails."""
    how = {
        "silent": f"rank {rank} gets an error without a message, OSError()",
        "unpicklable": f"rank {rank} gets an OSError that can't be pickled: it holds a lock",
    }.get(failing["fault"].get("error"), f"the disk is full for rank {rank}")
    if failing["fault"].get("everyone"):
        return "every rank gets an error without a message, OSError(), at its first file"
    return f"{how}, at: {failing['before']}"


def _all_come_back(seen: Seen, function: str, number: int, asked: tuple[str, str]) -> list[dict]:
    """The outcome of each rank's save under this fault; no rank waits for another forever."""
    saves = [_as_far_as(_during(seen, rank, number), "saved point") for rank in seen.ranks]
    saves = [[_left_at_once(e) for e in events] for events in saves]
    did: list[Any] = [
        next((e for e in events if e["event"] == "saved point"), None) for events in saves
    ]
    hung = [any(e["event"] == "collective failed" for e in events) for events in saves]
    if not any(hung) and all(did):
        return did
    lives = [life.with_events(events) for life, events in zip(seen.lives, saves, strict=True)]
    own = {
        rank: left_by(function, d["raised"])
        for rank, d in enumerate(did)
        if d and d["raised"] and not hung[rank]
    }
    raise hang(seen, lives, [asked], left=own)


def _left_at_once(event: dict) -> dict:
    """A collective that raised before it waited, because it couldn't send a value, doesn't hang."""
    kind = event.get("type", "")
    waited = kind == "RuntimeError" or kind.startswith("Dist")
    if event["event"] == "collective failed" and not waited:
        return event | {"event": "collective left"}
    return event


def _told_alike(did: list[dict], function: str, sweeper: int, asked: tuple[str, str]) -> None:
    """All ranks raise an error that a caller can catch, or none does."""
    for rank, d in enumerate(did):
        if d["raised"] and left(d["raised"]):
            rows = [
                asked,
                Found(f"rank {rank} left {function} with {d['raised']['type']}"),
                ("expected", "an error on every rank"),
            ]
            raise Finding("error-ends-process", rows)
    silent = [rank for rank, d in enumerate(did) if not d["raised"]]
    if silent and len(silent) < len(did):
        ranks = " and ".join(f"rank {rank}" for rank in silent)
        raise Finding(
            "error-on-one-rank",
            [
                asked,
                Found(f"{function} returned on {ranks} as if nothing had happened"),
                ("expected", "an error on every rank"),
            ],
            means=(
                "ranks that don't know about the failure keep training, and wait in their next "
                "collective for one that has exited"
            ),
            think=f"how does rank {silent[0]} find out what happened to rank {sweeper}?",
        )


def _saves_again(seen: Seen, number: int, asked: tuple[str, str]) -> None:
    """The next save, for which there is room, raises nothing."""
    saves = [
        [e for e in _during(seen, r, number) if e["event"] == "saved point"] for r in seen.ranks
    ]
    after = [next(iter(of_rank[1:2]), None) for of_rank in saves]
    if raised := next((a["raised"] for a in after if a and a["raised"]), None):
        finding = crashed(
            raised,
            [asked, ("then", "there was room again, and the same processes saved once more")],
        )
        finding.think = "what did the failed save leave, on the disk or in a variable?"
        raise finding


def _can_load(
    seen: Seen, function: str, number: int, did: list[dict], asked: tuple[str, str]
) -> None:
    """A save that raised nowhere has saved all."""
    for rank, d in enumerate(did):
        during = _during(seen, rank, number)
        loaded = next((e for e in during if e["event"] == "loaded point"), None)
        if (
            not loaded
            or loaded["raised"]
            or compared(d["holds"], loaded["holds"], seen.point["call"])
        ):
            raise Finding(
                "error-swallowed",
                [
                    asked,
                    Found(
                        f"{function} returned on every rank as if nothing had happened, and rank "
                        f"{rank} can't load it",
                    ),
                    ("expected", "an error on every rank"),
                ],
                means="the job relies on a checkpoint that doesn't exist",
                think="how do the others find out that one rank's part is missing?",
            )


def _reached_the_disk(
    function: str, failing: dict, events: list[str], asked: tuple[str, str]
) -> None:
    """What save_step couldn't sync isn't safe from a power loss: it raises, or syncs it again."""
    refused, at = failing["before"] or "", failing["fault"].get("event")
    if (
        function == "save_step"
        and at is not None
        and refused.startswith(("fsync ", "fdatasync "))
        and refused not in events[at + 1 :]
    ):
        raise Finding(
            "error-swallowed",
            [
                asked,
                Found("save_step returned on every rank as if nothing had happened"),
                ("expected", "an error on every rank: a power loss may destroy the checkpoint"),
            ],
            means="the job relies on a checkpoint that may not be on the disk",
            think="what does an error of fsync say about the bytes written before?",
        )


def works_after_failures(seen: Seen, function: str) -> None:
    called = ("called", f"{function} and a load, after a save that failed")
    for rank in seen.ranks:
        if crash := seen.first(rank, "crash"):
            raise crashed(crash, [called, ("rank", str(rank))])
    none_went_on_alone(seen, [called])


def _during(seen: Seen, rank: int, number: int) -> list[dict]:
    """What the rank reported from this failing save until the next one."""
    events = seen.events[rank]
    begins = [n for n, e in enumerate(events) if e["event"] == "failing"]
    ends = [*begins[1:], len(events)]
    return events[begins[number] : ends[number]] if number < len(begins) else []


def _as_far_as(events: list[dict], last: str) -> list[dict]:
    at = next((n for n, e in enumerate(events) if e["event"] == last), len(events))
    return events[: at + 1]
