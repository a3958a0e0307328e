"""Points at which ranks save and load drawn jobs, and what each rank saw there.

The driver is grader/workload/ex02/rank_plan.py. The lives that save draw their jobs from one secret
number; those that load get another one, and a key for their digests. What a digest must be is
computed in a life without student code. So a life that loads can have a job's digest only from what
was saved.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.checks.crashes import crashed
from grader.checks.endings import ended_early
from grader.checks.ranks import never_met
from grader.harness.lab import Lab
from grader.harness.run import Process
from grader.verdicts import Finding

INTERVAL = 4  # steps between two saves (grader/workload/ex02/rank_plan.py counts like that)
LEAVES = ("SystemExit", "KeyboardInterrupt", "GeneratorExit")  # no errors that a caller catches


@dataclass
class Seen:
    """One point, after it ran: what each rank reported there."""

    point: dict
    lives: list[Process]
    events: list[list[dict]]  # by rank
    table: list[dict]  # by rank: digests, as a tuple -> what they are, as text

    @property
    def ranks(self) -> range:
        return range(len(self.events))

    def all(self, rank: int, event: str) -> list[dict]:
        return [e for e in self.events[rank] if e["event"] == event]

    def first(self, rank: int, event: str) -> Any:
        return next(iter(self.all(rank, event)), None)

    def loaded(self, rank: int, n: int = 0) -> Any:
        """The outcome of the rank's n-th load."""
        return next(iter(self.all(rank, "loaded point")[n : n + 1]), None)

    def saved(self, rank: int, n: int = 0) -> dict | None:
        return next(iter(self.all(rank, "saved point")[n : n + 1]), None)

    def found(self, n: int = 0) -> list[str]:
        """What each rank found: 'step 4', 'nothing', 'an error', 'another state', 'no answer'."""
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
        """The components that differ from the step at which the rank believes it is."""
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

    def until(self, event: str, n: int) -> list[Process]:
        """The ranks' lives as far as the n-th such event of this point, or to the point's end."""
        lives = []
        for life, events in zip(self.lives, self.events, strict=True):
            at = [i for i, e in enumerate(events) if e["event"] == event]
            lives.append(life.with_events(events[: at[n]] if n < len(at) else events))
        return lives


def left(raised: dict) -> bool:
    """It isn't an error that the caller could catch."""
    return any(name in raised["bases"] for name in LEAVES)


def _key(holds: dict) -> tuple:
    return tuple(sorted(holds.items()))


def secrets(lab: Lab) -> dict[str, object]:
    """What jobs are drawn from, by the lives that save and by those that load, and the
    digests' key."""
    # from the slow key, so that student code that tries all seeds runs out of CPU time
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
    """For each rank, the digests that correct loads report, and what they mean."""
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
    """A copy of the folder that a save was given, without its surroundings."""
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
        ("then", "each folder was copied elsewhere, and new processes loaded the copy"),
    ]
    if loaded and loaded.get("raised"):
        rows.append(("rank", str(rank)))
        finding = crashed(loaded["raised"], rows)
        finding.means = "a checkpoint can't be loaded after a move, or after the next save"
        finding.think = "which files does a load need that aren't in the folder you were given?"
        return finding
    rows.append(("rank", f"{rank} gets back something different: {', '.join(different[:5])}"))
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
    return {
        p["name"]: Seen(p, lives, [_part(life, p["id"]) for life in lives], known) for p in asked
    }


def _part(life: Process, point: str) -> list[dict]:
    events, inside = [], False
    for event in life.events:
        if event.get("event") == "point":
            inside = event.get("id") == point
        elif inside:
            events.append(event)
    return events
