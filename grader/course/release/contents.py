"""What a hand-out holds: a list of what goes in, less what would give an answer away."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from grader.course import starters
from grader.course.catalog import Exercise
from grader.course.release import pages
from grader.errors import UsageError

TOP = {
    *("README.md", "SECURITY.md", "CITATION.cff", "LICENSE"),
    *("Makefile", "pyproject.toml", ".gitignore"),
}
FOLDERS = {"docs", "grader", "templates"}  # and those of the exercises
LEFT_OUT = re.compile(
    r"""
    ex\d\d-[^/]+/ ( solution/ | notebook\.py$ )
    | ex\d\d-[^/]+/ starter   # students get it as it was handed out, not as it is now
    | grader/ ( tests | bench | audit/trainers ) /
    | grader/mutants/ ( README\.md$ | ex\d\d/ )
    | grader/course/release/shown\.txt$
    | docs/ ( handing-out | instructors | style | trainers ) \.md$
    """,
    re.VERBOSE,
)
# grader/checks/ex04 imports it, and `grade` imports that for any exercise
NEEDED_BY_ALL = "ex04"


@dataclass(frozen=True)
class Content:
    """A file of a hand-out.

    source   what it was made from, if that is something else
    """

    data: bytes
    executable: bool = False
    source: bytes | None = None


def contents(root: Path, chosen: list[Exercise], hints: bool = True) -> dict[str, Content]:
    """Name -> content of every file of the hand-out, in order."""
    found = {}
    for name in sorted(_files(root, chosen)):
        path = root / name
        if path.is_file() and not path.is_symlink():
            found[name] = Content(path.read_bytes(), bool(path.stat().st_mode & 0o100))
    if not any(b"grader.given" in found[name].data for name in found if _is_workload(name)):
        found = {n: c for n, c in found.items() if not n.startswith("grader/given/")}
    for exercise in chosen:
        starter = starters.handed_out(exercise)
        if exercise.module not in starter:
            raise UsageError(
                f"{exercise.id} has no starter in {exercise.handed_out}; grade dev derive writes it"
            )
        for file, data in starter.items():
            found[f"{exercise.folder.name}/starter/{file}"] = Content(data)
    return {name: _adapted(name, found, hints) for name in sorted(found)}


def _adapted(name: str, found: dict[str, Content], hints: bool) -> Content:
    content = found[name]
    if name.endswith(".md"):
        data = pages.page(name, content.data.decode(), found.keys()).encode()
    elif name.endswith(".ipynb"):
        data = pages.notebook(content.data)
    elif name.endswith("/exercise.toml") and not hints:
        data = pages.without_hints(content.data.decode()).encode()
    else:
        return content
    return Content(data, content.executable, source=content.data)


def _files(root: Path, chosen: list[Exercise]) -> Iterator[str]:
    folders = FOLDERS | {exercise.folder.name for exercise in chosen}
    kept = {exercise.id for exercise in chosen}
    for name in _tracked(root) or _present(root, folders):
        top = name.partition("/")[0]
        if name not in TOP and top not in folders:
            continue
        part_of = re.match(r"grader/(?:course/handed_out|workload)/(ex\d\d)/", name)
        needed = kept | {NEEDED_BY_ALL} if _is_workload(name) else kept
        if part_of and part_of[1] not in needed:
            continue
        if not LEFT_OUT.match(name):
            yield name


def _is_workload(name: str) -> bool:
    return name.startswith("grader/workload/")


def _tracked(root: Path) -> list[str]:
    """The files that git tracks, so that nothing an instructor keeps here goes along. Empty
    without git.
    """
    if not (root / ".git").exists():
        return []
    try:
        done = subprocess.run(
            ["git", "-C", root, "ls-files", "-z"], capture_output=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [name for name in done.stdout.decode().split("\0") if name]


def _present(root: Path, folders: Iterable[str]) -> Iterator[str]:
    """The files of a copy without git, but for hidden ones and caches."""
    yield from (name for name in TOP if (root / name).exists())
    for folder in folders:
        for path in (root / folder).rglob("*"):
            name = path.relative_to(root)
            if path.is_file() and not any(_is_cache(part) for part in name.parts):
                yield name.as_posix()


def _is_cache(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__"
