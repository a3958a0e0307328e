"""Asks the reading functions of exercise 1 what a relaunched job finds, in a fresh process.

given: "key" (of the digests) and "looks": [{"id", "path", "reads": ["latest" or "best"...],
"parts", "refused"}]; with "parts", each part of a state gets its own digest. "refused": the files
that can't be opened, or ["."], if the directory can't be listed.
"""

import argparse
import gc
import os

from grader.harness.inside import child, telemetry
from grader.harness.inside.digest import digest
from grader.workload import load_submission
from grader.workload.isolate import Helper, watching_cwd
from grader.workload.refusals import refusing

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's checkpoint.py")
p.add_argument("--directory", required=True)


def look(checkpoint: str, key: str, asked: dict) -> None:
    module = load_submission.load(checkpoint, quiet=True)
    directory, files = asked["path"], asked.get("refused", [])
    folders = [directory] if files == ["."] else []
    with refusing([os.path.join(directory, f) for f in files if not folders], folders):
        answer(module, key, asked)


def answer(module, key: str, asked: dict) -> None:
    for what in asked["reads"]:
        read = module.read_latest if what == "latest" else module.read_best
        try:
            with watching_cwd(asked["id"]):
                state = read(asked["path"])
        except Exception as e:
            telemetry.emit(
                "read",
                point=asked["id"],
                what=what,
                outcome="error",
                error=child.describe(e),
                own=is_a(e, getattr(module, "CheckpointError", None)),
            )
            continue
        outcome = "none" if state is None else "state"
        parts = (
            {str(name): digest(part, key) for name, part in state.items()}
            if asked.get("parts") and state
            else {}
        )
        telemetry.emit(
            "read",
            point=asked["id"],
            what=what,
            outcome=outcome,
            digest=digest(state, key),
            parts=parts,
        )
        if isinstance(state, dict):
            state.clear()  # the caller's now: the next call must return a state of its own


def is_a(error: Exception, kind: object) -> bool:
    """Whether the error is of this class; true if there is no such class."""
    return isinstance(error, kind) if isinstance(kind, type) else True


def main() -> None:
    args, key = p.parse_args(), telemetry.given("key")
    gc.freeze()  # forked processes share these objects; else their collector copies them
    reader = Helper("read", lambda asked: look(args.checkpoint, key, asked))
    for one in telemetry.given("looks"):
        reader.ask(one["id"], one)
    reader.close()
    telemetry.emit("end", step=0, state={})


main()
