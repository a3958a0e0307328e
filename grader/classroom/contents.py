"""Finds the exercises in what a student handed in, and reads their files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from grader.classroom import archives
from grader.classroom.archives import Unreadable
from grader.classroom.handed_in import JUNK, HandedIn
from grader.course import submissions
from grader.course.catalog import Exercise
from grader.errors import UsageError

DEEPEST, MOST_FOLDERS = 8, 5000  # of the search
# folders of the course that hold other people's versions of the files
COURSE_ITSELF = {"solution", "grader", "templates", "docs", "given"}


@dataclass
class Contents:
    """A student's exercises: their files, or why they can't be graded."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # exercise -> path -> bytes
    problems: dict[str, str] = field(default_factory=dict)  # exercise -> why not
    notes: list[str] = field(default_factory=list)

    def digest(self, exercise: str) -> str:
        """Of the exercise's files, names included."""
        return digest(self.files[exercise])


def digest(files: dict[str, bytes]) -> str:
    total = sha256()
    for name, data in sorted(files.items()):
        total.update(f"{len(name.encode())} {name} {len(data)} ".encode() + data)
    return total.hexdigest()


def read(one: HandedIn, exercises: Iterable[Exercise], scratch: Path) -> Contents:
    """Read the exercises' files; a student's own archives are unpacked below `scratch`."""
    found = Contents(notes=list(one.notes))
    wanted = list(exercises)
    _read_folders(one.folders, wanted, found)
    _read_files(one.files, wanted, found)
    if not found.files and not found.problems:
        folders = list(_unpack_inner(one, scratch, found))
        _read_folders(folders, wanted, found)
    return found


def _read_folders(folders: list[Path], wanted: list[Exercise], found: Contents) -> None:
    for exercise in wanted:
        places = [place for folder in folders for place in _places(folder, exercise)]
        if not places:
            continue
        best = min(rank for rank, _, _ in places)
        those = [(folder, module) for rank, folder, module in places if rank == best]
        try:
            versions = {
                digest(files): files
                for folder, module in those
                if (files := _named(submissions.snapshot(folder), module, exercise.module))
            }
        except UsageError as e:
            found.problems[exercise.id] = str(e)
            continue
        if len(versions) == 1:
            (found.files[exercise.id],) = versions.values()
        elif versions:
            where = ", ".join(
                os.path.relpath(folder / module, folders[0]) for folder, module in those
            )
            found.problems[exercise.id] = f"several files could be its {exercise.module}: {where}"


def _places(root: Path, exercise: Exercise) -> Iterator[tuple[int, Path, str]]:
    """(rank, folder, the module's name there) for each folder that may be the submission.

    The lower the rank, the surer: a starter folder of the exercise, its own folder, the root, any
    other one. A file with a copy's name, "checkpointing (1).py", comes after all of them.
    """
    copy = _copy_of(exercise.module)
    for folder, names in _walk(root):
        parts = folder.relative_to(root).parts
        if exercise.module in names:
            module, rank = exercise.module, 0
        elif len(copies := [name for name in names if copy.fullmatch(name)]) == 1:
            module, rank = copies[0], 10
        else:
            continue
        if not parts:
            rank += 2
        elif parts[-1] == "starter" and parts[-2:-1] in (
            (exercise.folder.name,),
            (exercise.id,),
            (),
        ):
            rank += 0
        elif parts[-1] in (exercise.folder.name, exercise.id):
            rank += 1
        else:
            rank += 3
        yield rank, folder, module


def _copy_of(module: str) -> re.Pattern[str]:
    """The names under which browsers and course systems save it when it comes a second time."""
    stem, _, ending = module.rpartition(".")
    return re.compile(rf"{re.escape(stem)}(?: ?\(\d+\)|-\d+|_\d+)\.{re.escape(ending)}", re.I)


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders and the names of their plain files, without links, junk and the course itself."""
    todo, seen = [(root, 0)], 0
    while todo:
        folder, depth = todo.pop()
        seen += 1
        names = []
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if JUNK.fullmatch(entry.name) or entry.is_symlink():
                continue
            if entry.is_file(follow_symlinks=False):
                names.append(entry.name)
            elif (
                entry.is_dir(follow_symlinks=False)
                and depth < DEEPEST
                and seen + len(todo) < MOST_FOLDERS
                and entry.name not in COURSE_ITSELF
            ):
                todo.append((folder / entry.name, depth + 1))
        yield folder, names


def _named(files: dict[str, bytes], module: str, wanted: str) -> dict[str, bytes]:
    """The files with the module under its right name; none if it can't be read."""
    if module not in files:
        return {}
    # nbgrader's note of the time: the same files handed in again are the same submission
    return {
        wanted if name == module else name: data
        for name, data in files.items()
        if name != "timestamp.txt"
    }


def _read_files(files: dict[str, Path], wanted: list[Exercise], found: Contents) -> None:
    """Files that were handed in singly: all that there are belong to each exercise."""
    read_files = {name: path.read_bytes()[: submissions.MAX_FILE] for name, path in files.items()}
    for exercise in wanted:
        if exercise.id in found.files or exercise.id in found.problems:
            continue
        copy = _copy_of(exercise.module)
        names = [exercise.module] if exercise.module in files else []
        names = names or sorted(name for name in files if copy.fullmatch(name))
        if names:  # the last one of several uploads
            found.files[exercise.id] = _named(read_files, names[-1], exercise.module)


def _unpack_inner(one: HandedIn, scratch: Path, found: Contents) -> Iterator[Path]:
    """A student's only file is often an archive of all."""
    inner = [
        folder / name
        for top in one.folders
        for folder, names in _walk(top)
        for name in names
        if archives.is_archive(name)
    ]
    for number, archive in enumerate(inner[:10]):
        target = scratch / f"{one.id}-{number}"
        target.mkdir()
        try:
            found.notes += archives.unpack(archive, target)
            yield target
        except Unreadable as e:
            found.notes.append(f"{archive.name}: {e}")
