"""A load that several ranks make together: the process that a state is judged in is rank 0, and forks the others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable


def each(ranks: int, load: Callable[[int], object]) -> list:
    """load(rank) on every rank, at the same time, each in its own process; the answers (JSON), by rank.

    Raises RuntimeError that names who raised what, if any of them did.
    """
    pipes = []
    for rank in range(1, ranks):
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                os.write(writing, json.dumps(_told(load, rank)).encode())
            finally:
                os._exit(0)
        os.close(writing)
        pipes.append(reading)
    told = [_told(load, 0)]
    for reading in pipes:
        with os.fdopen(reading) as f:
            told.append(json.loads(f.read() or '{"error": "its process ended"}'))
    if errors := [f"rank {rank}: {t['error']}" for rank, t in enumerate(told) if "error" in t]:
        raise RuntimeError("; ".join(errors))
    return [t["answer"] for t in told]


def _told(load: Callable[[int], object], rank: int) -> dict:
    try:
        return {"answer": load(rank)}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"}
