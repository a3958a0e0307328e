"""A disk that refuses: files that can't be opened for reading, folders that can't be listed."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LISTS = ("os.listdir", "os.scandir")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

_refused: dict[str, int] = {}  # path -> errno
_lists: dict[str, int] = {}
_installed = False


@contextmanager
def refusing(files: list[str], folders: list[str], number: int = errno.EIO) -> Iterator[None]:
    """Opening one of these files to read it, or listing one of these folders, gives this error."""
    _install()
    _refused.update(dict.fromkeys(map(os.path.realpath, files), number))
    _lists.update(dict.fromkeys(map(os.path.realpath, folders), number))
    try:
        yield
    finally:
        _refused.clear()
        _lists.clear()


def _install() -> None:
    global _installed
    if _installed:
        return
    _installed = True
    sys.addaudithook(_audit)
    access = os.access
    os.access = lambda path, *args, **more: not _of(path, _refused) and access(path, *args, **more)


def _audit(event: str, args: tuple) -> None:
    if event in LISTS:
        _refuse(args[0] or ".", _lists)
    elif event == "open" and not (args[2] or 0) & WRITES:
        _refuse(args[0], _refused)


def _refuse(path: object, which: dict[str, int]) -> None:
    if number := _of(path, which):
        raise OSError(number, os.strerror(number), path)


def _of(path: object, which: dict[str, int]) -> int | None:
    if not which or not isinstance(path, (str, bytes, os.PathLike)):
        return None
    return which.get(os.path.realpath(os.fsdecode(path)))
