"""Points at which ranks save and load drawn jobs, and what each rank saw there.

The driver is grader/workload/ex02/rank_plan.py. The lives that save draw their jobs from one secret
number; those that load get another one, and a key for their digests. What a digest must be is
computed in a life without student code. So a life that loads can have a job's digest only from what
was saved.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.checks.crashes import crashed, slipped_at
from grader.checks.endings import HOLDS, WAITS, ended_early
from grader.checks.ranks import (
    by_rank,
    deadlock,
    left_by,
    left_early,
    never_met,
    rank_row,
    standing,
)
from grader.checks.stacks import rows_of
from grader.harness.lab import Lab
from grader.harness.run import Process
from grader.verdicts import Finding, Found, Gist, Inconclusive, Struck

INTERVAL = 4  # steps between two saves (grader/workload/ex02/rank_plan.py counts like that)
LEAVES = ("SystemExit", "KeyboardInterrupt", "GeneratorExit")  # no error that a caller hears of


@dataclass
class Seen:
    """One point, after it ran: what each rank reported there."""

    point: dict
    lives: list[Process]
    events: list[list[dict]]  # by rank
    table: list[dict]  # by rank: digests, as a tuple -> what they are, as text
    instead: Finding | None = None  # a hang at an earlier point, after which this one wasn't run

    @property
    def ranks(self) -> range:
        return range(len(self.events))

    def all(self, rank: int, event: str) -> list[dict]:
        if self.instead:
            raise self.instead
        return [e for e in self.events[rank] if e["event"] == event]

    def first(self, rank: int, event: str) -> Any:
        return next(iter(self.all(rank, event)), None)

    def loaded(self, rank: int, n: int = 0) -> Any:
        """What the rank's n-th load came to."""
        return next(iter(self.all(rank, "loaded point")[n : n + 1]), None)

    def saved(self, rank: int, n: int = 0) -> dict | None:
        return next(iter(self.all(rank, "saved point")[n : n + 1]), None)

    def found(self, n: int = 0) -> list[str]:
        """What each rank came to: 'step 4', 'nothing', 'an error', 'another state', 'no answer'."""
        return [self._found(rank, n) for rank in self.ranks]

    def _found(self, rank: int, n: int) -> str:
        answer = self.loaded(rank, n)
        if answer is None:
            return "no answer"
        if raised := answer["raised"]:
            return f"{raised['type']}, which ends the process" if left(raised) else "an error"
        if answer["returned"] not in ("True", "False"):
            return f"an answer that is neither True nor False: {answer['returned'][:40]}"
        if answer["returned"] == "False":
            return "nothing"
        return self.table[rank].get(_key(answer["holds"]), "another state")

    def different(self, rank: int, n: int) -> list[str]:
        """The components that aren't those of the step that the rank believes to be at."""
        answer = self.loaded(rank, n)
        for holds, what in self.table[rank].items():
            if what == f"step {answer['step']}":
                want = dict(holds)
                return [k for k in want if answer["holds"].get(k) != want[k]]
        return ["global step"]

    def loaded_as(self, rank: int, what: str) -> list[str]:
        """The components in which the rank's first load isn't that; all of them, if it failed."""
        want = next(dict(holds) for holds, text in self.table[rank].items() if text == what)
        answer = self.loaded(rank)
        got = {} if answer is None or answer["raised"] else answer["holds"]
        return [k for k in want if got.get(k) != want[k]]

    def hangs(self) -> bool:
        return any(self.all(rank, "collective failed") for rank in self.ranks)

    def ended_by_the_grader(self) -> dict[int, list[tuple[str, str]]]:
        """Rank -> where it stood, of those that went on alone after another one had ended."""
        ended = {rank: self.first(rank, "ended point") for rank in self.ranks}
        return {
            rank: rows_of(event["stack"], self.lives[rank].code)
            for rank, event in ended.items()
            if event and event["stack"] is not None
        }

    def until(self, event: str, n: int) -> list[Process]:
        """The ranks' lives as far as the n-th such event of this point, or to the point's end."""
        lives = []
        for life, events in zip(self.lives, self.events, strict=True):
            at = [i for i, e in enumerate(events) if e["event"] == event]
            lives.append(life.with_events(events[: at[n]] if n < len(at) else events))
        return lives


def left(raised: dict) -> bool:
    """It isn't an error that the caller could hear of."""
    return any(name in raised["bases"] for name in LEAVES)


def _key(holds: dict) -> tuple:
    return tuple(sorted(holds.items()))


# --- running --------------------------------------------------------------------------------------


def secrets(lab: Lab) -> dict[str, object]:
    """What jobs are drawn from, by the lives that save and by those that load, and the
    digests' key."""
    # from the slow key: student code that tries all seeds must run out of CPU time
    draw = random.Random(f"{(lab.bench.salts.secret or b'').hex()} jobs")
    return {
        "saved": draw.getrandbits(60),
        "next": draw.getrandbits(60),
        "key": f"{draw.getrandbits(64):016x}",
    }


def steps(lab: Lab) -> tuple[int, int, int]:
    """Steps as a run has them; compared as text, the second or the third comes before the first."""
    first = lab.shared.choice([4, 92, 992])
    return first, first + INTERVAL, first + 2 * INTERVAL


def later_steps(lab: Lab) -> list[int]:
    """Those after them: with these, no number of checkpoints that a solution may keep or try is
    enough.
    """
    return [steps(lab)[2] + n * INTERVAL for n in range(1, LATER + 1)]


LATER = 9
LARGE = 99_999_999  # and the step after it
EPOCHS = (7, 8)  # in task 2.1 the number that is saved counts epochs


def _shows(lab: Lab, which: str) -> list[tuple[int, int]]:
    """(step, version) of all jobs that are saved, or saved next."""
    known = [INTERVAL, *steps(lab), *later_steps(lab)]
    if which == "saved":
        known += [0, LARGE, LARGE + 1, *EPOCHS]
    return [(step, 0) for step in dict.fromkeys(known)] + (
        [(steps(lab)[1], 1)] if which == "saved" else []
    )


def _shown(lab: Lab, ranks: int) -> list[list[dict]]:
    """For each rank, the jobs that are saved, as a life without student code has them."""
    drawn = secrets(lab)
    ops = [
        {"op": "show", "payload": drawn[which], "step": step, "version": version}
        for which in ("saved", "next")
        for step, version in _shows(lab, which)
    ]
    point = {"id": "shown", "call": "nothing", "at": "here", "ops": ops}
    given = {"points": [point], "key": drawn["key"]}
    run = lab.trusted("ex02/rank_plan.py", ranks=ranks, given=given)
    if any(life.first("end") is None for life in run.last.processes):
        raise ended_early(lab, run, run.last)
    return [life.all("shown") for life in run.last.processes]


def shown(lab: Lab, step: int) -> dict[str, str]:
    """The digests of the job that was saved at this step, on rank 0."""
    return next(e["holds"] for e in _shown(lab, 2)[0] if e["step"] == step)


def table(lab: Lab, ranks: int) -> list[dict]:
    """For each rank, the digests that right loads report, and what they stand for."""
    return [
        {
            _key(e["holds"]): f"step {e['step']}" + (", saved again" if e["version"] else "")
            for e in of_rank
        }
        for of_rank in _shown(lab, ranks)
    ]


def place(lab: Lab) -> Path:
    """A new folder, for the directories of points."""
    folder = lab.bench.folder() / "checkpoints"
    folder.mkdir()
    return folder


def copied(origin: Path, to: Path) -> Path:
    shutil.copytree(origin, to, symlinks=True)
    return to


def alone(origin: Path, to: Path, function: str) -> Path:
    """A copy of the folder that a save was given, without what lies around it."""
    if not origin.is_dir() or not any(origin.iterdir()):
        raise Finding(
            "outside-the-folder",
            [
                ("saved", f"{function} returned, and there is nothing in `folder`"),
                ("expected", "a checkpoint, all of it in `folder`"),
            ],
        )
    return copied(origin, to)


def not_whole(different: list[str], loaded: dict | None, function: str, rank: int) -> Finding:
    """What a rank loaded from a copy isn't what was saved into the folder."""
    rows = [
        ("saved", f"several checkpoints of one run by {function}, each into a folder of its own"),
        ("then", "each folder was copied to another place, and its copy loaded by new processes"),
    ]
    if loaded and loaded.get("raised"):
        rows.append(("rank", str(rank)))
        finding = crashed(loaded["raised"], rows)
        finding.means = "a checkpoint that is moved, or outlives the next one, can't be loaded"
        finding.think = "which of the files that a load needs don't lie in the folder that you got?"
        return finding
    rows.append(("rank", f"{rank} gets back something else: {', '.join(different[:5])}"))
    rows.append(("expected", "what was saved into that folder, whatever was saved later"))
    return Finding("outside-the-folder", rows)


def saves(
    lab: Lab, points: list[dict], folder: Path, ranks: int = 2, judged: bool = True
) -> dict[str, Seen]:
    """Lives that save: they don't know what their digests will be asked with."""
    return _observe(
        lab, points, folder, ranks, {"payload": secrets(lab)["saved"]}, judged and table(lab, ranks)
    )


def loads(lab: Lab, points: list[dict], folder: Path, ranks: int = 2) -> dict[str, Seen]:
    """Lives that load, and save on: they don't know what the first ones' jobs were drawn from."""
    drawn = secrets(lab)
    return _observe(
        lab,
        points,
        folder,
        ranks,
        {"payload": drawn["next"], "key": drawn["key"]},
        table(lab, ranks),
    )


def _observe(
    lab: Lab, points: list[dict], folder: Path, ranks: int, given: dict, known
) -> dict[str, Seen]:
    """Run the points, all in one life. A point: "name", "ops", "call", "at" (its name, without
    it)."""
    asked = [
        {"call": "save_step", "at": p["name"]} | p | {"id": f"{lab.draw.getrandbits(64):016x}"}
        for p in points
    ]
    given = given | {"points": [{k: v for k, v in p.items() if k != "name"} for p in asked]}
    run = lab.launch(
        "ex02/rank_plan.py", "--seed", lab.seed, ranks=ranks, directory=folder, given=given
    )
    lives = run.last.processes
    if any(life.first("end") is None for life in lives):
        raise ended_early(lab, run, run.last)
    if apart := never_met([crash for life in lives for crash in life.all("crash")]):
        raise apart
    known = known or [{} for _ in lives]
    seen = {
        p["name"]: Seen(p, lives, [_part(life, p["id"]) for life in lives], known) for p in asked
    }
    _after_a_hang(list(seen.values()))
    return seen


def _after_a_hang(seen: list[Seen]) -> None:
    """Points that weren't run have the hang before them instead."""
    ran = [point for point in seen if any(point.events)]
    for point in seen:
        if point not in ran and ran:
            try:
                nobody_hung(ran[-1], [("called", "your functions, at an earlier point")])
            except Finding as hang:
                point.instead = hang


def _part(life: Process, point: str) -> list[dict]:
    events, inside = [], False
    for event in life.events:
        if event.get("event") == "point":
            inside = event.get("id") == point
        elif inside:
            events.append(event)
    return events


# --- what must hold at every point ----------------------------------------------------------------


def agrees(
    seen: Seen,
    allowed: tuple[str, ...],
    rows: list,
    means: str,
    think: str,
    fault: str | None = None,
    n: int = 0,
) -> str:
    """All ranks came to the same, and it is one of those allowed. Returns it."""
    found = seen.found(n)
    if len(set(found)) == 1 and found[0] in allowed:
        return found[0]
    if set(found) == {"an error"} and "nothing" in allowed:
        means = "a job whose first save was interrupted can't begin any more"
    elif set(found) == {"an error"} and "an error" not in allowed:
        means, think = (
            "the job can't go on, although an older checkpoint is complete",
            "what does resume do when the newest can't be loaded, on one rank or on all?",
        )
    elif found[0].startswith("an answer"):
        means, think = (
            "a script that asks `resume(...) is True` starts over, and any other one resumes",
            "which two answers does resume have?",
        )
    elif set(found) == {"nothing"}:
        means = "the run starts over, and nothing says that it ever got this far"
    if seen.hangs():
        raise _hang(seen, seen.until("loaded point", n + 1), rows, fault)
    code, about = _wrong(found)
    expected = " or ".join("False" if a == "nothing" else a for a in allowed)
    raise Finding(
        code,
        [
            *rows,
            *by_rank({rank: _told(seen, rank, what, n) for rank, what in enumerate(found)}),
            ("expected", f"on every rank: {expected}"),
        ],
        fault,
        about=about,
        means=means,
        think=think,
    )


def raises_what_it_says(seen: Seen, rows: list) -> None:
    """The error is the given CheckpointError, on every rank; a module that has none of that name
    raises what it likes.
    """
    for rank in seen.ranks:
        answer = seen.loaded(rank)
        raised = answer["raised"]
        if "CheckpointError" in answer["classes"] and "CheckpointError" not in raised["bases"]:
            raise Finding(
                "wrong-error",
                [
                    *rows,
                    (f"rank {rank}", f"resume raised {raised['type']}: {_gist(raised['message'])}"),
                    ("expected", "on every rank: CheckpointError, which the file gives you"),
                ],
                about=raised["type"],
            )


def _wrong(found: list[str]) -> tuple[str, str]:
    """The code of what the ranks came to, and what it is about."""
    if len(set(found)) > 1:
        return "ranks-disagree", ""
    if found[0] == "nothing":
        return "nothing-found", ""
    if found[0] == "another state":
        return "unsaved-state", ""
    if found[0].startswith("step "):
        return "wrong-checkpoint", found[0]
    return "resume-fails", found[0]


def _told(seen: Seen, rank: int, what: str, n: int) -> str:
    if what == "an error":
        error = seen.loaded(rank, n)["raised"]
        return f"resume raised {error['type']}: {_gist(error['message'])}{slipped_at(error)}"
    if what == "another state":
        return (
            f"a state that was never saved: of step {seen.loaded(rank, n)['step']}, but "
            f"for {', '.join(seen.different(rank, n)[:5])}"
        )
    if what == "nothing":
        return "resume returned False, as if nothing had ever been saved"
    if what == "no answer":
        crash = next((e for e in seen.all(rank, "crash")), None)
        if crash:
            error = f"{crash['type']}: {_gist(crash['message'])}"
            return f"no answer: {error}{slipped_at(crash)}"
        return "no answer"
    return what


def _gist(message: str) -> str:
    first = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return first if len(first) <= 160 else first[:157] + "..."


def works(seen: Seen, function: str = "save_step") -> None:
    """Nothing went wrong where no fault was injected."""
    called = ("called", f"{function}, with nothing in its way")
    for rank in seen.ranks:
        raised = [e["raised"] for e in seen.all(rank, "saved point") if e["raised"]]
        for crash in raised + seen.all(rank, "crash"):
            if seen.hangs():
                raise _hang(seen, seen.until("nothing", 0), [called])
            raise crashed(crash, [("rank", str(rank))])
        for saved in seen.all(rank, "saved point"):
            if saved["changed"]:
                rows = [
                    (
                        "changed",
                        f"rank {rank}'s job isn't what it was before {function}: "
                        f"{', '.join(saved['changed'][:4])}",
                    ),
                ]
                raise Finding(
                    "save-changes-the-job",
                    rows,
                    think="does a save draw a random number, or set something?",
                )
    _none_went_on_alone(seen, [called])


def nobody_hung(seen: Seen, rows: list[tuple[str, str]]) -> None:
    """At a point without a fault, no rank waited for another one in vain."""
    if seen.hangs():
        raise _hang(seen, seen.until("nothing", 0), rows)
    _none_went_on_alone(seen, rows)


def _none_went_on_alone(seen: Seen, rows: list[tuple[str, str]]) -> None:
    if seen.ended_by_the_grader():
        raise _hang(seen, seen.until("nothing", 0), rows)


def _hang(
    seen: Seen,
    processes: list[Process],
    rows: Sequence[tuple[str, str]],
    fault: str | None = None,
    left: dict[int, str] | None = None,
) -> Finding:
    """A rank that went on alone until the grader ended it; without one, a deadlock.

    processes, left  as in ranks.deadlock
    """
    stood = standing(processes) | (left or {})
    for rank, where in seen.ended_by_the_grader().items():
        others = {other: text for other, text in stood.items() if other != rank}
        return Finding(
            "limit",
            [
                *rows,
                *rank_row(len(processes), rank),
                Gist("ended", "got no further, while the others waited for it"),
                *where,
                *by_rank(others),
            ],
            fault,
            about="quiet",
            means=HOLDS,
            think=WAITS,
        )
    return deadlock(processes, rows, fault, left)


AFTER_INTERRUPTED = (
    "the save after an interrupted one can't be found",
    "what is left of the interrupted save, and what does your save do with it?",
)
AFTER_GOOD = (
    "an older checkpoint is taken for the newest",
    "by what does resume order the checkpoints? Is 12 more than 8?",
)


def goes_on(
    seen: Seen,
    resumed: str,
    rows: list,
    fault: str | None = None,
    texts: tuple[str, str] = AFTER_INTERRUPTED,
) -> None:
    """The relaunched job's next save works, and is what is found from then on."""
    step = (0 if resumed == "nothing" else int(resumed.split()[1].strip(","))) + INTERVAL
    rows = [*rows, ("relaunched", f"resumed from {resumed}, and saved step {step}")]
    for rank in seen.ranks:
        saved = seen.saved(rank)
        if saved and saved["raised"]:
            if seen.hangs():
                raise _hang(seen, seen.until("loaded point", 1), rows, fault)
            finding = crashed(saved["raised"], [*rows, ("rank", str(rank))], fault)
            finding.means = (
                "what lies there already blocks every later save: the job runs, and never saves "
                "again"
            )
            finding.think = "what may lie there already when your save begins?"
            raise finding
    agrees(seen, (f"step {step}",), rows, *texts, fault, n=1)


# --- sweeps: a rank is held before each event of a save, or each of them fails --------------------


def nobody_left_early_of(
    points: list[Seen], function: str, what: str = "the checkpoint is complete"
) -> None:
    """Of all ranks that were held; one that writes nothing can't be."""
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
    """In none of the saves in which a rank was held, another one came back meanwhile; and what
    was saved is there."""
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
    return f"rank {held['rank']} stands still just before: {before}"


def loads_what_was_saved(seen: Seen, when: str) -> None:
    """Each load of a sweep gives what was saved before it."""
    for rank in seen.ranks:
        holds = None
        for e in seen.events[rank]:
            if e["event"] == "saved point" and not e["raised"]:
                holds = e
            elif e["event"] == "loaded point" and holds:
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
                        ("rank", f"{rank} loads something else: {', '.join(different[:5])}"),
                    ]
                    raise Finding(
                        "state-lost",
                        rows,
                        about=different[0],
                        think=(
                            "does each rank get back all that it saved, also when another one "
                            "was slow?"
                        ),
                    )


ONLY_IN_DDP = ("weights", "buffers", "optimizer")


def compared(want: dict, got: dict, call: str) -> list[str]:
    """The parts that differ, of those that this function is to save."""
    names = [k for k in want if call != "save_checkpoint_ddp" or k.startswith(ONLY_IN_DDP)]
    return [k for k in names if got.get(k) != want[k]]


def all_hear_of_failures_of(points: list[Seen], function: str) -> None:
    """Of all ranks that failed; one that writes nothing can't."""
    failing = [point for point in points if not point.instead and point.all(0, "failing")]
    for point in points:
        (all_hear_of_failures if point in failing or not failing else works)(point, function)


def all_hear_of_failures(seen: Seen, function: str) -> None:
    """Of each save in which one rank failed: every rank raises, or it did without what failed,
    and all can load it."""
    failing = seen.all(0, "failing")
    sweeper = seen.point["ops"][0]["rank"]
    struck = {e["step"] for e in seen.all(sweeper, "fault")}
    if not failing:
        works(seen, function)
        raise Inconclusive(
            "blind", [("watching", "the save raised no file-system event that Python can see")]
        )
    for fault in failing:
        step = fault["step"]
        asked: tuple[str, str] = Struck(refused(fault, sweeper))
        if fault["before"] is None:
            asked = Gist("happened", "rank 0 couldn't write: the directory of `path` is a file")
        did = _all_come_back(seen, function, step, asked)
        if step not in struck:
            continue
        _told_alike(did, function, sweeper, asked)
        _saves_again(seen, step + 1, asked)
        if not any(d["raised"] for d in did):
            _can_load(seen, function, step, did, asked)
    if not struck:
        rows = [Struck(f"the disk is full for rank {sweeper}"), ("but", "it never fired")]
        raise Inconclusive("fault", rows)
    works_after_failures(seen, function)


def refused(failing: dict, rank: int) -> str:
    """What a rank meets in a save that fails."""
    how = {
        "silent": f"rank {rank} meets an error without a text, OSError()",
        "unpicklable": f"rank {rank} meets an OSError that can't be pickled: it holds a lock",
    }.get(failing["fault"].get("error"), f"the disk is full for rank {rank}")
    return f"{how}, at: {failing['before']}"


def _all_come_back(seen: Seen, function: str, step: int, asked: tuple[str, str]) -> list[dict]:
    """What each rank's save of this step came to; none of them waits for another for ever."""
    saves = [_as_far_as(_during(seen, rank, step), "saved point") for rank in seen.ranks]
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
    raise _hang(seen, lives, [asked], left=own)


def _left_at_once(event: dict) -> dict:
    """A collective that raised before it waited, over a value that it can't send, was left."""
    kind = event.get("type", "")
    waited = kind == "RuntimeError" or kind.startswith("Dist")
    if event["event"] == "collective failed" and not waited:
        return event | {"event": "collective left"}
    return event


def _told_alike(did: list[dict], function: str, sweeper: int, asked: tuple[str, str]) -> None:
    """All ranks raise an error that a caller can hear of, or none does."""
    for rank, d in enumerate(did):
        if d["raised"] and left(d["raised"]):
            rows = [
                asked,
                Found(f"{function} left rank {rank} by {d['raised']['type']}"),
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
                Found(f"{function} returned on {ranks} as if all were well"),
                ("expected", "an error on every rank"),
            ],
            means=(
                "ranks that don't know of the failure train on, and wait in their next "
                "collective for one that has left"
            ),
            think=f"how does rank {silent[0]} get to know what happened to rank {sweeper}?",
        )


def _saves_again(seen: Seen, step: int, asked: tuple[str, str]) -> None:
    """The next save, for which there is room, raises nothing."""
    after = [
        next((e for e in _during(seen, r, step) if e["event"] == "saved point"), None)
        for r in seen.ranks
    ]
    if raised := next((a["raised"] for a in after if a and a["raised"]), None):
        finding = crashed(
            raised,
            [asked, ("then", "there was room again, and the same processes saved once more")],
        )
        finding.think = "what did the failed save leave, on the disk or in a variable?"
        raise finding


def _can_load(
    seen: Seen, function: str, step: int, did: list[dict], asked: tuple[str, str]
) -> None:
    """A save that raised nowhere has saved all."""
    for rank, d in enumerate(did):
        loaded = next((e for e in _during(seen, rank, step) if e["event"] == "loaded point"), None)
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
                        f"{function} returned on every rank as if all were well, and rank "
                        f"{rank} can't load it",
                    ),
                    ("expected", "an error on every rank"),
                ],
                means="the job believes in a checkpoint that it doesn't have",
                think="how do the others get to know that one rank's part isn't there?",
            )


def works_after_failures(seen: Seen, function: str) -> None:
    called = ("called", f"{function} and a load, after a save that failed")
    for rank in seen.ranks:
        if crash := seen.first(rank, "crash"):
            raise crashed(crash, [called, ("rank", str(rank))])
    _none_went_on_alone(seen, [called])


def _during(seen: Seen, rank: int, step: int) -> list[dict]:
    """What the rank reported from the save of this step until the next save."""
    events, inside = [], False
    for e in seen.events[rank]:
        if e["event"] == "saving":
            inside = e["step"] == step
        if inside:
            events.append(e)
    return events


def _as_far_as(events: list[dict], last: str) -> list[dict]:
    at = next((n for n, e in enumerate(events) if e["event"] == last), len(events))
    return events[: at + 1]
