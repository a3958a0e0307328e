"""Copies that let training continue while a save is written."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Iterable
from typing import NamedTuple

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from .interfaces import CheckpointError
from .modules import _same_bytes
from .packing import _identity, _Packed, _where

_LATER_FROM = 64 << 10  # bytes; a smaller copy costs less than what guards it


class _Later(NamedTuple):
    """A tensor that is copied beside the training."""

    state: _Packed
    number: int
    version: int  # torch counts the writes to it, but for those through .data
    sample: torch.Tensor


class _Staging:
    """Copies states into reused CPU buffers (pinned for CUDA), so training can continue.

    copy() copies what the next forward pass may change. finish() copies, in another thread, what
    only an optimizer changes; a hook makes the next optimizer step wait for it.
    """

    def __init__(self) -> None:
        self.buffers: list[torch.Tensor | None] = []
        self.later: list[_Later] = []
        self.finished = threading.Event()
        self.finished.set()
        self.hook: RemovableHandle | None = None

    def close(self) -> None:
        if self.hook is not None:
            self.hook.remove()

    def copy(self, states: Iterable[_Packed], stable: Collection[object] = ()) -> None:
        """Copy all tensors but the large ones whose identity is in `stable`."""
        self.number, self.done = itertools.count(), dict[object, torch.Tensor]()
        self.later = []
        devices: set[torch.device] = set()
        for state in states:
            for n, t in enumerate(state.tensors):
                if t is None:
                    continue
                if _is_large(t) and _identity(t) in stable:
                    self.later.append(_Later(state, n, _local(t)._version, _sample(t)))
                    continue
                state.tensors[n] = self._copied(t)
                if t.is_cuda:
                    devices.add(t.device)
        # wait for the copies: the next step would overwrite what they read
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        if self.later:
            self.hook = self.hook or register_optimizer_step_pre_hook(self._await_copies)
            self.finished.clear()

    def _await_copies(self, *_: object) -> None:
        self.finished.wait()

    def finish(self) -> None:
        """Copy the rest. CheckpointError if anything but an optimizer's step has changed it."""
        changed = None
        try:
            for state, n, version, sample in self.later:
                if (t := state.tensors[n]) is None:
                    continue
                copied = self._copied(t)
                if _local(t)._version != version or not _same_bytes(_sample(copied), sample):
                    changed = changed or _where(state.paths[n])
                state.tensors[n] = copied
        finally:
            self.later = []
            self.finished.set()
        if changed:
            raise CheckpointError(
                f"{changed} changed while it was copied: with overlap=True, only an optimizer's "
                "step() may change weights after a save. Call flush() before you change them, or "
                "leave overlap out"
            )

    def _copied(self, t: torch.Tensor) -> torch.Tensor:
        if hasattr(t, "to_local"):  # a DTensor: its shard
            from torch.distributed.tensor import DTensor

            # not from_local, which would move the copy back to the GPU
            return DTensor(self._copied(t.to_local()), t._spec, requires_grad=False)
        if (key := _identity(t)) not in self.done:
            n = next(self.number)
            self.buffers += [None] * (n + 1 - len(self.buffers))
            buffer = self.buffers[n]
            if buffer is None or buffer.shape != t.shape or buffer.dtype != t.dtype:
                buffer = torch.empty(t.shape, dtype=t.dtype, device="cpu", pin_memory=t.is_cuda)
            self.buffers[n] = self.done[key] = buffer.copy_(t.detach(), non_blocking=t.is_cuda)
        return self.done[key]


def _local(t: torch.Tensor) -> torch.Tensor:
    local: torch.Tensor = t.to_local() if hasattr(t, "to_local") else t
    return local


def _is_large(t: torch.Tensor) -> bool:
    """On CUDA, copies run beside the Python code in any case."""
    local = _local(t)
    return not local.is_cuda and local.numel() * local.element_size() >= _LATER_FROM


def _sample(t: torch.Tensor) -> torch.Tensor:
    """Some of its values, from everywhere in it."""
    local = _local(t).detach()
    per_dimension = {1: 64, 2: 8, 3: 4}.get(local.dim(), 3)
    return local[tuple(slice(None, None, -(-s // per_dimension)) for s in local.shape)].clone()
