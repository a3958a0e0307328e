"""What the ranks decide together."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from .interfaces import CheckpointError, DiskFull, Mismatch
from .reporting import _say


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
