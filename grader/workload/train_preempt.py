"""The training job of exercise 3: your `main`, under a scheduler that stops it.

This script belongs to the grader, which always runs its own copy of it, once for each rank. It also runs by hand:

    python grader/workload/train_preempt.py --checkpoint ex03-preemption-handling/starter/preemption.py --directory checkpoints
    torchrun --nproc-per-node 2 grader/workload/train_preempt.py ...

What the scheduler does stands in scheduler.py, what the job is in preempt_job.py.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # torchrun knows nothing of the course

from grader.harness import fsevents, ranks, watch
from grader.harness.faults import parse
from grader.workload import preempt_job, student
from grader.workload.scheduler import BOOT, Scheduler

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's preemption.py")
p.add_argument("--directory", required=True, help="where checkpoints go; all ranks see it")
p.add_argument("--seed", type=int, default=0)
p.add_argument("--epochs", type=int, default=2)
p.add_argument("--steps-per-epoch", type=int, default=6)
p.add_argument("--save-every", type=int, default=4, help="steps between two saves")
p.add_argument("--workers", type=int, default=0)
p.add_argument("--grace", type=float, default=4.0, help="s between the first signal and SIGKILL")
p.add_argument("--tell-grace", action="store_true", help="task 3.5: your main is told the grace")
p.add_argument("--end", type=float, help="task 3.5: s after which SIGKILL comes without a signal; SLURM_JOB_END_TIME says so")
p.add_argument("--end-of-rank", type=int, help="... on this rank alone")
p.add_argument("--costs", default="", help="what takes how many seconds: step=2,save=6,slower=1.3")
p.add_argument("--fails-at", type=int, help="the step that raises an error")
p.add_argument("--events", help="report to this file, with the rank behind its name: for one that the grader didn't start itself")
p.add_argument("--fault", help="... and what is to befall it: term@7")
p.add_argument("--bare", action="store_true", help="a loop of the grader's instead of yours, which nothing can stop")


def bare_main(make_job, directory, clock, grace) -> int:
    """The yardstick: trains to the end."""
    job = make_job()
    job.resume()
    while job.epoch < job.epochs:
        for batch in job.batches():
            job.train_step(batch)
        job.end_epoch([job.validate(part) for part in job.validation_parts()])
    return 0


def main() -> int:
    args = p.parse_args()
    if args.events:
        rank = int(os.environ.get("RANK", 0))
        fault = args.fault and parse(args.fault).of_rank(rank)
        given = json.loads(os.environ.get("GIVEN", "{}"))
        watch.open_events(
            {"events": f"{args.events}{rank}", "fault": fault and fault.to_json(), "given": given}
        )
    args.costs = preempt_job.Costs(**{k: float(v) for k, v in (c.split("=") for c in args.costs.split(",") if c)})
    if "RANK" in os.environ:
        ranks.join_watched()
    ck = None if args.bare else student.load(args.checkpoint)
    os.makedirs(args.directory, exist_ok=True)
    ends = args.end is not None and args.end_of_rank in (None, int(os.environ.get("RANK", 0)))
    scheduler = Scheduler(args.grace, BOOT + args.end if ends else math.inf)
    os.environ.pop("SLURM_JOB_END_TIME", None)
    if ends:
        os.environ["SLURM_JOB_END_TIME"] = str(int(BOOT + args.end))
    jobs = []

    def make_job():
        jobs.append(preempt_job.build(args, scheduler, None if args.bare else ck.worker_init))
        jobs[0].fails_at = args.fails_at
        return jobs[0]

    def on_event(name: str) -> None:
        """Something that is no checkpoint is written: if the job has been told to stop, it's on its way out."""
        if jobs and scheduler.signalled:
            scheduler.point(jobs[0].step, "leaving")

    run = bare_main if args.bare else ck.main
    with fsevents.watching(args.directory, on_event):
        try:
            status = run(make_job, args.directory, scheduler.now, args.grace if args.tell_grace else None)
        except SystemExit as e:  # another way to leave with a status
            if jobs and isinstance(e.code, int):
                watch.emit("left", status=e.code, clock=scheduler.clock)
            raise
    watch.emit("left", status=status, clock=scheduler.clock)
    if status == 0 and jobs[0].epoch == args.epochs:
        watch.end(jobs[0])
    if status in (0, 75):
        ranks.leave()
    return status


if __name__ == "__main__":
    sys.exit(main())
