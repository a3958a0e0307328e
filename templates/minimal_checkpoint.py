"""Checkpoints for a training job on one process. Copy this file; it needs only torch.

    sampler = ResumableSampler(len(data), batch_size=32, seed=1)
    loader = DataLoader(data, batch_sampler=sampler, num_workers=4, worker_init_fn=ignore_signals)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "sampler": sampler}
    checkpoints = Checkpoints("checkpoints", parts, keep=3)
    with StopSignal() as stop:
        step = checkpoints.resume()               # the newest intact checkpoint's step, or 0
        while sampler.epoch < epochs and not stop.received:
            for batch in sampler.follow(loader):  # after a resume: the rest of the epoch
                train_step(batch)
                step += 1
                if step % 1000 == 0:
                    checkpoints.save(step)
                if stop.received:
                    break
        checkpoints.save(step)
    sys.exit(PREEMPTED if sampler.epoch < epochs else 0)

Kill the job whenever you like and run it again: it ends in the same weights, bit for bit, if
- `parts` holds all that training changes: anything that has state_dict and load_state_dict;
- a sample depends on its index, sampler.epoch and a seed, not on a DataLoader worker's generator.
Only one job may write into a directory. checkpoint_utils.py does more: several processes,
asynchronous saves, the best checkpoint, a lock, the time limit of a Slurm job.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import math
import multiprocessing
import os
import random
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

try:
    import numpy
except ImportError:
    numpy = None

log = logging.getLogger(__name__)
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h, the exit status for "run me again"
STOP = (signal.SIGTERM, signal.SIGUSR1)


class CheckpointError(Exception):
    """None of the checkpoints is intact, or they belong to another job."""


class Checkpoints:
    """The checkpoints in a directory: files that torch.load reads, with a SHA-256 at their end."""

    def __init__(self, directory: str | os.PathLike[str], parts: Mapping[str, Any], keep: int = 3):
        self.directory = Path(directory).absolute()  # the job may change its working directory
        self.parts, self.keep, self.resumed = parts, keep, False
        self.intact: dict[Path, bool] = {}  # what this process has written or verified

    def resume(self) -> int:
        """Load the newest intact checkpoint into the parts and return its step.

        If there is none, save step 0: what can't be saved fails now, not hours later.
        """
        self.resumed, paths = True, self.paths()
        path = next(filter(self._is_intact, paths), None)
        if path is None:
            if paths:  # starting at step 0 would silently throw the run away
                raise CheckpointError(
                    f"no checkpoint in {self.directory} is intact; to start over, move them away"
                )
            self.save(0)
            return 0
        # weights_only: runs no code from the file. The parts copy their state to their devices
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved, own = list(state["parts"]), list(self.parts)
        if saved != own:
            raise CheckpointError(f"{path} holds the parts {saved}, but the job has {own}")
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        set_rng_state(state["rng"])  # last: building and loading may draw random numbers
        log.info("resumed from %s", path)
        return int(state["step"])

    def save(self, step: int) -> None:
        """Return once the checkpoint is complete and no power loss can destroy it.

        Earlier checkpoints stay loadable, whatever fails here and whenever the process dies.
        """
        if not self.resumed:
            raise CheckpointError("call resume() before save(): an earlier run's files may be here")
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        self.directory.mkdir(parents=True, exist_ok=True)
        path, tmp = self.directory / f"step-{step:012d}.pt", self.directory / "unfinished.tmp"
        try:
            with open(tmp, "w+b") as f:
                torch.save({"step": step, "parts": parts, "rng": rng_state()}, f)
                f.write(_digest(f, f.tell()))
                f.flush()
                os.fsync(f.fileno())  # the bytes before the name: a rename doesn't sync them
            # raises for types that it would refuse on resuming; with mmap, it reads no tensors
            torch.load(tmp, map_location="cpu", weights_only=True, mmap=True)
            os.replace(tmp, path)  # atomic: the file has its name only when it is complete
        except BaseException:
            tmp.unlink(missing_ok=True)  # else half a checkpoint would keep a full disk full
            raise
        _sync_names(self.directory)  # and now the name
        if not self.intact:  # the first one: the folders on the way to it may be new, too
            for folder in self.directory.parents:
                if os.access(folder, os.R_OK):
                    _sync_names(folder)
        self.intact[path] = True
        self._remove_old()

    def paths(self) -> list[Path]:
        """All finished checkpoints, newest first: by step, not by date."""
        return sorted(self.directory.glob("step-" + "[0-9]" * 12 + ".pt"), reverse=True)

    def _remove_old(self) -> None:
        """Remove what is older than the newest `keep` intact ones. Damaged ones don't count."""
        intact = 0
        for path in self.paths():
            if intact < self.keep:
                intact += self._is_intact(path)
            else:
                path.unlink(missing_ok=True)

    def _is_intact(self, path: Path) -> bool:
        if path not in self.intact:
            try:
                with open(path, "rb") as f:
                    size = os.fstat(f.fileno()).st_size - hashlib.sha256().digest_size
                    self.intact[path] = _digest(f, size) == f.read()
            except OSError:
                self.intact[path] = False
            if not self.intact[path]:
                log.warning("%s is damaged or can't be read: skipped", path)
        return self.intact[path]


def _sync_names(folder: Path) -> None:
    names = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(names)
    finally:
        os.close(names)


def _digest(f: BinaryIO, size: int) -> bytes:
    """SHA-256 of the file's first `size` bytes: torch.load doesn't notice a flipped bit."""
    digest = hashlib.sha256()
    f.seek(0)
    while piece := f.read(max(0, min(1 << 20, size - f.tell()))):
        digest.update(piece)
    return digest.digest()


def rng_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, with one for each CUDA device."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    state = {"python": random.getstate(), "torch": torch.get_rng_state(), "cuda": cuda}
    if numpy is not None:
        name, keys, *rest = numpy.random.get_state()
        # the array becomes a tensor: a safe load refuses NumPy objects
        state["numpy"] = [name, torch.from_numpy(keys.astype("int64")), *rest]
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what exists on this machine, which may have fewer GPUs or no NumPy."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    for device, rng in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(rng, device)
    if numpy is not None and "numpy" in state:
        name, keys, *rest = state["numpy"]
        numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))


class StopSignal:
    """In its `with` block, SIGTERM and SIGUSR1 set `received` and do nothing else.

    A handler that saves would interrupt optimizer.step() and mix two steps in one checkpoint.
    """

    received: str | None = None

    def __enter__(self) -> StopSignal:
        self.before = {s: signal.signal(s, self._note) for s in STOP}
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self.before.items():
            signal.signal(s, handler)
        atexit.register(_end_workers)

    def _note(self, number: int, frame: object) -> None:
        self.received = self.received or signal.Signals(number).name


def ignore_signals(worker: int = 0) -> None:
    """A worker_init_fn. Signals to the process group must not kill workers before the save."""
    for s in STOP:
        signal.signal(s, signal.SIG_IGN)


def _end_workers() -> None:
    """Python would send persistent workers a SIGTERM, which they ignore, and wait for ever."""
    for child in multiprocessing.active_children():
        if child.daemon:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise
            child.kill()


class ResumableSampler:
    """A batch sampler that knows its position. The order depends on seed and epoch alone."""

    def __init__(self, size: int, batch_size: int, shuffle: bool = True, seed: int = 0):
        self.size, self.batch_size, self.shuffle, self.seed = size, batch_size, shuffle, seed
        self.epoch = self.samples = 0  # samples: trained in this epoch

    def __len__(self) -> int:
        return math.ceil(self.size / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(self.size))
        if self.shuffle:
            random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        for start in range(self.samples, self.size, self.batch_size):
            yield order[start : start + self.batch_size]

    def follow(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The rest of the epoch's batches. After the last one, the next epoch begins.

        A batch counts as trained when the loop gets it, not when a worker fetches it in advance.
        """
        rng = torch.get_rng_state()
        batches = iter(loader)  # draws a random number: in a resumed epoch, once more
        torch.set_rng_state(rng)
        for batch in batches:
            self.samples += self.batch_size
            yield batch
        self.epoch, self.samples = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("size", "shuffle", "seed"):
            if state[name] != getattr(self, name):
                raise CheckpointError(f"the data's order would change: {name} was {state[name]}")
        self.epoch, self.samples = state["epoch"], state["samples"]
