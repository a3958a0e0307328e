"""Submissions: what students hand in, read once, before anything of it runs."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from grader.course.catalog import ROOT, Exercise
from grader.errors import UsageError

MAX_FILE, MAX_TOTAL, MAX_FILES = 4 << 20, 32 << 20, 1000
MAX_ENTRIES, MAX_DEPTH = 10_000, 20  # of the walk, whatever is read


class Submission:
    """What is graded: the files of one folder, as they were when grading began.

    Lives run copies, so nothing that they do reaches the student's own files.
    """

    def __init__(
        self,
        folder: Path,
        module: str,
        files: dict[str, bytes] | None = None,
        *,
        shown: str = "",  # its path in messages, where that isn't `folder`
    ):
        self.folder, self.module = folder, module
        self.files = snapshot(folder) if files is None else files
        self.shown = shown or str(folder)
        self.key = str(folder)

    @property
    def slug(self) -> str:
        """A name for its logs: readable, and different for every folder."""
        path = os.path.abspath(self.folder)
        if os.path.dirname(os.path.dirname(path)) == str(ROOT):
            return os.path.basename(path)  # starter or solution
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path).strip("-.")[-60:]
        return f"{name}-{hashlib.sha256(path.encode()).hexdigest()[:6]}"

    @property
    def problem(self) -> str:
        """Why it can't be run at all; empty if it can."""
        if self.module in self.files:
            return ""
        path, shown = self.folder / self.module, f"{self.shown}/{self.module}"
        if path.is_symlink():
            return f"{shown} is a symbolic link; a submission is plain files"
        if path.is_dir():
            return f"{shown} is a directory, but should be a file"
        if not path.exists():
            return f"there is no {self.module} in {self.shown}"
        if path.is_file() and path.stat().st_size > MAX_FILE:
            return f"{shown} is larger than {MAX_FILE >> 20} MiB; a submission is source code"
        return f"{shown} can't be read"

    def copy_to(self, target: Path) -> Path:
        for name, data in self.files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(data)
        return target


def snapshot(folder: Path) -> dict[str, bytes]:
    """The plain files below `folder`. No link is followed, not even one that replaces a folder
    during the copy.
    """
    files: dict[str, bytes] = {}
    total = seen = 0
    todo = [("", 0)]
    while todo:
        inside, depth = todo.pop()
        try:
            here = _open_folder(folder, inside)
        except OSError:
            continue  # gone, or not ours to read
        try:
            for name in sorted(os.listdir(here)):
                seen += 1
                if seen > MAX_ENTRIES or depth > MAX_DEPTH:
                    raise UsageError(
                        f"{folder} holds too many files and folders, or nests them too deep; a "
                        "submission is source code"
                    )
                if _skipped(name):
                    continue
                path = f"{inside}/{name}" if inside else name
                mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    todo.append((path, depth + 1))
                elif stat.S_ISREG(mode) and (data := _file(name, here)) is not None:
                    total += len(data)
                    if total > MAX_TOTAL or len(files) >= MAX_FILES:
                        raise UsageError(
                            f"{folder} holds more than {MAX_FILES} files or {MAX_TOTAL >> 20} "
                            "MiB; a submission is source code"
                        )
                    files[path] = data
        except OSError:
            continue
        finally:
            os.close(here)
    return dict(sorted(files.items()))


def _open_folder(folder: Path, inside: str) -> int:
    """A descriptor of the folder at `inside` below `folder`, reached without any link below
    `folder`.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    for name in inside.split("/") if inside else []:
        try:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _file(name: str, folder: int) -> bytes | None:
    """The bytes of a plain file; None if it's gone, not ours to read, or too large to be source
    code.
    """
    try:
        with open(
            os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=folder), "rb"
        ) as f:
            data = f.read(MAX_FILE + 1)
    except OSError:
        return None
    return data if len(data) <= MAX_FILE else None


def _skipped(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def submission(exercise: Exercise, where: Path | None, solution: bool = False) -> Submission:
    """The submission of one exercise: in the course itself, or in the directory `where`.

    `where` is laid out like starter/, or holds such directories, named ex01... or like the
    exercises.
    """
    if solution:
        if not exercise.solution.is_dir():
            raise UsageError(f"this checkout has no solutions: {exercise.solution} is missing")
        return Submission(exercise.solution, exercise.module)
    if where is None:
        return Submission(_no_link(exercise.starter), exercise.module)
    if not where.is_dir():
        raise UsageError(f"no such submission directory: {where}")
    for name in (exercise.folder.name, exercise.id):
        inner = where / name
        if inner.is_dir():
            inside = _no_link(_no_link(inner) / "starter")
            return Submission(
                _no_link(where) / name / ("starter" if inside.is_dir() else ""), exercise.module
            )
    return Submission(_no_link(where), exercise.module)


def _no_link(folder: Path) -> Path:
    """The folder, if it isn't a link: a link may lead to another student's work, or to the
    solution.
    """
    if folder.is_symlink():
        raise UsageError(f"{folder} is a symbolic link; a submission is a folder of plain files")
    return folder
