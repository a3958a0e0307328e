"""Faults of one rank: errors at a file-system event, and an outdated directory listing."""

import errno
import os
import sys
import threading
from contextlib import contextmanager

from grader.harness.inside import fsevents, telemetry


class Unpicklable(OSError):
    """An error that holds what no pickle can, as those of many storage clients do."""

    def __init__(self, path: str):
        super().__init__(errno.EIO, os.strerror(errno.EIO), path)
        self.connection = threading.Lock()


ERRORS = {"silent": lambda path: OSError(), "unpicklable": Unpicklable}


def odd_errors(events: list[int]) -> list[tuple[int, str]]:
    """Each of ERRORS at the first and at the last event, and in turn at those between."""
    ends = [(n, error) for n in dict.fromkeys(events[:1] + events[-1:]) for error in ERRORS]
    return ends + [(n, list(ERRORS)[at % 2]) for at, n in enumerate(events[1:-1])]


@contextmanager
def refusing(step: int, directory: str, event: int, error):
    """telemetry.saving with a fault, whose error is error(path)."""
    telemetry.emit("saving", step=step)
    events: list[str] = []

    def on_event(name: str) -> None:
        events.append(name)
        # DCP sends its writers' errors through pickle, and hangs over one that can't be pickled
        if len(events) == event + 1 and not (error is Unpicklable and inside_dcp()):
            telemetry.emit("fault", step=step, before=name)
            raise error(name.rpartition(" ")[2])

    with fsevents.watching(directory, on_event):
        yield events
    telemetry.emit("saved", step=step, events=events)


def inside_dcp() -> bool:
    frame = sys._getframe()
    while frame is not None:
        if f"{os.sep}distributed{os.sep}checkpoint{os.sep}" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def see_an_older_listing(directory: str, hidden: set[str]) -> None:
    """Hide names, as a file system does that lists new ones late on some nodes; open still finds
    them."""
    listdir, scandir = os.listdir, os.scandir

    def here(path) -> bool:
        return not isinstance(path, int) and os.path.abspath(os.fsdecode(path)) == os.path.abspath(
            directory
        )

    class Scan:
        def __init__(self, path):
            self.entries = scandir(path)

        def __iter__(self):
            return (e for e in self.entries if e.name not in hidden)

        def __next__(self):
            return next(iter(self))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

        def close(self):
            self.entries.close()

    os.listdir = lambda path=".": [n for n in listdir(path) if not (here(path) and n in hidden)]
    os.scandir = lambda path=".": Scan(path) if here(path) else scandir(path)
