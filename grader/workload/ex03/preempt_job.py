"""The training job of exercise 3: one process, or one of several ranks under DDP.

It can save and resume, as exercises 1 and 2 taught (grader/given). Here the question is *when*.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from grader.given import checkpoints
from grader.harness.costs import Costs
from grader.harness.inside import fsevents, telemetry
from grader.harness.inside.digest import digest
from grader.harness.preemption import last_word
from grader.workload import job as workload
from grader.workload import rank_job
from grader.workload.data import Windows
from grader.workload.ex03.failures import Failure, may_fail
from grader.workload.ex03.virtual_clock import Scheduler
from grader.workload.model import Transformer

BATCH = 8  # samples for each rank
PARTS = 12  # parts of an evaluation
# a save's time passes in four parts: before its second, third and fourth event, and at the end
SHARES = 4
FAIL_IN_SAVE = 1  # the event of a save before which it fails: by then it has written something


# of each job, by its id: what a job is asked for must not tell which signal came, and what is left
_SCHEDULERS: dict[int, Scheduler | None] = {}


def _scheduler(job: PreemptJob) -> Scheduler:
    return _SCHEDULERS[id(job)]


@dataclass
class PreemptJob(workload.Job):
    """A training job in memory (see Job), which saves itself and resumes.

    What your `train` uses: epoch, epochs, step, save_every; batches(), train_step(batch);
    validation_parts(), validate(part), end_epoch(losses); save(), resume().
    """

    sampler: DistributedSampler | None = None
    rank: int = 0
    world: int = 1  # the number of ranks
    save_every: int = 4  # steps between two saves
    directory: str = ""
    cluster: InitVar[Scheduler | None] = None  # its scheduler: knows the time, sends signals
    failure: Failure | None = None
    costs: Costs = field(default_factory=Costs)
    # "step", "part", "save" -> how many of them this life has begun
    done: dict = field(default_factory=dict)
    in_hand: bool = False  # a batch is fetched but not trained
    epoch_rng: tuple = ()  # the generators as this epoch began: they determine its augmentation

    def __post_init__(self, cluster: Scheduler | None) -> None:
        _SCHEDULERS[id(self)] = cluster

    @property
    def owns_buffers(self) -> bool:
        return self.rank == 0  # DDP gives every rank rank 0's before each forward pass

    @property
    def network(self) -> torch.nn.Module:
        return self.model.module if self.world > 1 else self.model

    # --- training

    def batches(self):
        """The batches left in this epoch; a resumed epoch may have none."""
        self.model.train()
        self.sampler.set_epoch(self.epoch)
        yield from checkpoints.rest_of_epoch(self)

    def train_step(self, batch) -> float:
        """Forward, backward, optimizer, learning rate, counters; the loss of the batch."""
        telemetry.step(self, batch)
        telemetry.emit("begins", step=self.step, tensors=self.tensors(), says=self._says())
        self.in_hand = False
        takes = self._takes("step")
        _scheduler(self).passes(takes / 2, "a step")
        self._may_fail("step", self.step + 1)
        loss = super().train_step(batch)
        _scheduler(self).passes(takes / 2, "a step")
        _scheduler(self).point(self.step, "end")
        telemetry.loss(self, loss)
        telemetry.emit(
            "trained",
            step=self.step,
            clock=_scheduler(self).clock,
            tensors=self.tensors(),
            says=self._says(),
        )
        telemetry.after_step(self)
        return loss

    def tensors(self) -> dict[str, str]:
        return {name: digest(p) for name, p in self.network.named_parameters()}

    # --- evaluation

    def validation_parts(self) -> list[int]:
        """The parts of an evaluation, which takes long."""
        return list(range(PARTS))

    @torch.no_grad()
    def validate(self, part: int) -> float:
        """The loss of one part; draws from no random generator and changes nothing in the job."""
        _scheduler(self).point(self.step, "evaluation", part)
        _scheduler(self).passes(self._takes("part"), "evaluation")
        self._may_fail("evaluation", self.step)
        self.network.eval()
        _, inputs, targets = zip(
            *(self.val_set[i] for i in range(part, len(self.val_set), PARTS)), strict=False
        )
        logits = self.network(torch.stack(inputs))
        self.network.train()
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.stack(targets).flatten()
        ).item()
        telemetry.emit(
            "part", step=self.step, part=part, clock=_scheduler(self).clock, says=self._says()
        )
        return loss

    def end_epoch(self, losses: list[float]) -> None:
        """End a trained and evaluated epoch; `losses`: one for each part of the evaluation."""
        telemetry.emit(
            "epoch", epoch=self.epoch, step=self.step, parts=len(losses), says=self._says()
        )
        loss = torch.tensor(sum(losses) / max(1, len(losses)), dtype=torch.float64)
        if self.world > 1:
            dist.broadcast(loss, 0)  # buffers are rank 0's, so the loss is, too
        self.best = min(self.best, loss.item())
        self.epoch += 1
        self.batch = 0

    # --- checkpoints

    def save(self) -> None:
        """Write a checkpoint of the job as it is now; under DDP, every rank calls it.

        It appears by a rename when all of it is written. The newest two stay.
        """
        telemetry.emit(
            "saving",
            step=self.step,
            clock=_scheduler(self).clock,
            tensors=self.tensors(),
            in_hand=self.in_hand,
            says=self._says(),
        )
        takes = self._takes("save")
        number = 0

        def on_event(_: str) -> None:
            nonlocal number
            _scheduler(self).point(self.step, "event", number)
            if number == FAIL_IN_SAVE:
                self._may_fail("save", self.step)
            number += 1
            if number < SHARES:
                _scheduler(self).passes(takes / SHARES, "a save")

        with fsevents.watching(self.directory, on_event):
            checkpoints.write(checkpoints.own(self), self._path(self.step, self.rank))
            if self.world > 1:
                dist.barrier()
            if self.rank == 0:
                checkpoints.write(checkpoints.shared(self), self._path(self.step))
                for old in self._steps()[2:]:
                    for path in Path(self.directory).glob(f"step-{old:06d}.*"):
                        path.unlink()
            if self.world > 1:
                dist.barrier()
        _scheduler(self).passes(takes - min(number, SHARES - 1) * takes / SHARES, "a save")
        telemetry.emit("saved", step=self.step, clock=_scheduler(self).clock, events=[])

    def resume(self) -> bool:
        """Load the newest checkpoint into this freshly built job; False if there is none."""
        steps = self._steps()
        telemetry.emit("resuming", says=self._says())
        _scheduler(self).point(0, "resume")
        _scheduler(self).passes(self.costs.build, "loading")
        self._may_fail("resume", 0)
        if steps:
            # whatever a resumed run has in common with the old one must come from the disk
            workload.estrange(self)
            newest = steps[0]
            checkpoints.load(self, self._path(newest), self._path(newest, self.rank))
        telemetry.life(self)
        return bool(steps)

    def _steps(self) -> list[int]:
        """The steps of the complete checkpoints, newest first."""
        return sorted(
            (int(p.stem.split("-")[1]) for p in Path(self.directory).glob("step-??????.pt")),
            reverse=True,
        )

    def _path(self, step: int, rank: int | None = None) -> Path:
        return Path(
            self.directory, f"step-{step:06d}.pt" if rank is None else f"step-{step:06d}.rank{rank}"
        )

    def _takes(self, what: str) -> float:
        number = self.done.get(what, 0)
        self.done[what] = number + 1
        return self.costs.takes(what, number, _scheduler(self).left)

    def _says(self) -> str | None:
        """What status.json says at the moment."""
        return last_word(Path(self.directory))

    def _may_fail(self, where: str, step: int) -> None:
        may_fail(self.failure, _scheduler(self), where, step)


class InTurn(torch.optim.AdamW):
    """AdamW that updates one parameter group after the other, as all do.

    Here, a signal can come in between.
    """

    between = None  # called after the first group's update, before the others'

    def step(self, closure=None):
        groups = self.param_groups
        try:
            for number, group in enumerate(groups):
                self.param_groups = [group]
                super().step()
                self.param_groups = groups
                if number == 0 and self.between:
                    self.between()
        finally:
            self.param_groups = groups


def build(
    args, scheduler: Scheduler, costs: Costs, failure: Failure | None, worker_init=None
) -> PreemptJob:
    """A fresh job; building takes a while. `args` are train_preempt.py's."""
    ranks = dist.is_initialized()
    # another rank may still be about to write the first word: "built" comes after all have begun
    telemetry.emit("building", says=None if ranks else last_word(Path(args.directory)))
    scheduler.point(0, "start")
    scheduler.passes(costs.build, "building")
    may_fail(failure, scheduler, "build", 0)
    rank, world = (dist.get_rank(), dist.get_world_size()) if ranks else (0, 1)
    workload.seed_everything(args.seed)
    network = Transformer(dropout=0.1)
    model = torch.nn.parallel.DistributedDataParallel(network) if ranks else network
    if ranks:
        rank_job.prime_buckets(model)
    low = [
        p
        for name, p in network.named_parameters()
        if name.startswith(("letters", "places", "block"))
    ]
    high = [
        p
        for name, p in network.named_parameters()
        if not name.startswith(("letters", "places", "block"))
    ]
    optimizer = InTurn([{"params": low}, {"params": high}], lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-2, total_steps=args.epochs * args.steps_per_epoch + 1, pct_start=0.3
    )
    data = Windows(args.steps_per_epoch * BATCH * world, args.seed, augment=True)
    sampler = DistributedSampler(data, num_replicas=world, rank=rank, seed=args.seed)
    loader = DataLoader(
        data,
        batch_size=BATCH,
        sampler=sampler,
        num_workers=args.workers,
        worker_init_fn=worker_init,
        multiprocessing_context="fork" if args.workers else None,
    )
    workload.seed_everything(args.seed * 1000 + rank + 1)
    job = PreemptJob(
        model,
        optimizer,
        schedule,
        loader,
        args.epochs,
        val_set=Windows(4 * PARTS, args.seed + 1, augment=False),
        sampler=sampler,
        rank=rank,
        world=world,
        save_every=args.save_every,
        directory=args.directory,
        cluster=scheduler,
        costs=costs,
        failure=failure,
    )
    optimizer.between = lambda: scheduler.point(job.step + 1)
    return job
