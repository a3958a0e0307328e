"""Writing a checkpoint on all ranks, in the training's thread or beside it."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from .config import Config
from .directory import CheckpointDirectory
from .packing import _Packed
from .ranks import _Ranks
from .sharded import _seal_shards, _write_shards
from .staging import _Staging
from .statefile import write_file


class _Saver:
    """One save is in flight; the next call raises its failure."""

    def __init__(self, directory: CheckpointDirectory, config: Config, cost: float):
        self.directory, self.config = directory, config
        self.cost = cost  # s that a save takes
        self.ranks = _Ranks(config.timeout)  # not the training's, which may be in a collective
        self.staging, self.writer = _Staging(), ThreadPoolExecutor(1, "checkpoint")
        self.saving: Future[None] | None = None
        self.device: int | None = None  # the CUDA device in use when a save began

    def save(self, kind: str, step: int, tree: dict[str, _Packed]) -> None:
        self.device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        if self.config.asynchronous:
            self.staging.copy(tree.values())
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

    def _write(self, kind: str, step: int, tree: dict[str, _Packed]) -> None:
        began, ranks, first = time.monotonic(), self.ranks, self.ranks.rank == 0
        if self.device is not None:
            torch.cuda.set_device(self.device)  # the current device is per thread
        tmp = Path(
            ranks.together(
                "the save", lambda: str(self.directory.begin(kind, step)) if first else None
            )[0]
        )
        try:
            digests = ranks.together("the save", lambda: self._parts(tmp, tree))
            if "shards" in tree:
                shards = tmp / "shards"
                ranks.together("the save", lambda: _write_shards(shards, tree["shards"], ranks))
                digests += ranks.together("the save", lambda: _seal_shards(shards, ranks.rank))
            everything = {name: digest for part in digests for name, digest in part.items()}
            ranks.together(
                "the save", lambda: self._commit(tmp, everything, step, kind) if first else None
            )
        except BaseException:
            if first:  # else half a checkpoint would keep a full disk full
                shutil.rmtree(tmp, ignore_errors=True)
            raise
        if first:  # the other ranks don't wait for it
            self.directory.prune(self.config.keep if kind == "step" else 1, kind)
        self.cost = max(self.cost * 0.9, time.monotonic() - began)

    def _parts(self, tmp: Path, tree: dict[str, _Packed]) -> dict[str, str]:
        """Write this rank's files; return their digests."""
        files = {f"rank-{self.ranks.rank}.ckpt": tree["own"]}
        if "shared" in tree:
            files["shared.ckpt"] = tree["shared"]
        return {name: write_file(tmp / name, content) for name, content in files.items()}

    def _commit(self, tmp: Path, digests: dict[str, str], step: int, kind: str) -> None:
        self.directory.commit(tmp, digests, step=step, world_size=self.ranks.world)
        self.directory.set_aside(kind, step)
