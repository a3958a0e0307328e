"""Parts that are their own state: dicts, NumPy arrays, tensors and generators."""

from __future__ import annotations

import collections
from collections.abc import Collection
from typing import Any

import torch

from .generators import _generator_state, _is_generator, _set_generator
from .optional import numpy
from .packing import _Packed, _where


def _is_plain(part: Any) -> bool:
    """Is it a dict, a NumPy array or a tensor, which are their own state, or a generator?"""
    return _is_generator(part) or type(part) in (
        dict,
        torch.Tensor,
        getattr(numpy, "ndarray", dict),
    )


def _plain_state(part: Any) -> Any:
    return _generator_state(part) if _is_generator(part) else part


def _fill(part: Any, state: Any) -> None:
    """Put `state` into a part that is plain."""
    if _is_generator(part):
        _set_generator(part, state)
    elif isinstance(part, dict):
        _refill(part, state, {}, set())
    elif (part.shape, part.dtype) == (state.shape, state.dtype):
        with torch.no_grad():
            part[...] = state
    else:
        held, mine = ([str(t.dtype), list(t.shape)] for t in (state, part))
        raise ValueError(f"the checkpoint holds {held}, the job {mine}")


def _refill(mine: Any, new: Any, done: dict[int, Any], used: set[int]) -> Any:
    """`new`, in the job's own dicts and lists where it has them: a loop may hold on to one."""
    if id(new) in done:
        return done[id(new)]
    if type(mine) is not type(new) or not isinstance(new, (dict, list)) or id(mine) in used:
        return new
    done[id(new)] = mine
    used.add(id(mine))
    if isinstance(new, list):
        old = [*mine, *new[len(mine) :]]
        mine[:] = [_refill(m, n, done, used) for m, n in zip(old, new, strict=False)]
    else:
        found = {k: _refill(mine.get(k), n, done, used) for k, n in new.items()}
        mine.clear()
        mine.update(found)
    return mine


def _refuse_shared(packed: _Packed, dicts: Collection[str], others: Collection[str]) -> None:
    """TypeError if a dict holds the memory of a part that keeps its own tensors on resuming."""
    owners: dict[int, list[tuple[Any, ...]]] = collections.defaultdict(list)
    for number, path in packed.tied:
        owners[number] += [packed.paths[number], path]
    for number, (*_, more) in enumerate(packed.about):
        if isinstance(more, dict) and "view" in more:
            owners[more["view"][0]] += [packed.paths[number], *owners.get(number, [])]
    for paths in owners.values():
        shared = [p for p in paths if p and p[0] in dicts]
        if shared and (of := [p[0] for p in paths if p and p[0] in others]):
            raise TypeError(
                f"{_where(shared[0])} shares memory with '{of[0]}', and wouldn't after a resume: "
                "clone() it"
            )
