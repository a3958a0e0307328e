"""Files written durably, one after another, each synced beside the writing of the next."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from io import FileIO
from pathlib import Path

from .digest import CHUNK, _FileDigest, _Part
from .durable import _fsync, _fsync_path, _write_all
from .interfaces import AnyPath

_syncers = ThreadPoolExecutor(4, "sync")  # a file system commits several syncs at once


def _new_syncers() -> None:
    global _syncers
    _syncers = ThreadPoolExecutor(4, "sync")


os.register_at_fork(after_in_child=_new_syncers)  # threads don't survive a fork


class _Syncs:
    """Syncs in flight: nothing is durable before wait() has returned."""

    def __init__(self) -> None:
        self.running: list[Future[None]] = []
        self.files: list[FileIO] = []
        self.unsynced = 0  # bytes written since the last sync began

    def __enter__(self) -> _Syncs:
        return self

    def __exit__(self, *_: object) -> None:
        wait(self.running)
        for f in self.files:
            f.close()

    def open(self, path: AnyPath) -> FileIO:
        """A new file, open until all syncs have ended."""
        self.files.append(open(path, "xb", buffering=0))
        return self.files[-1]

    def write(self, f: FileIO, part: bytes | memoryview) -> None:
        """Write all of it. The disk starts on the first bytes instead of waiting for the last."""
        _write_all(f, part)
        self.unsynced += len(part)
        if self.unsynced >= 4 * CHUNK and all(sync.done() for sync in self.running):
            self.start(f)

    def start(self, f: FileIO) -> None:
        self.unsynced = 0
        self.running.append(_syncers.submit(_fsync, f.fileno()))

    def start_folder(self, folder: Path) -> None:
        """Sync the names in it."""
        self.running.append(_syncers.submit(_fsync_path, folder))

    def wait(self) -> None:
        for sync in self.running:
            sync.result()  # a disk error is reported only once: a later fsync would succeed


def _write_files(
    folder: Path, files: Mapping[str, Iterable[_Part]], syncs: _Syncs
) -> dict[str, str]:
    """Write new files into `folder` and start their syncs; return their digests."""
    digests: dict[str, _FileDigest] = {}
    for name, parts in files.items():
        f = syncs.open(folder / name)
        digest = digests[name] = _FileDigest()
        for part, owner in parts:
            digest.update(part, owner)
            syncs.write(f, part)
        syncs.start(f)
    return {name: digest.digest().hex() for name, digest in digests.items()}


def _write_durably(folder: Path, files: Mapping[str, Iterable[_Part]]) -> dict[str, str]:
    """Write new files into `folder`; return their digests when all are on the disk."""
    with _Syncs() as syncs:
        digests = _write_files(folder, files, syncs)
        syncs.wait()
    return digests
