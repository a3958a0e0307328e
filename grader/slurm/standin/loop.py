"""An event loop: files that become readable, moments that come, signals. No polling."""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import time
from collections.abc import Callable

from grader.wakeup import wakeup_pipe


class Timer:
    def __init__(self, call: Callable[[], None]):
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    def __init__(self, signals: tuple[int, ...] = ()):
        self.selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self.caught: set[int] = set()
        wake, _ = wakeup_pipe(*signals)
        self.watch(wake, lambda: self.caught.update(os.read(wake, 4096)))

    def watch(self, file, call: Callable[[], None]) -> None:
        self.selector.register(file, selectors.EVENT_READ, call)

    def forget(self, file) -> None:
        self.selector.unregister(file)

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(call)
        heapq.heappush(
            self._timers, (time.monotonic() + max(0.0, seconds), next(self._numbers), timer)
        )
        return timer

    def turn(self, most: float | None = None) -> None:
        """Wait for the next event, at most `seconds`, and do what is due."""
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        until = self._timers[0][0] - time.monotonic() if self._timers else most
        wait = until if most is None or until is None else min(until, most)
        for key, _ in self.selector.select(None if wait is None else max(0.0, wait)):
            if key.fileobj in self.selector.get_map():  # an earlier one may have ended it
                key.data()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.call is not None:
                timer.call()
