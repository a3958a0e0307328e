"""Writes and syncs: what must reach the disk, does."""

from __future__ import annotations

import errno
import os
import sys
from io import FileIO
from pathlib import Path

from .interfaces import AnyPath
from .optional import fcntl


def _write_all(f: FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[f.write(view) :]  # a write may be short


def _fsync(fd: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # macOS: fsync leaves the bytes in the drive's cache
    else:
        os.fsync(fd)


def _fsync_path(path: AnyPath) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        _fsync(fd)
    except OSError as e:
        if not (os.path.isdir(path) and e.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise  # some file systems can't sync a directory and don't need to
    finally:
        os.close(fd)


def _fsync_ancestors(path: Path) -> None:
    """Make the names on the way to `path` durable: programs that make folders rarely sync them."""
    device = path.stat().st_dev
    for parent in path.parents:
        try:
            if parent.stat().st_dev != device:
                return
            _fsync_path(parent)
        except OSError as e:
            if e.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            return  # above, nothing is ours
