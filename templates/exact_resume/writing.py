"""Files written durably, one after another, each synced beside the writing of the next."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from io import FileIO
from pathlib import Path

from .digest import CHUNK, _FileDigest, _Part
from .durable import _fsync, _write_all

_syncers = ThreadPoolExecutor(4, "sync")  # a file system commits several syncs at once


def _new_syncers() -> None:
    global _syncers
    _syncers = ThreadPoolExecutor(4, "sync")


os.register_at_fork(after_in_child=_new_syncers)  # threads don't survive a fork


def _write_files(folder: Path, files: Mapping[str, Iterable[_Part]]) -> dict[str, str]:
    """Write new files into `folder`; return their digests when all are on the disk."""
    digests: dict[str, _FileDigest] = {}
    syncing: list[Future[None]] = []
    opened: list[FileIO] = []
    try:
        for name, parts in files.items():
            f = open(folder / name, "xb", buffering=0)
            opened.append(f)
            digest = digests[name] = _FileDigest()
            unsynced = 0
            for part, owner in parts:
                digest.update(part, owner)
                _write_all(f, part)
                unsynced += len(part)
                # the disk starts on the first bytes instead of waiting for the last
                if unsynced >= 4 * CHUNK and all(s.done() for s in syncing):
                    syncing.append(_syncers.submit(_fsync, f.fileno()))
                    unsynced = 0
            syncing.append(_syncers.submit(_fsync, f.fileno()))
        for s in syncing:
            s.result()  # a disk error is reported only once: a later fsync would succeed
        return {name: digest.digest().hex() for name, digest in digests.items()}
    finally:
        wait(syncing)
        for f in opened:
            f.close()
