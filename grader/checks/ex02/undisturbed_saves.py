"""Saves that nothing disturbs, and the directories that they leave."""

from __future__ import annotations

import os
from pathlib import Path

from grader.checks.ex02.rank_assertions import works
from grader.checks.ex02.rank_plan import LARGE, later_steps, place, saves, steps
from grader.harness import scratch
from grader.harness.lab import Lab

MOST_BYTES = 1 << 30  # of one file
# a directory's name, full of what globs, shells and a search for one's own names take for something
# else
ODD = "step-9 of run[1].tmp"

LOADS = [{"op": "load"}]
GOES_ON = [{"op": "load"}, {"op": "next"}, {"op": "load"}]


def save(step: int, **more) -> dict:
    return {"op": "save", "step": step} | more


class Undisturbed:
    """Saves that nothing disturbs, and the directories that they leave; made once for all checks.

    "one", "two" and "three" are the directory after each save of one run, "many" after all of them.
    """

    def __init__(self, lab: Lab):
        first, second, third = steps(lab)
        later = later_steps(lab)
        half = len(later) // 2
        points = {
            "run": [
                *(save(first), {"op": "copy", "to": "one"}),
                *(save(second), {"op": "copy", "to": "two"}),
                *(save(third), {"op": "copy", "to": "three"}),
                *(save(step) for step in later[:half]),
                {"op": "copy", "to": "half"},
                *(save(step) for step in later[half:]),
                {"op": "copy", "to": "many"},
            ],
            "again": [save(first), save(second), save(second, version=1)],
            "often": [save(first), *(save(second, version=n % 2) for n in range(4))],
            "zero": [save(0)],
            "large": [save(LARGE), save(LARGE + 1)],
            f"odd/{ODD}": [save(first), save(second)],
        }
        self.folder = place(lab)
        self.seen = saves(
            lab,
            [{"name": name, "ops": ops} for name, ops in points.items()],
            self.folder,
            judged=False,
        )

    @classmethod
    def of(cls, lab: Lab) -> Undisturbed:
        return lab.once(("rank points",), cls)

    def events(self, name: str) -> list[list[str]]:
        """For each rank, the file-system events of this directory's last save."""
        number = {"one": 0, "two": 1, "three": 2}.get(name, -1)
        seen = self.seen[name if number < 0 else "run"]
        works(seen)
        return [seen.all(rank, "saved point")[number]["events"] for rank in seen.ranks]

    def new(self, name: str, since: str) -> list[str]:
        """The files of this point's directory that are missing or different in the other one."""
        before = contents_of(self.folder / since)
        return [
            file
            for file, what in contents_of(self.folder / name).items()
            if before.get(file) != what
        ]


def contents_of(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> what the regular file holds. No link is followed."""
    found = {}
    for path in paths_below(folder):
        if path.is_file() and not path.is_symlink():
            found[str(path.relative_to(folder))] = scratch.read(path, MOST_BYTES)
    return found


def paths_below(folder: Path) -> list[Path]:
    """All names below the folder; links are names and aren't followed."""
    return sorted(
        Path(at, name) for at, folders, files in os.walk(folder) for name in folders + files
    )
