"""Copies that let training continue while a save is written."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .packing import _identity, _Packed


class _Staging:
    """Copies a state into reused CPU buffers (pinned for CUDA), so training can continue."""

    def __init__(self) -> None:
        self.buffers: list[torch.Tensor | None] = []

    def copy(self, states: Iterable[_Packed]) -> None:
        number = iter(range(1 << 30))
        done: dict[object, torch.Tensor] = {}
        devices: set[torch.device] = set()

        def change(t: torch.Tensor) -> torch.Tensor:
            if hasattr(t, "to_local"):  # a DTensor: its shard
                from torch.distributed.tensor import DTensor

                # not from_local, which would move the copy back to the GPU
                return DTensor(change(t.to_local()), t._spec, requires_grad=False)
            if (key := _identity(t)) not in done:
                n = next(number)
                self.buffers += [None] * (n + 1 - len(self.buffers))
                buffer = self.buffers[n]
                if buffer is None or buffer.shape != t.shape or buffer.dtype != t.dtype:
                    buffer = torch.empty(t.shape, dtype=t.dtype, device="cpu", pin_memory=t.is_cuda)
                self.buffers[n] = done[key] = buffer.copy_(t.detach(), non_blocking=t.is_cuda)
                if t.is_cuda:
                    devices.add(t.device)
            return done[key]

        for state in states:
            state.tensors = [None if t is None else change(t) for t in state.tensors]
        # wait for the copies: the next step would overwrite what they read
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
