"""Signals as something to wait for, alongside files and sockets."""

from __future__ import annotations

import os
import signal


def wakeup_pipe(*numbers: int) -> tuple[int, int]:
    """The two ends of a pipe: when one of these signals comes, its number is a byte to read.

    A process can have only one such pipe (signal.set_wakeup_fd). Neither end ever blocks.
    """
    reading, writing = os.pipe()
    for fd in (reading, writing):
        os.set_blocking(fd, False)
    for number in numbers:
        signal.signal(number, lambda *_: None)  # a handler of Python's, or the byte isn't written
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading, writing
