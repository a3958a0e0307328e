"""The first tasks' job: it saves once an epoch, with save_checkpoint and load_checkpoint.

Tasks 1.1 to 1.3 run it in these ways:
    (nothing)    task 1.1: model, optimizer, scheduler and epoch; the run has no randomness
    --rng        task 1.2: with randomness; the grader saves the model, your functions the
                 generators
    --store      task 1.3: your write_checkpoint and read_latest hold a state that the grader made
    --bare       none of your code: the reference run
"""

import argparse
import os

import torch

from grader.harness.inside import telemetry
from grader.workload import job as workload
from grader.workload import load_submission

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", help="the student's checkpoint.py; not with --bare")
p.add_argument("--directory", required=True, help="where checkpoints go")
p.add_argument("--seed", type=int, default=0)
p.add_argument("--epochs", type=int, default=3)
p.add_argument("--steps-per-epoch", type=int, default=6)
how = p.add_mutually_exclusive_group()
how.add_argument("--rng", action="store_true")
how.add_argument("--store", action="store_true")
how.add_argument("--bare", action="store_true")
p.add_argument("--randomness", action="store_true")
p.add_argument("--workers", type=int, default=0)
args = p.parse_args()

ck = None if args.bare else load_submission.load(args.checkpoint)
job = workload.build(
    args.seed,
    args.epochs,
    args.steps_per_epoch,
    args.workers,
    randomness=args.randomness or args.rng,
)
path = os.path.join(args.directory, "checkpoint.pt")
os.makedirs(args.directory, exist_ok=True)


def parts() -> dict:
    return {"model": job.model, "optimizer": job.optimizer, "scheduler": job.scheduler}


def save() -> None:
    with telemetry.saving(job.step, args.directory):
        if args.rng:
            state = {k: v.state_dict() for k, v in parts().items() if v}
            torch.save(state | {"epoch": job.epoch, "rng": ck.get_rng_state()}, path)
        elif args.store:
            state = {k: v.state_dict() for k, v in parts().items() if v}
            ck.write_checkpoint(state | {"epoch": job.epoch}, args.directory, job.step)
        elif not args.bare:
            ck.save_checkpoint(*parts().values(), job.epoch, path)


def resume() -> int:
    if args.bare or not (args.store or os.path.exists(path)):
        return 0
    if not (args.rng or args.store):
        # whatever a resumed run has in common with the old one must come from the file
        workload.estrange(job, generators=False)
        return ck.load_checkpoint(*parts().values(), path)
    state = ck.read_latest(args.directory) if args.store else torch.load(path, weights_only=True)
    if state is None:
        return 0
    workload.estrange(job, generators=args.rng)
    for name, part in parts().items():
        if part:
            part.load_state_dict(state[name])
    if args.rng:
        ck.set_rng_state(state["rng"])
    return state["epoch"]


job.epoch = resume()
job.step = job.epoch * args.steps_per_epoch
telemetry.life(job)
while job.epoch < job.epochs:  # nothing here leaves training mode
    for batch in job.loader:
        telemetry.step(job, batch)
        telemetry.loss(job, job.train_step(batch))
        if job.batch < args.steps_per_epoch:
            telemetry.after_step(job)
    job.epoch += 1
    job.batch = 0
    save()
    telemetry.after_step(job)
telemetry.end(job)
