"""Records the saves of exercise 1: every operation that they ask of the disk.

The grader works out elsewhere what a power loss leaves. given: "payload" (the seed of the states)
and "saves": [step, number of the state] of each. With --best, keep_best saves, and the loss is
lower each time.
"""

import argparse
import gc
import os
import sys
from pathlib import Path

from grader.crash import plain, recorder
from grader.crash.recorder import Incomplete, Unavailable, mark
from grader.harness.inside import telemetry
from grader.workload import load_submission
from grader.workload.ex01.sample_states import made_state

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's checkpoint.py")
p.add_argument("--directory", required=True, help="the saves go to its folder disk")
p.add_argument("--best", action="store_true")

SECONDS = 20  # for the saves; milliseconds are normal


def save(checkpoint: str, directory: str, best_only: bool) -> None:
    ck, best = (
        load_submission.load(checkpoint, quiet=True),
        float("inf"),
    )  # here: a thread that it starts doesn't outlive a fork
    for n, (step, number) in enumerate(telemetry.given("saves"), 1):
        state = made_state(telemetry.given("payload"), number)
        mark("began", n)
        if best_only:
            best = ck.keep_best(state, 1 / n, best, directory)
        else:
            ck.write_checkpoint(state, directory, step)
        mark("returned", n)


def main() -> None:
    args = p.parse_args()
    sys.dont_write_bytecode = True  # else it appears in the record
    directory = os.path.join(args.directory, "disk")
    os.mkdir(directory)
    gc.freeze()
    telemetry.emit("recording")
    try:
        record = recorder.record(
            Path(directory), {"": lambda: save(args.checkpoint, directory, args.best)}, SECONDS
        )
        telemetry.emit("record", of=plain.from_record(record))
    except (Unavailable, Incomplete) as e:
        telemetry.emit("unrecorded", why=str(e), seen=isinstance(e, Incomplete))
    except (OSError, ValueError, MemoryError) as e:  # by the recorder, not by student code
        telemetry.emit("unrecorded", why=f"the record broke: {type(e).__name__}: {e}", seen=True)
    telemetry.emit("end", step=0, state={})


main()
