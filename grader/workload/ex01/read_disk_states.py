"""Creates disk states, and reports what the reading functions of exercise 1 find in each.

given: "key" (of the digests) and "trees" (grader/crash/plain.py). With --best, read_best reads.
"""

import argparse
import gc
import os
import sys
from dataclasses import asdict
from pathlib import Path

from grader.crash import judge, plain
from grader.harness.inside import telemetry
from grader.harness.inside.digest import digest
from grader.workload import load_submission, power_loss

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's checkpoint.py")
p.add_argument(
    "--directory",
    required=True,
    help="they are laid out in its folder disk, where the saves went, too",
)
p.add_argument("--best", action="store_true")


def main() -> None:
    args, key = p.parse_args(), telemetry.given("key")
    sys.dont_write_bytecode = True  # else it appears among the states

    def load(directory: str) -> str | None:
        ck = load_submission.load(args.checkpoint, quiet=True)
        state = ck.read_best(directory) if args.best else ck.read_latest(directory)
        return None if state is None else digest(state, key)

    gc.freeze()
    trees = dict(enumerate(plain.to_trees(telemetry.given("trees"))))
    places = [Path(os.path.join(args.directory, "disk"))]
    outcomes = judge.judge(
        trees,
        load,
        places,
        power_loss.PATIENCE,
        telemetry.where_it_stands,
        lambda: telemetry.emit("judged"),
    )
    telemetry.emit("outcomes", of={n: asdict(outcome) for n, outcome in outcomes.items()})
    telemetry.emit("end", step=0, state={})


main()
