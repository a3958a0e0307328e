"""The training job of exercise 1: your checkpoint functions, under faults.

This script belongs to the grader, which always runs its own copy of it. Read it: it shows when each
of your functions is called. `telemetry` reports to the grader; it changes nothing in the run.
"""

import argparse

from grader.harness.inside import telemetry
from grader.workload import job as workload
from grader.workload import load_submission
from grader.workload.ex01 import report_batches

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's checkpoint.py")
p.add_argument("--directory", required=True, help="where checkpoints go")
p.add_argument("--seed", type=int, default=0)
p.add_argument("--epochs", type=int, default=3)
p.add_argument("--steps-per-epoch", type=int, default=10)
p.add_argument("--workers", type=int, default=0)
p.add_argument("--spawn", action="store_true", help="start the workers as macOS does")
p.add_argument(
    "--save-every",
    type=int,
    default=0,
    help="task 1.4: steps between two saves; 0: the functions of task 1.5 decide",
)
p.add_argument(
    "--save-after-epochs", action="store_true", help="... and after every epoch's validation"
)
p.add_argument("--every-steps", type=int, help="should_save's every_steps")
p.add_argument("--every-epochs", type=int, help="should_save's every_epochs")
p.add_argument(
    "--witness", action="store_true", help="report all batches, so that the run can be replayed"
)
p.add_argument("--keep", type=int, default=0, help="prune to this many checkpoints; 0: never")


def main() -> None:
    args = p.parse_args()
    ck = load_submission.load(args.checkpoint)
    job = workload.build(
        args.seed, args.epochs, args.steps_per_epoch, args.workers, spawn=args.spawn
    )

    def save() -> None:
        with telemetry.saving(job.step, args.directory):
            ck.write_checkpoint(ck.capture(job), args.directory, job.step)
        if args.keep:
            ck.prune(args.directory, args.keep)

    def due(end_of_epoch: bool) -> bool:
        if args.save_every:
            return args.save_after_epochs if end_of_epoch else job.step % args.save_every == 0
        return ck.should_save(
            job.step, job.epoch, end_of_epoch, args.every_steps, args.every_epochs
        )

    # --- resume, or start fresh
    state = ck.read_latest(args.directory)
    if state is not None:
        # whatever a resumed run has in common with the old one must come from `state`
        workload.estrange_wholly(job)
        ck.restore(job, state)
    telemetry.say(f"starting at step {job.step}, epoch {job.epoch}, batch {job.batch}")
    telemetry.life(job)

    # --- train
    while job.epoch < job.epochs:
        job.model.train()
        for batch in ck.batches(job):
            if args.witness:
                report_batches.batch(job, batch)
            telemetry.step(job, batch)
            loss = job.train_step(batch)
            telemetry.loss(job, loss)
            if due(end_of_epoch=False):
                save()
            telemetry.after_step(job)

        val_loss = job.validate()
        telemetry.validated(job, val_loss)
        if args.save_every:
            job.best = min(job.best, val_loss)
        else:
            best_state = {"model": job.model.state_dict(), "epoch": job.epoch, "val_loss": val_loss}
            job.best = ck.keep_best(best_state, val_loss, job.best, args.directory)
        job.epoch += 1
        job.batch = 0
        telemetry.say(
            f"epoch {job.epoch}/{job.epochs}  step {job.step}  validation loss {val_loss:.4f}"
        )
        if due(end_of_epoch=True):
            save()
    if args.witness:
        report_batches.end()
    telemetry.end(job)


if __name__ == "__main__":  # spawned DataLoader workers import this file, too
    main()
