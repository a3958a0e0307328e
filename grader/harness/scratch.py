"""The folder in which a grading works, and how to read files in it that student code can reach.

The folder has a short path and can be deleted whatever the student's code has done to it. A file in
it may have become anything: a link, a pipe, a directory.
"""

from __future__ import annotations

import math
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from grader.errors import UsageError

# A socket's path has at most 104 characters. Lives make sockets about 30 characters below their
# TMPDIR, which is 22 below this folder.
LONGEST = 36


REMOVERS = 16  # threads that delete at the same time

DEEPEST = 100  # levels of folders; Python's own functions recurse, and fail at some hundreds

CODE = "-code"  # ends the name of a folder with a copy of the submission, in "code"


def submitted(file: str) -> str | None:
    """The student's name for a file in a life's copy of the submission; None for any other file."""
    return file.partition(f"{CODE}/code/")[2] or None


def make() -> Path:
    """A new folder in TMPDIR, or in /tmp if that path is too long for sockets."""
    tried = []
    for parent in dict.fromkeys(
        os.path.realpath(p) for p in (os.environ.get("TMPDIR", "/tmp"), "/tmp", "/var/tmp")
    ):
        if len(os.fsencode(parent)) > LONGEST:
            tried.append(f"{parent} is longer than {LONGEST} characters")
            continue
        try:
            return Path(tempfile.mkdtemp(prefix="g-", dir=parent))
        except OSError as e:
            tried.append(f"{parent}: {e.strerror}")
    raise UsageError(
        "no temporary directory to work in; set TMPDIR to one with a short path "
        f"({'; '.join(tried)})"
    )


def remove(folder: Path) -> None:
    """Delete `folder`, even if locked or nested too deeply for Python; of a link, only the link."""
    if folder.is_symlink():
        return folder.unlink(missing_ok=True)
    with suppress(OSError, RecursionError):
        _remove_in_parallel(folder)
    if os.path.lexists(folder):
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run(
                [*command, str(folder)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
    return None


def _remove_in_parallel(folder: Path) -> None:
    """Delete what is in `folder`, several folders at a time.

    To delete a file that was synced takes a disk some milliseconds, in which others can be deleted.
    A grading leaves thousands.
    """
    inside = [e.path for e in os.scandir(folder) if e.is_dir(follow_symlinks=False)]
    # RuntimeError: the interpreter is exiting and starts no threads any more
    with suppress(RuntimeError), ThreadPoolExecutor(REMOVERS) as pool:
        list(pool.map(partial(shutil.rmtree, ignore_errors=True), inside))
    shutil.rmtree(folder)


def link_out_of(folder: Path) -> Path | None:
    """A symbolic link somewhere below `folder` that leads out of it; None if there is none."""
    top = os.path.realpath(folder)
    for entry in _below(top):
        if entry.is_symlink() and not _leads_into(entry.path, top):
            return Path(entry.path)
    return None


def size_to_copy(folder: Path) -> float:
    """Bytes that a copy of `folder` takes: holes in its files become zeros.

    Infinite if its folders are nested so deeply that nobody could walk through them.
    """
    top, sizes = os.path.realpath(folder), {}
    for entry in _below(top):
        if entry.path.count(os.sep) - top.count(os.sep) > DEEPEST:
            return math.inf
        with suppress(OSError):
            st = entry.stat(follow_symlinks=False)
            sizes[st.st_dev, st.st_ino] = st.st_size if stat.S_ISREG(st.st_mode) else 0
    return sum(sizes.values())


def _below(top: str) -> Iterator[os.DirEntry[str]]:
    """Everything below `top`, no link followed. Unlike os.walk, at any depth."""
    todo = [top]
    while todo:
        with suppress(OSError), os.scandir(todo.pop()) as found:
            for entry in found:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)


def _leads_into(link: str, folder: str) -> bool:
    try:
        return f"{os.path.realpath(link)}/".startswith(f"{folder}/")
    except OSError:
        return False


def read(path: Path, most: int, tail: bool = False, start: int = 0) -> bytes:
    """At most `most` bytes of a regular file from byte `start` on, the last ones if `tail`.

    Raises OSError for anything else: it follows no link and waits for no pipe or device.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as f:
        found = os.fstat(f.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path.name} is no longer a file")
        f.seek(max(0, found.st_size - most) if tail else start)
        return f.read(most)
