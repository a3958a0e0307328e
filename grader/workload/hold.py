"""Holds one rank just before a file-system event until it shows what the other rank does meanwhile."""

from __future__ import annotations

import os
import select
from contextlib import contextmanager

from grader.harness import collectives, fsevents

PATIENCE = 4.0  # s after which the held rank goes on although the other one shows nothing


class Hold:
    """Of two ranks: one is `held`, the other one `tells`. What the latter does comes through a pipe, one letter each.

    Afterwards, `shown` is what the other rank did while this one stood still: "waits" (in a collective that the held
    rank hasn't entered), "returned" (it has left the function), "nothing"; None if there was no such event.
    """

    def __init__(self, pipe: str):
        self.pipe, self.shown = pipe, None

    @staticmethod
    def make(pipe: str) -> None:
        """Once, before both ranks use it."""
        os.mkfifo(pipe)

    @contextmanager
    def held(self, directory: str, event: int = 0):
        """The `event`-th file-system event below `directory` begins only when the other rank has shown what it does."""
        said, begun, seen = os.open(self.pipe, os.O_RDWR | os.O_NONBLOCK), collectives.entered, []

        def on_event(name: str) -> None:
            seen.append(name)
            if len(seen) == event + 1:
                self.shown = self._listen(said, begun)

        with fsevents.watching(directory, on_event):
            yield
        os.close(said)

    @staticmethod
    def _listen(said: int, begun: int) -> str:
        letters = ""
        while select.select([said], [], [], PATIENCE)[0]:
            letters += os.read(said, 100).decode()
            if "r" in letters:
                return "returned"
            if letters.count("w") > collectives.entered - begun:
                return "waits"
        return "nothing"

    @contextmanager
    def tells(self):
        said = os.open(self.pipe, os.O_RDWR | os.O_NONBLOCK)  # stays open: letters that nobody has read yet would be lost
        collectives.on_enter = lambda: os.write(said, b"w")
        try:
            yield
        finally:
            collectives.on_enter = None
            os.write(said, b"r")
