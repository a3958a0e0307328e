"""Task 4.1: makes directories of checkpoints, asks `newest_intact` in the student's process, and
judges its answers.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from random import Random

from grader.checks.ex04.newest_intact_cases import CASES
from grader.checks.ex04.outcomes import outcome
from grader.checks.ex04.scenes import ERROR, RAISES, Scene
from grader.checks.questions import Answer, ask, cwd_changed
from grader.harness import scratch
from grader.harness.lab import Lab
from grader.verdicts import Finding, Found

LARGEST = 1 << 24


@dataclass
class Asked:
    scene: Scene
    directory: Path
    before: dict[str, tuple[object, ...]]  # what lies in its parent, where the function is called
    after: dict[str, tuple[object, ...]] | None = None


def right(lab: Lab, case: str, think: str) -> None:
    """Judge the answers to one case's scenes. All cases are asked in one life, once a grading."""
    cases, answers = lab.once(("ex04.1",), _ask)
    order, answer = answers[case]
    said = dict(
        zip(
            order,
            answer.given(think, ("directory", cases[case][0].scene.what))["said"],
            strict=False,
        )
    )
    for n, asked in enumerate(cases[case]):
        _judge(asked, said[n], think)


def _ask(lab: Lab) -> tuple[dict[str, list[Asked]], dict[str, tuple[list[int], Answer]]]:
    """The scenes of each case; in which order they were asked for, and the answer."""
    draw, top = lab.shared, lab.bench.folder() / "checkpoints"
    top.mkdir()
    cases = {
        name: [_make(scene, top, draw) for scene in case(draw)] for name, case in CASES.items()
    }
    names = draw.sample(sorted(cases), len(cases))
    orders = [draw.sample(range(len(cases[name])), len(cases[name])) for name in names]
    questions = [
        {"ask": "newest", "directories": [_given(cases[name][n]) for n in order]}
        for name, order in zip(names, orders, strict=True)
    ]
    answers = ask(lab, "ex04/function_cases.py", questions, directory=top)
    for case in cases.values():
        for asked in case:
            asked.after = _listing(asked.directory.parent)
    return cases, dict(zip(names, zip(orders, answers, strict=True), strict=True))


def _make(scene: Scene, top: Path, draw: Random) -> Asked:
    directory = top / f"{draw.getrandbits(32):08x}" / scene.called
    directory.parent.mkdir()
    if not scene.missing:
        directory.mkdir()
    scene.build(directory, draw)
    return Asked(scene, directory, _listing(directory.parent))


def _given(asked: Asked) -> dict[str, object]:
    where, scene = asked.directory, asked.scene
    return {
        "cwd": str(where.parent),
        "path": (where.name if scene.relative else str(where)) + "/" * scene.slash,
        "finished": scene.finished,
        "spoiled": scene.spoiled,
        "unlisted": scene.unlisted,
        "unopened": scene.unopened,
    }


def _judge(asked: Asked, said: dict, think: str) -> None:
    scene, what = asked.scene, ("directory", asked.scene.what)
    if said.get("moved"):
        raise cwd_changed("newest_intact", [what])
    found = _found(asked, said)
    if found != scene.want and not (scene.want == ERROR and "raised" in said):
        want = {
            RAISES: "NothingIntact is raised",
            ERROR: "the error is raised",
            None: "it returns None",
        }.get(scene.want, f"it returns the path of {scene.want} in there")
        chosen = (
            f"chose {ascii(found) if found != found.strip() else found}"
            if isinstance(found, str) and "returned" in said
            else outcome(said)
        )
        rows = [what, Found(f"newest_intact {chosen}"), ("expected", want)]
        silently = scene.want in (RAISES, ERROR) and found is None
        means = (
            "the run starts over at step 0, and its next saves overwrite files that you could have "
            "rescued"
        )
        raise Finding("wrong-newest", rows, means=means if silently else "", think=think)
    if asked.after != asked.before and not (scene.finished or scene.spoiled):
        rows = [
            what,
            Found(f"newest_intact changed {_changed(asked)}"),
            ("expected", "it only reads"),
        ]
        think = "what does your function write, remove or touch, and who else needs it?"
        raise Finding("wrong-newest", rows, think=think)


def _changed(asked: Asked) -> str:
    before, after = asked.before, asked.after or {}
    if came_or_went := sorted(before.keys() ^ after.keys()):
        path = came_or_went[0]
        return f"{path}: it {'is new' if path in after else 'is gone'}"
    return next(p for p in sorted(before) if before[p] != after[p])


def _found(asked: Asked, said: dict) -> object:
    """The name of the folder that it returned, None, or the exception's type."""
    if "raised" in said:
        return said["raised"]["type"] if isinstance(said["raised"], dict) else "an error"
    value = said.get("returned", {})
    if not isinstance(value, str):
        return value
    path = os.path.normpath(os.path.join(asked.directory.parent, value))
    folder, name = os.path.split(path)
    return (
        name
        if os.path.realpath(folder) == os.path.realpath(asked.directory)
        else {"elsewhere": path}
    )


def _listing(directory: Path) -> dict[str, tuple[object, ...]]:
    """Path -> what lies there, its mode and its date; no link is followed."""
    found = {".": _described(directory)}
    for folder, folders, files in os.walk(directory):
        for name in [*folders, *files]:
            path = Path(folder, name)
            found[str(path.relative_to(directory))] = _described(path)
    return found


def _described(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    if path.is_symlink():
        return (os.readlink(path),)
    content: object = None
    if not path.is_dir():
        try:
            content = hashlib.sha256(scratch.read(path, LARGEST)).digest()
        except OSError as e:
            content = e.strerror
    return content, status.st_mode, status.st_mtime_ns
