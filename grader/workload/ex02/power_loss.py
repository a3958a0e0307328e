"""What a power loss leaves of exercise 2's saves: from each state, all ranks resume.

save_step is recorded on all ranks.
"""

import argparse
import gc
import os
import sys
import tempfile

from grader.crash import rank_group
from grader.crash.crashtest import Program
from grader.harness.inside import ranks, telemetry
from grader.workload import load_submission, power_loss
from grader.workload.ex02.sample_jobs import digests, job_of

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's distributed.py")
p.add_argument("--directory", required=True, help="below it the states are laid out")
p.add_argument("--seed", type=int, default=0)
p.add_argument("--ranks", type=int, default=2)
p.add_argument(
    "--steps", type=int, nargs="+", required=True, help="of the saves, one after another"
)
p.add_argument(
    "--again",
    action="store_true",
    help="the last save is of the same step as the one before it, and states are tried from its "
    "begin on",
)

TREES = 32  # different directories to read: each costs the start of all ranks
# s that a rank waits for another; the grader reports a hanging load long before
WAIT = 60.0


def main() -> None:
    args = p.parse_args()
    payload = telemetry.given("payload")  # what the saved values are drawn from
    sys.dont_write_bytecode = True  # else it appears in the record
    meet = tempfile.mkdtemp(dir=args.directory)

    def join(rank: int, store: str) -> None:
        # on one node: the first rank of each node is only one of them
        os.environ |= ranks.rank_environment(rank, args.ranks, store, nodes=1)
        ranks.join_watched(patience=WAIT)

    def saves(rank: int):
        def run(directory: str) -> None:
            join(rank, os.path.join(meet, "save"))
            ck = load_submission.load(args.checkpoint, quiet=True)
            for n, step in enumerate(args.steps, 1):
                # a step that was saved already has other values, as if it was trained again
                job = job_of(args.seed, payload, step, args.steps[: n - 1].count(step))
                replaced = args.again and n == len(args.steps) - 1
                with rank_group.marked(n, digests(job, job.model.module, ""), replaced):
                    ck.save_step(job, directory)

        return run

    def load(directory: str) -> str | None:
        store = tempfile.mktemp(dir=meet)

        def resume(rank: int) -> list:
            join(rank, store)
            ck = load_submission.load(args.checkpoint, quiet=True)
            job = job_of(args.seed, None)
            return [ck.resume(job, directory), digests(job, job.model.module, "")]

        return rank_group.load(args.ranks, resume)

    gc.freeze()
    program = Program(
        {f"rank {rank}": saves(rank) for rank in range(args.ranks)}, load, fresh="none"
    )
    power_loss.test(program, args.directory, TREES, len(args.steps) if args.again else 1)
    telemetry.emit("end", step=0, state={})


main()
