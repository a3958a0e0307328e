"""Points at which ranks save and load drawn jobs, and what each rank saw there.

The driver is grader/workload/ex02/rank_plan.py. The lives that save draw their jobs from one secret
number; those that load get another one, and a key for their digests. What a digest must be is
computed in a life without student code. So a life that loads can have a job's digest only from what
was saved.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable
from pathlib import Path

from grader.checks.crashes import crashed
from grader.checks.endings import ended_early
from grader.checks.ex02.hangs import nobody_hung
from grader.checks.ex02.observations import Seen, key_of
from grader.checks.ranks import never_met
from grader.harness.lab import Lab
from grader.harness.run import Process
from grader.verdicts import Finding

INTERVAL = 4  # steps between two saves (grader/workload/ex02/rank_plan.py counts like that)


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
EPOCHS = (8, 0)  # in task 2.1 the number that is saved counts epochs


def _shows(lab: Lab, which: str) -> list[tuple[int, int]]:
    """(step, version) of all jobs that are saved, or saved next."""
    known = [INTERVAL, *steps(lab), *later_steps(lab)]
    if which == "saved":
        known += [LARGE, LARGE + 1, *EPOCHS]
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


def failing_saves(lab: Lab, failing: Iterable[int], again: bool = False) -> list[dict]:
    """Three ranks' saves in which one of these fails. Rank 1 fails only once: it shows whether the
    others hear of a rank that is neither the first nor the last.

    again   some saves replace an older checkpoint of their step
    """
    return [
        {"op": "fail", "rank": rank, "step": 100, "byte": lab.draw.randint(0, 8)}
        | {"once": rank == 1, "again": again and rank != 1}
        for rank in failing
    ]


def shown(lab: Lab, step: int) -> dict[str, str]:
    """The digests of the job that was saved at this step, on rank 0."""
    return next(e["holds"] for e in _shown(lab, 2)[0] if e["step"] == step)


def table(lab: Lab, ranks: int) -> list[dict]:
    """For each rank, the digests that correct loads report, and what they mean."""
    return [
        {
            key_of(e["holds"]): f"step {e['step']}" + (", saved again" if e["version"] else "")
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
        ("saved", f"several checkpoints of one run by {function}, each into its own folder"),
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
