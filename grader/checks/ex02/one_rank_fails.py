"""ex02.5: one rank has no room, is slow, or sees older names than the others."""

from __future__ import annotations

import itertools
import os

from grader.checks.ex02.observations import Seen
from grader.checks.ex02.rank_assertions import agrees
from grader.checks.ex02.rank_plan import copied, failing_saves, loads, place, saves, steps
from grader.checks.ex02.sweeps import all_hear_of_failures_of, nobody_left_early_of, refused
from grader.checks.ex02.undisturbed_saves import LOADS, Undisturbed
from grader.checks.fault_points import selected
from grader.harness.lab import Lab
from grader.verdicts import Finding, Gist, Struck


def disk_full_at_one_rank(lab: Lab) -> None:
    """With three ranks: at first, only the last one knows of its failure."""
    selected(lab, [])
    Undisturbed.of(lab).events("two")
    failing = failing_saves(lab, range(3), again=True)
    points = [{"name": f"rank {op['rank']}", "ops": [op]} for op in failing]
    seen = saves(lab, points, place(lab), ranks=3, judged=False)
    all_hear_of_failures_of(list(seen.values()), "save_step")
    for rank in range(3):
        earlier_ones_stay(seen[f"rank {rank}"], rank)


def earlier_ones_stay(seen: Seen, sweeper: int) -> None:
    """After a save that failed, a load finds the one before it (or the new one, if it is
    complete all the same)."""
    for number, fault in enumerate(seen.all(0, "failing")):
        at = {
            rank: [e["step"] for e in seen.all(rank, "loaded point")[number : number + 1]]
            for rank in seen.ranks
        }
        steps_found = {step for of_rank in at.values() for step in of_rank}
        failed = [e for e in seen.all(sweeper, "loaded point")[number : number + 1] if e["raised"]]
        if failed or not steps_found <= {fault["step"], fault["good"]} or len(steps_found) != 1:
            rows = [
                Struck(refused(fault, sweeper)),
                *(
                    (f"rank {rank}", f"resumes from step {found[0]}")
                    for rank, found in at.items()
                    if found
                ),
                *(
                    Gist("error", f"{e['raised']['type']}: {e['raised']['message'][:150]}")
                    for e in failed
                ),
                ("expected", "on every rank, the checkpoint before the one that failed"),
            ]
            raise Finding(
                "last-good-lost",
                rows,
                means=(
                    "a failed save costs the last good checkpoint, or leaves a partial one that "
                    "counts as complete"
                ),
                think="what happens to the parts that the other ranks have written?",
            )


def nobody_leaves_early(lab: Lab) -> None:
    Undisturbed.of(lab).events("two")
    points = [
        {"name": f"rank {rank}", "ops": [{"op": "hold", "rank": rank, "step": 100}]}
        for rank in (0, 1)
    ]
    nobody_left_early_of(list(saves(lab, points, place(lab), judged=False).values()), "save_step")


def ranks_see_different_listings(lab: Lab) -> None:
    first, second, _ = steps(lab)
    ready, folder = Undisturbed.of(lab), place(lab)
    ready.events("two")
    names = [sorted(os.listdir(ready.folder / name)) for name in ("one", "two")]
    one, two = f"step {first}", f"steps {first} and {second}"
    # saved, the names that one rank doesn't see, what the other one sees, what that rank sees
    cases = {
        "two": (two, sorted(set(names[1]) - set(names[0])), f"step {second}", one),
        "one": (one, names[0], one, "nothing"),
    }
    points = []
    for like, (_, hidden, *_) in cases.items():
        for rank in (0, 1):
            copied(ready.folder / like, folder / f"{like}-{rank}")
            stale = {"rank": rank, "hidden": hidden}
            points.append({"name": f"{like}-{rank}", "ops": LOADS, "stale": stale})
    seen = loads(lab, points, folder)
    for like, rank in itertools.product(cases, (0, 1)):
        point = seen[f"{like}-{rank}"]
        saved, _, newest, before = cases[like]
        rows = [
            ("saved", saved),
            (
                "but",
                f"rank {rank} doesn't see the new names in `directory` yet, as on a node "
                "whose file system lags (it can open them)",
            ),
        ]
        means = (
            "ranks that choose for themselves resume from different steps, or wait for each other "
            "forever"
        )
        allowed = (newest,) if rank else (before, newest)  # what rank 0 sees counts at least
        agrees(
            point,
            allowed,
            rows,
            means,
            "which rank decides which checkpoint it is, and how do the others find out?",
        )
