"""Which folders a save syncs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

needs_proc = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="no /proc, which says what a descriptor is open on"
)


def record(monkeypatch) -> set[Path]:
    """What is synced from now on, as paths."""
    synced: set[Path] = set()
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.add(Path(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return synced
