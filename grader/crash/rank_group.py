"""Saves and loads that several ranks make together. For a load, rank 0 is the process in which a
state is judged; it forks the other ranks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from grader.crash.recorder import mark
from grader.harness.inside.digest import digest


@contextmanager
def marked(save: int, holds: object, replaced: bool = False) -> Iterator[None]:
    """Around one save of all ranks, on each of them: rank 0 says when it begins, with what they all
    hold, and when it has returned on all. One that the next save replaces counts as under way
    until then: it may be gone before the next one is complete.
    """
    import torch.distributed as dist

    of_all = [None] * dist.get_world_size()
    dist.all_gather_object(of_all, holds)
    if dist.get_rank() == 0:
        mark("began", save, digest(of_all))
    dist.barrier()
    yield
    dist.barrier()
    if dist.get_rank() == 0 and not replaced:
        mark("returned", save)


def load(ranks: int, resume: Callable[[int], tuple[bool, object]]) -> str | None:
    """The digest of what all ranks hold after resume(rank) -> (did it find anything, what it holds
    then); None if none did.
    """
    answers = _each(ranks, resume)
    found = [found for found, _ in answers]
    if found == [False] * ranks:
        return None
    return (
        digest([holds for _, holds in answers])
        if found == [True] * ranks
        else f"ranks disagree: {found}"
    )


def _each(ranks: int, load: Callable[[int], object]) -> list[Any]:
    """load(rank) on every rank, at the same time, each in its own process; the answers (JSON), by
    rank.

    Raises RuntimeError that names who raised what, if any of them did.
    """
    pipes = []
    for rank in range(1, ranks):
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                os.write(writing, json.dumps(_answer(load, rank)).encode())
            finally:
                os._exit(0)
        os.close(writing)
        pipes.append(reading)
    answers = [_answer(load, 0)]
    for reading in pipes:
        with os.fdopen(reading) as f:
            answers.append(json.loads(f.read() or '{"error": "its process ended"}'))
    if errors := [f"rank {rank}: {t['error']}" for rank, t in enumerate(answers) if "error" in t]:
        raise RuntimeError("; ".join(errors))
    return [t["answer"] for t in answers]


def _answer(load: Callable[[int], object], rank: int) -> dict[str, Any]:
    try:
        return {"answer": load(rank)}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"}
