"""Records of the probe: each a line of JSON, written by one os.write to a file that is appended to.

So a record survives SIGKILL. The limit that a fault sets on the size of files isn't for records.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import time
from collections.abc import Iterator
from typing import Any

MARKS = 0x7FF0FACE  # grader/crash/recorder.py: what is written to it is for the recorder

spec: dict[str, Any] = {}  # what the audit tells the probe
_fd: int | None = None
_largest: int | None = None  # bytes, of any file of the job


def after_fork() -> None:
    """A child writes a file of its own."""
    global _fd
    _fd = None


def emit(kind: str, **fields: object) -> None:
    global _fd
    with _no_limit():
        if _fd is None:
            name = os.path.join(spec["records"], f"{os.getpid()}-{time.monotonic_ns()}.jsonl")
            _fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        line = {"kind": kind, "rank": rank(), "t": round(time.monotonic(), 4), **fields}
        if restart():
            line["restart"] = restart()
        os.write(_fd, json.dumps(line).encode() + b"\n")


def mark(step: int) -> None:
    """Tell the recorder of system calls, if there is one, how far the job has come."""
    with contextlib.suppress(OSError):
        os.write(MARKS, json.dumps({"kind": "step", "save": step, "digest": ""}).encode())


def rank() -> int:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    return int(os.environ.get("RANK", "0") or 0)


def restart() -> int:
    """How often torchrun has started its ranks again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") or 0)


def limit_files(size: int) -> None:
    """From now on no file of the job may become larger."""
    global _largest
    _largest = size
    _set(size)


@contextlib.contextmanager
def _no_limit() -> Iterator[None]:
    if _largest is None:
        yield
        return
    _set(resource.RLIM_INFINITY)
    try:
        yield
    finally:
        _set(_largest)


def _set(size: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    soft = size if hard == resource.RLIM_INFINITY or 0 <= size < hard else hard
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
