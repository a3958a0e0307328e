"""Keys, read without Enter."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from typing import Any


class Keys:
    """The terminal gives each key at once and echoes none, until the end of the `with` block.

    Ctrl-C still interrupts. Without a terminal, or in the background, `fd` is None: no keys.
    """

    def __init__(self) -> None:
        self.fd: int | None = None
        self._before: list[Any] = []
        self._on_continue: Any = signal.SIG_DFL

    def __enter__(self) -> Keys:
        try:
            fd = sys.stdin.fileno()
            # changing the terminal from the background would stop us
            if sys.stdout.isatty() and os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp():
                self._before = termios.tcgetattr(fd)
                self.fd = fd
                self._at_once()
                self._on_continue = signal.signal(signal.SIGCONT, self._at_once)
        except (OSError, ValueError, termios.error):  # standard input is closed
            pass
        return self

    def __exit__(self, *ended: object) -> None:
        if self.fd is None:
            return
        signal.signal(signal.SIGCONT, self._on_continue)
        try:
            termios.tcsetattr(self.fd, termios.TCSADRAIN, self._before)
        except termios.error:  # the terminal is gone
            pass

    def _at_once(self, *signal_: object) -> None:
        """Also after Ctrl-Z and `fg`: the shell has set the terminal as it likes it."""
        assert self.fd is not None
        try:
            if os.tcgetpgrp(self.fd) == os.getpgrp():
                tty.setcbreak(self.fd, termios.TCSADRAIN)
        except (OSError, termios.error):
            pass

    def read(self) -> str:
        """The keys pressed so far; "" if the terminal is gone."""
        assert self.fd is not None
        try:
            return os.read(self.fd, 1024).decode(errors="replace")
        except OSError:
            return ""
