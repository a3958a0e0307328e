"""Choosing and reading the checkpoint to resume from, on all ranks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .directory import CheckpointDirectory
from .interfaces import CheckpointError, Mismatch
from .job import _Job
from .ranks import _is_disk_full, _Ranks
from .reporting import _say


def _newest_intact(
    kind: str, directory: CheckpointDirectory, job: _Job, ranks: _Ranks
) -> tuple[str, dict[str, Any]] | None:
    """Its name, and this rank's parts of it; None if there is no checkpoint.

    Rank 0 decides which ones there are, and all ranks take the same one.
    Raises CheckpointError if there are some and none is intact.
    """
    first = ranks.rank == 0
    names = ranks.together("resuming", lambda: _candidates(directory, kind) if first else None)[0]
    for name in names:
        parts: dict[str, Any] = {}
        try:
            read = partial(_read_parts, name, parts, directory, job, ranks)
            ranks.together(f"loading {name}", read)
        except Mismatch:
            raise
        except CheckpointError as e:
            if first:
                _say(f"skipped checkpoint {name}: {e}")
        else:
            return name, parts
    if names:
        best = kind == "step" and directory.names("best")
        raise CheckpointError(
            f"none of the {len(names)} checkpoints in {directory.path} is intact; to start again, "
            "call start_over()" + ("; the best one may be: try resume('best')" if best else "")
        )
    return None


def _candidates(directory: CheckpointDirectory, kind: str) -> list[str]:
    """Newest first; a job that only saved best checkpoints resumes from those."""
    return directory.names(kind) or (directory.names("best") if kind == "step" else [])


def _read_parts(
    name: str,
    parts: dict[str, Any],
    directory: CheckpointDirectory,
    job: _Job,
    ranks: _Ranks,
) -> None:
    """Read and verify this rank's parts, without touching the job."""
    # a module copies what it loads; others keep it, and need it where it was
    home = {"progress", *job.everything()} - set(job.modules())
    kind = "json" if "shared.json" in directory.manifest(name)["files"] else "ckpt"  # first version
    shared = directory.read(name, f"shared.{kind}", home)
    own = directory.read(name, f"rank-{ranks.rank}.{kind}", home)
    if job.sharded:
        directory.verify(name, slice(ranks.rank, None, ranks.world))
    parts.update(shared=shared, own=own)


def _refuse_files(path: Path) -> None:
    """CheckpointError if something on the way to `path` isn't a directory."""
    for place in (path, *path.parents):
        if place.is_dir():
            return
        if os.path.lexists(place):
            what = "a link to nothing" if place.is_symlink() and not place.exists() else "a file"
            raise CheckpointError(f"{place} is {what}: give a directory")


def _require_empty(directory: CheckpointDirectory) -> None:
    """For a job that begins without resume()."""
    if directory.names() or directory.names("best"):
        raise CheckpointError(
            f"{directory.path} holds checkpoints: call resume() before training, or start_over() "
            "to move them aside"
        )


@contextlib.contextmanager
def _writing_into(path: Path) -> Iterator[None]:
    """Say of which directory it is that it can't be written."""
    try:
        yield
    except OSError as e:
        if _is_disk_full(e):
            raise
        raise CheckpointError(f"{path} can't be written: {e}") from e
