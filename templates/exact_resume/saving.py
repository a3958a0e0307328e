"""Writing a checkpoint on all ranks, in the training's thread or beside it."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from .config import Config
from .directory import CheckpointDirectory
from .interfaces import DiskFull
from .packing import _Packed
from .ranks import _is_disk_full, _Ranks
from .reporting import _say
from .sharded import _seal_shards, _write_shards
from .staging import _Staging
from .stateparts import _state_files
from .writing import _Syncs, _write_files


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
