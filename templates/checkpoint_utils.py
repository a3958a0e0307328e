"""Checkpoints that survive production. Copy this one file; it needs only torch.

    sampler = ResumableSampler(len(data), batch_size=32, seed=1)
    loader = DataLoader(
        data, batch_sampler=sampler, generator=torch.Generator(), worker_init_fn=ignore_signals
    )
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
"""

from __future__ import annotations

import atexit
import collections
import ctypes
import errno
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from io import FileIO
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, ClassVar, Protocol, TypeVar

import torch
import torch.distributed as dist

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import numpy
except ImportError:
    numpy = None

DONE, PREEMPTED, FAILED = "done", "preempted", "failed"
EXIT_STATUS = {DONE: 0, PREEMPTED: 75, FAILED: 1}  # 75: EX_TEMPFAIL of sysexits.h, "try again"


AnyPath = str | os.PathLike[str]
Batch = TypeVar("Batch")


class Stateful(Protocol):
    """Anything with a state to save and load: a model, an optimizer, a scheduler, a sampler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


class CheckpointError(Exception):
    """A checkpoint can't be written or read, or none of the existing ones is intact."""


class Mismatch(CheckpointError):
    """The checkpoint is intact but doesn't fit this job; older ones won't fit either."""


# ---------------------------------------------------------------- one file
# Layout: magic, header length, header digest, header (JSON), the tensors' bytes in order, a digest
# of everything. Tensors are written from and read into their own memory, without a second copy.

MAGIC, CHUNK = b"ckpt-v1\n", 8 << 20
_checkers = ThreadPoolExecutor(2, "digest")  # two keep pace with the disk
_syncer = ThreadPoolExecutor(1, "sync")


def _new_threads() -> None:
    global _checkers, _syncer
    _checkers, _syncer = ThreadPoolExecutor(2, "digest"), ThreadPoolExecutor(1, "sync")


os.register_at_fork(after_in_child=_new_threads)  # threads don't survive a fork

_locks: set[int] = set()  # descriptors; a child would hold the lock beyond this process's death


def _release() -> None:
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_release)


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
        self.pieces.append((len(piece), _checkers.submit(lambda p, _: zlib.crc32(p), piece, owner)))

    def _take(self) -> None:
        length, crc = self.pieces.popleft()
        self.whole.update(length.to_bytes(8, "little") + crc.result().to_bytes(4, "little"))

    def digest(self) -> bytes:
        while self.pieces:
            self._take()
        return self.whole.digest()


def write_file(path: AnyPath, state: Any) -> str:
    """Write `state` durably to a new file and return the file's digest (hex).

    state   nested dicts, lists and tuples of tensors and plain values
    Needs at most 64 MiB of memory beyond the state itself.
    Raises  OSError if the disk is full or `path` exists; TypeError if a value can't be saved.
    """
    packed = state if isinstance(state, _Packed) else _Packed(state)
    header = json.dumps({"tree": packed.tree, "tensors": packed.about}).encode()
    digest = _Digest()
    with open(path, "xb", buffering=0) as f:
        head = MAGIC + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header
        _write_all(f, head)
        digest.update(head)
        # sync while writing: the disk starts on the first bytes instead of waiting for the last
        syncing: list[Future[None]] = []
        unsynced = 0
        for t in packed.tensors:
            if t is None or not t.numel():
                continue
            flat = t.resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
            for start in range(0, len(flat), CHUNK):
                piece = flat[start : start + CHUNK].cpu()
                view = _memory(piece)
                digest.update(view, piece)
                _write_all(f, view)
                unsynced += len(view)
                if unsynced >= 4 * CHUNK and all(s.done() for s in syncing):
                    syncing.append(_syncer.submit(_fsync, f.fileno()))
                    unsynced = 0
        _write_all(f, digest.digest())
        for s in syncing:
            s.result()  # a disk error is reported only once: a later fsync would succeed
        _fsync(f.fileno())
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


def _memory(t: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without NumPy (which has no bfloat16)."""
    size = t.numel() * t.element_size()
    return memoryview((ctypes.c_char * size).from_address(t.data_ptr() if size else 1)).cast("B")


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
            for key, node in tree["dict"]:
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
            for key, value in content:
                made[self._unpack(key)] = self._unpack(value)
            return made
        others: dict[str, Callable[[Any], Any]] = {
            "float": float.fromhex,
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
            elif more and self.at_home:
                t = _at_home(t, more[0]["device"])
            self.taken[n, self.at_home] = t
        return self.taken[n, self.at_home]


def _at_home(t: torch.Tensor, device: str) -> torch.Tensor:
    """On the device where it was, if this machine has one like it."""
    for name in (device, device.partition(":")[0]):
        try:
            return t.to(name)
        except (RuntimeError, AssertionError):  # AssertionError: torch without CUDA
            continue
    return t


# ---------------------------------------------------------------- a directory of checkpoints


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
        self.home: set[str] = set()  # keys of the state that are read to the devices they were on

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
        """Turn `tmp` into a checkpoint and return its name.

        The order makes it durable: sync the names in it, rename it once, sync its own name.
        """
        body = json.dumps({"files": digests, **more}, sort_keys=True)
        with open(tmp / "manifest.json", "x") as f:
            f.write(body + "\n" + hashlib.sha256(body.encode()).hexdigest() + "\n")
            f.flush()
            _fsync(f.fileno())
        _fsync_path(tmp)
        name = tmp.name.removeprefix("tmp-")
        os.rename(tmp, self.path / name)
        _fsync_path(self.path)
        self.trusted.add(name)
        return name

    def set_aside(self, kind: str, step: int) -> None:
        """Rename checkpoints of later steps, which an earlier run left, to abandoned-..."""
        for name in self.names(kind):
            if int(name.split("-")[1]) > step:
                gone = f"abandoned-{time.time_ns()}-{name}"
                os.rename(self.path / name, self.path / gone)
                _say(f"{name} belongs to an earlier run with later steps; moved to {gone}")

    def manifest(self, name: str) -> dict[str, Any]:
        try:
            body, own, *_ = (self.path / name / "manifest.json").read_bytes().split(b"\n")
            if hashlib.sha256(body).hexdigest().encode() != own:
                raise ValueError("its digest doesn't match")
            found: dict[str, Any] = json.loads(body)
            return found
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{name} is damaged: manifest.json: {e}") from e

    def read(self, name: str, file: str) -> Any:
        """The state in one file of a checkpoint, verified; None if the manifest doesn't list it."""
        wanted = self.manifest(name)["files"].get(file)
        if wanted is None:
            return None
        state, digest = _read(self.path / name / file, home=self.home)
        if digest != wanted:
            raise CheckpointError(f"{name}/{file} belongs to another checkpoint")
        return state

    def verify(self, name: str, share: slice = slice(None)) -> None:
        """Raise CheckpointError unless every file (of `share`) is as it was written."""
        for file, wanted in sorted(self.manifest(name)["files"].items())[share]:
            path = self.path / name / file
            if (
                _read(path, keep=False)[1] if file.endswith(".ckpt") else digest_of(path)
            ) != wanted:
                raise CheckpointError(f"{path} is damaged")

    def prune(self, keep: int, kind: str = "step", trust: bool = True) -> None:
        """Keep the newest `keep` intact ones, or all if none is intact. A kill does no harm."""
        names = self.names(kind)
        kept: list[str] = []  # what can't be read now, isn't deleted, and doesn't count
        intact = 0
        for name in names:
            if intact < keep and (found := self._intact(name, trust)) is not False:
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


def digest_of(path: AnyPath) -> str:
    """Digest (hex) of a file in another format (a shard of torch.distributed.checkpoint)."""
    digest = _Digest()
    try:
        with open(path, "rb", buffering=0) as f:
            while piece := f.read(CHUNK):
                digest.update(piece)
    except OSError as e:
        raise CheckpointError(f"{path} can't be read: {e}") from e
    return digest.digest().hex()


# ---------------------------------------------------------------- ranks


def _rank_and_world() -> tuple[int, int]:
    on = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if on else (0, 1)


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

    made: ClassVar[int] = 0

    def _await_others(self, timeout: float) -> None:
        """new_group would wait for the ranks that never come, and not say for what."""
        _Ranks.made += 1
        store = dist.distributed_c10d._get_default_store()
        keys = [f"checkpoint_utils {_Ranks.made} {rank}" for rank in range(self.world)]
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
        mine: tuple[str | None, object] = (None, None)
        error: BaseException | None = None
        try:
            mine = (None, work())
        except BaseException as e:  # not only Exception: torch's own CheckpointException isn't one
            if not self.on or isinstance(e, (KeyboardInterrupt, SystemExit)):
                raise
            mine, error = (f"{type(e).__name__}: {e}", isinstance(e, Mismatch)), e
        results = [mine] * self.world
        if self.on:
            self._meet(what, lambda: dist.all_gather_object(results, mine, group=self.group))
        failed = [f"rank {r}: {message}" for r, (message, _) in enumerate(results) if message]
        if failed:
            mismatch = any(flag for message, flag in results if message)
            raise (Mismatch if mismatch else CheckpointError)(
                f"{what} failed on {'; '.join(failed)}"
            ) from error
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


# ---------------------------------------------------------------- signals


class StopSignal:
    """Context manager: SIGTERM and SIGUSR1 set a flag and do nothing else.

    `received` is the first signal's name, or None. Leaving restores the old handlers. A handler
    that saves would interrupt optimizer.step() and save weights of two different steps.
    """

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGUSR1)):
        self.signals = signals
        self.received: str | None = None

    def __enter__(self) -> StopSignal:
        self.before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self._note) for s in self.signals}
        else:  # as in Ray Train
            _say("this isn't the main thread: no signal is seen here, and none asks for a save")
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self.before.items():
            # Python can't restore a handler that C code installed
            if handler is not None:
                signal.signal(s, handler)

    def _note(self, number: int, frame: object) -> None:
        self.received = self.received or signal.Signals(number).name


def _end_workers() -> None:
    """Kill DataLoader workers: at exit, Python would wait for them, but they ignore SIGTERM."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def ignore_signals(worker: int = 0) -> None:
    """worker_init_fn for a DataLoader: signals to the group must not kill it before the save."""
    for s in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(s, signal.SIG_IGN)


# ---------------------------------------------------------------- position in the data


class ResumableSampler:
    """A batch sampler that knows its position in the epoch; a resumed epoch skips trained batches.

    The order depends only on `seed` and the epoch, not on torch's global generator. With several
    ranks, make it after init_process_group. A global batch is batch_size times the number of ranks,
    and each rank gets its part of it. So the position is one number and fits another number of
    ranks. Samples at an epoch's end that don't fill a global batch are dropped.

    size        samples in an epoch, on all ranks together
    batch_size  samples in a batch, on one rank
    Raises      ValueError if there are too few samples for one global batch.
    """

    def __init__(self, size: int, batch_size: int, shuffle: bool = True, seed: int = 0):
        self.rank, self.world = _rank_and_world()
        self.size, self.batch_size, self.shuffle, self.seed = size, batch_size, shuffle, seed
        self.epoch = self.samples = 0  # samples: trained in this epoch, on all ranks together
        self.resumed = False
        self.at_start: Callable[[], None] | None = None  # tells the manager that training begins
        if len(self) < 1:
            raise ValueError(
                f"{size} samples are too few for a batch of {batch_size} on each of "
                f"{self.world} ranks"
            )

    def __len__(self) -> int:
        return self.size // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(self.size))
        if self.shuffle:
            random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        step = self.batch_size * self.world
        for start in range(self.samples, self.size - step + 1, step):
            mine = start + self.rank * self.batch_size
            yield order[mine : mine + self.batch_size]

    def follow(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The loader's batches; each counts as trained when the loop gets it, not when prefetched.

        A resumed epoch may have none left. RuntimeError if a fresh one has none.
        """
        if self.samples + self.batch_size * self.world > self.size and not self.resumed:
            raise RuntimeError(
                "this epoch's samples are all trained: is the sampler in the manager's state? "
                "Only then does end_epoch() advance it"
            )
        if self.at_start is not None:
            self.at_start()
        for batch in loader:
            self.samples += self.batch_size * self.world
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
                    f"the data were in another order: {name} was {state[name]} and is now "
                    f"{getattr(self, name)}"
                )
        self.epoch, self.samples, self.resumed = state["epoch"], state["samples"], True


# ---------------------------------------------------------------- state


def rng_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators and of one for each CUDA device."""
    state: dict[str, Any]
    state = {"python": random.getstate(), "torch": torch.get_rng_state(), "cuda": []}
    if torch.cuda.is_available():
        state |= {"cuda": torch.cuda.get_rng_state_all(), "device": torch.cuda.current_device()}
    if numpy is not None:
        name, keys, *rest = numpy.random.get_state()
        state["numpy"] = [name, torch.from_numpy(keys.astype("int64")), *rest]
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
        name, keys, *rest = state["numpy"]
        numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))


def bare(model: Any) -> Any:
    """The module inside DistributedDataParallel, DataParallel and torch.compile."""
    while isinstance(
        model, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    ) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "nothing"


def _plain_key(key: str) -> str:
    """Without what torch.compile and activation checkpointing insert."""
    return key.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def _versions(part: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Its modules' versions, by which load_state_dict converts what older ones saved."""
    return {
        _plain_key(name): dict(about) for name, about in bare(part).state_dict()._metadata.items()
    }


def _state_of(part: Stateful | None) -> Any:
    if isinstance(part, torch.nn.Module):
        return {_plain_key(k): v for k, v in bare(part).state_dict().items()}
    return None if part is None else part.state_dict()


def _buffers_of(part: torch.nn.Module, held: Iterable[str] = ()) -> dict[str, torch.Tensor]:
    """Its buffers, except those in `held`."""
    buffers = bare(part).named_buffers(remove_duplicate=False)
    found = {_plain_key(n): b for n, b in buffers if not hasattr(b, "to_local")}
    return {n: b for n, b in found.items() if n not in held}


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


Names = list[list[str]]  # of an optimizer's parameters, in each of its groups


def _names_of(optimizer: torch.optim.Optimizer, modules: Mapping[str, torch.nn.Module]) -> Names:
    """Where each parameter is in the registered modules; else its shape, and which of that shape.

    A loaded optimizer gets its state by these names, not by the parameters' order.
    """
    known: dict[int, str] = {}
    for part, module in modules.items():
        for name, p in bare(module).named_parameters():
            known.setdefault(id(p), f"{part}.{_plain_key(name)}")
    others: collections.Counter[str] = collections.Counter()

    def name_of(p: torch.Tensor) -> str:
        if id(p) in known:
            return known[id(p)]
        others[shape := str(tuple(p.shape))] += 1
        return f"{shape} number {others[shape]}"

    return [[name_of(p) for p in group["params"]] for group in optimizer.param_groups]


def _load_optimizer(
    part: torch.optim.Optimizer, state: Any, saved: Names | None, job: Names, exact: bool
) -> None:
    """Load an optimizer's state_dict: each parameter's state by name, in type as it was saved.

    saved   the names in the state's groups; None: it is from a version that didn't save any
    exact   the state's tensors are on the devices where they belong
    """
    groups = state["param_groups"]
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


def _few(names: Iterable[str]) -> str:
    names = sorted(names)
    return _quoted(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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
            fresh = part.state_dict()
            own = {_plain_key(k): k for k in fresh}
            state = collections.OrderedDict((own.get(k, k), v) for k, v in state.items())
            _compare_types(
                name, {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}, fresh
            )
            if (versions := about.get("versions", {}).get(name)) is not None:
                state._metadata = {m: versions.get(_plain_key(m), {}) for m in fresh._metadata}
        if isinstance(part, torch.optim.Optimizer):
            saved = about.get("parameters", {}).get(name)
            _load_optimizer(part, state, saved, _names_of(part, modules), exact=saved is not None)
        elif part is not None:
            part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
        raise Mismatch(f"'{name}' doesn't fit the checkpoint: {type(e).__name__}: {e}") from e


def _compare_types(name: str, saved: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Mismatch if loading would convert a parameter: the job wouldn't be the one that was saved."""
    for key, value in saved.items():
        mine = job.get(key)
        if isinstance(mine, torch.Tensor) and mine.dtype != value.dtype:
            raise Mismatch(
                f"'{name}': {key} is {value.dtype} in the checkpoint and {mine.dtype} in the job: "
                "convert the model as it was before you make the manager"
            )


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


# ---------------------------------------------------------------- the manager


def _end_of_job() -> float:
    text = os.environ.get("SLURM_JOB_END_TIME", "")
    try:
        end = float(text or math.inf)
    except ValueError:
        end = math.nan
    if end > time.time():
        return end
    _say(f"SLURM_JOB_END_TIME={text} isn't this job's end (an old shell's?): it is ignored")
    return math.inf


class CheckpointManager:
    """Saves and resumes a training job. Make it after init_process_group; use it in `with`.

    directory     all ranks must see it; no other job may write into it
    state         name -> object with state_dict and load_state_dict (or None), equal on all ranks.
                  Call the model "model" and its optimizer "optimizer". Scheduler, GradScaler and
                  sampler may have any name
    per_rank      the same, for objects that differ between ranks (a torchdata StatefulDataLoader)
    every_*       when to save. It also saves after a signal and before the job's time is up
    keep          how many intact checkpoints to keep; the best one isn't counted
    asynchronous  copy the state, then write it while training continues
    gradients     also save accumulated gradients (for saves between optimizer steps)
    end_time      Unix time (s) at which the job will be killed; default: $SLURM_JOB_END_TIME
    margin        s before end_time by which the last save must be durable
    timeout       s after which an unresponsive rank is an error on the others: longer than a save
    max_stuck     lives in a row without a new checkpoint after which resume() raises

    Raises ValueError or TypeError for arguments that can't work, CheckpointError for a directory
    that can't. On several ranks, all must call its methods at the same points.
    """

    def __init__(
        self,
        directory: AnyPath,
        state: Mapping[str, Stateful | None],
        *,
        per_rank: Mapping[str, Stateful | None] | None = None,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        every_minutes: float | None = None,
        keep: int = 3,
        asynchronous: bool = False,
        gradients: bool = False,
        end_time: float | None = None,
        margin: float = 30.0,
        timeout: float = 3600.0,
        max_stuck: int = 3,
    ):
        self.directory = CheckpointDirectory(directory)
        self.state: dict[str, Any] = dict(state)
        self.per_rank: dict[str, Any] = dict(per_rank or {})
        self._check_arguments(keep, every_steps, every_epochs, every_minutes, gradients)
        self.every_steps, self.every_epochs, self.every_minutes = (
            every_steps,
            every_epochs,
            every_minutes,
        )
        self.keep, self.asynchronous, self.gradients = keep, asynchronous, gradients
        self.end_time = _end_of_job() if end_time is None else end_time
        self.margin, self.max_stuck = margin, max_stuck
        # one for this thread, one for the writing thread. A dead rank is noticed at once,
        # whatever the timeout
        self.front, self.back = _Ranks(timeout), _Ranks(timeout)
        self.rank, model = self.front.rank, self.state.get("model")
        for module in model.modules() if isinstance(model, torch.nn.Module) else ():
            if hasattr(module, "unshard") and hasattr(module, "reshard"):
                module.reshard()  # after a forward pass, FSDP2's parameters look unsharded
        self.sharded = model is not None and any(hasattr(p, "to_local") for p in model.parameters())
        if self.sharded and self.state.get("optimizer") is None:
            raise ValueError(
                "a sharded model is saved together with its optimizer: add it as 'optimizer'"
            )
        for name, part in self.state.items():
            for module in part.modules() if isinstance(part, torch.nn.Module) else ():
                if type(module).__name__ == "FullyShardedDataParallel":
                    raise TypeError(f"'{name}' is sharded with FSDP1: use fully_shard (FSDP2)")
                if name != "model" and any(
                    hasattr(p, "to_local") for p in module.parameters(recurse=False)
                ):
                    raise TypeError(f"'{name}' is sharded: only 'model' and its 'optimizer' can be")
        self.epoch = self.steps = 0
        self.best, self.stopping = math.inf, False
        self.outcome: str | None = None
        self.signal, self.staging, self.writer = (
            StopSignal(),
            _Staging(),
            ThreadPoolExecutor(1, "checkpoint"),
        )
        self.saving: Future[None] | None = None
        self.device: int | None = None  # the CUDA device in use when a save began
        self.cost = self.status().get("cost", 0.0)  # s that a save takes, as the last life measured
        self.longest = 0.0  # s between two checks of signals and the clock
        self.checked_at: float | None = None
        self.saved: tuple[int, int] | None = None
        self.saved_at = time.monotonic()
        self.last = self.status()  # the life before this one
        # resume() or start_over() was called; training has begun; something was trained
        self.resumed = self.begun = self.moved = False
        self.reason: str | None = None  # why it stops or has stopped
        self.lock: int | None = None
        self.lockless = False
        self.about: dict[str, Any] | None = None

    def _check_arguments(
        self,
        keep: int,
        every_steps: int | None,
        every_epochs: int | None,
        every_minutes: float | None,
        gradients: bool,
    ) -> None:
        """Refuse now what would fail hours later, at the first save or resume."""
        if self.directory.path.exists() and not self.directory.path.is_dir():
            raise CheckpointError(f"{self.directory.path} is a file: give a directory")
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not (
            dist.is_available() and dist.is_initialized()
        ):
            raise CheckpointError(
                "this is one of several ranks (WORLD_SIZE): call init_process_group before you "
                "make the manager"
            )
        if not isinstance(keep, int) or keep < 1:
            raise ValueError(f"keep={keep!r}: keep at least one checkpoint")
        for name, value in (
            ("every_steps", every_steps),
            ("every_epochs", every_epochs),
            ("every_minutes", every_minutes),
        ):
            if value is not None and (
                value <= 0 or (name != "every_minutes" and value != int(value))
            ):
                raise ValueError(f"{name}={value!r}: it must be a positive number or None")
        for name, part in (self.state | self.per_rank).items():
            if part is not None and not (
                hasattr(part, "state_dict") and hasattr(part, "load_state_dict")
            ):
                raise TypeError(
                    f"'{name}' is a {type(part).__name__} without state_dict and "
                    "load_state_dict: it can't be saved"
                )
        if twice := self.state.keys() & self.per_rank.keys():
            raise ValueError(f"{_quoted(twice)} is in state and in per_rank: use another name")
        if (
            taken := {"progress", "about"} & self.state.keys()
            | {
                "rng",
                "gradients",
                "buffers",
                "module_buffers",
            }
            & self.per_rank.keys()
        ):
            raise ValueError(f"{_quoted(taken)}: the manager saves its own under this name")
        if gradients and self.state.get("model") is None:
            raise ValueError("gradients=True needs the model, under the name 'model'")
        for name, part in self.state.items():
            if isinstance(part, ResumableSampler) and part.world != _rank_and_world()[1]:
                raise ValueError(
                    f"'{name}' was made for {part.world} ranks, but there are "
                    f"{_rank_and_world()[1]}: make it after init_process_group"
                )

    def __enter__(self) -> CheckpointManager:
        self.signal.__enter__()
        for sampler in self._samplers():
            sampler.at_start = self._begin
        return self

    def _samplers(self) -> list[ResumableSampler]:
        parts = (*self.state.values(), *self.per_rank.values())
        return [p for p in parts if isinstance(p, ResumableSampler)]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.outcome = FAILED
        atexit.register(_end_workers)
        for sampler in self._samplers():
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
            self.writer.shutdown(wait=True)
            told = self.outcome
            if told == DONE and not self.moved:
                # it trained nothing: the last life's outcome still holds
                told = self.last.get("outcome", DONE)
            try:
                # one that is asked to stop before its first step may have no other way to say so
                asked = told == PREEMPTED and self.last.get("outcome") != DONE
                if self.begun or (asked and self.rank == 0 and self._lock()):
                    interrupted = kind is KeyboardInterrupt
                    self._note(outcome=told, reason=self.reason, interrupted=interrupted)
            except OSError as e:  # don't hide the error that ended the job
                _say(f"status.json can't be written: {e}")
            self.signal.__exit__()
            self._unlock()

    @property
    def exit_status(self) -> int:
        """For sys.exit: 0 done, 75 preempted, 1 failed.

        torchrun turns every status but 0 into 1: read status.json there.
        """
        return EXIT_STATUS[self.outcome or FAILED]

    # --- when

    def step(self) -> bool:
        """Call it after every optimizer step, on every rank. It saves if due; True means stop."""
        self._moves()
        self.steps += 1
        return self._check(self.every_steps is not None and self.steps % self.every_steps == 0)

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
        mine = metric if self.rank == 0 and metric is not None and metric < self.best else None
        better, best = self.front.highest(mine is not None, -math.inf if mine is None else mine)
        if better:  # before the other checkpoint, which records self.best as saved
            self.best = best
            self.save("best")
        return self._check(self.every_epochs is not None and self.epoch % self.every_epochs == 0)

    def should_stop(self) -> bool:
        """Call it in evaluation and other long work, on every rank; True means stop."""
        return self._check(False, save=False)

    def _check(self, due: bool, save: bool = True) -> bool:
        now = time.monotonic()
        self.longest, self.checked_at = max(self.longest, now - (self.checked_at or now)), now
        # s that remain for training, reckoned up to the next check
        left = self.end_time - time.time() - self.margin - 2 * self.cost - self.longest
        late = (
            self.every_minutes is not None
            and time.monotonic() - self.saved_at > 60 * self.every_minutes
        )
        failed = (
            self.saving is not None and self.saving.done() and self.saving.exception() is not None
        )
        number = signal.Signals[self.signal.received] if self.signal.received else 0
        signaled, over, any_late, any_failed = self.front.highest(number, left < 0, late, failed)
        if any_failed:
            self.flush()
        if (signaled or over) and not self.stopping:
            self.stopping = True
            ends = f"the job's time ends at {time.ctime(self.end_time)}" if left < 0 else "time"
            self.reason = signal.Signals(int(signaled)).name if signaled else ends
            if self.rank == 0:
                _say(f"stopping after step {self.steps}: {self.reason}")
        if save and (due or any_late or self.stopping):
            self.save()
        return self.stopping

    def _moves(self) -> None:
        if not self.moved:
            self._begin()
            self.front.together("training", lambda: self._capture() and None)  # what can't be saved
            self.moved = True

    def _begin(self) -> None:
        """What training needs and a look doesn't: the directory's lock, and to count as a life."""
        if not self.begun:
            self.front.together("training", self._own_directory)
            self.begun = True

    def _has_memory(self) -> None:
        """Mismatch if a part has nothing to load into, which load_state_dict doesn't mind."""
        for name, module in self._modules().items():
            for key, t in itertools.chain(module.named_parameters(), module.named_buffers()):
                if t.device.type == "meta":
                    raise Mismatch(
                        f"'{name}': {_plain_key(key)} is on the meta device, without memory: call "
                        "to_empty(device=...) before you make the optimizer and the manager"
                    )

    def _own_directory(self) -> None:
        """Refuse to train into others' checkpoints, beside another job, or in a crash loop."""
        if self.rank:
            return
        if not self.resumed and (self.directory.names() or self.directory.names("best")):
            raise CheckpointError(
                f"{self.directory.path} holds checkpoints: call resume() before training, or "
                "start_over() to move them aside"
            )
        self._alone()
        self.directory.clear_leftovers()
        self._count_life()

    def _alone(self) -> None:
        if not self._lock():
            raise CheckpointError(
                f"another job is writing into {self.directory.path}: end it or use another "
                "directory"
            )

    def _lock(self) -> bool:
        """Take the directory's lock; False if another job holds it.

        The lock ends with the process. It is flock's, which doesn't end when the process closes
        another descriptor of the file (as a copy of the directory does).
        """
        if self.lock is not None or self.lockless or fcntl is None:
            return True
        path, fd = self.directory.path / "lock", None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
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
            self.lockless = True
            return True
        self.lock = fd
        _locks.add(fd)
        return True

    def _unlock(self) -> None:
        if self.lock is not None:
            _locks.discard(self.lock)
            os.close(self.lock)
            self.lock = None

    # --- saving

    def save(self, kind: str = "step") -> None:
        """Save now, on every rank; CheckpointError (or OSError) if it fails.

        An asynchronous save returns when the state is copied; the next call raises its failure.
        """
        self.flush()
        self.device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        tree: dict[str, _Packed] = {}
        self.front.together("the save", lambda: tree.update(self._capture()))
        if self.asynchronous:
            self.staging.copy(tree.values())
            self.saving = self.writer.submit(self._write, kind, self.steps, tree)
        else:
            self._write(kind, self.steps, tree)
        self.saved_at = time.monotonic()
        if kind == "step":
            self.saved = self._position()

    def flush(self) -> None:
        """Wait for the save in flight and raise its failure."""
        saving, self.saving = self.saving, None
        if saving is not None:
            saving.result()

    def _position(self) -> tuple[int, int]:
        return self.steps, self.epoch

    def _capture(self) -> dict[str, _Packed]:
        """What this rank saves. TypeError by name if something can't be."""
        packed: dict[str, _Packed] = {}
        if self.sharded:
            shards = _shards_of(self.state["model"], self.state["optimizer"])
            packed["shards"] = _Packed(shards, sharded=True)
        progress: dict[str, Any]
        progress = {"epoch": self.epoch, "steps": self.steps, "best": self.best}
        progress |= {"world_size": self.front.world, "gradients": self.gradients}
        everything = self.state | self.per_rank
        modules = self._modules()
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
        shared: dict[str, Any]
        shared = {"progress": progress, "about": self.about | {"parameters": names}}
        own: dict[str, Any] = {"rng": rng_state()}
        for name, part in self.state.items():
            if not (self.sharded and name in ("model", "optimizer")):
                shared[name] = _state_of(part)
        for name, part in self.per_rank.items():
            own[name] = _state_of(part)
        # what isn't in a state_dict (persistent=False); running means differ from rank to rank
        held = shared | own | (shards if self.sharded else {})
        progress["buffers"] = {n: _buffers_of(m, held[n]) for n, m in modules.items()}
        if self.front.world > 1:
            own["module_buffers"] = {n: _buffers_of(m) for n, m in modules.items()}
        if self.gradients:
            grads = {
                _plain_key(n): p.grad.detach()
                for n, p in bare(self.state["model"]).named_parameters()
                if p.grad is not None
            }
            own["gradients"] = {
                n: g.to_local() if hasattr(g, "to_local") else g for n, g in grads.items()
            }
        packed["own"] = _Packed(own)
        if self.rank == 0:
            packed["shared"] = _Packed(shared)
        return packed

    def _modules(self) -> dict[str, torch.nn.Module]:
        everything = self.state | self.per_rank
        return {n: p for n, p in everything.items() if isinstance(p, torch.nn.Module)}

    def _write(self, kind: str, step: int, tree: dict[str, _Packed]) -> None:
        began, ranks, first = time.monotonic(), self.back, self.rank == 0
        if self.device is not None:
            torch.cuda.set_device(self.device)  # the current device is per thread
        tmp = Path(
            ranks.together(
                "the save", lambda: str(self.directory.begin(kind, step)) if first else None
            )[0]
        )

        def parts() -> dict[str, str]:
            files = {f"rank-{self.rank}.ckpt": tree["own"]} | (
                {"shared.ckpt": tree["shared"]} if first else {}
            )
            return {name: write_file(tmp / name, content) for name, content in files.items()}

        try:
            digests = ranks.together("the save", parts)
            if "shards" in tree:
                shards = tmp / "shards"
                ranks.together("the save", lambda: _write_shards(shards, tree["shards"], ranks))
                digests += ranks.together("the save", lambda: _seal_shards(shards, self.rank))
            everything = {name: digest for part in digests for name, digest in part.items()}
            ranks.together(
                "the save", lambda: self._commit(tmp, everything, step, kind) if first else None
            )
        except BaseException:
            if first:  # else half a checkpoint would keep a full disk full
                shutil.rmtree(tmp, ignore_errors=True)
            raise
        if first:  # the other ranks don't wait for it
            self.directory.prune(self.keep if kind == "step" else 1, kind)
        self.cost = max(self.cost * 0.9, time.monotonic() - began)

    def _commit(self, tmp: Path, digests: dict[str, str], step: int, kind: str) -> None:
        self.directory.commit(tmp, digests, step=step, world_size=self.back.world)
        self.directory.set_aside(kind, step)

    # --- resuming

    def resume(self, kind: str = "step") -> bool:
        """Load the newest intact checkpoint, on every rank; False if there is none.

        kind    "best" loads the best one instead
        Raises  CheckpointError if checkpoints exist but none is intact, or after max_stuck lives
                without a new one; Mismatch if the checkpoint doesn't fit this job.
        """
        self.flush()
        self.resumed = True
        first = self.rank == 0
        names = self.front.together("resuming", lambda: self._candidates(kind) if first else None)[
            0
        ]
        for name in names:
            box: dict[str, Any] = {}
            try:
                self.front.together(f"loading {name}", partial(self._load, name, box))
            except Mismatch:
                raise
            except CheckpointError as e:
                if self.rank == 0:
                    _say(f"skipped checkpoint {name}: {e}")
                continue
            self.front.together(f"resuming from {name}", partial(self._apply, name, **box))
            if self.rank == 0:
                _say(f"resumed from {self.directory.path / name}")
            break
        else:
            if names:
                best = (
                    "; the best one may be: try resume('best')"
                    if kind == "step" and self.directory.names("best")
                    else ""
                )
                raise CheckpointError(
                    f"none of the {len(names)} checkpoints in {self.directory.path} is intact; "
                    f"to start again, call start_over(){best}"
                )
        if kind == "step":
            self.saved = self._position() if names else None
        return bool(names)

    def start_over(self) -> None:
        """Start from step 0; existing checkpoints are kept, as abandoned-..."""

        def put_aside() -> None:
            if self.rank == 0:
                self._alone()
                for kind in ("step", "best"):
                    self.directory.set_aside(kind, -1)

        self.resumed = True
        self.front.together("starting over", put_aside)

    def _candidates(self, kind: str) -> list[str]:
        """Newest first; a job that only saved best checkpoints resumes from those."""
        return self.directory.names(kind) or (
            self.directory.names("best") if kind == "step" else []
        )

    def _load(self, name: str, box: dict[str, Any]) -> None:
        """Read and verify this rank's parts into `box`, without touching the job."""
        # a module copies what it loads; others keep it, and need it where it was
        self.directory.home = {"progress", *self.state, *self.per_rank} - set(self._modules())
        shared = self.directory.read(name, "shared.ckpt")
        own = self.directory.read(name, f"rank-{self.rank}.ckpt")
        if self.sharded:
            self.directory.verify(name, slice(self.rank, None, self.front.world))
        box.update(shared=shared, own=own)

    def _apply(self, name: str, shared: dict[str, Any], own: dict[str, Any] | None) -> None:
        self._compare(name, shared, own)  # before anything of the job changes
        if self.sharded:
            _read_shards(
                self.directory.path / name / "shards",
                self.state["model"],
                self.state["optimizer"],
                self.front,
            )
            if shared["progress"].get("untouched"):  # earlier versions saved empty moments
                self.state["optimizer"].state.clear()
        about, modules = shared.get("about", {}), self._modules()
        for part, target in self.state.items():
            if not (self.sharded and part in ("model", "optimizer")):
                _load_into(target, shared[part], part, modules, about)
        progress = shared["progress"]
        if progress["world_size"] != self.front.world and (progress["gradients"] or self.per_rank):
            raise Mismatch(
                f"gradients and per_rank state of {progress['world_size']} ranks can't resume "
                f"on {self.front.world}"
            )
        self.epoch, self.steps, self.best = progress["epoch"], progress["steps"], progress["best"]
        for part, saved in progress.get("buffers", {}).items():
            _load_buffers(modules[part], saved, part)
        if own is None:
            _say(f"rank {self.rank} isn't in the checkpoint: its RNGs aren't restored")
            return
        for part, target in self.per_rank.items():
            _load_into(target, own[part], part, modules, about)
        if progress["world_size"] == self.front.world:
            # "buffers": of an earlier version
            buffers = own.get("module_buffers", {"model": own.get("buffers", {})})
            for part in buffers.keys() & modules.keys():
                _load_buffers(modules[part], buffers[part], part)
        for n, p in bare(self.state["model"]).named_parameters() if "gradients" in own else ():
            grad = own["gradients"].get(_plain_key(n))
            if grad is not None:
                p.grad = torch.zeros_like(p)
                (p.grad.to_local() if hasattr(p, "to_local") else p.grad).copy_(grad)
        set_rng_state(own["rng"])  # last: undoes every draw during loading

    def _compare(self, name: str, shared: dict[str, Any], own: dict[str, Any] | None) -> None:
        """Raise Mismatch unless the job has exactly the parts that the checkpoint holds."""
        self._has_memory()
        where = self.directory.path / name
        apart = {"model", "optimizer"} if self.sharded else set()
        holds, has = set(shared) - {"progress", "about"}, set(self.state) - apart
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
                f"{where} also holds {_quoted(extra)}: register what the job had, or it resumes "
                "as a different job"
            )
        if own is not None and (missing := set(self.per_rank) - set(own)):
            raise Mismatch(f"{where} holds no per_rank {_quoted(missing)}")
        for part, kind in shared.get("about", {}).get("kinds", {}).items():
            target = self.state.get(part, self.per_rank.get(part))
            if target is not None and type(target).__name__ != kind:
                raise Mismatch(
                    f"'{part}' is a {kind} in {where} but a {type(target).__name__} in the job"
                )

    # --- status.json

    def status(self) -> dict[str, Any]:
        """The last life's outcome, reason, steps ...; {} if none has trained here."""
        try:
            found = json.loads((self.directory.path / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _note(self, **more: object) -> None:
        if self.rank == 0:
            tmp = self.directory.path / "status.json.tmp"
            tmp.write_text(
                json.dumps(
                    self.status()
                    | {"steps": self.steps, "epoch": self.epoch, "cost": round(self.cost, 3)}
                    | more
                )
                + "\n"
            )
            os.replace(tmp, self.directory.path / "status.json")

    def _count_life(self) -> None:
        """Raise after max_stuck lives that began at the same step and died.

        It counts before training, so that a life that SIGKILL ends counts, too.
        """
        self.last = last = self.status()
        stuck = last.get("stuck", 0) if last.get("started_at") == self.steps else 0
        died = last.get("outcome") in ("running", FAILED) and not last.get("interrupted")
        stuck += last.get("started_at") == self.steps and died
        if stuck >= self.max_stuck:
            raise CheckpointError(
                f"{stuck} lives in a row began at step {self.steps} and died before the "
                "next checkpoint; "
                f"find out why, then delete {self.directory.path / 'status.json'}"
            )
        self._note(
            outcome="running", reason=None, started_at=self.steps, stuck=stuck, interrupted=False
        )


# ---------------------------------------------------- FSDP2: every rank writes and reads its shards


def _shards_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """As torch's get_state_dict, except that it invents no state for parameters without any.

    Parameters have names instead of numbers: on another number of ranks, too.
    """
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    # first: it reshards, and between forward and backward the module holds other parameters
    weights = get_model_state_dict(model)
    names = _names_of(optimizer, {"": model})
    for group in names:
        for n, name in enumerate(group):
            if not name.startswith("."):
                raise TypeError(f"the optimizer holds a parameter {name} that 'model' doesn't")
            group[n] = name[1:]
    whole = optimizer.state_dict()
    number = {
        n: name
        for group, ns in zip(whole["param_groups"], names, strict=True)
        for n, name in zip(group["params"], ns, strict=True)
    }
    shapes = {name: p.shape for name, p in _named(model).items()}
    for n, values in whole["state"].items():
        for k, v in values.items() if n in number else ():
            if hasattr(v, "to_local") and v.shape != shapes[number[n]]:
                raise TypeError(
                    f"'optimizer': {k} of {number[n]} is a DTensor of another shape than its "
                    "parameter: it can't be saved"
                )
    state = {number.get(n, n): values for n, values in whole["state"].items()}
    groups = [{**g, "params": ns} for g, ns in zip(whole["param_groups"], names, strict=True)]
    return {
        "model": weights,
        "optimizer": {"state": state, "param_groups": groups},
    }


def _named(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {_plain_key(n): p for n, p in bare(model).named_parameters()}


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


def _read_shards(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, ranks: _Ranks
) -> None:
    """Load what is there, as it is there: what has no state in the checkpoint gets none."""
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint._nested_dict import flatten_state_dict, unflatten_state_dict
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    metadata = FileSystemReader(path).read_metadata()
    saved, paths = metadata.state_dict_metadata, metadata.planner_data
    weights = flatten_state_dict({"model": get_model_state_dict(model)})[0]
    params = _named(model)  # after resharding
    held = {k: saved[k] for k, path in paths.items() if path[0] == "optimizer"}  # in its order
    if lost := saved.keys() - weights.keys() - held.keys():
        raise Mismatch(f"the checkpoint holds {_few(lost)}, which the job lacks")
    about = {k: m.properties for k, m in saved.items() if hasattr(m, "properties")}
    _compare_types(
        "model",
        {k: SimpleNamespace(dtype=p.dtype) for k, p in about.items() if k not in held},
        weights,
    )
    tree: dict[str, Any] = dict(weights)
    for key, m in held.items():
        p = params.get(paths[key][2]) if len(paths[key]) > 2 else None
        if key not in about:
            tree[key] = None
        elif p is not None and m.size == p.shape and paths[key][3:] != ("step",):
            tree[key] = torch.empty_like(p, dtype=about[key].dtype, requires_grad=False)
        else:
            tree[key] = torch.empty(m.size, dtype=about[key].dtype, device="cpu")
    try:
        load(tree, storage_reader=FileSystemReader(path), process_group=ranks.group)
    except BaseException as e:
        # the message holds every rank's traceback: the first rank's error is enough
        first = next(iter(getattr(e, "failures", {0: (e,)}).values()))[0]
        raise Mismatch(f"the shards don't fit: {first}") from None
    weights = {paths[k][1]: tree[k] for k in weights}
    state = unflatten_state_dict({k: tree[k] for k in held}, {k: paths[k] for k in held})
    state = {"state": {}, **state["optimizer"]}  # torch leaves out what is empty
    set_model_state_dict(model, weights)
    job = [[n.removeprefix(".") for n in group] for group in _names_of(optimizer, {"": model})]
    names = [group["params"] for group in state["param_groups"]]
    _load_optimizer(optimizer, state, names, job, exact=False)
