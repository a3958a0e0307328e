"""A state as JSON and tensors: only what comes back the same in value and type."""

from __future__ import annotations

import collections
import functools
import math
from typing import Any

import torch

from .optional import numpy


def _identity(t: torch.Tensor) -> object:
    """Equal for tensors that share their memory (tied weights)."""
    if hasattr(t, "to_local"):
        return ("local", _identity(t.to_local()))
    if torch.nn.parameter.is_lazy(t):
        return id(t)
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


def _is_plain_array(value: Any) -> bool:
    """Is it a NumPy array that torch can share?"""
    return (
        numpy is not None
        and type(value) is numpy.ndarray
        and value.dtype.isnative
        and value.dtype.name in _ARRAYS
        and all(stride >= 0 for stride in value.strides)
    )


def _as_tensor(array: Any) -> torch.Tensor:
    """It shares the array's memory, in the storage of what the array is a view of."""
    t = torch.from_numpy(array if array.flags.writeable else array.copy())
    whole, size = array, array.itemsize
    while isinstance(whole.base, numpy.ndarray):
        whole = whole.base
    offset = array.ctypes.data - whole.ctypes.data
    if (
        whole is array
        or not (array.flags.writeable and whole.flags.writeable and whole.flags.c_contiguous)
        or whole.dtype.hasobject
        or any(n % size for n in (offset, *array.strides))
    ):
        return t
    storage = torch.from_numpy(whole.reshape(-1).view("uint8")).untyped_storage()
    strides = [n // size for n in array.strides]
    return torch.empty(0, dtype=t.dtype, device="cpu").set_(
        storage, offset // size, array.shape, strides
    )


_ARRAYS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_ARRAYS |= {"bool", "float16", "float32", "float64", "complex64", "complex128"}
_Path = tuple[Any, ...]
_DICTS: dict[type, str] = {
    dict: "dict",
    collections.OrderedDict: "ordered",
    collections.Counter: "counter",
}
_LARGE = 1 << 10_000  # Python refuses to read and write larger numbers in decimal
_KEY = object()  # in a path: a key, instead of what it leads to


def _where(path: _Path) -> str:
    if _KEY in path:
        at = path.index(_KEY)
        return f"a key of {_where(path[:at])}" + "".join(f"[{k!r}]" for k in path[at + 1 :])
    return "state" + "".join(f"[{k!r}]" for k in path)


class _Packed:
    """A state as JSON (`tree`), and its tensors.

    It takes only what comes back the same in value and type, and raises TypeError otherwise.
    What is the same object, or shares memory, stays so: tensors are written once.

    about   [dtype, shape] or [dtype, shape, {"device": ..., "strides": ..., "view": [tensor,
            offset, strides]}] for each tensor; a view (of a tensor of bytes) has no bytes of its
            own
    paths   where in the state each tensor was found: keys and indices
    tied    (number, path) of where each tensor was found again
    """

    def __init__(self, state: Any, sharded: bool = False):
        self.sharded = sharded  # DTensors may be in it
        self.tensors: list[torch.Tensor | None] = []
        self.about: list[list[Any]] = []
        self.numbers: dict[object, int] = {}  # of tensors, by their memory
        self.containers: dict[int, int] = {}  # numbers of lists and dicts, by id
        self.paths: list[_Path] = []
        self.tied: list[tuple[int, _Path]] = []
        self.tree = self._pack(state, ())
        self._share_memory()

    def _pack(self, value: Any, path: _Path) -> Any:
        kind = type(value)  # not isinstance: a subclass would come back as its base
        if value is None or kind in (bool, str) or (kind is int and -_LARGE < value < _LARGE):
            return value
        if kind is int:
            return {"int": hex(value)}
        if kind is float:
            # Python's JSON is exact for floats, but standard JSON has no inf and nan
            return value if math.isfinite(value) else {"float": value.hex()}
        if kind is bytes:
            return {"bytes": value.hex()}
        if isinstance(value, torch.Tensor):
            return self._tensor(value, path)
        if _same_numpy_type(value):  # mostly a metric
            return {"numpy": [value.dtype.str, value.tobytes().hex()]}
        if kind is torch.Size:
            return {"size": list(value)}
        if kind is tuple:
            return {"tuple": [self._pack(v, (*path, n)) for n, v in enumerate(value)]}
        array = _is_plain_array(value)
        if not array and kind is not list and kind not in _DICTS:
            raise TypeError(
                f"{_where(path)} is a {kind.__module__}.{kind.__qualname__}, which wouldn't come "
                "back as one. Only tensors, arrays, numbers, strings, None, bytes and lists, "
                "tuples and dicts of them can be saved"
            )
        if id(value) in self.containers:
            return {"same": self.containers[id(value)]}
        self.containers[id(value)] = len(self.containers)
        if array:
            return {"array": self._tensor(_as_tensor(value), path)["tensor"]}
        if kind is list:
            return [self._pack(v, (*path, n)) for n, v in enumerate(value)]
        name = _DICTS[kind]
        if all(type(k) is str for k in value):
            return {name: {k: self._pack(v, (*path, k)) for k, v in value.items()}}
        return {
            name: [
                [self._pack(k, (*path, _KEY)), self._pack(v, (*path, k))] for k, v in value.items()
            ]
        }

    def _tensor(self, value: torch.Tensor, path: _Path) -> Any:
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
            else "of tensors of different shapes"
            if value.is_nested
            else f"of {value.dtype}, which torch can't copy"
            if not _can_copy(value.dtype)
            else "the result of a computation with gradients (detach() it)"
            if value.grad_fn is not None
            else None
        )
        if wrong:
            raise TypeError(f"{_where(path)} is a tensor {wrong}: it can't be saved")
        t = value.detach()
        number = self.numbers.setdefault(_identity(t), len(self.tensors))
        if number == len(self.tensors):
            self._add(t, path)
        else:
            self.tied.append((number, path))
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
        first = (*self.paths[run[0][2]], "shared memory")
        self._add(whole.set_(one.untyped_storage(), begin, (end - begin,)), first)

    def _add(self, t: torch.Tensor, path: _Path) -> None:
        self.tensors.append(t)
        self.paths.append(path)
        more: dict[str, Any] = {}
        if t.device.type != "cpu":
            more["device"] = _device_name(t.device)
        if not (t.is_contiguous() or hasattr(t, "to_local")) and _is_dense(t):
            more["strides"] = list(t.stride())  # channels_last: sums may depend on it
        about = [more] if more else []
        self.about.append([str(t.dtype).removeprefix("torch."), list(t.shape), *about])


@functools.cache
def _can_copy(dtype: torch.dtype) -> bool:
    """Not if it is only a name (torch.uint4)."""
    try:
        torch.empty(1, dtype=dtype, device="cpu").clone()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _is_dense(t: torch.Tensor) -> bool:
    """Are its numbers all of the memory between the first and the last one?"""
    return bool(torch.empty_like(t, device="meta").stride() == t.stride())


def _device_name(device: torch.device) -> str:
    """Without a number for the current device, which may have another one in the next life."""
    current = device.type == "cuda" and device.index == torch.cuda.current_device()
    return device.type if current else str(device)
