"""Exercise 4: automatic job resubmission.

The functions below are yours; so are auto_resume.sbatch and chain.sbatch beside this file. As they
stand, they do what a first attempt does; run `grade ex04` to see what that costs. The contract of
each stands in its docstring, the story in ../README.md.

The job (grader/workload/ex04/train.py) calls these functions in every life, in this order:
only_one, newest_intact, begin_life, then it trains, then end_life. A life that is killed calls
nothing.
"""

import os
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
    # TODO: which one is the newest? Is it intact?
    paths = [os.path.join(directory, name) for name in os.listdir(directory)]
    return max(paths, key=os.path.getmtime, default=None)


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
    # TODO: is it done? How often has it crashed here?
    return True


def end_life(directory, outcome):
    """The life that began last ends with `outcome`: "done", "preempted" or "failed". Returns
    None.
    """
    # TODO


# ---------------------------------------------------------------- 4.4  a chain instead of a requeue


@contextmanager
def only_one(directory):
    """Context manager: in its block, this life of the job is the only one in `directory`.

    Raises     Busy, at once, if another process is in such a block.
    A life that is killed in its block is in nobody's way. (All nodes see the directory.)
    """
    # TODO: what if its holder is killed?
    path = os.path.join(directory, "lock")
    if os.path.exists(path):
        raise Busy(f"{path} exists")
    open(path, "w").close()
    yield
    os.remove(path)
