"""Exercise 4: automatic job resubmission.

The functions below are yours; so are auto_resume.sbatch and chain.sbatch beside this file. As they
stand, they do what a first attempt does; run `grade ex04` to see what that costs. The contract of
each stands in its docstring, the story in ../README.md.

The job (grader/workload/ex04/train.py) calls these functions in every life, in this order:
only_one, newest_intact, begin_life, then it trains, then end_life. A life that is killed calls
nothing.
"""

import fcntl
import hashlib
import json
import os
import re
from contextlib import contextmanager


class NothingIntact(Exception):
    """There are checkpoints, and none of them can be used."""


class CrashLoop(Exception):
    """Life after life has crashed in the same place: to run the job again would be a waste."""


class Busy(Exception):
    """Another life of this job is running."""


# ---------------------------------------------------------------- 4.1  which checkpoint


def newest_intact(directory):
    """The newest checkpoint in `directory` that is intact: of those, the one of the highest step.

    A checkpoint is a folder, step-40 for step 40, with files and a manifest.json that names them:

        {"step": 40, "files": {"state.json": {"bytes": 1234, "sha256": "..."}}}

    It is intact if the manifest names this step and a file at least, and every file that it names
    is there, and is what it says. One that is still being written, or never was finished, is called
    step-40.tmp: it is no checkpoint. Other things may lie there.

    Returns    str: the folder's path; None if there is no checkpoint at all (or no such directory):
               start fresh.
    Raises     NothingIntact if there are checkpoints, and none is intact. To start fresh would
               throw the run away.
    It only looks.
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged JSON has any shape
        return False
    return True


### END SOLUTION
# ---------------------------------------------------------------- 4.3  knowing when to stop


def begin_life(directory, step, tries=3):
    """A life begins, and is about to train on from `step`. May it?

    directory  str: exists, and is there again in the next life; notes of your own can be kept in it
    step       int: the step of the checkpoint that it resumes from; 0 if it starts fresh
    tries      int: so many lives in a row may begin at one step and crash there
    Returns    True: train. False: an earlier life has finished the job (end_life said "done"):
               there's nothing to do.
    Raises     CrashLoop if the last `tries` lives began at this very step, and all of them crashed:
               they ended with end_life(..., "failed"), or without a word, as SIGKILL ends them.
    A life that was preempted didn't crash. Whoever may begin is counted now: it might be killed
    without a word. Killed at any moment in here, the next life isn't confused.
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
    """The life that began last ends with `outcome`: "done", "preempted" or "failed". Returns
    None.
    """
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

    Raises     Busy, at once, if another process is in such a block.
    A life that is killed in its block is in nobody's way. (All nodes see the directory.)
    """
    ### BEGIN SOLUTION
    fd = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # the kernel's: it goes with the process, however that ends
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
