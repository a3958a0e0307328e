"""ex02.5: files that are damaged: all ranks fall back together to an older checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from grader.checks.ex02.rank_assertions import (
    advising,
    agrees,
    goes_on,
    raises_what_it_says,
    works,
)
from grader.checks.ex02.rank_plan import copied, later_steps, loads, place, steps
from grader.checks.ex02.undisturbed_saves import GOES_ON, LOADS, Undisturbed, contents_of
from grader.checks.fault_points import selected
from grader.harness.lab import Lab
from grader.verdicts import Damaged, Finding, Found

HARMS = {
    "remove": ("deleted", os.remove),
    "truncate": ("cut in half", lambda path: os.truncate(path, os.path.getsize(path) // 2)),
    "garbage": (
        "overwritten with garbage",
        lambda path: Path(path).write_bytes(os.urandom(8) + b"\xff\xfe\x80" * 40),
    ),
    "empty": ("emptied", lambda path: os.truncate(path, 0)),
}


def damaged_for_one_rank(lab: Lab) -> None:
    first, second, third = steps(lab)
    ready, folder = Undisturbed.of(lab), place(lab)
    ready.events("two")
    written = ready.new("two", "one")
    if not written:
        raise Finding(
            "nothing-written",
            [
                ("saved", f"step {second}"),
                Found("no file in `directory` was written or changed"),
                ("expected", "a checkpoint"),
            ],
        )
    points: list[dict] = []
    harmed = {}
    for n, file in enumerate(written[:8]):
        for how in ("remove", "truncate", "empty" if n % 2 else "garbage"):
            (done, harm), name = HARMS[how], f"{how} {n}"
            harm(copied(ready.folder / "two", folder / name) / file)
            harmed[name] = f"{file}: {done}"
            points.append({"name": name, "ops": GOES_ON if how == "truncate" else LOADS})
    for file in contents_of(copied(ready.folder / "two", folder / "all")):
        HARMS["truncate"][1](folder / "all" / file)
    for rank in (0, 1):
        copied(ready.folder / "two", folder / f"refused {rank}")
        refused = {"rank": rank, "files": written}
        points.append({"name": f"refused {rank}", "ops": LOADS, "unreadable": refused})
        harmed[f"refused {rank}"] = f"every file of step {second}: rank {rank} can't open it"
    last_two = ready.new("three", "one")
    copied(ready.folder / "three", folder / "last two")
    for file in last_two:
        HARMS[lab.draw.choice(["truncate", "remove"])][1](folder / "last two" / file)
    seen = loads(
        lab, [*points, {"name": "all", "ops": LOADS}, {"name": "last two", "ops": GOES_ON}], folder
    )
    means = "one rank's part is missing, and the ranks don't skip that checkpoint together"
    think = "how does each rank find out that another rank's part is damaged?"
    for point in points:
        found = seen[point["name"]]
        rows = [("saved", f"steps {first} and {second}"), Damaged(harmed[point["name"]])]
        resumed = agrees(found, (f"step {first}", f"step {second}"), rows, means, think)
        if point["ops"] is GOES_ON:
            goes_on(found, resumed, rows)
    rows = [("saved", f"steps {first} and {second}"), Damaged("every file: cut in half")]
    agrees(
        seen["all"],
        ("an error",),
        rows,
        "the run starts over, and no log says that it ever got this far",
        "what is the difference between nothing saved and nothing intact?",
    )
    raises_what_it_says(seen["all"], rows)
    rows = [
        ("saved", f"steps {first}, {second} and {third}"),
        Damaged(f"every file of steps {second} and {third}"),
    ]
    resumed = agrees(
        seen["last two"],
        (f"step {first}",),
        rows,
        "an older checkpoint has changed since it was saved",
        "what does a save do to the checkpoints before the last one?",
    )
    goes_on(seen["last two"], resumed, rows)


def all_earlier_ones_stay(lab: Lab) -> None:
    """Of many checkpoints, only the oldest is intact, or only those of the first half: it is found,
    however many lie after it.
    """
    selected(lab, [])
    first, later = steps(lab)[0], later_steps(lab)
    half = later[len(later) // 2 - 1]
    ready, folder = Undisturbed.of(lab), place(lab)
    works(ready.seen["run"])
    points = {"one": first, "half": half}
    for name in points:
        copied(ready.folder / "many", folder / name)
        for file in ready.new("many", name):
            HARMS["truncate"][1](folder / name / file)
    seen = loads(lab, [{"name": name, "ops": GOES_ON} for name in points], folder)
    for name, step in points.items():
        there = contents_of(ready.folder / "many")
        gone = [file for file in contents_of(ready.folder / name) if file not in there]
        rows = [
            ("saved", f"{len(later) + 3} checkpoints: steps {first} to {later[-1]}"),
            Damaged(f"every file that was written after the save of step {step}"),
        ]
        if gone:
            rows.append(("deleted", f"by later saves: {', '.join(gone[:3])}"))
        means, think = (
            "a checkpoint that is deleted, changed or never tried costs weeks of training",
            "what does a save do to older checkpoints, and how many does resume try?",
        )
        with advising(means, think):
            resumed = agrees(seen[name], (f"step {step}",), rows, means, think)
        goes_on(seen[name], resumed, rows)
