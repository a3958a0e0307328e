"""A state as JSON and tensors: only what comes back the same in value and type."""

from __future__ import annotations

import collections
from typing import Any

import torch

from .optional import numpy


def _identity(t: torch.Tensor) -> object:
    """Equal for tensors that share their memory (tied weights)."""
    if hasattr(t, "to_local"):
        return ("local", _identity(t.to_local()))
    return (
        (t.data_ptr(), t.is_conj(), t.is_neg(), t.dtype, t.shape, t.stride(), t.device)
        if t.numel()
        else id(t)
    )


def _same_numpy_type(value: Any) -> bool:
    """Is it a NumPy number that its dtype's name and its bytes bring back as it is?"""
    return (
        numpy is not None
        and isinstance(value, numpy.generic)
        and value.dtype.kind in "biufc"
        and numpy.dtype(value.dtype.str).type is type(value)
    )


class _Packed:
    """A state as JSON (`tree`), and its tensors.

    It takes only what comes back the same in value and type, and raises TypeError otherwise.
    What is the same object, or shares memory, stays so: tensors are written once.

    about   [dtype, shape] or [dtype, shape, {"device": ..., "view": [tensor, offset, strides]}]
            for each tensor; a view (of a tensor of bytes) has no bytes of its own
    """

    def __init__(self, state: Any, sharded: bool = False):
        self.sharded = sharded  # DTensors may be in it
        self.tensors: list[torch.Tensor | None] = []
        self.about: list[list[Any]] = []
        self.numbers: dict[object, int] = {}  # of tensors, by their memory
        self.containers: dict[int, int] = {}  # numbers of lists and dicts, by id
        self.tree = self._pack(state, "state")
        self._share_memory()

    def _pack(self, value: Any, where: str) -> Any:
        kind = type(value)  # not isinstance: a subclass would come back as its base
        if value is None or kind in (bool, str, int):
            return value
        if kind is float:
            return {"float": value.hex()}  # exact; JSON has no inf and nan
        if kind is bytes:
            return {"bytes": value.hex()}
        if isinstance(value, torch.Tensor):
            return self._tensor(value, where)
        if _same_numpy_type(value):  # mostly a metric
            return {"numpy": [value.dtype.str, value.tobytes().hex()]}
        if kind is torch.Size:
            return {"size": list(value)}
        if kind is tuple:
            return {"tuple": [self._pack(v, f"{where}[{n}]") for n, v in enumerate(value)]}
        if kind not in (list, dict, collections.OrderedDict, collections.Counter):
            raise TypeError(
                f"{where} is a {kind.__module__}.{kind.__qualname__}, which wouldn't come back as "
                "one: only tensors, numbers, strings, None, bytes and lists, tuples and dicts of "
                "them can be saved"
            )
        if id(value) in self.containers:
            return {"same": self.containers[id(value)]}
        self.containers[id(value)] = len(self.containers)
        if kind is list:
            return [self._pack(v, f"{where}[{n}]") for n, v in enumerate(value)]
        name = {collections.OrderedDict: "ordered", collections.Counter: "counter"}.get(
            kind, "dict"
        )
        return {
            name: [
                [self._pack(k, f"a key of {where}"), self._pack(v, f"{where}[{k!r}]")]
                for k, v in value.items()
            ]
        }

    def _tensor(self, value: torch.Tensor, where: str) -> Any:
        kind, sharded = type(value), self.sharded and hasattr(value, "to_local")
        wrong = (
            f"of the subclass {kind.__module__}.{kind.__qualname__}"
            if kind not in (torch.Tensor, torch.nn.Parameter) and not sharded
            else f"of layout {value.layout}"
            if value.layout != torch.strided
            else "without memory (on the meta device)"
            if value.device.type == "meta"
            else "quantized"
            if value.is_quantized
            else "the result of a computation with gradients (detach() it)"
            if value.grad_fn is not None
            else None
        )
        if wrong:
            raise TypeError(f"{where} is a tensor {wrong}: it can't be saved")
        t = value.detach()
        number = self.numbers.setdefault(_identity(t), len(self.tensors))
        if number == len(self.tensors):
            self._add(t)
        if kind is torch.nn.Parameter:
            return {"parameter": [number, value.requires_grad]}
        return {"leaf" if value.requires_grad and not sharded else "tensor": number}

    def _share_memory(self) -> None:
        """Tensors that overlap (a buffer and its slice) become views of the same bytes."""
        stored = collections.defaultdict(list)
        for n, t in enumerate(self.tensors):
            if t is not None and t.numel() and not (hasattr(t, "to_local") or t.is_conj()):
                begin = t.storage_offset() * t.element_size()
                last = sum((size - 1) * s for size, s in zip(t.shape, t.stride(), strict=True))
                end = begin + (last + 1) * t.element_size()
                stored[t.device, t.untyped_storage().data_ptr()].append((begin, end, n))
        for found in stored.values():
            run: list[tuple[int, int, int]] = []
            for piece in [*sorted(found), (1 << 62, 0, 0)]:
                if run and piece[0] >= max(end for _, end, _ in run):
                    if len(run) > 1:
                        self._as_views(run)
                    run = []
                run.append(piece)

    def _as_views(self, run: list[tuple[int, int, int]]) -> None:
        begin, end = run[0][0] // 16 * 16, max(end for _, end, _ in run)  # aligned for any type
        for _, _, n in run:
            if (t := self.tensors[n]) is not None:
                view = [
                    len(self.tensors),
                    t.storage_offset() - begin // t.element_size(),
                    t.stride(),
                ]
                self.about[n] = [*self.about[n][:2], {"view": view}]
                self.tensors[n], one = None, t
        whole = torch.empty(0, dtype=torch.uint8, device=one.device)
        self._add(whole.set_(one.untyped_storage(), begin, (end - begin,)))

    def _add(self, t: torch.Tensor) -> None:
        self.tensors.append(t)
        more = [{"device": _device_name(t.device)}] if t.device.type != "cpu" else []
        self.about.append([str(t.dtype).removeprefix("torch."), list(t.shape), *more])


def _device_name(device: torch.device) -> str:
    """Without a number for the current device, which may have another one in the next life."""
    current = device.type == "cuda" and device.index == torch.cuda.current_device()
    return device.type if current else str(device)
