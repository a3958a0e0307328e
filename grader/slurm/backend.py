"""The real cluster where Slurm is installed, a stand-in elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from grader.slurm import installation, state
from grader.slurm.cluster import Cluster
from grader.slurm.errors import NotInstalled
from grader.slurm.standin.cluster import StandIn


def choose(directory: str | os.PathLike, **options) -> Cluster:
    """A cluster that isn't started yet, with the options that both kinds have. If it is the stand-
    in, a line on stderr says so.
    """
    return kind()(directory, **options)


def there(directory: Path) -> Cluster:
    """The cluster that was made in this directory."""
    known = state.read(directory) or {}
    return (StandIn if known.get("kind") == StandIn.kind else Cluster)(directory)


def missing() -> NotInstalled | None:
    """Why the real one can't be used here; None if it can."""
    try:
        installation.find()
    except NotInstalled as e:
        return e
    return None


def kind() -> type[Cluster]:
    """The kind that can be used here. If it is the stand-in, a line on stderr says so."""
    if not (why := missing()):
        return Cluster
    print(f"a stand-in instead of Slurm: {why}", file=sys.stderr, flush=True)
    return StandIn
