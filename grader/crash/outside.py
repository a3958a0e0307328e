"""Files outside of the recorded directory that a load depends on.

A saver may write its bytes into another directory and leave a link, or a path, in the one that it
was given. Nobody recorded those bytes, so nobody knows what a power failure leaves of them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from grader.crash.judge import silence
from grader.crash.syscalls import MADE
from grader.crash.tracer import HOLD, PASS, Tracee, Tracer

FileId = tuple[int, int]  # device, inode

# Python checks what it reads there, and compiles again
COMPILED = "/__pycache__/"


def read_outside(
    load: Callable[[str], object], directory: Path, written: set[FileId], seconds: float
) -> str | None:
    """The first of the files in `written` that `load(directory)` opens by a path outside of the
    directory, and that holds anything. It runs in a process of its own, for at most `seconds` s.
    """
    root, found = os.path.realpath(directory) + os.sep, []

    def entry(tracee: Tracee) -> str | int:
        return HOLD if tracee.call in MADE else PASS

    def exited(tracee: Tracee, result: int) -> None:
        if result < 0 or (st := tracee.stat(result)) is None or not stat.S_ISREG(st.st_mode):
            return
        path = os.readlink(f"/proc/{tracee.pid}/fd/{result}")
        if (st.st_dev, st.st_ino) in written and st.st_size and COMPILED not in path:
            if not path.startswith(root):
                found.append(path)

    def do() -> None:
        silence()
        load(str(directory))

    tracer = Tracer(entry, exited, reads=True)
    try:
        tracer.spawn("load", do)
        tracer.run(seconds)
    finally:
        tracer.abort()
    return found[0] if found else None
