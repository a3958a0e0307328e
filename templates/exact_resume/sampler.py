"""The position in the data."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

from .ranks import _rank_and_world
from .reporting import _say

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
