"""cluster.json in a cluster's directory: which processes are its own. Written by its keeper before
it starts anything, read by everything that talks to the cluster or ends it.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from grader.files import write_atomically
from grader.slurm import processes

FILE = "cluster.json"


def write(directory: Path, state: dict) -> None:
    write_atomically(directory / FILE, json.dumps(state, indent=1))


def read(directory: Path) -> dict | None:
    """None if there is none, or none that can be read; "now" says whether it's of this boot of the
    machine.
    """
    try:
        state = json.loads((directory / FILE).read_text())
        return state | {"now": state["boot"] == processes.boot()}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def still_there(directory: Path, seen: os.stat_result) -> bool:
    """Whether this is still the directory that was seen: not removed, and not replaced."""
    try:
        return os.path.samestat(os.stat(directory), seen)
    except OSError:
        return False


def tell(message: dict) -> None:
    """A keeper's message to its starter, a line of JSON; the starter may be gone."""
    with suppress(OSError):
        print(json.dumps(message), flush=True)


def alive(state: dict, known: dict | None) -> bool:
    return bool(known and state["now"] and processes.alive(known))
