"""Exercise 4: automatic job resubmission.

You write the functions below, and auto_resume.sbatch and chain.sbatch next to this file. For now,
they do what a first attempt does; run `grade ex04` to see what that costs. Each docstring is a
contract; ../README.md tells the story.

In every life, the job (grader/workload/ex04/train.py) calls these functions in this order:
only_one, newest_intact, begin_life, then it trains, then end_life. A life that is killed calls
nothing more.
"""

import fcntl
import hashlib
import json
import os
import re
from contextlib import contextmanager


class NothingIntact(Exception):
    """There are checkpoints, but none of them can be used."""


class CrashLoop(Exception):
    """Life after life crashed in the same place: running the job again would be a waste."""


class Busy(Exception):
    """Another life of this job is running."""


# ---------------------------------------------------------------- 4.1  which checkpoint


def newest_intact(directory):
    """The newest intact checkpoint in `directory`: the one with the highest step.

    A checkpoint is a folder, step-40 for step 40, with files and a manifest.json that names them:

        {"step": 40, "files": {"state.json": {"bytes": 1234, "sha256": "..."}}}

    It is intact if the manifest names this step and at least one file, and every file that it names
    is there, with this size and digest. While it is unfinished, it is called step-40.tmp, and is no
    checkpoint. `directory` may hold other things, too.

    Returns    str: the folder's path; None if there is no checkpoint at all (or no such directory):
               start fresh.
    Raises     NothingIntact if there are checkpoints, but none is intact. Starting fresh would
               throw the run away. Also raises the error of a directory that can't be listed.
    Change nothing on the disk.
    """
    ### BEGIN SOLUTION
    try:
        names = [n for n in os.listdir(directory) if re.fullmatch(r"step-\d+", n)]
    except FileNotFoundError:
        return None
    for name in sorted(names, key=lambda n: int(n[5:]), reverse=True):
        if is_intact(os.path.join(directory, name)):
            return os.path.join(directory, name)
        print(f"warning: {name} is damaged, trying the one before it")
    if names:
        raise NothingIntact(f"none of {len(names)} checkpoints in {directory} is intact")
    return None
    ### END SOLUTION
    #| # TODO: which one is the newest? Is it intact?
    #| paths = [os.path.join(directory, name) for name in os.listdir(directory)]
    #| return max(paths, key=os.path.getmtime, default=None)


### BEGIN SOLUTION
def is_intact(folder):
    """Is every file of this checkpoint what its manifest says?"""
    try:
        with open(os.path.join(folder, "manifest.json")) as f:
            manifest = json.load(f)
        if not manifest["files"] or os.path.basename(folder) != f"step-{manifest['step']}":
            return False
        for name, said in manifest["files"].items():
            with open(os.path.join(folder, name), "rb") as f:
                data = f.read()
            if len(data) != said["bytes"] or hashlib.sha256(data).hexdigest() != said["sha256"]:
                return False
    # damaged JSON has any shape and any depth
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return True


### END SOLUTION
# ---------------------------------------------------------------- 4.3  knowing when to stop


def begin_life(directory, step, tries=3):
    """A life begins. May it train from `step`?

    directory  str: exists, and persists from life to life; you may keep notes of your own in it
    step       int: the step of the checkpoint that it resumes from; 0 if it starts fresh
    tries      int: how many lives in a row may begin at the same step and crash
    Returns    True: train. False: an earlier life finished the job (end_life got "done"), so
               there's nothing to do.
    Raises     CrashLoop if the last `tries` lives all began at this step and crashed: they called
               end_life(..., "failed"), or were killed and called nothing. Also raises the error of
               notes that can't be read or written.
    A preempted life didn't crash. Count a life as it begins: once killed, it can't report anything.
    A kill at any moment in here must not confuse the next life.
    """
    ### BEGIN SOLUTION
    last = _read(directory)
    if last.get("outcome") == "done":
        return False
    crashes = last.get("crashes", 0) if last.get("step") == step else 0
    if last.get("step") == step and last.get("outcome") in ("running", "failed"):
        crashes += 1
    if last.get("outcome") == "preempted":
        crashes = 0
    if crashes >= tries:
        raise CrashLoop(
            f"{crashes} lives in a row began at step {step} and crashed; find out why, then "
            f"remove {_path(directory)}"
        )
    _write(directory, {"outcome": "running", "step": step, "crashes": crashes})
    return True
    ### END SOLUTION
    #| # TODO: is it done? How often has it crashed here?
    #| return True


def end_life(directory, outcome):
    """The current life ends with `outcome`: "done", "preempted" or "failed". Returns None."""
    ### BEGIN SOLUTION
    _write(directory, _read(directory) | {"outcome": outcome})
    ### END SOLUTION
    #| # TODO


### BEGIN SOLUTION
def _path(directory):
    return os.path.join(directory, "lives.json")


def _read(directory):
    try:
        with open(_path(directory)) as f:
            return json.load(f)
    except FileNotFoundError:
        return {}


def _write(directory, notes):
    with open(_path(directory) + ".tmp", "w") as f:
        json.dump(notes, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(_path(directory) + ".tmp", _path(directory))


### END SOLUTION
# ---------------------------------------------------------------- 4.4  a chain instead of a requeue


@contextmanager
def only_one(directory):
    """Context manager: in its block, this life of the job is the only one in `directory`.

    Raises     Busy at once if another process is in such a block.
    A killed holder doesn't block the next process. All nodes see `directory`.
    """
    ### BEGIN SOLUTION
    fd = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # the kernel releases it when the process ends, however it ends
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise Busy(f"another life of this job is running in {directory}")
    try:
        yield
    finally:
        os.close(fd)
    ### END SOLUTION
    #| # TODO: what if its holder is killed?
    #| path = os.path.join(directory, "lock")
    #| if os.path.exists(path):
    #|     raise Busy(f"{path} exists")
    #| open(path, "w").close()
    #| yield
    #| os.remove(path)
