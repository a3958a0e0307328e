"""Drives the storage functions of exercise 1 through a plan of points, and reports what happened.

A point is a directory and the operations in it, done in a process forked for it, until that dies.
Another life reads what a relaunched job finds (read_checkpoints.py).

given: "payload" (the seed of the states) and "plan": [{"id", "at", "made", "relative", "ops":
[op...]}]. `at`: the directory, below --directory; `made`: whether it exists at first. Without it,
only the first folder of `at` does. `relative`: the functions get a path relative to that folder.
The operations call the student's functions: {"op": "write", "step": n}, {"op": "best", "step": n,
"loss": x, "best": y}, {"op": "prune", "keep": k}, {"op": "due", "asks": [[step, epoch, ...]...]},
and {"op": "read"} or {"op": "read best"}: which of this process's saves read_latest or read_best
returns. "of" and "kind" say which state is saved (sample_states.py), "fault" adds a fault, "dies"
kills the process as soon as the call has returned. A point ends at the first operation that fails,
unless it has "goes_on". {"op": "put", "files": {path: text}} writes foreign files there; {"op":
"spoil"} cuts the files of the last save short, while the process that saved them keeps running.
"""

import argparse
import gc
import os
import stat
from collections.abc import Callable
from typing import Any

from grader.harness.inside import child, telemetry
from grader.harness.inside.digest import digest
from grader.workload import left_open, load_submission
from grader.workload.ex01.sample_states import anatomy, made_state
from grader.workload.isolate import Helper, watching_cwd

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's checkpoint.py")
p.add_argument("--directory", required=True, help="holds the points' directories")


class Writer:
    """Calls the student's functions in a process that may die of it."""

    def __init__(self, checkpoint: str, payload):
        self.checkpoint, self.payload = checkpoint, payload
        self.saved: dict[str, str] = {}  # digest of a state -> which save it is of

    def __call__(self, asked: dict) -> None:
        if asked["fresh"]:  # executed again: it forgets what it remembered from another point
            self.ck = load_submission.load(self.checkpoint, quiet=True)
            self.saved = {}
        op, directory = asked["op"], asked["directory"]
        if asked["from"]:
            os.chdir(asked["from"])
        step = op.get("step", 0)
        fault = op.get("fault") or {}
        state = (
            made_state(self.payload, op.get("of", step), op.get("kind", "plain"))
            if "step" in op
            else None
        )
        due = fault | {"step": step if fault else -1}
        was, inside = digest(state, ""), anatomy(state)
        with watching_cwd(asked["name"]), telemetry.saving(step, directory, due):
            if op["op"] == "write":
                self.ck.write_checkpoint(state, directory, step)
                self.saved[was] = f"step {step}{op.get('version', '')}"
            elif op["op"] == "best":
                value = self.ck.keep_best(state, float(op["loss"]), float(op["best"]), directory)
                self.saved[was] = f"step {step}"
                telemetry.emit("best", point=asked["name"], value=repr(value))
            elif op["op"] == "prune":
                self.ck.prune(directory, op["keep"])
            elif op["op"] == "due":
                answers = [repr(self.ck.should_save(*ask)) for ask in op["asks"]]
                telemetry.emit("due", point=asked["name"], answers=answers)
            elif op["op"] == "read":
                self.read(self.ck.read_latest, asked["name"], directory)
            elif op["op"] == "read best":
                self.read(self.ck.read_best, asked["name"], directory)
        if digest(state, "") != was or anatomy(state) != inside:
            telemetry.emit("argument changed", point=asked["name"])
        if op.get("kind", "plain") == "plain":
            telemetry.emit("held", point=asked["name"], **left_open.held())
        if op.get("dies"):
            telemetry.die(step, after="the call returned")

    def read(self, function: Callable[[str], Any], point: str, directory: str) -> None:
        try:
            state = function(directory)
        except Exception as e:
            telemetry.emit("read here", point=point, found="error", error=child.describe(e))
            return
        found = "none" if state is None else self.saved.get(digest(state, ""), "another state")
        telemetry.emit("read here", point=point, found=found)
        if isinstance(state, dict):
            state.clear()  # the caller's now: the next call must return a state of its own


def files(directory: str) -> dict[str, list[int]]:
    """Regular files below `directory` -> device, inode, size, date, which every write changes."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            st = os.lstat(path)
            if stat.S_ISREG(st.st_mode):
                found[os.path.relpath(path, directory)] = [
                    st.st_dev,
                    st.st_ino,
                    st.st_size,
                    st.st_mtime_ns,
                ]
    return found


def put(directory: str, contents: dict[str, str]) -> None:
    for relative, text in contents.items():
        path = os.path.normpath(os.path.join(directory, relative))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)


def run(point: dict, root: str, writer: Helper) -> None:
    name, directory = point["id"], os.path.join(root, point["at"])
    above = os.path.join(root, point["at"].split("/")[0])
    os.makedirs(directory if point["made"] else above, exist_ok=True)
    telemetry.emit("point", point=name)
    base = above if point["relative"] else ""
    given = os.path.relpath(directory, base) if base else directory
    fresh, known = True, {tuple(i) for i in files(directory).values()}
    last: list[str] = []  # what the last save wrote
    for op in point["ops"]:
        telemetry.emit("op", point=name)
        status = 0
        if op["op"] == "put":
            put(directory, op["files"])
        elif op["op"] == "spoil":
            for path in last:
                at = os.path.join(directory, path)
                os.truncate(at, os.path.getsize(at) // 2)
        else:
            asked = {"op": op, "directory": given, "from": base, "fresh": fresh or not writer.pid}
            status, fresh = writer.ask(name, asked), False
        new = {path: i for path, i in files(directory).items() if tuple(i) not in known}
        telemetry.emit("wrote", point=name, files=new)
        known |= {tuple(i) for i in new.values()}
        last = list(new) if op["op"] == "write" else last
        if status and not op.get("goes_on"):
            break
    if any(op.get("fault") for op in point["ops"]):
        writer.close()  # what a fault changed in the process must not affect another point


def main() -> None:
    args = p.parse_args()
    gc.freeze()  # forked processes share these objects; else their collector copies them
    writer = Helper("write", Writer(args.checkpoint, telemetry.given("payload")))
    for point in telemetry.given("plan"):
        run(point, args.directory, writer)
    writer.close()
    telemetry.emit("end", step=0, state={})


main()
