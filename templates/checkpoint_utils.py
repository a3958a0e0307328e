"""Checkpoints that survive production: a training job is saved, stopped and resumed exactly.

    sampler = ResumableSampler(len(data), batch_size=32, seed=1)
    loader = DataLoader(data, batch_sampler=sampler, worker_init_fn=ignore_signals)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "sampler": sampler}
    with CheckpointManager("checkpoints", state, every_steps=1000, keep=3) as ckpt:
        ckpt.resume()                # the newest intact checkpoint, or a fresh start
        while ckpt.epoch < epochs and not ckpt.should_stop():
            for batch in sampler.follow(loader):
                ...                  # forward, backward, optimizer.step(), scheduler.step()
                if ckpt.step():      # saves when due; true: stop, a signal came
                    break
            else:
                ckpt.end_epoch(validate(model))
    sys.exit(ckpt.exit_status)       # 0 done, 75 preempted: run me again; an error gives 1

What it promises, on one process, under DDP and under FSDP2:
- A checkpoint appears whole or not at all: files, fsync, one rename, fsync of the directory.
  A digest covers every byte and is checked on loading. A checkpoint holds no code (JSON and raw
  tensors, no pickle).
- Resuming takes the newest intact checkpoint and says which ones it skipped. If checkpoints exist
  but none is intact, it raises; it never silently starts from step 0.
- With several ranks, a checkpoint exists only when every rank's part is durable. An error on one
  rank is an error on all of them, and all stop at the same step.
- An asynchronous save stalls training only while the state is copied. The next call raises its
  failure.

Copy this one file; it needs only torch. It is the package exact_resume in one file, without its
commands. `grade dev derive` generates it: change the package, not this file.
"""

from __future__ import annotations

import atexit
import base64
import collections
import contextlib
import copy
import ctypes
import errno
import functools
import hashlib
import itertools
import json
import logging
import math
import multiprocessing
import numbers
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from io import FileIO
from pathlib import Path
from types import MappingProxyType, SimpleNamespace, TracebackType
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

# --- config.py ------------------------------------------------------------------------------------
# The options of a CheckpointManager.


@dataclass(frozen=True)
class Config:
    """When to save, how much to keep, and how. ValueError for values that can't work."""

    every_steps: int | None = None
    """Save after each multiple of this many steps."""
    every_epochs: int | None = None
    """Save after each multiple of this many epochs."""
    every_minutes: float | None = None
    """Save when the last save is this long ago. A stop signal and the end of the job's time cause a
    save in any case."""
    keep: int = 3
    """How many intact checkpoints to keep. The best ones and milestones aren't counted."""
    keep_best: int = 1
    """How many of the best checkpoints to keep."""
    keep_every: int | None = None
    """Milestones: checkpoints at multiples of this many steps are never removed."""
    asynchronous: bool = False
    """Copy the state, then write it while training continues."""
    overlap: bool = False
    """With asynchronous=True: copy weights and optimizer state beside the next forward and backward
    pass. The next optimizer step waits for the copy. Nothing but optimizers' step() may change
    weights in between; a save that finds a change fails."""
    gradients: bool = False
    """Also save accumulated gradients (for saves between optimizer steps)."""
    trainable_only: bool = False
    """Leave out the models' frozen parameters (LoRA). Only their digest is saved, and a
    resumed job must have the same ones."""
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGUSR1)
    """Signals that ask for a save and a stop."""
    wait_for_space: float = 0.0
    """Seconds for which a save on a full disk waits for room before it raises."""
    end_time: float | None = None
    """Unix time in seconds at which the job will be killed; None: $SLURM_JOB_END_TIME."""
    margin: float = 30.0
    """Seconds before end_time by which the last save must be durable."""
    timeout: float = 3600.0
    """Seconds after which an unresponsive rank is an error on the others: longer than a save."""
    max_stuck: int = 3
    """Lives in a row without a new checkpoint after which resume() raises."""

    def __post_init__(self) -> None:
        """Refuse now what would fail hours later, at the first save or resume."""
        for name in ("keep", "keep_best"):
            number = getattr(self, name)
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{name}={number!r}: keep at least one checkpoint")
        if self.overlap and not self.asynchronous:
            raise ValueError("overlap=True: only an asynchronous save overlaps with training")
        for name in ("every_steps", "every_epochs", "every_minutes", "keep_every"):
            value = getattr(self, name)
            if value is None:
                continue
            if not (_is_number(value) and value > 0) or (
                name != "every_minutes" and value != int(value)
            ):
                raise ValueError(f"{name}={value!r}: it must be a positive number or None")
        for name in ("wait_for_space", "margin", "timeout", "max_stuck", "end_time"):
            value = getattr(self, name)
            if not (_is_number(value) and value >= 0) and (name, value) != ("end_time", None):
                raise ValueError(f"{name}={value!r}: it must be a number, and not negative")
        for name in ("asynchronous", "overlap", "gradients", "trainable_only"):
            if (value := getattr(self, name)) not in (True, False):
                raise ValueError(f"{name}={value!r}: it must be True or False")
        self._check_signals()

    def _check_signals(self) -> None:
        known = signal.valid_signals()
        if not isinstance(self.signals, Collection) or not all(s in known for s in self.signals):
            raise ValueError(f"signals={self.signals!r}: give a list such as [signal.SIGUSR2]")
        if cant := {signal.SIGKILL, signal.SIGSTOP} & set(self.signals):
            raise ValueError(f"signals={self.signals!r}: nothing can catch {min(cant).name}")


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not math.isnan(value)


# --- interfaces.py --------------------------------------------------------------------------------
# What users of the package see besides its classes: outcomes, errors, what can be saved.

DONE, PREEMPTED, FAILED = "done", "preempted", "failed"
EXIT_STATUS = {DONE: 0, PREEMPTED: 75, FAILED: 1}  # 75: EX_TEMPFAIL of sysexits.h, "try again"


AnyPath = str | os.PathLike[str]


class Stateful(Protocol):
    """Anything with a state to save and load: a model, an optimizer, a scheduler, a sampler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


class CheckpointError(Exception):
    """A checkpoint can't be written or read, or none of the existing ones is intact."""


class DiskFull(CheckpointError):
    """A rank found no room on the disk."""


class Mismatch(CheckpointError):
    """The checkpoint is intact but doesn't fit this job; older ones won't fit either."""


# --- digest.py ------------------------------------------------------------------------------------
# The digest of a file, computed beside its writing and reading.

CHUNK = 8 << 20
_THREADS = max(2, min(4, os.cpu_count() or 1))  # two keep pace with a disk, four with a page cache
_checkers = ThreadPoolExecutor(_THREADS, "digest")


def _new_checkers() -> None:
    global _checkers
    _checkers = ThreadPoolExecutor(_THREADS, "digest")


os.register_at_fork(after_in_child=_new_checkers)  # threads don't survive a fork


_Part = tuple[bytes | memoryview, object]  # bytes, and what keeps their memory alive


class _Digest:
    """SHA-256 over the CRC-32 of each piece (at most 8 MiB), computed while pieces are written.

    It finds accidents, not attacks. It catches every flipped bit and every damaged run of up to 32
    bits, and misses other damage once in 4 billion times. (torch.save writes the same CRC-32 into
    its files; torch.load ignores it.)
    """

    def __init__(self) -> None:
        self.pieces: collections.deque[tuple[int, Future[int]]] = collections.deque()
        self.whole = hashlib.sha256()

    def update(self, piece: bytes | memoryview, owner: object = None) -> None:
        """Add `piece`; `owner` keeps its memory alive until it is read."""
        if len(self.pieces) == 6:  # bounds the memory that pending pieces hold
            self._take()
        self.pieces.append((len(piece), _checkers.submit(_crc, [(piece, owner)])))

    def _take(self) -> None:
        length, crc = self.pieces.popleft()
        self.whole.update(length.to_bytes(8, "little") + crc.result().to_bytes(4, "little"))

    def digest(self) -> bytes:
        while self.pieces:
            self._take()
        return self.whole.digest()


def _crc(parts: list[_Part]) -> int:
    crc = 0
    for part, _ in parts:
        crc = zlib.crc32(part, crc)
    return crc


class _FileDigest(_Digest):
    """The same, but of pieces of exactly 8 MiB (and a shorter last one), whatever comes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[_Part] = []
        self.length = 0

    def update(self, piece: bytes | memoryview, owner: object = None) -> None:
        view = memoryview(piece)
        while view:
            part = view[: CHUNK - self.length]
            self.parts.append((part, owner))
            self.length += len(part)
            view = view[len(part) :]
            if self.length == CHUNK:
                self._close()

    def _close(self) -> None:
        if len(self.pieces) == 6:
            self._take()
        if self.length:
            self.pieces.append((self.length, _checkers.submit(_crc, self.parts)))
        self.parts, self.length = [], 0

    def digest(self) -> bytes:
        self._close()
        return super().digest()


class _Reads:
    """Files being read into memory: several threads take a piece each.

    They compute its CRC while the cache still holds it. The caller keeps the memory alive until
    the block is left.
    """

    def __init__(self) -> None:
        self.running: list[Future[int]] = []

    def __enter__(self) -> _Reads:
        return self

    def __exit__(self, *_: object) -> None:
        wait(self.running)  # after an error, the others still write

    def start(self, path: AnyPath, views: Iterable[memoryview]) -> Callable[[], str]:
        """Fill `views` with the file's bytes, in order; return what waits for its digest.

        Views that can't be written hold their bytes already. What waits raises CheckpointError if
        the file ends early or can't be read.
        """
        pieces: list[tuple[int, Future[int]]] = []
        for start, parts in _pieces(views):
            pieces.append((sum(map(len, parts)), _checkers.submit(_read_piece, path, start, parts)))
        self.running += [piece for _, piece in pieces]
        return lambda: _digest_of_pieces(path, pieces)


def _pieces(views: Iterable[memoryview]) -> Iterator[tuple[int, list[memoryview]]]:
    """The views in pieces of exactly 8 MiB (and a shorter last one): (offset, parts)."""
    start, length = 0, 0
    parts: list[memoryview] = []
    for view in views:
        while view:
            part = view[: CHUNK - length]
            parts.append(part)
            length += len(part)
            view = view[len(part) :]
            if length == CHUNK:
                yield start, parts
                start, length, parts = start + length, 0, []
    if parts:
        yield start, parts


def _read_piece(path: AnyPath, start: int, parts: list[memoryview]) -> int:
    crc = 0
    with open(path, "rb", buffering=0) as f:
        for part in parts:
            if not part.readonly:
                f.seek(start)
                if f.readinto(part) != len(part):
                    raise CheckpointError(f"{path} is damaged: it ends early")
            start += len(part)
            crc = zlib.crc32(part, crc)
    return crc


def _digest_of_pieces(path: AnyPath, pieces: Iterable[tuple[int, Future[int]]]) -> str:
    whole = _Digest()
    whole.pieces.extend(pieces)
    try:
        return whole.digest().hex()
    except OSError as e:
        raise CheckpointError(f"{path} can't be read: {e}") from e


def digest_of(path: AnyPath) -> str:
    """Digest (hex) of a file, as the manifest holds it."""

    def piece(start: int, length: int) -> int:
        return _read_piece(path, start, [memoryview(bytearray(length))])

    try:
        size = os.stat(path).st_size
    except OSError as e:
        raise CheckpointError(f"{path} can't be read: {e}") from e
    sizes = {start: min(CHUNK, size - start) for start in range(0, size, CHUNK)}
    return _digest_of_pieces(path, [(n, _checkers.submit(piece, at, n)) for at, n in sizes.items()])


# --- optional.py ----------------------------------------------------------------------------------
# Modules that may be missing.

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import numpy
    import numpy.random  # else it is imported at its first use
except ImportError:
    numpy = None


# --- durable.py -----------------------------------------------------------------------------------
# Writes and syncs: what must reach the disk, does.


def _write_all(f: FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[f.write(view) :]  # a write may be short


def _fsync(fd: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # macOS: fsync leaves the bytes in the drive's cache
    else:
        os.fsync(fd)


def _fsync_path(path: AnyPath) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        _fsync(fd)
    except OSError as e:
        if not (os.path.isdir(path) and e.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise  # some file systems can't sync a directory and don't need to
    finally:
        os.close(fd)


def _fsync_ancestors(path: Path) -> None:
    """Make the names on the way to `path` durable: programs that make folders rarely sync them."""
    device = path.stat().st_dev
    for parent in path.parents:
        try:
            if parent.stat().st_dev != device:
                return
            _fsync_path(parent)
        except OSError as e:
            if e.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            return  # above, nothing is ours


# --- reporting.py ---------------------------------------------------------------------------------
# What the package says: through `logging` where the job has set it up, else on stderr.

_log = logging.getLogger(__name__.partition(".")[0])


def _say(line: str, level: int = logging.WARNING) -> None:
    """A record of the package's logger; a line on stderr if no logger has a handler."""
    if _log.hasHandlers():
        _log.log(level, line)
    else:
        print(line, file=sys.stderr, flush=True)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "nothing"


def _few(names: Iterable[str]) -> str:
    names = sorted(names)
    return _quoted(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# --- packing.py -----------------------------------------------------------------------------------
# A state as JSON and tensors: only what comes back the same in value and type.


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


# --- tensorfile.py --------------------------------------------------------------------------------
# Tensors in a file that `safetensors.torch.load_file` reads.
#
# Layout: length of the header, header (JSON: each tensor's type, shape and offsets), the tensors'
# bytes without gaps. Types that safetensors lacks lie there as numbers of another type, with one
# more dimension: complex ones as pairs of floats, others as bytes.

_TYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_PAIRS = {"complex32": "F16", "complex64": "F32", "complex128": "F64"}
_RESERVED = "__metadata__"


def _memory(t: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without NumPy (which has no bfloat16)."""
    size = t.numel() * t.element_size()
    return memoryview((ctypes.c_char * size).from_address(t.data_ptr() if size else 1)).cast("B")


def _as_bytes(t: torch.Tensor) -> torch.Tensor:
    """Its bytes in order; not copied if they are in order already."""
    t = t.resolve_conj().resolve_neg().contiguous()
    if t.numel() == 1:
        t = t.as_strided((1,), (1,))  # a single number counts as contiguous with any stride
    return t.view(-1).view(torch.uint8)


def _size(t: torch.Tensor) -> int:
    return int(t.numel() * t.element_size())


def _type_and_shape(t: torch.Tensor) -> tuple[str, list[int]]:
    """As safetensors has them."""
    name = str(t.dtype).removeprefix("torch.")
    if name in _TYPES:
        return _TYPES[name], list(t.shape)
    if name in _PAIRS:
        return _PAIRS[name], [*t.shape, 2]
    return "U8", [*t.shape, t.element_size()]


def _tensor_file(tensors: Mapping[str, torch.Tensor], tied: Mapping[str, str]) -> Iterator[_Part]:
    """The parts of a file of `tensors`; `tied` maps other names of theirs to those in the file."""
    # aligned: the widest type first; load_file can't read a number that begins anywhere
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header: dict[str, Any] = {_RESERVED: {**tied, "format": "pt"}}
    end = 0
    for name, t in ordered:
        kind, shape = _type_and_shape(t)
        begin, end = end, end + _size(t)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text, None
    for _, t in ordered:
        if not t.numel():
            continue
        flat = _as_bytes(t)
        for start in range(0, len(flat), CHUNK):
            piece = flat[start : start + CHUNK].cpu()
            yield _memory(piece), piece


def _read_tensor_file(
    path: Path, wanted: Mapping[str, torch.Tensor], reads: _Reads
) -> Callable[[], str]:
    """Fill the `wanted` tensors, which are all that the file holds; return what gives its digest.

    Raises  CheckpointError if the file can't be read or isn't made of them.
    """
    try:
        with open(path, "rb", buffering=0) as f:
            size = os.fstat(f.fileno()).st_size
            head = f.read(8)
            length = int.from_bytes(head, "little")
            head += f.read(length) if length <= size else b""
        header = json.loads(head[8:])
        if header.keys() - {_RESERVED} != wanted.keys():
            raise CheckpointError(f"{path} is damaged: it holds other tensors")
        header.pop(_RESERVED, None)
        end, views = 0, [memoryview(head)]
        for name, about in sorted(header.items(), key=lambda i: i[1]["data_offsets"]):
            t = wanted[name]
            if about["data_offsets"] != [end, end + _size(t)]:
                raise CheckpointError(f"{path} is damaged: '{name}' isn't where it was")
            end += _size(t)
            views.append(_memory(t))
        if size != len(head) + end:
            wrong = "it ends early" if size < len(head) + end else "it is too long for its header"
            raise CheckpointError(f"{path} is damaged: {wrong}")
        return reads.start(path, views)
    except OSError as e:
        raise CheckpointError(f"{path} can't be read: {e}") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{path} is damaged: its header is wrong") from e


# --- unpacking.py ---------------------------------------------------------------------------------
# The state that JSON and tensors were made of.


class _Unpacked:
    """The `state` that a _Packed was made of."""

    def __init__(
        self,
        tree: Any,
        about: list[list[Any]],
        tensors: Sequence[torch.Tensor | None],
        home: Collection[str] = (),
    ):
        self.about, self.tensors, self.at_home = about, tensors, False
        self.taken: dict[tuple[int, bool], torch.Tensor] = {}
        self.containers: list[Any] = []
        self.state: Any
        if home:
            self.containers.append(whole := {})
            for key, node in _items(tree["dict"]):
                self.at_home = key in home
                whole[key] = self._unpack(node)
            self.state = whole
        else:
            self.state = self._unpack(tree)

    def _unpack(self, node: Any) -> Any:
        if isinstance(node, list):
            items: list[Any] = []
            self.containers.append(items)
            items.extend(self._unpack(n) for n in node)
            return items
        if not isinstance(node, dict):
            return node
        ((kind, content),) = node.items()
        if kind in ("dict", "ordered", "counter"):
            made: dict[Any, Any]
            made = {"ordered": collections.OrderedDict, "counter": collections.Counter}.get(
                kind, dict
            )()
            self.containers.append(made)
            for key, value in _items(content):
                made[self._unpack(key)] = self._unpack(value)
            return made
        if kind == "array":
            t = self._tensor(content)
            self.containers.append(array := t if numpy is None else t.numpy())
            return array
        others: dict[str, Callable[[Any], Any]] = {
            "float": float.fromhex,
            "int": lambda c: int(c, 16),
            "bytes": bytes.fromhex,
            "tuple": lambda c: tuple(self._unpack(n) for n in c),
            "same": lambda n: self.containers[n],
            "size": torch.Size,
            "numpy": lambda c: numpy.frombuffer(bytes.fromhex(c[1]), c[0])[0],
            "tensor": self._tensor,
            "leaf": lambda n: self._tensor(n).detach().requires_grad_(),
            "parameter": lambda c: torch.nn.Parameter(self._tensor(c[0]), c[1]),
        }
        return others[kind](content)

    def _tensor(self, n: int) -> torch.Tensor:
        if (n, self.at_home) not in self.taken:
            t, (dtype, shape, *more) = self.tensors[n], self.about[n]
            if t is None:
                number, offset, strides = more[0]["view"]
                whole = self._tensor(number)
                t = torch.empty(0, dtype=getattr(torch, dtype), device=whole.device)
                t = t.set_(whole.untyped_storage(), offset, shape, strides)
            elif self.at_home and more:
                if "strides" in more[0]:
                    strides = more[0]["strides"]
                    t = torch.empty_strided(shape, strides, dtype=t.dtype, device="cpu").copy_(t)
                if "device" in more[0]:
                    t = _at_home(t, more[0]["device"])
            self.taken[n, self.at_home] = t
        return self.taken[n, self.at_home]


def _items(content: Any) -> Any:
    """Of a dict: as an object if all keys are strings, else as pairs."""
    return content.items() if isinstance(content, dict) else content


def _at_home(t: torch.Tensor, device: str) -> torch.Tensor:
    """On the device where it was, if this machine has one like it."""
    for name in (device, device.partition(":")[0]):
        try:
            return t.to(name)
        except (RuntimeError, AssertionError):  # AssertionError: torch without CUDA
            continue
    return t


# --- writing.py -----------------------------------------------------------------------------------
# Files written durably, one after another, each synced beside the writing of the next.

_syncers = ThreadPoolExecutor(4, "sync")  # a file system commits several syncs at once


def _new_syncers() -> None:
    global _syncers
    _syncers = ThreadPoolExecutor(4, "sync")


os.register_at_fork(after_in_child=_new_syncers)  # threads don't survive a fork


class _Syncs:
    """Syncs in flight: nothing is durable before wait() has returned."""

    def __init__(self) -> None:
        self.running: list[Future[None]] = []
        self.files: list[FileIO] = []
        self.unsynced = 0  # bytes written since the last sync began

    def __enter__(self) -> _Syncs:
        return self

    def __exit__(self, *_: object) -> None:
        wait(self.running)
        for f in self.files:
            f.close()

    def open(self, path: AnyPath) -> FileIO:
        """A new file, open until all syncs have ended."""
        self.files.append(open(path, "xb", buffering=0))
        return self.files[-1]

    def write(self, f: FileIO, part: bytes | memoryview) -> None:
        """Write all of it. The disk starts on the first bytes instead of waiting for the last."""
        _write_all(f, part)
        self.unsynced += len(part)
        if self.unsynced >= 4 * CHUNK and all(sync.done() for sync in self.running):
            self.start(f)

    def start(self, f: FileIO) -> None:
        self.unsynced = 0
        self.running.append(_syncers.submit(_fsync, f.fileno()))

    def start_folder(self, folder: Path) -> None:
        """Sync the names in it."""
        self.running.append(_syncers.submit(_fsync_path, folder))

    def wait(self) -> None:
        for sync in self.running:
            sync.result()  # a disk error is reported only once: a later fsync would succeed


def _write_files(
    folder: Path, files: Mapping[str, Iterable[_Part]], syncs: _Syncs
) -> dict[str, str]:
    """Write new files into `folder` and start their syncs; return their digests."""
    digests: dict[str, _FileDigest] = {}
    for name, parts in files.items():
        f = syncs.open(folder / name)
        digest = digests[name] = _FileDigest()
        for part, owner in parts:
            digest.update(part, owner)
            syncs.write(f, part)
        syncs.start(f)
    return {name: digest.digest().hex() for name, digest in digests.items()}


def _write_durably(folder: Path, files: Mapping[str, Iterable[_Part]]) -> dict[str, str]:
    """Write new files into `folder`; return their digests when all are on the disk."""
    with _Syncs() as syncs:
        digests = _write_files(folder, files, syncs)
        syncs.wait()
    return digests


# --- statefile.py ---------------------------------------------------------------------------------
# A state in one file of its own: `write_file` writes it, and older checkpoints hold such files.
#
# Layout: magic, header length, header digest, header (JSON), the tensors' bytes in order, a digest
# of everything. Tensors are written from and read into their own memory, without a second copy.

MAGIC = b"ckpt-v1\n"


def write_file(path: AnyPath, state: Any) -> str:
    """Write `state` durably to a new file and return the file's digest (hex).

    state   nested dicts, lists and tuples of tensors and plain values
    Needs at most 64 MiB of memory beyond the state itself.
    Raises  OSError if the disk is full or `path` exists; TypeError if a value can't be saved.
    """
    packed = state if isinstance(state, _Packed) else _Packed(state)
    header = json.dumps({"tree": packed.tree, "tensors": packed.about}).encode()
    digest = _Digest()
    with _Syncs() as syncs:
        f = syncs.open(path)
        head = MAGIC + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header
        _write_all(f, head)
        digest.update(head)
        for t in packed.tensors:
            if t is None or not t.numel():
                continue
            flat = _as_bytes(t)
            for start in range(0, len(flat), CHUNK):
                piece = flat[start : start + CHUNK].cpu()
                view = _memory(piece)
                digest.update(view, piece)
                syncs.write(f, view)
        _write_all(f, digest.digest())
        syncs.start(f)
        syncs.wait()
    return digest.digest().hex()


def read_file(path: AnyPath) -> Any:
    """The state that `write_file` wrote, tensors on the CPU.

    Raises  CheckpointError if the file can't be read or any bit of it is wrong.
    """
    return _read(path)[0]


def _read(path: AnyPath, keep: bool = True, home: Collection[str] = ()) -> tuple[Any, str]:
    """(state, digest); keep=False only verifies the file and gives None as its state.

    home    keys of the state whose tensors go back to the device that they were on
    """
    digest = _Digest()
    tensors: list[torch.Tensor | None] = []
    try:
        with open(path, "rb") as f:
            head = f.read(48)
            length = int.from_bytes(head[8:16], "little")
            header = f.read(length) if length <= os.fstat(f.fileno()).st_size else b""
            if head[:8] != MAGIC or hashlib.sha256(header).digest() != head[16:]:
                raise CheckpointError(f"{path} is damaged: its header is wrong")
            digest.update(head + header)
            about = json.loads(header)
            for dtype, shape, *more in about["tensors"]:
                if more and "view" in more[0]:  # its bytes are another tensor's
                    tensors.append(None)
                    continue
                t = torch.empty(
                    shape, dtype=getattr(torch, dtype), device="cpu" if keep else "meta"
                )
                tensors.append(t)
                view, size = _memory(t) if keep else None, t.numel() * t.element_size()
                for start in range(0, size, CHUNK):
                    piece = (
                        view[start : start + CHUNK]
                        if view is not None
                        else memoryview(bytearray(min(CHUNK, size - start)))
                    )
                    if f.readinto(piece) != len(piece):
                        raise CheckpointError(f"{path} is damaged: it ends early")
                    digest.update(piece, t)
            if f.read() != digest.digest():
                raise CheckpointError(f"{path} is damaged: its digest doesn't match")
    except OSError as e:
        raise CheckpointError(f"{path} can't be read: {e}") from e
    state = _Unpacked(about["tree"], about["tensors"], tensors, home).state if keep else None
    return state, digest.digest().hex()


# --- stateparts.py --------------------------------------------------------------------------------
# A checkpoint's files for one state: NAME.json, and its tensors beside it in PART.safetensors.
#
# NAME.json holds everything but the tensors' bytes (those of small ones, too, where asked): values
# with their types, and of each tensor the type, the shape, the device, and where its bytes are.

_SMALL = 16 << 10  # bytes


def _state_files(name: str, packed: _Packed, apart: bool) -> dict[str, Iterable[_Part]]:
    """The files of a state, by name.

    apart  each part (key of the state) gets a file of its own for its tensors; else small tensors
           are in NAME.json, and others in NAME.safetensors
    """
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    ties: dict[str, dict[str, str]] = {}
    about = [list(entry) for entry in packed.about]
    places: dict[int, tuple[str, str]] = {}
    stems = _stems(p[0] for p in packed.paths if p) if apart else {}
    for number, t in enumerate(packed.tensors):
        if t is None:  # its bytes are another tensor's
            continue
        more = dict(about[number][2]) if len(about[number]) > 2 else {}
        path = packed.paths[number]
        if not apart and _size(t) <= _SMALL:
            piece = t.resolve_conj().resolve_neg().contiguous().cpu()
            more["base64"] = base64.b64encode(_memory(piece)).decode()
        else:
            file = (stems[path[0]] if apart and path else name) + ".safetensors"
            names = tensors.setdefault(file, {})
            key = _unused(_joined(path[1:] if apart else path), names.keys() | {_RESERVED})
            names[key] = t
            places[number] = file, key
            more |= {"file": file, "name": key}
        about[number] = [*about[number][:2], more]
    for number, path in packed.tied if apart else ():
        if number in places and path and places[number][0] == f"{stems.get(path[0])}.safetensors":
            file, key = places[number]
            ties.setdefault(file, {}).setdefault(_joined(path[1:]), key)
    text = json.dumps({"tree": packed.tree, "tensors": about}).encode()
    files: dict[str, Iterable[_Part]] = {
        file: _tensor_file(held, ties.get(file, {})) for file, held in tensors.items()
    }
    return {**files, f"{name}.json": [(text, None)]}


def _joined(path: _Path) -> str:
    return ".".join(map(str, path)) or "value"


def _unused(name: str, taken: Collection[str]) -> str:
    return name if name not in taken else _unused(name + "_", taken)


def _stems(parts: Iterable[Any]) -> dict[Any, str]:
    """File names for parts of any name, without those that mean something else."""
    found: dict[Any, str] = {}
    for part in parts:
        if part not in found:
            stem = re.sub(r"[^\w.-]", "_", str(part)).lstrip(".") or "_"
            stem += "_" if re.fullmatch(r"(?i)rank-\d+", stem) else ""
            taken = {s.casefold() for s in found.values()}  # macOS doesn't tell A from a
            while stem.casefold() in taken:
                stem += "_"
            found[part] = stem
    return found


def _read_state(
    folder: Path, file: str, digests: Mapping[str, str], home: Collection[str] = ()
) -> Any:
    """The state of which `file` is the NAME.json, verified.

    digests  of the checkpoint's files
    home     keys of the state whose tensors go back to the device that they were on
    Raises   CheckpointError if any bit of it is wrong.
    """
    path = folder / file
    try:
        text = path.read_bytes()
    except OSError as e:
        raise CheckpointError(f"{path} can't be read: {e}") from e
    digest = _FileDigest()
    digest.update(text)
    _compare_digests(path, digest.digest().hex(), digests)
    try:
        return _state_in(folder, json.loads(text), digests, home)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
        raise CheckpointError(f"{path} isn't a state that this version reads: {e}") from e


def _state_in(
    folder: Path, about: dict[str, Any], digests: Mapping[str, str], home: Collection[str]
) -> Any:
    tensors: list[torch.Tensor | None] = []
    held: dict[str, dict[str, torch.Tensor]] = {}
    for dtype, shape, more in (([*entry, {}])[:3] for entry in about["tensors"]):
        if "view" in more:
            tensors.append(None)
            continue
        tensors.append(t := torch.empty(shape, dtype=getattr(torch, dtype), device="cpu"))
        if "base64" in more:
            _memory(t)[:] = base64.b64decode(more["base64"])
        else:
            held.setdefault(more["file"], {})[more["name"]] = t
    with _Reads() as reads:
        reading = {
            folder / other: _read_tensor_file(folder / other, wanted, reads)
            for other, wanted in held.items()
        }
        for other, digest_of_it in reading.items():
            _compare_digests(other, digest_of_it(), digests)
    return _Unpacked(about["tree"], about["tensors"], tensors, home).state


def _compare_digests(path: Path, digest: str, digests: Mapping[str, str]) -> None:
    if digests.get(path.name) != digest:
        raise CheckpointError(f"{path} is damaged, or belongs to another checkpoint")


# --- directory.py ---------------------------------------------------------------------------------
# A directory of checkpoints: names, commits, retention.


class CheckpointDirectory:
    """A directory of checkpoints step-STEP-N and best-STEP-N; N counts the saves of that step.

    A checkpoint is a directory: its files, and manifest.json with the digest of each file and of
    itself. Unfinished ones are called tmp-...
    """

    def __init__(self, path: AnyPath):
        if re.match(r"[a-z][a-z0-9+.-]+:/", os.fspath(path), re.I):
            raise ValueError(f"{os.fspath(path)} is a URL: give a directory (a mounted one)")
        self.path = Path(path).expanduser().absolute()  # the job may change its directory
        self.trusted: set[str] = set()  # names that this process has written or verified
        self.told: set[str] = set()  # names that can't be read or removed
        self.anchored = False  # the folders on the way to it are durable

    def names(self, kind: str = "step") -> list[str]:
        """Names of the finished checkpoints, newest first: by step, never by date."""
        entries = os.listdir(self.path) if self.path.is_dir() else []
        found = [
            (int(m[1]), int(m[2]), n)
            for n in entries
            if (m := re.fullmatch(kind + r"-(\d+)-(\d+)", n))
        ]
        return [name for *_, name in sorted(found, reverse=True)]

    def begin(self, kind: str, step: int) -> Path:
        """Delete leftovers of interrupted saves; make a temporary directory to write into."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.clear_leftovers()
        again = [
            int(n.rpartition("-")[2]) for n in self.names(kind) if int(n.split("-")[1]) == step
        ]
        tmp = self.path / f"tmp-{kind}-{step:012d}-{max(again, default=0) + 1}"
        tmp.mkdir()
        return tmp

    def clear_leftovers(self) -> None:
        for name in os.listdir(self.path) if self.path.is_dir() else ():
            if re.fullmatch(r"tmp-(gone-)?(step|best)-\d+-\d+", name):
                shutil.rmtree(self.path / name, ignore_errors=True)

    def commit(self, tmp: Path, digests: dict[str, str], **more: Any) -> str:
        """Turn `tmp`, whose files are durable, into a checkpoint and return its name."""
        with _Syncs() as syncs:
            self.seal(tmp, digests, syncs, **more)
            syncs.wait()
        return self.publish(tmp)

    def seal(self, tmp: Path, digests: dict[str, str], syncs: _Syncs, **more: Any) -> None:
        """Write the manifest; start the syncs of it and of the names in `tmp`."""
        body = json.dumps({"files": digests, **more}, sort_keys=True)
        f = syncs.open(tmp / "manifest.json")
        _write_all(f, f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n".encode())
        syncs.start(f)
        syncs.start_folder(tmp)

    def publish(self, tmp: Path) -> str:
        """Turn `tmp`, in which everything is durable, into a checkpoint and return its name.

        The order makes it durable: rename it once, then sync its name.
        """
        name = tmp.name.removeprefix("tmp-")
        os.rename(tmp, self.path / name)
        _fsync_path(self.path)
        if not self.anchored:
            _fsync_ancestors(self.path)
            self.anchored = True
        self.trusted.add(name)
        return name

    def set_aside(self, kind: str, step: int) -> None:
        """Rename checkpoints of later steps, which an earlier run left, to abandoned-..."""
        for name in self.names(kind):
            if int(name.split("-")[1]) > step:
                gone = f"abandoned-{time.time_ns()}-{name}"
                os.rename(self.path / name, self.path / gone)
                _say(
                    f"{name} belongs to an earlier run with later steps; moved to {gone}",
                    logging.INFO,
                )

    def manifest(self, name: str) -> dict[str, Any]:
        try:
            body, own, *_ = (self.path / name / "manifest.json").read_bytes().split(b"\n")
            if hashlib.sha256(body).hexdigest().encode() != own:
                raise ValueError("its digest doesn't match")
            found: dict[str, Any] = json.loads(body)
            if not (isinstance(found, dict) and isinstance(found.get("files"), dict)):
                raise ValueError("it lists no files")
            return found
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{name} is damaged: manifest.json: {e}") from e

    def read(self, name: str, file: str, home: Collection[str] = ()) -> Any:
        """The state in one file of a checkpoint (shared.json), with what belongs to it, verified.

        None if the manifest doesn't list it.

        home  keys of the state whose tensors go back to the device that they were on
        """
        digests = self.manifest(name)["files"]
        wanted = digests.get(file)
        if wanted is None:
            return None
        if file.endswith(".json"):
            return _read_state(self.path / name, file, digests, home)
        state, digest = _read(self.path / name / file, home=home)
        if digest != wanted:
            raise CheckpointError(f"{name}/{file} belongs to another checkpoint")
        return state

    def verify(self, name: str, share: slice = slice(None)) -> None:
        """Raise CheckpointError unless every file (of `share`) is as it was written."""
        for error in self.problems(name, share):
            raise error

    def problems(self, name: str, share: slice = slice(None)) -> Iterator[CheckpointError]:
        """What is wrong with its files (of `share`), one after another."""
        try:
            files = sorted(self.manifest(name)["files"].items())[share]
        except CheckpointError as e:
            yield e
            return
        for file, wanted in files:
            path = self.path / name / file
            try:
                old = file.endswith(".ckpt")
                if (_read(path, keep=False)[1] if old else digest_of(path)) != wanted:
                    yield CheckpointError(f"{path} is damaged")
            except CheckpointError as e:
                yield e

    def prune(
        self, keep: int, kind: str = "step", trust: bool = True, every: int | None = None
    ) -> None:
        """Keep the newest `keep` intact ones, or all if none is intact. A kill does no harm.

        every  those at multiples of so many steps are kept besides
        """
        names = self.names(kind)
        kept: list[str] = []  # what can't be read now, isn't deleted, and doesn't count
        intact = 0
        for name in names:
            if every is not None and int(name.split("-")[1]) % every == 0:
                kept.append(name)
            elif intact < keep and (found := self._intact(name, trust)) is not False:
                kept.append(name)
                intact += found is True
        for name in names if intact else []:
            if name not in kept:
                gone = self.path / f"tmp-gone-{name}"
                try:
                    os.rename(self.path / name, gone)  # atomic: nobody sees half a checkpoint
                except OSError as e:
                    self._tell(name, f"can't be removed: {e}")
        self.clear_leftovers()

    def _intact(self, name: str, trust: bool) -> bool | None:
        """None: the file system doesn't say."""
        if trust and name in self.trusted:
            return True
        try:
            self.verify(name)
        except CheckpointError as e:
            if isinstance(e.__cause__, OSError) and not isinstance(e.__cause__, FileNotFoundError):
                self._tell(name, f"is kept, but doesn't count: {e}")
                return None  # a file-system error must not delete anything
            return False
        self.trusted.add(name)
        return True

    def _tell(self, name: str, what: str) -> None:
        """Once for each checkpoint, not in every save."""
        if name not in self.told:
            _say(f"checkpoint {name} {what}")
        self.told.add(name)


# --- generators.py --------------------------------------------------------------------------------
# The states of random number generators.


def rng_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators and of one for each CUDA device."""
    state: dict[str, Any]
    state = {"python": random.getstate(), "torch": torch.get_rng_state(), "cuda": []}
    if torch.cuda.is_available():
        state |= {"cuda": torch.cuda.get_rng_state_all(), "device": torch.cuda.current_device()}
    if numpy is not None:
        # of any bit generator; a safe load refuses arrays, so they become tensors
        state["numpy"] = _arrays_as_tensors(numpy.random.get_state(legacy=False))
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what exists on this machine, which may have fewer GPUs or no NumPy."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    for device, rng in enumerate(
        state["cuda"][: torch.cuda.device_count() if torch.cuda.is_available() else 0]
    ):
        torch.cuda.set_rng_state(rng, device)
    # the current device's state, even if that device has another number now
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][state["device"]], torch.cuda.current_device())
    if numpy is not None and "numpy" in state:
        saved = state["numpy"]
        if isinstance(saved, list):  # of the first versions
            name, keys, *rest = saved
            saved = (name, keys.numpy().astype("uint32"), *rest)
        numpy.random.set_state(_tensors_as_arrays(saved))


SIGNED = {"uint32": "int32", "uint64": "int64"}  # tensors that every version of torch loads


def _arrays_as_tensors(state: Any) -> Any:
    """The same bits: NumPy's generators hold unsigned integers."""
    if isinstance(state, dict):
        return {name: _arrays_as_tensors(value) for name, value in state.items()}
    if numpy is not None and isinstance(state, numpy.ndarray):
        return torch.from_numpy(state.view(SIGNED[state.dtype.name]).copy())
    return state


def _tensors_as_arrays(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _tensors_as_arrays(value) for name, value in state.items()}
    if isinstance(state, torch.Tensor):
        array = state.numpy()
        return array.view(f"u{array.dtype.name}")
    return state


def _is_generator(part: Any) -> bool:
    kinds: tuple[type, ...] = (torch.Generator, random.Random)
    if numpy is not None:
        of_numpy = numpy.random
        kinds += (of_numpy.Generator, of_numpy.RandomState, of_numpy.BitGenerator)
    return isinstance(part, kinds) and not isinstance(part, random.SystemRandom)


def _generator_state(part: Any) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, random.Random):
        return part.getstate()
    if isinstance(part, numpy.random.RandomState):
        return part.get_state(legacy=False)
    return getattr(part, "bit_generator", part).state


def _set_generator(part: Any, state: Any) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(state)
    elif isinstance(part, random.Random):
        part.setstate(state)
    elif isinstance(part, numpy.random.RandomState):
        part.set_state(state)
    else:
        getattr(part, "bit_generator", part).state = state


# --- plain.py -------------------------------------------------------------------------------------
# Parts that are their own state: dicts, NumPy arrays, tensors and generators.


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


# --- modules.py -----------------------------------------------------------------------------------
# The state of modules, without what wrappers add and with what state_dict leaves out.


def bare(model: Any) -> Any:
    """The module inside DistributedDataParallel, DataParallel and torch.compile."""
    while isinstance(
        model, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    ) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def _plain_key(key: str) -> str:
    """Without what torch.compile and activation checkpointing insert."""
    return key.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def _versions(part: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Its modules' versions, by which load_state_dict converts what older ones saved."""
    return {
        _plain_key(name): dict(about)
        for name, about in getattr(bare(part).state_dict(), "_metadata", {}).items()
    }


def _state_of(part: Any) -> Any:
    if isinstance(part, torch.nn.Module):
        return {_plain_key(k): v for k, v in bare(part).state_dict().items()}
    if part is None or _is_plain(part):
        return _plain_state(part)
    return part.state_dict()


def _digest_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = _FileDigest()
    for name, t in tensors.items():
        digest.update(f"{name} {t.dtype} {list(t.shape)}\n".encode())
        data = _as_bytes(t)
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK].cpu()
            digest.update(_memory(piece), piece)
    return digest.digest().hex()


def _same_bytes(a: Any, b: torch.Tensor) -> bool:
    """Is `a` a tensor of the same type, shape and bits as `b`?"""
    if not isinstance(a, torch.Tensor) or (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return bool(_as_bytes(a.detach().to(b.device)).equal(_as_bytes(b.detach())))


def _buffers_of(
    part: torch.nn.Module, held: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, torch.Tensor]:
    """Its buffers, except those that `held` holds as they are."""
    buffers = bare(part).named_buffers(remove_duplicate=False)
    found = {_plain_key(n): b for n, b in buffers if not hasattr(b, "to_local")}
    return {n: b for n, b in found.items() if not _holds(held, n, b)}


def _holds(state: Mapping[str, Any], name: str, t: torch.Tensor) -> bool:
    held = state.get(name)
    return hasattr(held, "to_local") or (
        isinstance(held, torch.Tensor) and _identity(held) == _identity(t)
    )


def _gradients_of(part: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Of its parameters; of shards, this rank's."""
    named = bare(part).named_parameters()
    grads = {_plain_key(n): p.grad.detach() for n, p in named if p.grad is not None}
    return {n: g.to_local() if hasattr(g, "to_local") else g for n, g in grads.items()}


def _load_gradients(part: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    for name, p in bare(part).named_parameters():
        grad = saved.get(_plain_key(name))
        if grad is not None:
            p.grad = torch.zeros_like(p)
            (p.grad.to_local() if hasattr(p, "to_local") else p.grad).copy_(grad)


def _load_buffers(part: torch.nn.Module, saved: Mapping[str, torch.Tensor], name: str) -> None:
    """Fill its buffers; one that training has made, or changed in shape, is made again."""
    modules = {_plain_key(n): m for n, m in bare(part).named_modules(remove_duplicate=False)}
    for key, value in saved.items():
        path, _, last = key.rpartition(".")
        owner = modules.get(path)
        if owner is None or (last not in owner._buffers and hasattr(owner, last)):
            raise Mismatch(f"'{name}' has no buffer '{key}', which the checkpoint holds")
        mine = owner._buffers.get(last)
        if mine is not None and (mine.shape, mine.dtype) == (value.shape, value.dtype):
            with torch.no_grad():
                mine.copy_(value)
        else:
            persistent = last in owner._buffers and last not in owner._non_persistent_buffers_set
            device = value.device if mine is None else mine.device
            owner.register_buffer(last, value.to(device, copy=True), persistent)


def _persistent_buffers(module: torch.nn.Module) -> list[str]:
    """Names of buffers in its state_dict."""
    return [
        _plain_key(f"{path}.{name}" if path else name)
        for path, owner in bare(module).named_modules(remove_duplicate=False)
        for name, buffer in owner._buffers.items()
        if buffer is not None and name not in owner._non_persistent_buffers_set
    ]


def _make_buffers(
    part: torch.nn.Module, saved: Mapping[str, torch.Tensor], names: Iterable[str]
) -> None:
    """Make persistent buffers that training has made, or changed in shape."""
    modules = {_plain_key(n): m for n, m in bare(part).named_modules(remove_duplicate=False)}
    for key in (name for name in names if name in saved):
        path, _, last = key.rpartition(".")
        owner = modules.get(path)
        if owner is None or (last not in owner._buffers and hasattr(owner, last)):
            continue  # load_state_dict says so
        mine, value = owner._buffers.get(last), saved[key]
        if mine is None or (mine.dtype == value.dtype and mine.shape != value.shape):
            near = [mine, *owner.parameters(), *owner.buffers(), *bare(part).parameters()]
            device = next((t.device for t in near if t is not None), value.device)
            owner.register_buffer(last, torch.empty_like(value, device=device))


def _compare_types(name: str, saved: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Mismatch if loading would convert a parameter: the job wouldn't be the one that was saved."""
    for key, value in saved.items():
        mine = job.get(key)
        if isinstance(mine, torch.Tensor) and mine.dtype != value.dtype:
            raise Mismatch(
                f"'{name}': {key} is {value.dtype} in the checkpoint and {mine.dtype} in the job: "
                "convert the model as it was before you make the manager"
            )


# --- optimizers.py --------------------------------------------------------------------------------
# Optimizers: each parameter's state by its name and in its own type.

Names = list[list[str]]  # of an optimizer's parameters, in each of its groups


def _names_of(optimizer: torch.optim.Optimizer, modules: Mapping[str, torch.nn.Module]) -> Names:
    """Where each parameter is in the registered modules; else its shape, and which of that shape.

    A loaded optimizer gets its state by these names, not by the parameters' order.
    """
    return _names_among(optimizer, _parameters_of(modules))


def _parameters_of(modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """By their names in an optimizer's state."""
    return {
        f"{part}.{_plain_key(name)}": p
        for part, module in modules.items()
        for name, p in bare(module).named_parameters()
    }


def _names_among(optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor]) -> Names:
    known: dict[int, str] = {}
    for name, p in parameters.items():
        known.setdefault(id(p), name)
    others: collections.Counter[str] = collections.Counter()

    def name_of(p: torch.Tensor) -> str:
        if id(p) in known:
            return known[id(p)]
        others[shape := str(tuple(p.shape))] += 1
        return f"{shape} number {others[shape]}"

    return [[name_of(p) for p in group["params"]] for group in optimizer.param_groups]


def _changed_by_steps(optimizers: Iterable[torch.optim.Optimizer]) -> set[object]:
    """Identities of what only an optimizer's step changes: trained parameters and its own state."""
    tensors: list[object] = []
    for optimizer in optimizers:
        tensors += [p for group in optimizer.param_groups for p in group["params"]]
        tensors += [v for values in optimizer.state.values() for v in values.values()]
    return {
        _identity(t.detach())
        for t in tensors
        if isinstance(t, torch.Tensor)
        and (t.requires_grad or not isinstance(t, torch.nn.Parameter))
    }


def _load_optimizer(
    part: torch.optim.Optimizer,
    state: Any,
    saved: Names | None,
    parameters: Mapping[str, torch.Tensor],
    exact: bool,
) -> None:
    """Load an optimizer's state_dict: each parameter's state by name, in type as it was saved.

    saved       the names in the state's groups; None: it is from a version that didn't save any
    parameters  of the job's models, by name
    exact       the state's tensors are on the devices where they belong
    """
    groups = state["param_groups"]
    if saved is not None:
        _add_groups(part, groups, saved, parameters)
    job = _names_among(part, parameters)
    if saved is None and all("param_names" in g for g in [*groups, *part.param_groups]):
        saved, job = ([g["param_names"] for g in gs] for gs in (groups, part.param_groups))
    if saved is not None:
        for n, (was, now) in enumerate(itertools.zip_longest(saved, job, fillvalue=())):
            if sorted(was) != sorted(now):
                raise Mismatch(
                    f"group {n} of the optimizer held {_few(set(was) - set(now))}, which the job's "
                    f"doesn't; the job's holds {_few(set(now) - set(was))} instead"
                )
        ordered = []
        for group, was, now in zip(groups, saved, job, strict=True):
            number = dict(zip(was, group["params"], strict=True))
            ordered.append({**group, "params": [number[name] for name in now]})
            if len(names := dict(zip(was, group.get("param_names", ()), strict=False))) == len(was):
                ordered[-1] |= {"param_names": [names[name] for name in now]} if names else {}
        state, groups = {**state, "param_groups": ordered}, ordered
    part.load_state_dict(state)
    numbers = [n for g in groups for n in g["params"]]
    params = [p for g in part.param_groups for p in g["params"]]
    for n, p in zip(numbers, params, strict=True):
        for k, v in state["state"].get(n, {}).items():
            mine = part.state[p].get(k)
            if mine is None or k == "step":  # torch decides where step belongs
                continue
            # else load_state_dict casts to the parameter's type, and makes nonsense of strings
            if not isinstance(v, torch.Tensor):
                part.state[p][k] = v if exact or isinstance(v, (str, bytes)) else mine
            elif v.shape != p.shape:
                part.state[p][k] = v if exact else v.to(mine.device)
            elif (mine.dtype, mine.stride()) != (v.dtype, p.stride()):
                new = torch.empty_like(p, dtype=v.dtype, requires_grad=False)
                part.state[p][k] = new.copy_(v)


def _add_groups(
    part: torch.optim.Optimizer,
    groups: list[dict[str, Any]],
    saved: Names,
    parameters: Mapping[str, torch.Tensor],
) -> None:
    """Add the groups that the saved job added while it trained (layers that it unfroze)."""
    for n in range(len(part.param_groups), len(saved)):
        held = {id(p) for g in part.param_groups for p in g["params"]}
        added = [parameters[name] for name in saved[n] if name in parameters]
        if len(added) < len(saved[n]) or any(id(p) in held for p in added):
            return
        names = groups[n].get("param_names")
        part.add_param_group(
            {"params": added if names is None else list(zip(names, added, strict=True))}
        )
        _say(f"added group {n} to the optimizer, as in the checkpoint: {_few(saved[n])}")


def _set(part: Any, key: str, new: Any) -> Any:
    """Set a value of a part (of an optimizer: in all groups); return what it was."""
    if isinstance(part, torch.optim.Optimizer):
        before = [group[key] for group in part.param_groups]
        for group in part.param_groups:
            if isinstance(group[key], torch.Tensor):
                group[key].fill_(new)
            else:
                group[key] = new
        return before[0] if all(value == before[0] for value in before) else before
    before = part[key] if isinstance(part, dict) else getattr(part, key)
    if isinstance(part, dict):
        part[key] = new
    else:
        setattr(part, key, new)
    return before


# --- parameters.py --------------------------------------------------------------------------------
# What a model's state_dict doesn't say: tied and frozen parameters, and those it leaves out.

_Names = dict[str, list[Any]]


def _named_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Tied ones under each of their names."""
    named = bare(module).named_parameters(remove_duplicate=False)
    return {_plain_key(n): p for n, p in named}


def _frozen_in(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its parameters that training doesn't change."""
    return {n: p.detach() for n, p in _named_parameters(module).items() if not p.requires_grad}


def _tied_and_frozen(modules: Mapping[str, torch.nn.Module]) -> dict[str, Any]:
    tied: _Names = {}
    still: _Names = {}
    for part, module in modules.items():
        names = collections.defaultdict(list)
        for name, p in (named := _named_parameters(module)).items():
            names[id(p)].append(name)
        tied[part] = [found for found in names.values() if len(found) > 1]
        still[part] = [name for name, p in named.items() if not p.requires_grad]
    return {"tied": tied, "still": still, "shared": _shared(modules)}


def _shared(modules: Mapping[str, torch.nn.Module]) -> list[list[str]]:
    """Names of parameters and buffers, of all parts, that have the same memory."""
    names: dict[object, list[str]] = collections.defaultdict(list)
    for part, module in modules.items():
        buffers = bare(module).named_buffers(remove_duplicate=False)
        mine = _named_parameters(module) | {_plain_key(n): b for n, b in buffers}
        for name, t in mine.items():
            # a rank's share may have no memory
            names[id(t) if hasattr(t, "to_local") else _identity(t)].append(f"{part}.{name}")
    return [found for found in names.values() if len(found) > 1]


def _compare_ties(about: Mapping[str, Any], modules: Mapping[str, torch.nn.Module]) -> None:
    """Mismatch if parameters are the same in the checkpoint and two in the job, or vice versa."""
    mine = _tied_and_frozen(modules)["tied"]
    for part, tied in about.get("tied", {}).items():
        saved = {frozenset(names) for names in tied}
        job = {frozenset(names) for names in mine[part]}
        for names in saved ^ job:
            where = ("checkpoint", "job") if names in saved else ("job", "checkpoint")
            raise Mismatch(
                f"'{part}': {_few(names)} are one tied parameter in the {where[0]}, but not in "
                f"the {where[1]}"
            )
    if "shared" in about:  # not in earlier versions
        here = {frozenset(names) for names in _shared(modules)}
        there = {frozenset(names) for names in about["shared"]}
        for names in there ^ here:
            which = ("checkpoint", "job") if names in there else ("job", "checkpoint")
            raise Mismatch(
                f"{_few(names)} share memory in the {which[0]}, but not in the {which[1]}"
            )


def _thaw(about: Mapping[str, Any], modules: Mapping[str, torch.nn.Module]) -> None:
    """Train what the saved job trained, and no more: it may have unfrozen layers on the way."""
    for part, still in about.get("still", {}).items():
        module, frozen = modules[part], set(still)
        named = _named_parameters(module)
        changed = {n: p for n, p in named.items() if p.requires_grad == (n in frozen)}
        if part in about.get("frozen", {}):  # their values aren't saved: loading refuses these
            changed = {n: p for n, p in changed.items() if n not in frozen}
        if not changed:
            continue
        wrapped = isinstance(module, torch.nn.parallel.DistributedDataParallel)
        if wrapped or any(hasattr(p, "to_local") for p in changed.values()):
            _say(
                f"'{part}': whether {_few(changed)} is frozen differs from the checkpoint, and "
                "can't be changed now: freeze or unfreeze it before you wrap or shard the model"
            )
            continue
        for name, p in changed.items():
            p.requires_grad_(name not in frozen)
        told = [
            (_few(changed.keys() & frozen), "frozen"),
            (_few(changed.keys() - frozen), "trainable"),
        ]
        for names, how in told:
            if names != "nothing":
                _say(f"'{part}': {names}: now {how}, as in the checkpoint")


def _left_out(
    name: str,
    module: torch.nn.Module,
    state: Mapping[str, Any],
    checked: dict[str, tuple[set[str], set[str]]],
) -> dict[str, torch.Tensor]:
    """Frozen parameters that the module's own state_dict leaves out.

    TypeError for others, which training changes, and for what wouldn't come back as it is.

    checked  by module: parameters that aren't in the state as they are, and which of them are lost
    """
    named = _named_parameters(module)
    lacking = {n: p for n, p in named.items() if _is_usual(p) and not _holds(state, n, p)}
    if not lacking:
        return {}
    held = {_identity(t) for t in _tensors_in(state)}  # under any name
    lacking = {
        n: p
        for n, p in lacking.items()
        if _identity(p) not in held and not _same_bytes(state.get(n), p)
    }
    if not lacking:
        return {}
    own = {_identity(t) for t in [*named.values(), *bare(module).buffers()]}
    lost = set(lacking)
    if held - own:  # in another form, perhaps
        if checked.get(name, ((), ()))[0] != set(lacking):
            checked[name] = set(lacking), _lost(name, module, lacking)
        lost = checked[name][1]
    if left_out := [n for n in lost - state.keys() if named[n].requires_grad]:
        raise TypeError(
            f"'{name}': its state_dict leaves out {_few(left_out)}, which training changes"
        )
    if changed := lost & state.keys():
        raise TypeError(
            f"'{name}': its state_dict holds {_few(changed)} changed, and load_state_dict doesn't "
            "bring back what it was"
        )
    return {n: p.detach() for n, p in lacking.items() if n in lost}


def _is_usual(p: torch.Tensor) -> bool:
    """Not of a subclass or without memory: such a parameter is refused later, by name."""
    return type(p) is torch.nn.Parameter and p.device.type != "meta"


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(inner)


def _lost(name: str, module: torch.nn.Module, parameters: Mapping[str, torch.Tensor]) -> set[str]:
    """Parameters that a copy of the module doesn't get back from the module's state_dict."""
    state = bare(module).state_dict()
    try:
        other = copy.deepcopy(bare(module))
    except (RuntimeError, TypeError, ValueError, AttributeError, copy.Error) as e:
        _say(f"'{name}' can't be copied ({e}): whether its state_dict holds all of it isn't known")
        return set()
    theirs = _named_parameters(other)
    for n, p in parameters.items():
        flipped = _as_bytes(p.detach()).bitwise_not().view(p.dtype).view(p.shape)
        theirs[n].data.copy_(flipped)
    try:
        other.load_state_dict(state)
    except Exception as e:
        raise TypeError(f"'{name}': its load_state_dict refuses its own state_dict: {e}") from e
    theirs = _named_parameters(other)
    return {n for n, p in parameters.items() if not _same_bytes(theirs[n], p)}


# --- loading.py -----------------------------------------------------------------------------------
# Loading one part of a job.


def _load_into(
    part: Any,
    state: Any,
    name: str,
    modules: Mapping[str, torch.nn.Module] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Load `state` strictly; Mismatch says what doesn't fit.

    modules  all of the job's, by which its parameters have names
    about    what the checkpoint holds about its parts
    """
    modules, about = modules or {}, about or {}
    if (part is None) != (state is None):
        held = ("checkpoint", "job") if part is None else ("job", "checkpoint")
        raise Mismatch(f"'{name}': the {held[0]} has one, the {held[1]} has none")
    try:
        if isinstance(part, torch.nn.Module):
            part = bare(part)
            _make_buffers(part, state, about.get("persistent", {}).get(name, ()))
            fresh = part.state_dict()
            own = {_plain_key(k): k for k in fresh}
            state = collections.OrderedDict((own.get(k, k), v) for k, v in state.items())
            frozen = about.get("frozen", {}).get(name)
            if frozen and frozen["names"]:
                mine = {n: p for n, p in _frozen_in(part).items() if n in frozen["names"]}
                if list(mine) != frozen["names"] or _digest_of_tensors(mine) != frozen["digest"]:
                    raise Mismatch(
                        f"'{name}' was saved without its frozen parameters, and the job's aren't "
                        "the same: load and freeze what the earlier life did"
                    )
                state |= {own[k]: fresh[own[k]] for k in mine if k in own}
            _compare_types(
                name, {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}, fresh
            )
            if (versions := about.get("versions", {}).get(name)) is not None:
                own_versions = getattr(fresh, "_metadata", {})
                state._metadata = {m: versions.get(_plain_key(m), {}) for m in own_versions}
        if isinstance(part, torch.optim.Optimizer):
            saved = about.get("parameters", {}).get(name)
            exact = saved is not None and not about.get("converted")
            _load_optimizer(part, state, saved, _parameters_of(modules), exact)
        elif _is_plain(part):
            _fill(part, state)
        elif part is not None:
            part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
        raise Mismatch(f"'{name}' doesn't fit the checkpoint: {type(e).__name__}: {e}") from e


# --- ranks.py -------------------------------------------------------------------------------------
# What the ranks decide together.


def _rank_and_world() -> tuple[int, int]:
    on = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if on else (0, 1)


def _require_group() -> None:
    """CheckpointError if this is one of several ranks which don't know each other yet."""
    known = dist.is_available() and dist.is_initialized()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not known:
        raise CheckpointError(
            "this is one of several ranks (WORLD_SIZE): call init_process_group before you make "
            "the manager"
        )


def _warn_of_restarts() -> None:
    """torch's own init_process_group fails when torchrun restarts ranks; better told now."""
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _say(
            f"torchrun --max-restarts={restarts}: restarted ranks can't connect, because they get "
            "the addresses of dead ones. Start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "
            "in its environment"
        )


def _kind(error: BaseException) -> type[CheckpointError]:
    """As what it is raised on all ranks."""
    if isinstance(error, Mismatch):
        return Mismatch
    return DiskFull if _is_disk_full(error) else CheckpointError


def _is_disk_full(error: BaseException) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or isinstance(error, DiskFull)


class _Ranks:
    """What the ranks decide together.

    It has its own gloo group, because another thread may be in a collective.
    """

    def __init__(self, timeout: float):
        self.rank, self.world = _rank_and_world()
        self.on = self.world > 1
        self.group = None
        if self.on:
            self._await_others(timeout)
            self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
            self.store.delete_key(self.keys[self.rank])  # all came; torchrun may keep the store

    made: ClassVar[int] = 0

    def _await_others(self, timeout: float) -> None:
        """new_group would wait for the ranks that never come, and not say for what."""
        _Ranks.made += 1
        self.store = store = dist.distributed_c10d._get_default_store()
        self.keys = keys = [f"exact_resume {_Ranks.made} {rank}" for rank in range(self.world)]
        store.set(keys[self.rank], "")
        told = "every rank must make the CheckpointManager, not only one (no `if rank == 0`)"
        limit = min(timeout, 300.0)  # nobody saves yet, so a rank needn't be late by as much
        soon = min(10.0, limit / 2)
        for seconds, last in ((soon, False), (limit - soon, True)):
            try:
                store.wait(keys, timedelta(seconds=seconds))
                return
            except RuntimeError as e:
                missing = [r for r, key in enumerate(keys) if not store.check([key])]
                if last:
                    raise CheckpointError(
                        f"ranks {missing} made no manager within {limit:.0f} s: {told}"
                    ) from e
                _say(f"rank {self.rank} waits for ranks {missing}: {told}")

    def _meet(self, what: str, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as e:  # a rank has died or never came
            told = (
                f"rank {self.rank} lost the others in {what}: one has died or didn't call "
                "it. Every rank must call"
            )
            raise CheckpointError(
                f"{told} step, end_epoch, should_stop, save and resume at the same points ({e})"
            ) from e

    def together(self, what: str, work: Callable[[], object]) -> list[Any]:
        """Run `work` on every rank and return all results; an error on one is raised on all."""
        mine: tuple[type[CheckpointError] | None, object] = (None, None)
        error: BaseException | None = None
        try:
            mine = (None, work())
        except BaseException as e:  # not only Exception: torch's own CheckpointException isn't one
            if not self.on or isinstance(e, (KeyboardInterrupt, SystemExit)):
                raise
            mine, error = (_kind(e), f"{type(e).__name__}: {e}"), e
        results = [mine] * self.world
        if self.on:
            self._meet(what, lambda: dist.all_gather_object(results, mine, group=self.group))
        failed = [f"rank {r}: {told}" for r, (kind, told) in enumerate(results) if kind]
        if failed:
            kinds = {kind for kind, _ in results}
            worst = next((k for k in (Mismatch, DiskFull) if k in kinds), CheckpointError)
            raise worst(f"{what} failed on {'; '.join(failed)}") from error
        return [result for _, result in results]

    def highest(self, *numbers: float) -> list[float]:
        """Each number's maximum over all ranks."""
        if not self.on:
            return list(numbers)
        t = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        self._meet(
            "step, end_epoch or should_stop",
            lambda: dist.all_reduce(t, dist.ReduceOp.MAX, group=self.group),
        )
        highest: list[float] = t.tolist()
        return highest


# --- sampler.py -----------------------------------------------------------------------------------
# The position in the data.

Batch = TypeVar("Batch")


class ResumableSampler:
    """A batch sampler that knows its position in the epoch; a resumed epoch skips trained batches.

    The order depends only on `seed` and the epoch, not on torch's global generator. With several
    ranks, make it after init_process_group. A global batch is batch_size times the number of ranks,
    and each rank gets its part of it. So the position is one number and fits another number of
    ranks.

    size        samples in an epoch, on all ranks together
    batch_size  samples in a batch, on one rank
    drop_last   drop the samples at an epoch's end that don't fill a global batch. If False, the
                ranks share them: one rank may get one sample more than another. Fewer samples
                than ranks are dropped anyway.
    Raises      ValueError if there are too few samples for one global batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = True,
    ):
        self.rank, self.world = _rank_and_world()
        self.global_batch = batch_size * self.world
        self.least = self.global_batch if drop_last else self.world  # samples in a global batch
        self.size, self.batch_size, self.shuffle, self.seed = size, batch_size, shuffle, seed
        self.epoch = self.samples = 0  # samples: trained in this epoch, on all ranks together
        self.resumed = self.warned = False
        self.at_start: Callable[[], None] | None = None  # tells the manager that training begins
        if len(self) < 1:
            raise ValueError(
                f"{size} samples are too few for a batch of {batch_size} on each of "
                f"{self.world} ranks"
            )

    def __len__(self) -> int:
        full, rest = divmod(self.size, self.global_batch)
        return full + (rest >= self.least)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(self.size))
        if self.shuffle:
            random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        for start in range(self.samples, self.size - self.least + 1, self.global_batch):
            share, longer = divmod(min(self.global_batch, self.size - start), self.world)
            mine = start + self.rank * share + min(self.rank, longer)
            yield order[mine : mine + share + (self.rank < longer)]

    @property
    def batch(self) -> int:
        """How many batches of this epoch are trained: where to begin to count after a resume.

        for number, batch in enumerate(sampler.follow(loader), sampler.batch): ...
        """
        return -(-self.samples // self.global_batch)

    def follow(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The loader's batches; each counts as trained when the loop gets it, not when prefetched.

        What the loader draws from torch's global generator to begin an epoch is undone: a resumed
        run would draw it twice.
        A resumed epoch may have none left. RuntimeError if a fresh one has none.
        """
        if self.samples + self.least > self.size and not self.resumed:
            raise RuntimeError(
                "this epoch's samples are all trained: is the sampler in the manager's state? "
                "If not, end_epoch() doesn't advance it"
            )
        if self.at_start is not None:
            self.at_start()
        if getattr(loader, "num_workers", 0) and not getattr(loader, "worker_init_fn", None):
            if not self.warned:
                _say(
                    "the loader's workers don't ignore signals: one sent to the job's group kills "
                    "them before the save. Give it worker_init_fn=ignore_signals"
                )
            self.warned = True
        rng = torch.get_rng_state()
        batches = iter(loader)  # draws a random number: in a resumed epoch, once more
        torch.set_rng_state(rng)
        for batch in batches:
            self.samples = min(self.samples + self.global_batch, self.size)
            yield batch

    def next_epoch(self) -> None:
        self.epoch, self.samples, self.resumed = self.epoch + 1, 0, False

    def state_dict(self) -> dict[str, Any]:
        order = {"size": self.size, "shuffle": self.shuffle, "seed": self.seed}
        return {"epoch": self.epoch, "samples": self.samples, **order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("size", "shuffle", "seed"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the data was in another order: {name} was {state[name]} and is now "
                    f"{getattr(self, name)}"
                )
        self.epoch, self.samples, self.resumed = state["epoch"], state["samples"], True


def _warn_of_draws(name: str, loader: Any) -> None:
    """Say that a loader draws from the generator that dropout uses, too."""
    if type(loader).__name__ == "StatefulDataLoader" and loader.generator is None:
        _say(
            f"'{name}': iterating this loader draws from torch's global generator, so a resumed "
            "run draws once more. Give it generator=torch.Generator()"
        )


def _refuse_skips(name: str, loader: Any, state: Any) -> Any:
    """A loader's state; TypeError if torchdata couldn't continue from it.

    torchdata 0.11 reads a data set without a state again and skips batches. It counts those that it
    skipped twice, so a job that resumes more than once in an epoch would miss data.
    """
    if type(loader).__name__ == "StatefulDataLoader":
        if isinstance(loader.dataset, torch.utils.data.IterableDataset):
            found = list(_data_states(state))
            if found and all(value is None for value in found) and not state["_iterator_finished"]:
                raise TypeError(
                    f"'{name}': the data set of this StatefulDataLoader has no state_dict and "
                    "load_state_dict, so batches would be lost on resuming: add them, or skip "
                    "batches with itertools.islice (docs/integrations.md)"
                )
    return state


def _data_states(state: Any) -> Iterator[Any]:
    """What torchdata has saved about a data set and its iterator, one for each worker."""
    for key, value in state.items() if isinstance(state, dict) else ():
        if key in ("dataset_state", "dataset_iter_state"):
            yield value
        else:
            yield from _data_states(value)


# --- sharded.py -----------------------------------------------------------------------------------
# FSDP2: every rank writes and reads its shards.

Modules = Mapping[str, torch.nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer]


def _sharded_parts(state: Mapping[str, Any]) -> tuple[Modules, Optimizers]:
    """The sharded models, and the optimizers of their parameters."""
    modules = {n: p for n, p in state.items() if isinstance(p, torch.nn.Module)}
    for model in modules.values():
        for module in model.modules():
            if hasattr(module, "unshard") and hasattr(module, "reshard"):
                module.reshard()  # after a forward pass, FSDP2's parameters look unsharded
    sharded = {
        n: m for n, m in modules.items() if any(hasattr(p, "to_local") for p in m.parameters())
    }
    theirs = {id(p) for m in sharded.values() for p in m.parameters()}
    optimizers = {
        n: part
        for n, part in state.items()
        if isinstance(part, torch.optim.Optimizer)
        and any(id(p) in theirs for group in part.param_groups for p in group["params"])
    }
    return sharded, optimizers


def _parameters_for(
    optimizer: torch.optim.Optimizer, modules: Modules
) -> Mapping[str, torch.Tensor]:
    """The models' parameters by their names in the optimizer's state.

    Without "model." if the optimizer has parameters of no other model.
    """
    ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
    owners = {n: m for n, m in modules.items() if any(id(p) in ids for p in m.parameters())}
    if list(owners) == ["model"]:
        return {_plain_key(n): p for n, p in bare(owners["model"]).named_parameters()}
    return _parameters_of(owners)


def _shards_of(modules: Modules, optimizers: Optimizers) -> dict[str, Any]:
    """As torch's get_state_dict, except that it invents no state for parameters without any.

    Parameters have names instead of numbers: on another number of ranks, too.
    """
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    # first: it reshards, and between forward and backward the module holds other parameters
    states: dict[str, Any] = {name: get_model_state_dict(m) for name, m in modules.items()}
    for name, optimizer in optimizers.items():
        states[name] = _optimizer_shards(name, optimizer, modules)
    return states


def _optimizer_shards(
    part: str, optimizer: torch.optim.Optimizer, modules: Modules
) -> dict[str, Any]:
    parameters = _parameters_for(optimizer, modules)
    names = _names_among(optimizer, parameters)
    for name in (name for group in names for name in group):
        if name not in parameters:
            raise TypeError(f"'{part}' holds a parameter {name} that no registered model has")
    whole = optimizer.state_dict()
    number = {
        n: name
        for group, ns in zip(whole["param_groups"], names, strict=True)
        for n, name in zip(group["params"], ns, strict=True)
    }
    for n, values in whole["state"].items():
        for k, v in values.items() if n in number else ():
            if hasattr(v, "to_local") and v.shape != parameters[number[n]].shape:
                raise TypeError(
                    f"'{part}': {k} of {number[n]} is a DTensor of another shape than its "
                    "parameter: it can't be saved"
                )
    state = {number.get(n, n): values for n, values in whole["state"].items()}
    groups = [{**g, "params": ns} for g, ns in zip(whole["param_groups"], names, strict=True)]
    return {"state": state, "param_groups": groups}


def _write_shards(path: Path, shards: _Packed, ranks: _Ranks) -> None:
    from torch.distributed.checkpoint import FileSystemWriter, save

    tree = _Unpacked(shards.tree, shards.about, shards.tensors).state
    save(tree, storage_writer=FileSystemWriter(path), process_group=ranks.group)


def _seal_shards(path: Path, rank: int) -> dict[str, str]:
    """Sync this rank's files and return their digests.

    torch syncs .metadata too early, before it has written all of it.
    """
    files = [
        f
        for f in path.iterdir()
        if f.name.startswith(f"__{rank}_") or (rank == 0 and f.name == ".metadata")
    ]
    for f in files:
        _fsync_path(f)
    _fsync_path(path)
    return {f"shards/{f.name}": digest_of(f) for f in files}


def _read_shards(path: Path, modules: Modules, optimizers: Optimizers, ranks: _Ranks) -> None:
    """Load what is there, as it is there: what has no state in the checkpoint gets none."""
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint._nested_dict import flatten_state_dict, unflatten_state_dict
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    metadata = FileSystemReader(path).read_metadata()
    saved, paths = metadata.state_dict_metadata, metadata.planner_data
    weights, places = flatten_state_dict({n: get_model_state_dict(m) for n, m in modules.items()})
    # after resharding
    params = {n: _parameters_for(optimizer, modules) for n, optimizer in optimizers.items()}
    held = {k: saved[k] for k, place in paths.items() if place[0] in optimizers}  # in its order
    if lost := saved.keys() - weights.keys() - held.keys():
        raise Mismatch(f"the checkpoint holds {_few(lost)}, which the job lacks")
    if lacking := optimizers.keys() - {paths[k][0] for k in held}:
        raise Mismatch(f"the checkpoint holds no {_few(lacking)} in shards")
    about = {k: m.properties for k, m in saved.items() if hasattr(m, "properties")}
    types = {k: SimpleNamespace(dtype=p.dtype) for k, p in about.items() if k not in held}
    _compare_types("model", types, weights)
    tree: dict[str, Any] = dict(weights)
    for key, m in held.items():
        part, *place = paths[key]
        p = params[part].get(place[1]) if len(place) > 1 else None
        if key not in about:
            tree[key] = None
        elif p is not None and m.size == p.shape and place[2:] != ["step"]:
            tree[key] = torch.empty_like(p, dtype=about[key].dtype, requires_grad=False)
        else:
            tree[key] = torch.empty(m.size, dtype=about[key].dtype, device="cpu")
    try:
        load(tree, storage_reader=FileSystemReader(path), process_group=ranks.group)
    except BaseException as e:
        # the message holds every rank's traceback: the first rank's error is enough
        first = next(iter(getattr(e, "failures", {0: (e,)}).values()))[0]
        raise Mismatch(f"the shards don't fit: {first}") from None
    states = unflatten_state_dict(
        {k: tree[k] for k in [*weights, *held]}, places | {k: paths[k] for k in held}
    )
    for name, module in modules.items():
        set_model_state_dict(module, states.get(name, {}))  # torch leaves out what is empty
    for name, optimizer in optimizers.items():
        state = {"state": {}, **states[name]}
        names = [group["params"] for group in state["param_groups"]]
        _load_optimizer(optimizer, state, names, params[name], exact=False)


# --- job.py ---------------------------------------------------------------------------------------
# What a job has registered: its parts as one state, and that state put back into them.

_OWN = {"rng", "gradients", "module_gradients", "buffers", "module_buffers"}


class _Job:
    def __init__(
        self,
        state: Mapping[str, Any],
        per_rank: Mapping[str, Any],
        config: Config,
    ):
        if not isinstance(state, Mapping) or not isinstance(per_rank, Mapping):
            raise TypeError("state and per_rank are dicts: give each part a name")
        self.state: dict[str, Any] = dict(state)
        self.per_rank: dict[str, Any] = dict(per_rank)
        self.gradients, self.trainable_only = config.gradients, config.trainable_only
        self.frozen: dict[str, dict[str, Any]] = {}
        self.checked: dict[str, tuple[set[str], set[str]]] = {}
        self._check_names()
        self.shards: tuple[Modules, Optimizers] = ({}, {})
        self.about: dict[str, Any] | None = None
        self.built: dict[str, object] = {}  # the modules' parameters at the last save

    def _check_names(self) -> None:
        """Refuse now what would fail hours later, at the first save or resume."""
        for name, part in (self.state | self.per_rank).items():
            if part is None or _is_plain(part):
                continue
            saves = hasattr(part, "state_dict") and hasattr(part, "load_state_dict")
            if not saves or isinstance(part, type):
                raise TypeError(
                    f"'{name}' ({type(part).__name__}) has no state_dict and load_state_dict: it "
                    "can't be saved. Put plain values into a dict"
                )
            _warn_of_draws(name, part)
        if twice := self.state.keys() & self.per_rank.keys():
            raise ValueError(f"{_quoted(twice)} is in state and in per_rank: use another name")
        taken = {"progress", "about"} & self.state.keys()
        taken |= _OWN & self.per_rank.keys()
        if taken:
            raise ValueError(f"{_quoted(taken)}: the manager saves its own under this name")
        if self.gradients and not self.modules():
            raise ValueError("gradients=True needs the model: register it")
        for name, part in self.state.items():
            if isinstance(part, ResumableSampler) and part.world != _rank_and_world()[1]:
                raise ValueError(
                    f"'{name}' was made for {part.world} ranks, but there are "
                    f"{_rank_and_world()[1]}: make it after init_process_group"
                )

    def find_shards(self) -> None:
        """Learn which models are sharded; TypeError for sharding that can't be saved."""
        self.shards = _sharded_parts(self.state)
        if any(self.shards) and self.trainable_only:
            raise ValueError("trainable_only: a sharded model is saved as a whole")
        for name, part in self.modules().items():
            for module in part.modules():
                if type(module).__name__ == "FullyShardedDataParallel":
                    raise TypeError(f"'{name}' is sharded with FSDP1: use fully_shard (FSDP2)")
        if wrong := _sharded_parts(self.per_rank)[0]:
            raise TypeError(f"{_quoted(wrong)} is sharded: put it into state, not into per_rank")

    @property
    def sharded(self) -> bool:
        return bool(self.shards[0])

    def everything(self) -> dict[str, Any]:
        return self.state | self.per_rank

    def modules(self) -> dict[str, torch.nn.Module]:
        return {n: p for n, p in self.everything().items() if isinstance(p, torch.nn.Module)}

    def samplers(self) -> list[ResumableSampler]:
        return [p for p in self.everything().values() if isinstance(p, ResumableSampler)]

    def apart(self) -> set[str]:
        """Parts that are saved in shards."""
        return {name for parts in self.shards for name in parts}

    # --- saving

    def changed_by_steps(self) -> set[object]:
        return _changed_by_steps(
            p for p in self.everything().values() if isinstance(p, torch.optim.Optimizer)
        )

    def capture(self, ranks: _Ranks, progress: dict[str, Any]) -> dict[str, _Packed]:
        """What this rank saves. TypeError by name if something can't be."""
        packed: dict[str, _Packed] = {}
        shards: dict[str, Any] = {}
        if self.sharded:
            shards = _shards_of(*self.shards)
            packed["shards"] = _Packed(shards, sharded=True)
        progress |= {"world_size": ranks.world, "gradients": self.gradients}
        modules = self.modules()
        shared: dict[str, Any] = {"progress": progress, "about": None}
        own: dict[str, Any] = {"rng": rng_state()}
        for name, part in self.state.items():
            if name not in self.apart():
                shared[name] = self._state_of(name, part)
        for name, part in self.per_rank.items():
            own[name] = self._state_of(name, part)
        shared["about"] = self._about(modules)  # after the states: they say what they leave out
        # what isn't in a state_dict (persistent=False); running means differ from rank to rank
        held = shared | own | shards
        progress["buffers"] = {n: _buffers_of(m, held[n]) for n, m in modules.items()}
        if ranks.world > 1:
            own["module_buffers"] = {n: _buffers_of(m) for n, m in modules.items()}
        if self.gradients:
            own["module_gradients"] = {n: _gradients_of(m) for n, m in modules.items()}
        packed["own"] = _Packed(own)
        if ranks.rank == 0:
            packed["shared"] = _Packed(shared)
            self._tell_of_changes(modules)
        dicts = [n for n, p in self.everything().items() if type(p) is dict]
        in_place = (torch.nn.Module, torch.optim.Optimizer)  # and tensors and arrays
        others = [
            n for n, p in self.everything().items() if isinstance(p, in_place) or _is_plain(p)
        ]
        for one in packed.values():
            _refuse_shared(one, dicts, set(others) - set(dicts))
        return packed

    def _tell_of_changes(self, modules: Mapping[str, torch.nn.Module]) -> None:
        """Say now what a resumed job would find out: training has replaced parameters."""
        named = [
            (f"{n}.{k}", p) for n, m in modules.items() for k, p in _named_parameters(m).items()
        ]
        now: dict[str, object] = {name: (id(p), p.shape) for name, p in named}
        changed = [n for n in now.keys() | self.built.keys() if now.get(n) != self.built.get(n)]
        if self.built and changed:
            _say(
                f"training has replaced, added or removed {_few(changed)}: a job can resume only "
                "if it is built like this before resume(), with the same groups in its optimizers"
            )
        self.built = now

    def _about(self, modules: Mapping[str, torch.nn.Module]) -> dict[str, Any]:
        everything = self.everything()
        if self.about is None:  # doesn't change from save to save
            kinds = {
                n: type(p).__name__
                for n, p in everything.items()
                if p is not None and n not in modules
            }
            self.about = {"kinds": kinds, "versions": {n: _versions(m) for n, m in modules.items()}}
        names = {
            n: _names_of(p, modules)
            for n, p in everything.items()
            if isinstance(p, torch.optim.Optimizer)
        }
        frozen = {"frozen": self.frozen} if self.frozen else {}
        buffers = {n: _persistent_buffers(m) for n, m in modules.items() if n not in self.apart()}
        names_of = {"parameters": names, "persistent": buffers}
        return self.about | names_of | _tied_and_frozen(modules) | frozen

    def _state_of(self, name: str, part: Any) -> Any:
        state = _state_of(part)
        if not isinstance(part, torch.nn.Module):
            return _refuse_skips(name, part, state)
        frozen = _left_out(name, part, state, self.checked)
        if self.trainable_only:
            frozen = _frozen_in(part)
        if list(frozen) != self.frozen.get(name, {}).get("names", []):  # else they haven't changed
            self.frozen[name] = {"names": list(frozen), "digest": _digest_of_tensors(frozen)}
        return {k: v for k, v in state.items() if k not in frozen}

    # --- resuming

    def check_change(self, change: Mapping[str, Mapping[str, Any]]) -> None:
        """ValueError if a part or a value of it doesn't exist."""
        for name, values in change.items():
            part = self.everything().get(name)
            if part is None:
                raise ValueError(f"change: the job has no '{name}'")
            for key in values:
                owners = part.param_groups if isinstance(part, torch.optim.Optimizer) else [part]
                if not all(key in o if isinstance(o, dict) else hasattr(o, key) for o in owners):
                    raise ValueError(f"change: '{name}' has no '{key}'")

    def change(self, change: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """Set what shall differ from the checkpoint; say for each value what it was."""
        for name, values in change.items():
            part = self.everything()[name]
            for key, new in values.items():
                yield f"{name}: {key} {_set(part, key, new)} -> {new}"
                for other, scheduler in self.everything().items() if key == "lr" else ():
                    if hasattr(scheduler, "base_lrs") and "base_lrs" not in change.get(other, {}):
                        yield f"... but '{other}' computes it from base_lrs {scheduler.base_lrs}"

    def apply(
        self, where: Path, shared: dict[str, Any], own: dict[str, Any] | None, ranks: _Ranks
    ) -> dict[str, Any]:
        """Put the state of the checkpoint `where` into the parts; return the job's progress."""
        self._compare(where, shared, own)  # before anything of the job changes
        _thaw(shared.get("about", {}), self.modules())
        if self.sharded:
            _read_shards(where / "shards", *self.shards, ranks)
            if shared["progress"].get("untouched"):  # earlier versions saved empty moments
                self.state["optimizer"].state.clear()
        about, modules = shared.get("about", {}), self.modules()
        for part, target in self.state.items():
            if part not in self.apart():
                _load_into(target, shared[part], part, modules, about)
        progress: dict[str, Any] = shared["progress"]
        if progress["world_size"] != ranks.world and (progress["gradients"] or self.per_rank):
            raise Mismatch(
                f"gradients and per_rank state of {progress['world_size']} ranks can't resume "
                f"on {ranks.world}"
            )
        for part, saved in progress.get("buffers", {}).items():
            _load_buffers(modules[part], saved, part)
        if own is None:
            _say(f"rank {ranks.rank} isn't in the checkpoint: its RNGs aren't restored")
            return progress
        for part, target in self.per_rank.items():
            _load_into(target, own[part], part, modules, about)
        if progress["world_size"] == ranks.world:
            # "buffers": of an earlier version
            buffers = own.get("module_buffers", {"model": own.get("buffers", {})})
            for part in buffers.keys() & modules.keys():
                _load_buffers(modules[part], buffers[part], part)
        # "gradients": of an earlier version
        gradients = own.get("module_gradients", {"model": own.get("gradients", {})})
        for part in gradients.keys() & modules.keys():
            _load_gradients(modules[part], gradients[part])
        set_rng_state(own["rng"])  # last: undoes every draw during loading
        return progress

    def _compare(self, where: Path, shared: dict[str, Any], own: dict[str, Any] | None) -> None:
        """Raise Mismatch unless the job has exactly the parts that the checkpoint holds."""
        self._has_memory()
        holds, has = set(shared) - {"progress", "about"}, set(self.state) - self.apart()
        if self.sharded and not (where / "shards").is_dir():
            raise Mismatch(f"{where} is a checkpoint of an unsharded model")
        if not self.sharded and (where / "shards").is_dir():
            raise Mismatch(
                f"{where} is a checkpoint of a sharded model: shard yours with fully_shard or "
                "export it (templates/README.md)"
            )
        if missing := has - holds:
            raise Mismatch(f"{where} holds no {_quoted(missing)}; it holds {_quoted(holds)}")
        if extra := holds - has:
            raise Mismatch(
                f"{where} also holds {_quoted(extra)}: register what the job had, or it would "
                "resume as a different job"
            )
        if own is not None and (missing := set(self.per_rank) - set(own)):
            raise Mismatch(f"{where} holds no per_rank {_quoted(missing)}")
        _compare_ties(shared.get("about", {}), self.modules())
        for part, kind in shared.get("about", {}).get("kinds", {}).items():
            target = self.state.get(part, self.per_rank.get(part))
            if target is not None and type(target).__name__ != kind:
                raise Mismatch(
                    f"'{part}' is a {kind} in {where} but a {type(target).__name__} in the job"
                )

    def _has_memory(self) -> None:
        """Mismatch if a part has nothing to load into, which load_state_dict doesn't mind."""
        for name, module in self.modules().items():
            for key, t in itertools.chain(module.named_parameters(), module.named_buffers()):
                if t.device.type == "meta":
                    raise Mismatch(
                        f"'{name}': {_plain_key(key)} is on the meta device, without memory: call "
                        "to_empty(device=...) before you make the optimizer and the manager"
                    )


# --- lives.py -------------------------------------------------------------------------------------
# status.json: how the lives of a run ended, and whether they get anywhere.


class _Lives:
    def __init__(self, directory: Path):
        self.path = directory / "status.json"
        self.last = self.read()  # of the life before this one

    def read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, **more: object) -> None:
        tmp = self.path.with_name("status.json.tmp")
        tmp.write_text(json.dumps(self.read() | more) + "\n")
        os.replace(tmp, self.path)

    def end(
        self,
        outcome: str,
        trained: bool,
        begun: bool,
        may_write: Callable[[], bool],
        more: dict[str, Any],
    ) -> None:
        """Note how this life ended. `begun`: it counts as one."""
        last = self.last.get("outcome")
        # one that is asked to stop before its first step may have no other way to say so
        asked = outcome == PREEMPTED and last != DONE
        if outcome == DONE and not trained:
            outcome = last or DONE  # it trained nothing: the last life's outcome still holds
        try:
            if begun or (asked and may_write()):
                self.note(outcome=outcome, **more)
        except OSError as e:  # don't hide the error that ended the job
            _say(f"status.json can't be written: {e}")

    def begin(self, progress: dict[str, Any], max_stuck: int) -> None:
        """Count a life; raise after max_stuck lives that began at the same step and died.

        It counts before training, so that a life that SIGKILL ends counts, too.
        """
        self.last, step = self.read(), progress["steps"]
        last = self.last
        stuck = last.get("stuck", 0) if last.get("started_at") == step else 0
        died = last.get("outcome") in ("running", FAILED) and not last.get("interrupted")
        stuck += last.get("started_at") == step and died
        if stuck >= max_stuck:
            raise CheckpointError(
                f"{stuck} lives in a row began at step {step} and died before the next checkpoint; "
                f"find out why, then delete {self.path}"
            )
        self.note(
            **progress,
            outcome="running",
            reason=None,
            started_at=step,
            stuck=stuck,
            interrupted=False,
        )


def _tell_if_open(manager: weakref.ref[Any]) -> None:
    """Say at the process's end that a manager without `with` was never closed."""
    if (ckpt := manager()) is not None and ckpt.outcome is None:
        _say(
            "the process ends without close() of the CheckpointManager: what was trained since the "
            "last save isn't saved. Use it in `with`, or call close() in a `finally`"
        )


# --- lock.py --------------------------------------------------------------------------------------
# The lock that keeps a second job out of a directory.

_locks: set[int] = set()  # descriptors; a child would hold the lock beyond this process's death


def _release() -> None:
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_release)


class _Lock:
    """It ends with the process.

    It is flock's, which doesn't end when the process closes another descriptor of the file (as a
    copy of the directory does).
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.fd: int | None = None
        self.missing = False  # the file system has none

    def take(self) -> bool:
        """False if another job holds it. OSError if the directory can't be made."""
        if self.fd is not None or self.missing or fcntl is None:
            return True
        path, fd = self.directory / "lock", None
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks only for writers
            except PermissionError:  # another user's
                fd = os.open(path, os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if fd is not None:
                os.close(fd)
            if e.errno in (errno.EACCES, errno.EAGAIN) and fd is not None:
                return False
            _say(f"{path}: no lock here ({e.strerror}): nothing keeps a second job away")
            self.missing = True
            return True
        self.fd = fd
        _locks.add(fd)
        return True

    def require(self) -> None:
        """Take it; CheckpointError if another job holds it."""
        if not self.take():
            raise CheckpointError(
                f"another job is writing into {self.directory}: end it or use another directory"
            )

    def release(self) -> None:
        if self.fd is not None:
            _locks.discard(self.fd)
            os.close(self.fd)
            self.fd = None


# --- policies.py ----------------------------------------------------------------------------------
# When to save, and when the job's time is over.


def _end_of_job() -> float:
    text = os.environ.get("SLURM_JOB_END_TIME", "")
    try:
        end = float(text or math.inf)
    except ValueError:
        end = math.nan
    if end > time.time():
        return end
    _say(f"SLURM_JOB_END_TIME={text} isn't this job's end (an old shell's?); ignored")
    return math.inf


class _Clock:
    def __init__(self, config: Config):
        self.config = config
        self.end_time = _end_of_job() if config.end_time is None else config.end_time
        self.longest = 0.0  # s between two checks of signals and the clock
        self.checked_at: float | None = None
        self.saved_at = time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self.longest, self.checked_at = max(self.longest, now - (self.checked_at or now)), now

    def is_over(self, cost: float) -> bool:
        """Must the last save begin now? It takes `cost` s."""
        # s that remain for training, reckoned up to the next check
        return self.end_time - time.time() - self.config.margin - 2 * cost - self.longest < 0

    def told(self) -> str:
        at = f" at {time.ctime(self.end_time)}" if self.end_time < math.inf else ""
        return f"the job's time ends{at}"

    def is_late(self) -> bool:
        minutes = self.config.every_minutes
        return minutes is not None and time.monotonic() - self.saved_at > 60 * minutes


# --- resuming.py ----------------------------------------------------------------------------------
# Choosing and reading the checkpoint to resume from, on all ranks.


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


# --- staging.py -----------------------------------------------------------------------------------
# Copies that let training continue while a save is written.

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


# --- saving.py ------------------------------------------------------------------------------------
# Writing a checkpoint on all ranks, in the training's thread or beside it.


class _Saver:
    """One save is in flight; the next call raises its failure."""

    def __init__(self, directory: CheckpointDirectory, config: Config, cost: float):
        self.directory, self.config = directory, config
        self.cost = cost  # s that a save takes
        self.ranks = _Ranks(config.timeout)  # not the training's, which may be in a collective
        self.staging, self.writer = _Staging(), ThreadPoolExecutor(1, "checkpoint")
        self.saving: Future[None] | None = None
        self.device: int | None = None  # the CUDA device in use when a save began

    def save(
        self,
        kind: str,
        step: int,
        tree: dict[str, _Packed],
        changed_by_steps: Callable[[], Collection[object]],
    ) -> None:
        """Write `tree`, or copy it and let it be written.

        changed_by_steps  gives the identities of tensors that only an optimizer's step changes
        """
        self.device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        if self.config.asynchronous:
            stable = changed_by_steps() if self.config.overlap else ()
            self.staging.copy(tree.values(), stable)
            self.saving = self.writer.submit(self._write, kind, step, tree)
        else:
            self._write(kind, step, tree)

    def has_failed(self) -> bool:
        saving = self.saving
        return saving is not None and saving.done() and saving.exception() is not None

    def flush(self) -> None:
        """Wait for the save in flight and raise its failure."""
        saving, self.saving = self.saving, None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        self.writer.shutdown(wait=True)
        self.staging.close()

    def _write(self, kind: str, step: int, tree: dict[str, _Packed]) -> None:
        if self.config.overlap:
            self.ranks.together("the save", self.staging.finish)
        if self.device is not None:
            torch.cuda.set_device(self.device)  # the current device is per thread
        until, told = time.monotonic() + self.config.wait_for_space, False
        while True:
            try:
                return self._try_to_write(kind, step, tree)
            except (OSError, DiskFull) as e:
                if not _is_disk_full(e):
                    raise
                # rank 0's clock decides for all
                mine = until - time.monotonic() if self.ranks.rank == 0 else -math.inf
                (left,) = self.ranks.highest(mine)
                if left <= 0:
                    raise
                if self.ranks.rank == 0 and not told:
                    _say(f"no room for the checkpoint of step {step}: waiting up to {left:.0f} s")
                told = True
                time.sleep(min(left, 5.0))

    def _try_to_write(self, kind: str, step: int, tree: dict[str, _Packed]) -> None:
        began, ranks, first = time.monotonic(), self.ranks, self.ranks.rank == 0
        tmp = Path(
            ranks.together(
                "the save", lambda: str(self.directory.begin(kind, step)) if first else None
            )[0]
        )
        try:
            self._write_files(tmp, step, tree)
            ranks.together("the save", lambda: self._publish(tmp, kind, step) if first else None)
        except BaseException:
            if first:  # else half a checkpoint would keep a full disk full
                shutil.rmtree(tmp, ignore_errors=True)
            raise
        if first:  # the other ranks don't wait for it
            if kind == "step":
                self.directory.prune(self.config.keep, kind, every=self.config.keep_every)
            else:
                self.directory.prune(self.config.keep_best, kind)
        self.cost = max(self.cost * 0.9, time.monotonic() - began)

    def _write_files(self, tmp: Path, step: int, tree: dict[str, _Packed]) -> None:
        """Write every rank's files and the manifest; return when all of them are durable."""
        ranks = self.ranks
        with _Syncs() as syncs:
            digests = ranks.together("the save", lambda: self._write_state(tmp, tree, syncs))
            if "shards" in tree:
                shards = tmp / "shards"
                ranks.together("the save", lambda: _write_shards(shards, tree["shards"], ranks))
                digests += ranks.together("the save", lambda: _seal_shards(shards, ranks.rank))
            everything = {name: digest for part in digests for name, digest in part.items()}

            def seal() -> None:
                if ranks.rank == 0:
                    self.directory.seal(tmp, everything, syncs, step=step, world_size=ranks.world)
                syncs.wait()

            ranks.together("the save", seal)

    def _write_state(self, tmp: Path, tree: dict[str, _Packed], syncs: _Syncs) -> dict[str, str]:
        """Write this rank's files; return their digests."""
        files = _state_files(f"rank-{self.ranks.rank}", tree["own"], apart=False)
        if "shared" in tree:
            files |= _state_files("shared", tree["shared"], apart=True)
        return _write_files(tmp, files, syncs)

    def _publish(self, tmp: Path, kind: str, step: int) -> None:
        self.directory.publish(tmp)
        self.directory.set_aside(kind, step)


# --- signals.py -----------------------------------------------------------------------------------
# Signals that ask for a save.

_ignored = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}  # by workers


class StopSignal:
    """Context manager: SIGTERM and SIGUSR1 set a flag and do nothing else.

    `received` is the first signal's name, or None. Leaving restores the old handlers. A handler
    that saves would interrupt optimizer.step() and save weights of two different steps.
    """

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGUSR1)):
        self.signals = signals
        self.received: str | None = None
        self.replaced: set[int] = set()  # signals whose handler is another one now
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        _ignored.update(self.signals)
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self._note) for s in self.signals}
        else:  # as in Ray Train
            _say("this isn't the main thread: signals aren't seen here, so none can ask for a save")
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self.before.items():
            # Python can't restore a handler that C code installed
            if handler is not None:
                signal.signal(s, handler)

    def stay_deaf(self) -> None:
        """After leaving: pass over signals that had no handler, for the process is ending.

        Slurm sends SIGTERM twice. The second one would end Python's own end, with status 143.
        """
        for s, handler in self.before.items():
            if handler == signal.SIG_DFL:
                signal.signal(s, self._note)  # not SIG_IGN, which a new process would inherit
                atexit.register(signal.signal, s, signal.SIG_IGN)

    def _note(self, number: int, frame: object) -> None:
        self.received = self.received or _name_of(number)

    @property
    def number(self) -> int:
        """Of the signal received; 0 if there is none."""
        name = self.received or "signal 0"
        return int(name.removeprefix("signal ")) if " " in name else signal.Signals[name]

    def tell_if_replaced(self) -> None:
        """Say once if the job, or a library of its, has set another handler since."""
        for s in self.before:
            if s not in self.replaced and (now := signal.getsignal(s)) != self._note:
                self.replaced.add(s)
                _say(
                    f"{_name_of(s)} has another handler now ({getattr(now, 'name', now)}): it "
                    "asks for a save only if that handler calls the one before"
                )


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _end_workers() -> None:
    """Kill DataLoader workers: at exit, Python would wait for them, but they ignore SIGTERM."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def ignore_signals(worker: int = 0) -> None:
    """worker_init_fn for a DataLoader: signals to the group must not kill it before the save."""
    for s in _ignored:
        signal.signal(s, signal.SIG_IGN)


# --- manager.py -----------------------------------------------------------------------------------
# The manager: a training job saved, stopped and resumed.


class CheckpointManager:
    """Saves and resumes a training job. Make it after init_process_group; use it in `with`.

    Where `with` doesn't fit, call close() in a `finally`; the first step() starts it.

    directory  all ranks must see it; no other job may write into it
    state      name -> object with state_dict and load_state_dict, or a dict, NumPy array, tensor or
               generator, which is filled on resuming, or None. Equal on all ranks.
               Call the model "model" and its optimizer "optimizer". Scheduler, GradScaler and
               sampler may have any name
    config     its options; each may also be given by its name: every_steps=1000
    per_rank   as state, for objects that differ between ranks (a torchdata StatefulDataLoader)

    Raises ValueError or TypeError for arguments that can't work, CheckpointError for a directory
    that can't. On several ranks, all must call its methods at the same points.
    """

    def __init__(
        self,
        directory: AnyPath,
        state: Mapping[str, Any],
        config: Config | None = None,
        *,
        per_rank: Mapping[str, Any] | None = None,
        **options: Any,
    ):
        self.directory = CheckpointDirectory(directory)
        _refuse_files(self.directory.path)
        _require_group()
        self.config = replace(config or Config(), **options)
        self.job = _Job(state, per_rank or {}, self.config)
        self.state, self.per_rank = self.job.state, self.job.per_rank
        self.lives, self.lock = _Lives(self.directory.path), _Lock(self.directory.path)
        # a dead rank is noticed at once, whatever the timeout
        self.ranks = _Ranks(self.config.timeout)
        self.rank = self.ranks.rank
        if self.rank == 0:
            _warn_of_restarts()
        self.saver = _Saver(self.directory, self.config, self.lives.last.get("cost", 0.0))
        self.job.find_shards()
        self.epoch = self.steps = 0
        self.best, self.stopping = math.inf, False
        self.outcome: str | None = None
        self.reason: str | None = None  # why it stops or has stopped
        self.signal, self.clock = StopSignal(self.config.signals), _Clock(self.config)
        self.saved: tuple[int, int] | None = None
        # resume() or start_over() was called; training has begun; something was trained
        self.started = self.resumed = self.begun = self.moved = False

    def __enter__(self) -> CheckpointManager:
        self.started, self.outcome = True, None
        self.signal.__enter__()
        for sampler in self.job.samplers():
            sampler.at_start = self._begin
        return self

    def close(self) -> None:
        """What leaving the `with` block does. Call it in a `finally`, so that it sees an error."""
        self.__exit__(*sys.exc_info())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.outcome is not None:  # close() within `with`
            return
        self.outcome = FAILED
        atexit.register(_end_workers)
        for sampler in self.job.samplers():
            sampler.at_start = None
        if isinstance(error, SystemExit):
            self.reason = self.reason or f"sys.exit({error.code})"
            if error.code in (None, 0) or (self.stopping and error.code == EXIT_STATUS[PREEMPTED]):
                error = None  # it ends as it wants to
        elif error is not None:
            self.reason = f"{type(error).__name__}: {error}"[:500]
        try:
            if error is None:
                if self.moved and self.saved != self._position():  # trained since the last save
                    self.save()
                self.flush()
                self.outcome = PREEMPTED if self.stopping else DONE
        except BaseException as e:
            self.reason = f"{type(e).__name__}: {e}"[:500]
            raise
        finally:
            self.saver.close()
            if self.rank == 0:
                note = self._progress() | {"interrupted": kind is KeyboardInterrupt}
                note["reason"] = self.reason
                self.lives.end(self.outcome, self.moved, self.begun, self.lock.take, note)
            self.signal.__exit__()
            if self.stopping:
                self.signal.stay_deaf()
            self.lock.release()

    @property
    def exit_status(self) -> int:
        """For sys.exit: 0 done, 75 preempted, 1 failed.

        torchrun turns every status but 0 into 1: read status.json there.
        """
        return EXIT_STATUS[self.outcome or FAILED]

    def status(self) -> dict[str, Any]:
        """The last life's outcome, reason, steps ...; {} if none has trained here."""
        return self.lives.read()

    def _progress(self) -> dict[str, Any]:
        return {"steps": self.steps, "epoch": self.epoch, "cost": round(self.saver.cost, 3)}

    # --- when

    def step(self) -> bool:
        """Call it after every optimizer step, on every rank. It saves if due; True means stop."""
        self._moves()
        self.steps += 1
        every = self.config.every_steps
        return self._check(every is not None and self.steps % every == 0)

    def end_epoch(self, metric: float | None = None) -> bool:
        """Call it after an epoch and its evaluation, on every rank; True means stop.

        metric  lower is better, so negate an accuracy. Only rank 0's counts. The best checkpoint
                is saved separately
        """
        self._moves()
        self.epoch += 1
        for part in self.state.values():
            if hasattr(part, "next_epoch"):
                part.next_epoch()
        self._compare_with_best(metric)
        every = self.config.every_epochs
        return self._check(every is not None and self.epoch % every == 0)

    def save_best(self, metric: float) -> bool:
        """Call it after an evaluation within an epoch, on every rank; True: it's the best so far.

        metric  as for end_epoch; a better one than all before is saved as a best checkpoint
        """
        self._moves()
        return self._compare_with_best(metric)

    def _compare_with_best(self, metric: float | None) -> bool:
        mine = metric if self.rank == 0 and metric is not None and metric < self.best else None
        better, best = self.ranks.highest(mine is not None, -math.inf if mine is None else mine)
        if better:  # before the other checkpoint, which records self.best as saved
            self.best = best
            self.save("best")
        return bool(better)

    def should_stop(self) -> bool:
        """Call it in evaluation and other long work, on every rank; True means stop."""
        return self._check(False, save=False)

    def _check(self, due: bool, save: bool = True) -> bool:
        self.clock.tick()
        over = self.clock.is_over(self.saver.cost)
        self.signal.tell_if_replaced()
        signaled, any_over, late, any_failed = self.ranks.highest(
            self.signal.number, over, self.clock.is_late(), self.saver.has_failed()
        )
        if any_failed:
            self.flush()
        if (signaled or any_over) and not self.stopping:
            self.stopping = True
            self.reason = _name_of(int(signaled)) if signaled else self.clock.told()
            if self.rank == 0:
                _say(f"stopping after step {self.steps}: {self.reason}", logging.INFO)
        if save and (due or late or self.stopping):
            self.save()
        return self.stopping

    def _moves(self) -> None:
        if not self.started:
            self.__enter__()
            atexit.register(_tell_if_open, weakref.ref(self))
        if not self.moved:
            self._begin()
            self.ranks.together("training", lambda: self._capture() and None)  # what can't be saved
            self.moved = True

    def _begin(self) -> None:
        """What training needs and a look doesn't: the directory's lock, and to count as a life."""
        if not self.begun:
            self.ranks.together("training", self._own_directory)
            self.begun = True

    def _own_directory(self) -> None:
        """Refuse to train into others' checkpoints, beside another job, or in a crash loop."""
        if self.rank:
            return
        if not self.resumed:
            _require_empty(self.directory)
        with _writing_into(self.directory.path):
            self.lock.require()
            self.directory.clear_leftovers()
            self.lives.begin(self._progress(), self.config.max_stuck)

    # --- saving

    def save(self, kind: str = "step") -> None:
        """Save now, on every rank; CheckpointError (or OSError) if it fails.

        An asynchronous save returns when the state is copied; the next call raises its failure.
        """
        self.flush()
        tree: dict[str, _Packed] = {}
        self.ranks.together("the save", lambda: tree.update(self._capture()))
        self.saver.save(kind, self.steps, tree, self.job.changed_by_steps)
        self.clock.saved_at = time.monotonic()
        if kind == "step":
            self.saved = self._position()

    def flush(self) -> None:
        """Wait for the save in flight and raise its failure."""
        self.saver.flush()

    def _position(self) -> tuple[int, int]:
        return self.steps, self.epoch

    def _capture(self) -> dict[str, _Packed]:
        progress = {"epoch": self.epoch, "steps": self.steps, "best": self.best}
        return self.job.capture(self.ranks, progress)

    # --- resuming

    def resume(
        self, kind: str = "step", change: Mapping[str, Mapping[str, Any]] | None = None
    ) -> bool:
        """Load the newest intact checkpoint, on every rank; False if there is none.

        kind    "best" loads the best one instead
        change  what shall differ from the checkpoint: {"optimizer": {"lr": 1e-4}} for all groups,
                {"scheduler": {"base_lrs": [1e-4]}}; each change is logged
        Raises  CheckpointError if checkpoints exist but none is intact, or after max_stuck lives
                without a new one; Mismatch if the checkpoint doesn't fit this job.
        """
        self.flush()
        self.resumed = True
        self.job.check_change(change or {})
        found = _newest_intact(kind, self.directory, self.job, self.ranks)
        if found is not None:
            name, parts = found
            self.ranks.together(f"resuming from {name}", lambda: self._apply(name, parts))
            if self.rank == 0:
                _say(f"resumed from {self.directory.path / name}", logging.INFO)
            for line in self.job.change(change or {}):
                if self.rank == 0:
                    _say(f"changed on resuming: {line}")
        if kind == "step":
            self.saved = self._position() if found else None
        return found is not None

    def start_over(self) -> None:
        """Start from step 0; existing checkpoints are kept, as abandoned-..."""

        def put_aside() -> None:
            if self.rank == 0:
                self.lock.require()
                for kind in ("step", "best"):
                    self.directory.set_aside(kind, -1)

        self.resumed = True
        self.ranks.together("starting over", put_aside)

    def _apply(self, name: str, parts: dict[str, Any]) -> None:
        where = self.directory.path / name
        progress = self.job.apply(where, parts["shared"], parts["own"], self.ranks)
        self.epoch, self.steps, self.best = progress["epoch"], progress["steps"], progress["best"]
