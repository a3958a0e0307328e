"""Signals that ask for a save."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Sequence
from typing import Any

from .reporting import _say

_ignored = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}  # by workers


class StopSignal:
    """Context manager: SIGTERM and SIGUSR1 set a flag and do nothing else.

    `received` is the first signal's name, or None. Leaving restores the old handlers. A handler
    that saves would interrupt optimizer.step() and save weights of two different steps.
    """

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGUSR1)):
        self.signals = signals
        self.received: str | None = None
        self.replaced: set[int] = set()  # signals whose handler is another one now
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        _ignored.update(self.signals)
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self._note) for s in self.signals}
        else:  # as in Ray Train
            _say("this isn't the main thread: signals aren't seen here, so none can ask for a save")
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self.before.items():
            # Python can't restore a handler that C code installed
            if handler is not None:
                signal.signal(s, handler)

    def stay_deaf(self) -> None:
        """After leaving: pass over signals that had no handler, for the process is ending.

        Slurm sends SIGTERM twice. The second one would end Python's own end, with status 143.
        """
        for s, handler in self.before.items():
            if handler == signal.SIG_DFL:
                signal.signal(s, self._note)  # not SIG_IGN, which a new process would inherit
                atexit.register(signal.signal, s, signal.SIG_IGN)

    def _note(self, number: int, frame: object) -> None:
        self.received = self.received or _name_of(number)

    @property
    def number(self) -> int:
        """Of the signal received; 0 if there is none."""
        name = self.received or "signal 0"
        return int(name.removeprefix("signal ")) if " " in name else signal.Signals[name]

    def tell_if_replaced(self) -> None:
        """Say once if the job, or a library of its, has set another handler since."""
        for s in self.before:
            if s not in self.replaced and (now := signal.getsignal(s)) != self._note:
                self.replaced.add(s)
                _say(
                    f"{_name_of(s)} has another handler now ({getattr(now, 'name', now)}): it "
                    "asks for a save only if that handler calls the one before"
                )


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _end_workers() -> None:
    """Kill DataLoader workers: at exit, Python would wait for them, but they ignore SIGTERM."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def ignore_signals(worker: int = 0) -> None:
    """worker_init_fn for a DataLoader: signals to the group must not kill it before the save."""
    for s in _ignored:
        signal.signal(s, signal.SIG_IGN)
