"""What `stop_together` answers on each rank (exercise 3, task 4), or in a process without ranks."""

import argparse
import os
import sys

import torch.distributed as dist

from grader.harness.inside import ranks, telemetry
from grader.workload import load_submission
from grader.workload.left_open import held

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's preemption.py")
p.add_argument("--directory", required=True)


def main() -> None:
    """Ask it as often as the check wants; each question has one `mine` for each rank."""
    args = p.parse_args()
    asked = telemetry.given("asked", [])
    if "RANK" in os.environ:
        ranks.join_watched()
    rank = dist.get_rank() if dist.is_initialized() else 0
    ck = load_submission.load(args.checkpoint)
    for number, mine in enumerate(asked):
        said = ck.stop_together(mine[rank])
        telemetry.emit("answer", n=number, said=bool(said), held=held())
    telemetry.emit("end", step=0, state={})
    ranks.leave()


if __name__ == "__main__":
    sys.exit(main())
