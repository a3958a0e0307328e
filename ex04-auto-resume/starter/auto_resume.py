"""Exercise 4: automatic job resubmission.

You write the functions below, and auto_resume.sbatch and chain.sbatch next to this file. For now,
they do what a first attempt does; run `grade ex04` to see what that costs. Each docstring is a
contract; ../README.md tells the story.

In every life, the job (grader/workload/ex04/train.py) calls these functions in this order:
only_one, newest_intact, begin_life, then it trains, then end_life. A life that is killed calls
nothing more.
"""

import os
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
    # TODO: which one is the newest? Is it intact?
    paths = [os.path.join(directory, name) for name in os.listdir(directory)]
    return max(paths, key=os.path.getmtime, default=None)


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
    # TODO: is it done? How often has it crashed here?
    return True


def end_life(directory, outcome):
    """The current life ends with `outcome`: "done", "preempted" or "failed". Returns None."""
    # TODO


# ---------------------------------------------------------------- 4.4  a chain instead of a requeue


@contextmanager
def only_one(directory):
    """Context manager: in its block, this life of the job is the only one in `directory`.

    Raises     Busy at once if another process is in such a block.
    A killed holder doesn't block the next process. All nodes see `directory`.
    """
    # TODO: what if its holder is killed?
    path = os.path.join(directory, "lock")
    if os.path.exists(path):
        raise Busy(f"{path} exists")
    open(path, "w").close()
    yield
    os.remove(path)
