"""What a power loss leaves of the saves of exercise 1: write_checkpoint is recorded, read_latest reads every state. With
--best it is keep_best, whose loss grows lower each time, and read_best."""

import argparse
import gc
import sys

from grader.crash.crashtest import Program
from grader.crash.recorder import mark
from grader.harness import watch
from grader.harness.digest import digest
from grader.workload import crash_told, student
from grader.workload.states import made_state

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's checkpoint.py")
p.add_argument("--directory", required=True, help="below it the states are laid out")
p.add_argument("--seed", type=int, default=0)
p.add_argument("--steps", type=int, nargs="+", required=True, help="of the saves, one after another")
p.add_argument("--best", action="store_true")


def main() -> None:
    args = p.parse_args()
    sys.dont_write_bytecode = True  # it would stand in the record

    def save(directory: str) -> None:
        ck, best = student.load(args.checkpoint, quiet=True), float("inf")  # here: a thread that it starts doesn't outlive a fork
        for n, step in enumerate(args.steps, 1):
            state = made_state(args.seed, step)
            mark("began", n, digest(state))
            if args.best:
                best = ck.keep_best(state, 1 / n, best, directory)
            else:
                ck.write_checkpoint(state, directory, step)
            mark("returned", n)

    def load(directory: str) -> str | None:
        ck = student.load(args.checkpoint, quiet=True)
        state = ck.read_best(directory) if args.best else ck.read_latest(directory)
        return None if state is None else digest(state)

    gc.freeze()
    crash_told.test(Program({"": save}, load, fresh="none"), args.directory)
    watch.emit("end", step=0, state={})


main()
