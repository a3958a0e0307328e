"""Reports what the submission's code tries to reach although no task needs it.

That is: other machines, files outside its own folders, processes that aren't its own, the grader's
reports, the interpreter's hooks. The sandbox refuses most of it, and a verdict never depends on
these reports: an instructor reads them. Code that calls the kernel without Python isn't seen.

The reports come from Python's audit events. An event counts only if the submission's code is on
the stack, since torch and the grader may do the same.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from grader.harness import scratch

MOST = 20  # reports of one process
LENGTH = 200  # characters of what a report names
# where a submission has nothing to read, whatever else may be below it
PRIVATE = re.compile(
    r"/(?:home|root|Users)/|/etc/(?:shadow|gshadow|sudoers|ssh)|/proc/(?!self\b|thread-self\b)[^/]+/"
    r"(?:fd|mem|maps|environ|root|cwd)"
)
COURSE = str(Path(__file__).resolve().parents[3])
LOOPBACK = ("127.", "localhost", "::1", "0.0.0.0")

Report = Callable[[str, str, str], None]


def watch(job: dict[str, Any], granted: Iterable[str], report: Report) -> None:
    """Call `report(kind, what, where)` for each attempt of this process and its forks.

    `granted` are the paths that it may read. The hook can't be removed.
    """
    sys.addaudithook(_Hook(job, granted, report))


class _Hook:
    def __init__(self, job: dict[str, Any], granted: Iterable[str], report: Report):
        self.report, self.events = report, job["events"]
        self.own = _below(job["cwd"], *job["may_write"])
        self.granted = (*self.own, *_below(*granted))
        # the folders of other lives, and the course
        self.foreign = _below(os.path.dirname(os.path.dirname(self.events)), COURSE)
        self.seen: set[tuple[str, str]] = set()
        self.busy = False
        self.judges: dict[str, Callable[[tuple[Any, ...]], tuple[str, str] | None]] = {
            "open": self._open,
            "os.listdir": self._read,
            "os.scandir": self._read,
            "os.remove": self._write,
            "os.rmdir": self._write,
            "os.mkdir": self._write,
            "os.truncate": self._write,
            "os.chmod": self._write,
            "os.rename": self._rename,
            "os.link": self._read,
            "os.kill": self._kill,
            "os.killpg": self._kill,
            "socket.connect": self._address,
            "socket.bind": self._address,
            "socket.sendto": self._address,
            "socket.getaddrinfo": self._host,
            "socket.gethostbyname": self._host,
            "sys.settrace": lambda _: ("interpreter", "sys.settrace"),
            "sys.setprofile": lambda _: ("interpreter", "sys.setprofile"),
            "ctypes.dlopen": lambda args: ("interpreter", f"ctypes {args[0] or 'libc'}"),
            "gc.get_objects": lambda _: ("interpreter", "gc.get_objects"),
            "gc.get_referrers": lambda _: ("interpreter", "gc.get_referrers"),
        }

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        judge = self.judges.get(event)
        if judge is None or self.busy or len(self.seen) >= MOST:
            return
        self.busy = True
        try:
            found = judge(args)
            if found and found not in self.seen:
                at_once = found[0] == "interpreter"  # libraries use these for their own purposes
                if where := _submissions_line(sys._getframe(1), at_once):
                    self.seen.add(found)
                    self.report(found[0], found[1][:LENGTH], where)
        except Exception:  # an observer mustn't change what it observes
            pass
        finally:
            self.busy = False

    def _open(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        path, _, flags = args
        if isinstance(path, int):
            return None
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return self._write(args) if writes else self._read(args)

    def _read(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        path = _absolute(args[0])
        if path == self.events:
            return "reports", path
        if os.path.join(path, "").startswith(self.granted):
            return None
        return ("read", path) if path.startswith(self.foreign) or PRIVATE.match(path) else None

    def _write(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        path = _absolute(args[0])
        if path == self.events:
            return "reports", path
        inside = os.path.join(path, "").startswith((*self.own, "/dev/", "/tmp/", "/proc/self/"))
        return None if not path or inside else ("write", path)

    def _rename(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        return self._write(args[:1]) or self._write(args[1:2])

    def _kill(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        pid, number = args[:2]
        if not number or pid in (0, os.getpid(), os.getpgrp()) or _is_child(pid):
            return None
        return "signal", f"{number} to {pid}"

    def _address(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        address = args[1]
        if not isinstance(address, tuple):
            return None  # a socket in the file system
        return self._host(address)

    def _host(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        host = args[0]
        name = host.decode(errors="replace") if isinstance(host, bytes) else str(host or "")
        if not name or name.startswith(LOOPBACK):
            return None
        return "network", ":".join(map(str, (name, *args[1:2])))


def _below(*paths: str) -> tuple[str, ...]:
    """Prefixes of what lies in these folders."""
    return tuple(os.path.join(path, "") for path in paths)


def _absolute(path: object) -> str:
    try:
        return os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]
    except TypeError:
        return ""  # a descriptor


def _is_child(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as f:
            return int(f.read().rpartition(")")[2].split()[1]) == os.getpid()
    except (OSError, ValueError, IndexError):
        return True  # gone, or not to be seen from here: then no signal reaches it


def _submissions_line(frame: FrameType | None, at_once: bool) -> str:
    """ "checkpointing.py:12", of the innermost line of the submission's; empty if there is none.

    `at_once`: it must be the one that did it.
    """
    while frame is not None:
        if file := scratch.submitted(frame.f_code.co_filename):
            return f"{file}:{frame.f_lineno}"
        if at_once and frame.f_code.co_filename not in (__file__, ctypes.__file__):
            return ""
        frame = frame.f_back
    return ""
