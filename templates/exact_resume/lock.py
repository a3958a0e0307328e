"""The lock that keeps a second job out of a directory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from .interfaces import CheckpointError
from .optional import fcntl
from .reporting import _say

_locks: set[int] = set()  # descriptors; a child would hold the lock beyond this process's death


def _release() -> None:
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_release)


class _Lock:
    """It ends with the process.

    It is flock's, which doesn't end when the process closes another descriptor of the file (as a
    copy of the directory does).
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.fd: int | None = None
        self.missing = False  # the file system has none

    def take(self) -> bool:
        """False if another job holds it. OSError if the directory can't be made."""
        if self.fd is not None or self.missing or fcntl is None:
            return True
        path, fd = self.directory / "lock", None
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks only for writers
            except PermissionError:  # another user's
                fd = os.open(path, os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if fd is not None:
                os.close(fd)
            if e.errno in (errno.EACCES, errno.EAGAIN) and fd is not None:
                return False
            _say(f"{path}: no lock here ({e.strerror}): nothing keeps a second job away")
            self.missing = True
            return True
        self.fd = fd
        _locks.add(fd)
        return True

    def require(self) -> None:
        """Take it; CheckpointError if another job holds it."""
        if not self.take():
            raise CheckpointError(
                f"another job is writing into {self.directory}: end it or use another directory"
            )

    def release(self) -> None:
        if self.fd is not None:
            _locks.discard(self.fd)
            os.close(self.fd)
            self.fd = None
