"""File-system events of a save, seen from inside the process that saves.

Python's audit events cover open for writing, rename, remove, mkdir, rmdir, link, symlink and truncate;
fsync, fdatasync and sync are wrapped, and so is torch.save, whose C++ writer raises no audit event.
Each is reported just *before* it happens, so that a fault can fall between any two of them.
Blind spot: native writers that raise no audit event (they are then torn by size, not by event).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import contextmanager

AUDITED = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_on_event: Callable[[str], None] | None = None
_root = ""
_inside = threading.local()
_installed = False


@contextmanager
def watching(root: str, on_event: Callable[[str], None]):
    """Report every event below `root`, from any thread, as 'rename step-20.pt.tmp' to `on_event`."""
    global _on_event, _root
    _install()
    _root, _on_event = os.path.realpath(root), on_event
    try:
        yield
    finally:
        _on_event = None


def _install() -> None:
    global _installed
    if _installed:
        return
    _installed = True  # an audit hook can't be removed: it stays, and is idle outside of `watching`
    import sys

    import torch

    sys.addaudithook(_audit)
    for name in ("fsync", "fdatasync"):
        if hasattr(os, name):
            setattr(os, name, _wrap_fsync(name, getattr(os, name)))
    save = torch.save

    def watched_save(obj, f, *args, **kwargs):
        if not isinstance(f, (str, os.PathLike)):
            return save(obj, f, *args, **kwargs)
        _report("torch.save begins", [f])
        result = save(obj, f, *args, **kwargs)
        _report("torch.save ended", [f])
        return result

    torch.save = torch.serialization.save = watched_save


def _wrap_fsync(name: str, real):
    def fsync(fd):
        number = fd if isinstance(fd, int) else fd.fileno()
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            path = _root  # not Linux: assume that it is one of ours
        _report(name, [path])
        return real(fd)

    return fsync


def _audit(event: str, args: tuple) -> None:
    if _on_event is None or event not in AUDITED or getattr(_inside, "busy", False):
        return
    if event == "open" and not (isinstance(args[2], int) and args[2] & WRITING):
        return
    paths = [a for a in args[:2] if isinstance(a, (str, bytes, os.PathLike))]
    if event == "os.truncate" and isinstance(args[0], int):
        paths = [f"/proc/self/fd/{args[0]}"]
    _report(event.removeprefix("os."), paths)


def _report(name: str, paths: list) -> None:
    if _on_event is None or getattr(_inside, "busy", False):
        return
    _inside.busy = True  # what the observer itself does isn't observed
    try:
        mine = [p for p in (os.path.abspath(os.fsdecode(p)) for p in paths) if _below_root(p)]
        if mine:
            _on_event(f"{name} {os.path.relpath(mine[0], _root)}")
    finally:
        _inside.busy = False


def _below_root(path: str) -> bool:
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return real == _root or real.startswith(_root + os.sep) or os.path.realpath(path).startswith(_root + os.sep)
