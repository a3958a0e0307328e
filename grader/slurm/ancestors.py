"""Which job a process belongs to, by its ancestors, which no job can choose."""

from __future__ import annotations

import os
from contextlib import suppress

import psutil


def up_to(top: int | None, pid: int) -> list[int]:
    """The process and its ancestors below `top`, itself first; none if `top` isn't above it."""
    chain = []
    while pid != top:
        chain.append(pid)
        try:
            pid = psutil.Process(pid).ppid()
        except psutil.Error:
            return []
        if pid <= 1:
            return []
    return chain


def arguments(pid: int) -> list[str]:
    """Its command line; nothing if it's gone."""
    with suppress(psutil.Error):
        return psutil.Process(pid).cmdline()
    return []


def program(pid: int) -> str:
    """The name of the file that it runs; nothing if it's gone."""
    with suppress(psutil.Error):
        return os.path.basename(psutil.Process(pid).exe())
    return ""


def environment(pid: int) -> dict[str, str]:
    """What it was started with; nothing if it's gone."""
    with suppress(psutil.Error):
        return psutil.Process(pid).environ()
    return {}
