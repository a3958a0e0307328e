"""The training job of exercise 2 under FSDP2 (task 2.3): your functions, on every rank.

This script belongs to the grader. save_sharded and load_sharded handle the model and its optimizer;
the script saves the rest of the job. It also runs by hand, as train_ddp.py does.
"""

import argparse
import os
import sys
import warnings
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
p.add_argument("--seed", type=int, default=0)
p.add_argument("--epochs", type=int, default=3)
p.add_argument("--steps-per-epoch", type=int, default=4)
p.add_argument("--bare", action="store_true", help="save nothing")


def main() -> None:
    args = p.parse_args()
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .*")  # nothing writes into it
    ranks.join_watched()
    ck = None if args.bare else load_submission.load(args.checkpoint)
    job = rank_job.build_sharded(args.seed, args.epochs, args.steps_per_epoch)
    os.makedirs(args.directory, exist_ok=True)
    newest = Path(args.directory, "newest.txt")

    def save() -> None:
        folder = os.path.join(args.directory, f"after-{job.step}")
        rest = {
            "scheduler": job.scheduler.state_dict(),
            "epoch": job.epoch,
            "rng": generators.rng(),
        }
        with telemetry.saving(job.step, args.directory):
            ck.save_sharded(job.model, job.optimizer, folder)
        torch.save(rest, f"{folder}-rest-{job.rank}.pt")
        dist.barrier()
        rank_job.announce(newest, folder)
        dist.barrier()

    if not args.bare and newest.exists():
        folder = newest.read_text()
        # whatever a resumed run has in common with the old one must come from the folder
        workload.estrange(job)
        ck.load_sharded(job.model, job.optimizer, folder)
        rest = torch.load(f"{folder}-rest-{job.rank}.pt")
        job.scheduler.load_state_dict(rest["scheduler"])
        generators.restore_rng(rest["rng"])
        job.epoch = rest["epoch"]
        job.step = job.epoch * args.steps_per_epoch
    dist.barrier()
    telemetry.say(f"starting at step {job.step}, epoch {job.epoch}")
    telemetry.life(job)

    while job.epoch < job.epochs:
        job.sampler.set_epoch(job.epoch)
        for batch in job.loader:
            telemetry.step(job, batch)
            telemetry.loss(job, job.train_step(batch))
            if job.batch < args.steps_per_epoch:
                telemetry.after_step(job)
        job.epoch += 1
        job.batch = 0
        if not args.bare:
            save()
        telemetry.after_step(job)
    telemetry.end(job)
    ranks.leave()


if __name__ == "__main__":
    main()
