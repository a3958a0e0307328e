"""The training job of exercise 3: your `main`, under a scheduler that stops it.

This script belongs to the grader, which always runs its own copy of it, once for each rank. It also
runs by hand, alone or after `torchrun --nproc-per-node 2`:

    python grader/workload/ex03/train_preempt.py --directory checkpoints \\
        --checkpoint ex03-preemption-handling/starter/preemption.py

virtual_clock.py holds the scheduler, node_daemon.py sends its signals, preempt_job.py is the job.
"""

# ruff: noqa: E402  (the finder comes before what it finds)
import argparse
import faulthandler
import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path

COURSE = Path(__file__).resolve().parents[3]


class Finder:
    """Finds the grader's modules.

    torchrun doesn't know the course's path, and in a sandbox their files can be read, but not all
    of their folders listed.
    """

    @staticmethod
    def find_spec(name: str, path=None, target=None):
        where = COURSE.joinpath(*name.split("."))
        if name.partition(".")[0] != "grader":
            return None
        if (where / "__init__.py").exists():
            package = where / "__init__.py"
            return importlib.util.spec_from_file_location(
                name, package, submodule_search_locations=[str(where)]
            )
        return importlib.util.spec_from_file_location(name, where.with_suffix(".py"))


if "grader" not in sys.modules:
    sys.meta_path.insert(0, Finder)

from grader.harness.costs import Costs
from grader.harness.faults import parse
from grader.harness.inside import child, fsevents, ranks, telemetry
from grader.harness.inside.digest import rng_digests
from grader.harness.preemption import last_word
from grader.harness.silence import WHERE
from grader.workload import load_submission
from grader.workload.ex03 import earlier_job, failures, preempt_job
from grader.workload.ex03.node_daemon import Daemon
from grader.workload.ex03.virtual_clock import BOOT, Scheduler

ZONE = "<+0545>-5:45"  # the node's time zone: what counts seconds since the epoch doesn't see it

p = argparse.ArgumentParser()
p.add_argument(
    "--checkpoint",
    help="the student's preemption.py; without it, a plain loop trains, which nothing can stop",
)
p.add_argument("--directory", required=True, help="where checkpoints go; all ranks see it")
p.add_argument("--seed", type=int, default=0)
p.add_argument("--epochs", type=int, default=2)
p.add_argument("--steps-per-epoch", type=int, default=6)
p.add_argument("--save-every", type=int, default=4, help="steps between two saves")
p.add_argument("--workers", type=int, default=0)
p.add_argument("--ranks-per-node", type=int, help="ranks on one node; default: all")
p.add_argument("--grace", type=float, default=4.0, help="s between the first signal and SIGKILL")
p.add_argument("--tell-grace", action="store_true", help="task 3.5: your main gets the grace")
p.add_argument(
    "--end",
    type=float,
    help="task 3.5: s after which SIGKILL comes without a signal; SLURM_JOB_END_TIME says so",
)
p.add_argument("--end-of-rank", type=int, help="... on this rank alone")
p.add_argument(
    "--end-of-signalled", action="store_true", help="... only in lives that get a signal"
)
p.add_argument("--costs", default="", help="how many seconds things take: step=2,save=6,slower=1.3")
p.add_argument(
    "--fails",
    help="where the job raises an error: step@7, evaluation@6, save@8, build@0 or resume@0",
)
p.add_argument(
    "--fails-with", default="RuntimeError:broken node", help="... and which: TYPE:MESSAGE"
)
p.add_argument(
    "--second",
    action="store_true",
    help="your main runs another job first, in the same process; SIGTERM stops that one",
)
p.add_argument("--fails-on-rank", type=int, help="... on this rank alone")
p.add_argument(
    "--events",
    help="report to this file, with the rank after its name: for a job that the grader didn't "
    "start itself",
)
p.add_argument("--fault", help="... and the signals that it gets: term@7")


def bare_main(make_job, directory, clock, grace) -> int:
    """The reference run: trains to the end."""
    job = make_job()
    job.resume()
    while job.epoch < job.epochs:
        for batch in job.batches():
            job.train_step(batch)
        job.end_epoch([job.validate(part) for part in job.validation_parts()])
    return 0


def failure_of(args, rank: int) -> failures.Failure | None:
    if args.fails is None or args.fails_on_rank not in (None, rank):
        return None
    where, _, step = args.fails.partition("@")
    return failures.Failure(where, int(step), *args.fails_with.split(":", 1))


def on_nodes(ranks_per_node: int) -> None:
    """Set torchrun's variables for a rank's node, where several nodes have this many ranks each."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    os.environ |= {
        "LOCAL_RANK": str(rank % ranks_per_node),
        "LOCAL_WORLD_SIZE": str(ranks_per_node),
        "GROUP_RANK": str(rank // ranks_per_node),
        "GROUP_WORLD_SIZE": str(world // ranks_per_node),
    }


def main() -> int:
    args = p.parse_args()
    rank = int(os.environ.get("RANK", 0))
    if args.events:
        fault = args.fault and parse(args.fault).of_rank(rank)
        given = json.loads(os.environ.get("GIVEN", "{}"))
        stack = open(f"{args.events}{rank}.stack", "a")
        faulthandler.register(WHERE, file=stack)
        telemetry.open_events(
            {"events": f"{args.events}{rank}", "fault": fault and fault.to_json(), "given": given}
        )
    daemon = Daemon() if telemetry.my_preemption() else None
    ends = (
        args.end is not None
        and args.end_of_rank in (None, rank)
        and (daemon or not args.end_of_signalled)
    )
    os.environ.pop("SLURM_JOB_END_TIME", None)
    boot, end_time = BOOT, math.inf
    if args.end is not None:  # Slurm's end is a whole second; a job begins at any moment
        boot += math.ceil(args.end) - args.end
    if ends:
        end_time = round(boot + args.end)
        os.environ["SLURM_JOB_END_TIME"] = str(end_time)
    os.environ["TZ"] = ZONE
    time.tzset()
    if args.ranks_per_node:
        on_nodes(args.ranks_per_node)
    if "RANK" in os.environ:
        ranks.join_watched()
    ck = load_submission.load(args.checkpoint) if args.checkpoint else None
    os.makedirs(args.directory, exist_ok=True)
    scheduler = Scheduler(daemon, args.grace, end_time, boot)
    costs = Costs.parse(args.costs).of_rank(rank)
    jobs, failure = [], failure_of(args, rank)

    def worker_init(worker: int) -> None:
        ck.worker_init(worker)
        telemetry.emit("worker", worker=worker, epoch=jobs[0].epoch, generators=rng_digests())

    def make_job():
        jobs.append(preempt_job.build(args, scheduler, costs, failure, ck and worker_init))
        telemetry.emit("built", clock=scheduler.clock, says=last_word(Path(args.directory)))
        return jobs[0]

    leaving = 0  # events since the job was asked to stop

    def on_event(name: str) -> None:
        """Something that isn't a checkpoint is about to be written."""
        nonlocal leaving
        step = jobs[0].step if jobs else 0
        telemetry.emit("word", what=name)
        about_to_write(step)
        if scheduler.signalled:
            leaving += 1
            scheduler.point(step, "leaving", leaving - 1)

    def left(status: int) -> None:
        telemetry.emit("left", status=status, clock=scheduler.clock)
        if status == 0 and jobs and jobs[0].epoch == args.epochs:
            telemetry.end(jobs[0])

    run = ck.main if ck else bare_main
    if args.second:
        earlier_job.run(run, args.directory, scheduler.now)
    with fsevents.watching(args.directory, on_event), telemetry.words_torn() as about_to_write:
        try:
            status = run(
                make_job, args.directory, scheduler.now, args.grace if args.tell_grace else None
            )
        except SystemExit as e:  # another way to leave with a status
            code = 0 if e.code is None else e.code
            telemetry.emit("raised", exit=str(code))
            if jobs and isinstance(code, int):
                left(code)
            raise
        except BaseException as e:
            if args.events:  # nobody else reports it
                telemetry.emit("crash", **child.describe(e))
            raise
    left(status)
    if status in (0, 75):
        ranks.leave(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
