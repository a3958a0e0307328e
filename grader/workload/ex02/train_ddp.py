"""The training job of exercise 2 under DistributedDataParallel: your functions, on every rank.

This script belongs to the grader, which starts it once for each rank, with the environment that
torchrun sets. It also runs by hand:

    torchrun --nproc-per-node 2 grader/workload/ex02/train_ddp.py \\
        --checkpoint ex02-distributed-checkpoint/starter/distributed.py \\
        --directory checkpoints --functions save_job

    --functions save_checkpoint_ddp    task 2.1: once an epoch; the run has no randomness
    --functions save_job               task 2.2: every few steps, each time into a new folder
    --functions save_step              task 2.5: the same, but you decide which one to resume from
    --functions none                   without checkpoints, as task 2.1's run
    --functions replay                 with the batches that another run reported with --record
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # torchrun doesn't know the course

import torch
import torch.distributed as dist

from grader.given import generators
from grader.harness.inside import ranks, telemetry
from grader.workload import job as workload
from grader.workload import load_submission, rank_job

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", help="the student's distributed.py")
p.add_argument("--directory", required=True, help="where checkpoints go; all ranks see it")
FUNCTIONS = ["save_checkpoint_ddp", "save_job", "save_step", "none", "replay"]
p.add_argument("--functions", choices=FUNCTIONS, required=True)
p.add_argument("--seed", type=int, default=0)
p.add_argument("--epochs", type=int, default=2)
p.add_argument("--steps-per-epoch", type=int, default=6)
p.add_argument(
    "--save-every",
    type=int,
    default=4,
    help="steps between two saves (task 2.1 always saves once an epoch)",
)
p.add_argument("--record", action="store_true", help="report the batches and the generators")


def record(job, batch=None) -> None:
    """Report what this step trains on; at the end, without a batch, only the generators."""
    values = [t.tolist() for t in batch] if batch else None
    python, numpy, torch_ = generators.rng()
    telemetry.emit("batch", epoch=job.epoch, values=values, rng=[python, numpy, torch_.tolist()])


def replayed(job):
    """This epoch's batches of another run, each with its generators restored."""
    for event in telemetry.given("batches")[job.rank]:
        if event["epoch"] == job.epoch and (event["values"] is None) == (job.epoch == job.epochs):
            (version, numbers, gauss), numpy, state = event["rng"]
            torch_ = torch.tensor(state, dtype=torch.uint8)
            generators.restore_rng(((version, tuple(numbers), gauss), numpy, torch_))
            yield event["values"] and tuple(map(torch.tensor, event["values"]))


def main() -> None:
    args = p.parse_args()
    ranks.join_watched()
    ck = load_submission.load(args.checkpoint) if args.functions.startswith("save") else None
    by_epoch = args.functions in ("save_checkpoint_ddp", "none")

    def fresh() -> rank_job.RankJob:
        return rank_job.build_ddp(
            args.seed, args.epochs, args.steps_per_epoch, randomness=not by_epoch
        )

    job = fresh()
    os.makedirs(args.directory, exist_ok=True)
    path = os.path.join(args.directory, "checkpoint.pt")
    # task 2.2: the script knows which folder is the newest
    newest = Path(args.directory, "newest.txt")

    def save() -> None:
        if args.functions == "save_job":
            folder = os.path.join(args.directory, f"after-{job.step}")
            if job.rank == 0:
                os.makedirs(folder, exist_ok=True)
            dist.barrier()
            with telemetry.saving(job.step, args.directory):
                ck.save_job(job, folder)
            dist.barrier()
            rank_job.announce(newest, folder)
            dist.barrier()
            return
        with telemetry.saving(job.step, args.directory):
            if args.functions == "save_step":
                ck.save_step(job, args.directory)
            elif args.functions == "save_checkpoint_ddp":
                ck.save_checkpoint_ddp(job.model, job.optimizer, job.epoch, job.rank, path)

    def resume() -> None:
        nonlocal job
        if args.functions == "save_step":
            if os.listdir(args.directory):  # an earlier life of this run wrote there
                # whatever a resumed run has in common with the old one must come from the disk
                workload.estrange_wholly(job)
            dist.barrier()
            if not ck.resume(job, args.directory):
                job = fresh()
        elif args.functions == "save_job" and newest.exists():
            workload.estrange_wholly(job)
            ck.load_job(job, newest.read_text())
        elif args.functions == "save_checkpoint_ddp" and os.path.exists(path):
            workload.estrange(job, generators=False)
            job.epoch = ck.load_checkpoint_ddp(job.model, job.optimizer, path)
            job.step = job.epoch * args.steps_per_epoch

    def batches():
        if args.functions == "replay":
            return replayed(job)
        if not by_epoch:
            return ck.batches(job)
        job.sampler.set_epoch(job.epoch)
        return iter(job.loader)

    # --- resume, or start fresh
    resume()
    dist.barrier()
    telemetry.say(f"starting at step {job.step}, epoch {job.epoch}, batch {job.batch}")
    telemetry.life(job)

    # --- train
    while job.epoch < job.epochs:
        job.model.train()
        for batch in batches():
            if args.record:
                record(job, batch)
            telemetry.step(job, batch)
            telemetry.loss(job, job.train_step(batch))
            if ck and not by_epoch and job.step % args.save_every == 0:
                save()
            if not by_epoch or job.batch < args.steps_per_epoch:
                telemetry.after_step(job)
        if not by_epoch:
            job.best = min(job.best, job.validate())
        job.epoch += 1
        job.batch = 0
        if job.rank == 0:
            telemetry.say(
                f"epoch {job.epoch}/{job.epochs}  step {job.step}  best validation loss "
                f"{job.best:.4f}"
            )
        if by_epoch:
            save()
            telemetry.after_step(job)
    if args.record:
        record(job)
    elif args.functions == "replay":
        list(replayed(job))
    telemetry.end(job)
    ranks.leave()


if __name__ == "__main__":
    main()
