"""How long savers stall training, how soon a save is durable, how fast it loads, at what memory.

Every size runs in its own process (`python -m grader.bench.savers SIZE_MIB FOLDER`). All
savers take turns there, round by round, with the same state: a model and its AdamW moments. A
figure is the median of all rounds but the first, which warms buffers and caches. Files are read
from the page cache, which is harder for savers that verify what they read.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib.metadata
import json
import os
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from grader.harness.inside.memory import Peak

TEMPLATES = Path(__file__).resolve().parent.parent.parent / "templates"
MIB = 1 << 20
sys.path.insert(0, str(TEMPLATES))  # as in a project with a copy of the file

COPY, RAW = "copy into warm buffers", "raw write + fsync, raw read"
SYNC, ASYNC = "checkpoint_utils, synchronous", "checkpoint_utils, asynchronous"
OVERLAP = "checkpoint_utils, asynchronous, overlap"
TORCH = "torch.save + fsync, torch.load"
DCP, DCP_ASYNC = "torch.distributed.checkpoint, save", "torch.distributed.checkpoint, async_save"


class Weights(torch.nn.Module):
    """`size` bytes of float32 in matrices (at most 4 MiB, as in large models) and small vectors."""

    def __init__(self, size: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        rows = max(1, min(1024, size // (4 * 1024)))
        number = max(1, size // (rows * 1024 * 4))
        for n in range(number):
            self.register_parameter(
                f"w{n}", torch.nn.Parameter(torch.randn(rows, 1024, generator=generator))
            )
            self.register_parameter(f"b{n}", torch.nn.Parameter(torch.zeros(1024)))

    def forward(self, x):
        """A loss that takes as much work for each matrix."""
        return sum((x @ p.T).relu().sum() for p in self.parameters() if p.dim() == 2)


def training_state(size: int):
    """(model, optimizer) with `size` bytes of tensors together, as after a step of AdamW."""
    model = Weights(size // 3)
    optimizer = torch.optim.AdamW(model.parameters())
    for p in model.parameters():
        optimizer.state[p] = {
            "step": torch.tensor(1.0),
            "exp_avg": torch.randn_like(p),
            "exp_avg_sq": torch.rand_like(p),
        }
    return model, optimizer


@dataclass
class Saver:
    name: str
    save: Callable  # (path) -> None or a function that waits until it is durable
    load: Callable | None = None  # (path) -> None
    stall: list[float] = field(default_factory=list)
    durable: list[float] = field(default_factory=list)
    loading: list[float] = field(default_factory=list)
    # bytes above the process's level before the first save; None: not measured
    memory: int | None = 0


def _sync(path) -> None:
    """Sync what a saver without fsync leaves, so that its checkpoint survives a power loss."""
    paths = [path, *path.rglob("*")] if path.is_dir() else [path]
    for p in [*paths, path.parent]:
        fd = os.open(p, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def raw(model, optimizer) -> Saver:
    from checkpoint_utils import _memory

    size = sum(t.numel() * t.element_size() for t in _tensors(model, optimizer))
    data = torch.empty(size, dtype=torch.uint8).random_(0, 255)
    view = _memory(data)  # touched: a load writes into memory that exists

    def save(path, owner=data):  # the view alone doesn't keep the memory
        with open(path, "wb", buffering=0) as f:
            for start in range(0, size, 8 * MIB):
                f.write(view[start : start + 8 * MIB])
            os.fsync(f.fileno())

    def load(path, owner=data):
        with open(path, "rb", buffering=0) as f:
            start = 0
            while start < size:
                start += f.readinto(view[start : start + 64 * MIB])

    return Saver(RAW, save, load)


def _tensors(model, optimizer) -> list[torch.Tensor]:
    return [
        *model.state_dict().values(),
        *(t for s in optimizer.state.values() for t in s.values()),
    ]


def copy_in_memory(model, optimizer) -> Saver:
    """The least that an asynchronous save must do before training may continue."""
    tensors = _tensors(model, optimizer)
    buffers = [torch.empty_like(t) for t in tensors]

    def save(path):
        for buffer, t in zip(buffers, tensors, strict=False):
            buffer.copy_(t.detach())

    return Saver(COPY, save)


def template(model, optimizer, name: str, **options: Any) -> Saver:
    from checkpoint_utils import CheckpointDirectory, CheckpointManager

    ckpt = CheckpointManager("unused", {"model": model, "optimizer": optimizer}, **options)

    def save(path):
        # one manager, as in a training run, but a new directory for each save
        ckpt.saver.directory = CheckpointDirectory(path)
        # as in all saves but a run's first, the directory and the way to it are durable already
        path.mkdir()
        ckpt.saver.directory.anchored = True
        ckpt.save()
        return ckpt.flush

    def load(path):
        directory = CheckpointDirectory(path)
        (name,) = directory.names()
        return [directory.read(name, file) for file in ("shared.json", "rank-0.json")]

    return Saver(name, save, load)


def _state(model, optimizer) -> dict:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def torch_save(model, optimizer) -> Saver:
    def save(path):
        torch.save(_state(model, optimizer), path)
        _sync(path)

    return Saver(TORCH, save, lambda path: torch.load(path, weights_only=True))


def dcp(model, optimizer, asynchronous: bool) -> Saver:
    import torch.distributed.checkpoint as dcp_
    from torch.distributed.checkpoint.state_dict import get_state_dict

    def state():
        return dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=False))

    def save(path):
        if not asynchronous:
            dcp_.save(state(), checkpoint_id=path, no_dist=True)
            return None
        return dcp_.async_save(state(), checkpoint_id=path, async_stager=stager).result

    def load(path):
        dcp_.load(state(), checkpoint_id=path, no_dist=True)

    stager = None
    if asynchronous:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        # it keeps its buffers between saves: DCP's fastest stager without CUDA
        stager = DefaultStager(StagingOptions(False, False, False, False))
        _single_process_group()
    return Saver(DCP_ASYNC if asynchronous else DCP, save, load)


def _single_process_group() -> None:
    """async_save needs a process group, even for one process."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def lightning(model, optimizer) -> Saver:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)

    def save(path):
        fabric.save(path, {"model": model, "optimizer": optimizer})
        _sync(path)

    return Saver(
        f"Lightning Fabric {importlib.metadata.version('lightning')}",
        save,
        lambda path: fabric.load(path),
    )


def accelerate(model, optimizer) -> Saver:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(model, optimizer)
    assert prepared

    def save(path):
        accelerator.save_state(str(path))
        _sync(path)

    return Saver(
        f"Accelerate {importlib.metadata.version('accelerate')}",
        save,
        lambda path: accelerator.load_state(str(path)),
    )


def torch_checkpointing(model, optimizer) -> Saver:
    """Its asynchronous saves: staged beside the training, written by a process of its own."""
    from torch_checkpointing import CheckpointManager
    from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig

    config = CheckpointManager.Config.with_async_save()
    # with direct I/O, a save of 0.1.1 raises on ext4 (EINVAL: its last write isn't aligned)
    config.storage_config = LocalFileSystemStorageConfig(use_direct_io=False)
    manager = CheckpointManager(config)
    atexit.register(manager.close)
    manager.prewarm_staging(_state(model, optimizer))

    def save(path):
        written = manager.save(str(path), _state(model, optimizer))

        def wait():
            written.result()
            _sync(path)

        return wait

    return Saver(
        f"torch_checkpointing {importlib.metadata.version('torch_checkpointing')}, asynchronous",
        save,
        lambda path: manager.load(str(path), into=_state(model, optimizer)),
    )


def savers(model, optimizer) -> list[Saver]:
    found = [
        copy_in_memory(model, optimizer),
        raw(model, optimizer),
        template(model, optimizer, SYNC),
        template(model, optimizer, ASYNC, asynchronous=True),
        template(model, optimizer, OVERLAP, asynchronous=True, overlap=True),
        torch_save(model, optimizer),
        dcp(model, optimizer, False),
        dcp(model, optimizer, True),
    ]
    extras = {"bench": (lightning, accelerate), "savers": (torch_checkpointing,)}
    for extra, make in ((extra, make) for extra, some in extras.items() for make in some):
        try:
            found.append(make(model, optimizer))
        except ImportError as e:
            print(
                f"{make.__name__} isn't installed ({e.name}): pip install -e '.[{extra}]'",
                file=sys.stderr,
            )
    return found


def _return_freed_memory() -> None:
    """A job loads once, into new memory: what this process has freed must not make that faster."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def measure(size: int, folder: Path, rounds: int) -> list[dict]:
    torch.manual_seed(0)
    model, optimizer = training_state(size)
    real = sum(t.numel() * t.element_size() for t in _tensors(model, optimizer))
    found = savers(model, optimizer)
    for n in range(rounds + 1):
        # vary the order, so that no saver always follows the same one
        for saver in found[n % len(found) :] + found[: n % len(found)]:
            path = folder / f"checkpoint-{n}"
            gc.collect()
            with Peak() as memory:
                began = time.perf_counter()
                wait = saver.save(path)
                returned = time.perf_counter()
                if wait:
                    wait()
                durable = time.perf_counter()
            loading = None
            if saver.load:
                _return_freed_memory()
                began_load = time.perf_counter()
                saver.load(path)
                loading = time.perf_counter() - began_load
            if n == 0:
                saver.memory = memory.extra
            else:
                saver.stall.append(returned - began)
                saver.durable.append(durable - began)
                if loading:
                    saver.loading.append(loading)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return [
        {
            "name": s.name,
            "bytes": real,
            "stall": statistics.median(s.stall),
            "durable": statistics.median(s.durable),
            "load": statistics.median(s.loading) if s.loading else None,
            "memory": s.memory,
        }
        for s in found
    ]


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    print(json.dumps(measure(int(sys.argv[1]) * MIB, Path(sys.argv[2]), int(sys.argv[3]))))
