"""The zip file that Gradescope builds an autograder from.

https://gradescope-autograders.readthedocs.io/en/latest/specs/: setup.sh and an executable
run_autograder at the zip file's root, all of which lands in /autograder/source. Limits:
https://gradescope-autograders.readthedocs.io/en/latest/troubleshooting/ (defaults: half a CPU, 768
MB, 10 minutes; at most 40 minutes).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from grader.course.catalog import Exercise
from grader.course.release.contents import Content, contents
from grader.exports.requirements import torch

PARTS = Path(__file__).parent / "autograder"
# of the hand-out: what grading needs
NEEDED = re.compile(r"grader/|ex\d\d-[^/]+/exercise\.toml$|pyproject\.toml$|README\.md$")
MOST_MINUTES = 40


def files(
    root: Path, chosen: list[Exercise], minutes: int, sandbox: str, visibility: str
) -> dict[str, Content]:
    """Name -> content of every file in the zip file."""
    names = [exercise.id for exercise in chosen]
    settings = {
        "exercises": names,
        "minutes": minutes,
        "sandbox": sandbox,
        "visibility": visibility,
    }
    values = {
        "@EXERCISES@": ", ".join(names),
        "@MINUTES@": str(minutes),
        "@POINTS@": str(sum(exercise.points for exercise in chosen)),
        "@TORCH@": torch(root),
    }
    found = {
        "README.md": _filled("README.md", values),
        "setup.sh": _filled("setup.sh", values, executable=True),
        "run_autograder": _filled("run_autograder.py", values, executable=True),
        "settings.json": Content((json.dumps(settings, indent=2) + "\n").encode()),
    }
    for name, content in contents(root, chosen, hints=False).items():
        if NEEDED.match(name):
            found[f"course/{name}"] = content
    return found


def _filled(name: str, values: dict[str, str], executable: bool = False) -> Content:
    text = (PARTS / name).read_text(encoding="utf-8")
    for mark, value in values.items():
        text = text.replace(mark, value)
    return Content(text.encode(), executable)
