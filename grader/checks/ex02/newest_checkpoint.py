"""ex02.5: all ranks resume from the newest checkpoint, whatever else is in the directory."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from grader.checks.ex02.rank_assertions import AFTER_GOOD, advising, agrees, goes_on, works
from grader.checks.ex02.rank_plan import LARGE, copied, loads, place, steps
from grader.checks.ex02.undisturbed_saves import (
    GOES_ON,
    LOADS,
    MOST_BYTES,
    ODD,
    Undisturbed,
    contents_of,
    paths_below,
)
from grader.harness import scratch
from grader.harness.inside.fsevents import FROM_OUTSIDE
from grader.harness.lab import Lab
from grader.verdicts import Finding, Found

RELATIVE = (
    "a job that is started with a relative path stops saving, or saves elsewhere",
    "a relative path begins at the working directory. Does your code leave that as it is?",
)


def newest_on_every_rank(lab: Lab) -> None:
    first, second, third = steps(lab)
    ready, folder = Undisturbed.of(lab), place(lab)
    for one in ready.seen.values():
        works(one)
    two = f"steps {first} and {second}"
    asked = {  # name -> (whose directory, what is done to it, what all ranks must find, rows)
        "one": ("one", None, f"step {first}", [("saved", f"step {first}")]),
        "two": ("two", None, f"step {second}", [("saved", two)]),
        "three": ("three", None, f"step {third}", [("saved", f"{two}, then {third}")]),
        "again": (
            "again",
            None,
            f"step {second}, saved again",
            [("saved", f"{two}, then {second} again, with other values")],
        ),
        "often": (
            "often",
            None,
            f"step {second}, saved again",
            [("saved", f"{two}, then {second} three times more, with other values")],
        ),
        "zero": ("zero", None, "step 0", [("saved", "step 0, before any training")]),
        "large": (
            "large",
            None,
            f"step {LARGE + 1}",
            [("saved", f"steps {LARGE} and {LARGE + 1}")],
        ),
        "odd": (
            f"odd/{ODD}",
            None,
            f"step {second}",
            [("saved", two), ("but", f"the directory is called '{ODD}'")],
        ),
        "relative": (
            "two",
            None,
            f"step {second}",
            [("saved", two), ("but", "`directory` is a relative path, 'relative'")],
        ),
        "dates": (
            "two",
            older_look_newer,
            f"step {second}",
            [
                ("saved", two),
                (
                    "but",
                    "the files' dates were changed, as a copy to another disk does: older "
                    "files look newer",
                ),
            ],
        ),
    }
    points = []
    for name, (whose, change, _, _) in asked.items():
        at = f"{name}/{ODD}" if name == "odd" else name
        copied(ready.folder / whose, folder / at)
        if change:
            change(folder / at)
        whole = name in ("two", "odd", "relative")
        ops = GOES_ON if whole else LOADS
        relative = "above" if name == "relative" else None
        points.append({"name": name, "at": at, "ops": ops, "relative": relative})
    (folder / "empty").mkdir()
    seen = loads(lab, [*points, {"name": "empty", "ops": GOES_ON}], folder)
    for name, (_, _, expected, rows) in asked.items():
        agrees(
            seen[name],
            (expected,),
            rows,
            "a resumed job isn't the job that was saved",
            "which parts of the job does each rank get back, and how do you choose the newest "
            "checkpoint?",
        )
        if name == "relative":
            with advising(*RELATIVE):
                goes_on(seen[name], expected, rows)
        elif name in ("two", "odd"):
            goes_on(seen[name], expected, rows, texts=AFTER_GOOD)
    rows = [("directory", "empty: nothing was ever saved")]
    agrees(
        seen["empty"],
        ("nothing",),
        rows,
        "a new job can't begin",
        "what does resume find in a new directory?",
    )
    goes_on(seen["empty"], "nothing", rows, texts=AFTER_GOOD)


def older_look_newer(folder: Path) -> None:
    """Every name's date is earlier, the later the step in it."""
    for depth, path in enumerate(
        sorted(paths_below(folder), key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])
    ):
        os.utime(path, (10**9 - 100 * depth,) * 2, follow_symlinks=False)


def others_files(lab: Lab) -> None:
    """Names that only look like the submission's own aren't read, counted or deleted."""
    first, second, _ = steps(lab)
    ready, folder = Undisturbed.of(lab), place(lab)
    works(ready.seen["run"])
    for name in ("two", "one"):
        copied(ready.folder / name, folder / name)
    copied(ready.folder / "two", folder / "torn")
    for file in ready.new("two", "one"):
        os.truncate(folder / "torn" / file, (folder / "torn" / file).stat().st_size // 2)
    (folder / "empty").mkdir()
    own = sorted(p.name for p in (ready.folder / "one").iterdir())
    put = {
        name: look_alikes(ready.folder / "one", own, first, folder / name)
        for name in ("two", "empty")
    }
    for name in put:
        put[name] += unfinished_look_alikes(ready.events("two"), second, folder / name)
    for name in ("one", "torn"):
        for at in [p for p in paths_below(folder / name) if p.is_dir() and not p.is_symlink()]:
            (at / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
            (at / ".nfs000000000a0b1c2d").write_bytes(b"held open by another node")
    before = {
        name: {
            path: content for path, content in contents_of(folder / name).items() if path in files
        }
        for name, files in put.items()
    }
    two, one = f"steps {first} and {second}", f"step {first}"
    torn = f"{two}; then each file of step {second} was cut in half"
    # what was saved, and what counts
    cases = {
        "two": (two, f"step {second}"),
        "one": (one, one),
        "torn": (torn, one),
        "empty": ("nothing", "nothing"),
    }
    seen = loads(lab, [{"name": name, "ops": GOES_ON} for name in cases], folder)
    for name, (saved, expected) in cases.items():
        point = seen[name]
        beside = (
            ", ".join(sorted({p.partition("/")[0] for p in put.get(name, [])}))
            or ".DS_Store and .nfs... in each folder"
        )
        rows = [
            ("saved", saved),
            ("but", f"the directory also holds what others put there: {beside}"),
        ]
        agrees(
            point,
            (expected,),
            rows,
            "a file that isn't yours decides what the job resumes from",
            "how do you recognize your own files?",
        )
        goes_on(
            point,
            expected,
            rows,
            texts=(
                "a file that isn't yours decides what the job resumes from",
                "how do you recognize your own files?",
            ),
        )
        for path, content in before.get(name, {}).items():
            now = folder / name / path
            if now.is_symlink() or not now.is_file() or scratch.read(now, MOST_BYTES) != content:
                gone = "is gone" if not now.exists() else "isn't what it was"
                raise Finding(
                    "foreign-files",
                    [
                        *rows,
                        Found(f"after the next save, {path} {gone}"),
                        ("expected", "what others put there stays as it is"),
                    ],
                    think="which files are yours, and how do you tell?",
                )


def look_alikes(origin: Path, own: list[str], step: int, folder: Path) -> list[str]:
    """Copies of a checkpoint's files and folders, under names that resemble theirs; the copies'
    paths.
    """
    before = set(contents_of(folder))
    for name in own:
        later = re.sub(str(step), str(step + 1000), name)
        final = re.sub(r"\d+", "final", name, count=1)
        names = [f"{name}.bak", f"{later}.old", f"{later} (copy)", f"copy of {later}"]
        for other in [*names, final if final != name else f"{name}_final"]:
            if os.path.lexists(folder / other):
                continue
            if (origin / name).is_dir() and not (origin / name).is_symlink():
                copied(origin / name, folder / other)
            else:
                shutil.copyfile(origin / name, folder / other, follow_symlinks=False)
    (folder / "notes.tmp").write_bytes(b"mine")
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / "a.log").write_bytes(b"step 99999")
    return [path for path in contents_of(folder) if path not in before]


def unfinished_look_alikes(events: list[list[str]], step: int, folder: Path) -> list[str]:
    """Put names that resemble those that a save of this step uses only while it writes: with a
    word where its step is. Returns the files' paths."""
    put = []
    for event in dict.fromkeys(event for of_rank in events for event in of_rank):
        path = re.sub(r"^(torch\.save )?\w+ ", "", event.removesuffix(FROM_OUTSIDE))
        name, below, _ = path.partition("/")
        other = re.sub(rf"(?<!\d)0*{step}(?!\d)", "final", name)
        at = folder / other / "notes" if below else folder / other
        if other == name or os.path.lexists(folder / other):
            continue
        at.parent.mkdir(exist_ok=True)
        at.write_bytes(b"mine")
        put.append(str(at.relative_to(folder)))
    return put
