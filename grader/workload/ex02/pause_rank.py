"""Holds one rank just before a file-system event until the others show what they do."""

from __future__ import annotations

import os
import select
import threading
from contextlib import contextmanager, suppress

import torch.distributed as dist

from grader.harness.inside import collectives, fsevents

PATIENCE = 4.0  # s after which the held rank continues although the others show nothing
MOMENT = 0.01  # s within which a rank that doesn't wait for its collective leaves the function


class Hold:
    """What a held rank saw.

    shown   "waits": every other rank is in a collective that the held rank hasn't entered;
            "returned": a rank has left the function; "nothing"; None: there was no such event
    before  the event; None: its own call
    """

    shown: str | None = None
    before: str | None = None


@contextmanager
def holding(pipe: str, directory: str, held: int, event: int):
    """Wraps one save, on every rank, and yields a Hold, which the `held` rank fills in.

    The held rank's `event`-th file-system event below `directory` begins only when the others have
    shown what they do; -1 means its call of the function. They report it in two bytes through
    `pipe`, a path that doesn't exist yet.
    """
    rank, found = dist.get_rank(), Hold()
    if rank == held:
        os.mkfifo(pipe)
        said = os.open(
            pipe, os.O_RDWR | os.O_NONBLOCK
        )  # before anybody writes: unread messages would be lost
    dist.barrier()
    if rank != held:
        said = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        around = _held(said, found, directory, event) if rank == held else _tells(said, rank)
        with around:
            yield found
    finally:
        os.close(said)


@contextmanager
def _held(said: int, found: Hold, directory: str, event: int):
    begun, seen = collectives.entered, 0
    listening, listened = False, threading.Event()

    def on_event(name: str) -> None:
        nonlocal seen, listening
        seen += 1
        if seen == event + 1:
            found.before, listening = name, True
            try:
                found.shown = _listen(said, begun)
            finally:
                listening = False
                listened.set()

    if event == -1:
        found.shown = _listen(said, begun)
    with fsevents.watching(directory, on_event):
        yield
        if listening:  # its own thread is held, but the rank doesn't wait for it
            listened.wait(PATIENCE + 1)
            found.shown = "returned"


def _listen(said: int, begun: int) -> str:
    others, waits = dist.get_world_size() - 1, {}
    while select.select([said], [], [], PATIENCE)[0]:
        letters = os.read(said, 1 << 10)
        for who, what in zip(letters[::2], letters[1::2], strict=False):
            if what == ord("r"):
                return "returned"
            waits[who] = waits.get(who, 0) + 1
        if len(waits) == others and min(waits.values()) > collectives.entered - begun:
            left = select.select([said], [], [], MOMENT)[0] and os.read(said, 1 << 10)
            return "returned" if left and ord("r") in left[1::2] else "waits"
    return "nothing"


@contextmanager
def _tells(said: int, rank: int):
    def tell(what: str) -> None:
        with suppress(BlockingIOError):  # no reader
            os.write(said, bytes([rank, ord(what)]))

    collectives.on_enter = lambda: tell("w")
    try:
        yield
    finally:
        collectives.on_enter = None
        tell("r")
