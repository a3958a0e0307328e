"""The clusters that `grade cluster up` makes: each in a directory of its name, all in a folder that
only this user can write to.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from grader.errors import UsageError
from grader.slurm import backend
from grader.slurm.cluster import Cluster

DEFAULT = "lab"
PLACE = "GRADE_CLUSTERS"  # in the environment: another directory for them, with a short path


def place() -> Path:
    """The folder of the clusters, whether it exists or not. It isn't below TMPDIR, because `down`
    in one shell must find what `up` made in another.
    """
    return Path(os.path.abspath(os.environ.get(PLACE) or f"/tmp/grade-slurm-{os.geteuid()}"))


def _make_place() -> Path:
    folder = place()
    try:
        folder.mkdir(0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError as e:
        raise UsageError(f"{folder}: {e.strerror}") from e
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise UsageError(
            f"{folder} isn't a directory that only you can write to; set {PLACE} to another one, "
            "with a short path"
        )
    return folder


def every() -> list[str]:
    """Names of the clusters that exist, in whatever state."""
    try:
        return sorted(
            p.name
            for p in place().iterdir()
            if _fits(p.name) and p.is_dir() and p.lstat().st_uid == os.geteuid()
        )
    except FileNotFoundError:
        return []
    except OSError as e:
        raise UsageError(f"{place()}: {e.strerror}") from e


def _fits(name: str) -> bool:
    return re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,19}", name) is not None


def exists(name: str) -> bool:
    """UsageError for what no cluster could be called."""
    if not _fits(name):
        raise UsageError(
            f"'{name}' can't be a cluster's name: up to 20 lower-case letters, digits, - and _"
        )
    return name in every()


def free(name: str) -> None:
    """UsageError if there is a cluster of this name."""
    if exists(name):
        also = "" if name != DEFAULT else ", or another one: grade cluster up --name NAME"
        raise UsageError(
            f"there is already a cluster '{name}': grade cluster status; end it: grade cluster "
            f"down --name {name}{also}"
        )


def cluster(name: str, new: type[Cluster] | None = None, **options) -> Cluster:
    """The cluster of this name. UsageError if there is none, or, for one of a `new` kind, if there
    is one already.
    """
    there = exists(name)
    if new:
        free(name)
    if not new and not there:
        known = every()
        raise UsageError(
            f"no cluster '{name}'; "
            f"{'there are ' + ', '.join(known) if known else 'start one: grade cluster up'}"
        )
    if new:
        return new(_make_place() / name, **options)
    return backend.there(place() / name)


def tidy() -> None:
    """Remove the folder once the last cluster is gone."""
    try:
        place().rmdir()
    except OSError:
        pass
