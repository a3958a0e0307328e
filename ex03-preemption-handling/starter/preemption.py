"""Exercise 3: signal handling, graceful shutdown.

You write the functions below. For now, they do what a first attempt does; run `grade ex03` to see
what that costs. Each docstring is a contract; ../README.md tells the story. The grader's `job`
(grader/workload/ex03/preempt_job.py) trains, saves and resumes. *When* it does so is up to you.

You may add names, helpers and constants of your own. Nothing outside of this file is graded.
"""

import json
import os
import signal
import time

import torch
import torch.distributed as dist

# How the job ended, and the exit status that says so. 75 is EX_TEMPFAIL: "try again later".
DONE, PREEMPTED, FAILED = "done", "preempted", "failed"
EXIT_STATUS = {DONE: 0, PREEMPTED: 75}


# ---------------------------------------------------------------- 3.1  the handler


class StopSignal:
    """Notes that a signal asked the job to stop, and does nothing else.

        with StopSignal() as stop:
            ...
            if stop.received:
                ...

    signals    the signals that it notes, only while the `with` block runs
    clock      returns the time in seconds
    received   None, or the number of the first of these signals that came
    at         None, or the clock's time when it came
    Later signals change nothing. No signal is lost, whenever it comes. After the block, even if it
    raised, the handlers from before it are restored, and its error propagates.
    """

    def __init__(self, signals=(signal.SIGTERM, signal.SIGUSR1), clock=time.time):
        self.signals, self.clock = signals, clock
        self.received = self.at = None

    def __enter__(self):
        # TODO: what happens when a signal comes now?
        return self

    def __exit__(self, *error):
        # TODO: who handles these signals afterwards?
        return False


# ---------------------------------------------------------------- 3.2  the graceful stop


def write_status(directory, outcome, step):
    """Write how the job stands to status.json in `directory`, atomically."""
    path = os.path.join(directory, "status.json")
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w") as f:
        json.dump({"outcome": outcome, "step": step}, f)
    os.replace(temporary, path)


def main(make_job, directory, clock=time.time, grace=None):
    """Run one life of the training job, from building the job to its end.

    make_job   builds the job, which takes a while. Call it once; then job.resume() loads its newest
               checkpoint, if there is one
    directory  str: holds the checkpoints (the job knows that) and status.json (use write_status;
               under DDP, on rank 0)
    clock      returns the time in seconds since the epoch; here, the grader's time
    grace      seconds from the first signal to SIGKILL; None: unknown (task 3.5)
    Returns    the process's exit status: 0 if training is done, 75 if the job had to stop before
               that (SIGTERM or SIGUSR1). An error propagates to the caller, wherever it occurs.
    At the end, status.json says {"outcome": "done"} or {"outcome": "preempted"}, or "failed" after
    an error. While the job runs, it says none of these: what the previous life left there is out of
    date. It is whole at every moment.
    """
    # TODO: many tutorials do it like this. What is wrong with it?
    job = make_job()
    job.resume()

    def handler(number, frame):
        print(f"Received signal {number}, saving checkpoint...")
        job.save()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGUSR1, handler)
    train(job)
    write_status(directory, DONE, job.step)
    return 0


def train(job):
    """Train `job` to its end."""
    while job.epoch < job.epochs:
        for batch in job.batches():
            job.train_step(batch)
            if job.step % job.save_every == 0:
                job.save()
        job.end_epoch([job.validate(part) for part in job.validation_parts()])
    job.save()


# ---------------------------------------------------------------- 3.3  workers


def worker_init(worker):
    """Runs first in every DataLoader worker (worker_init_fn); `worker` is its number.

    A signal to the whole process group reaches the worker, too. It must survive: the main process
    still needs it.
    """
    # TODO: what does a worker do with the SIGTERM that the whole process group gets?


# ---------------------------------------------------------------- 3.4  all ranks together


def stop_together(mine):
    """Does any rank have to stop? All ranks get the same answer.

    Called by every rank at the same points. Leaves nothing open: no file, no process group.

    mine       bool: whether this rank has to stop
    Returns    bool. In a job of one process (no process group), it is `mine`.
    """
    # TODO: and the other ranks?
    return mine


# ---------------------------------------------------------------- 3.5  the grace period


class Deadline:
    """Knows when this job will be killed, and whether there is time for one more thing before that.

    stop, clock, grace   as in `main`. Slurm sets the environment variable SLURM_JOB_END_TIME to the
                         end of the job's time limit, in seconds since the epoch. If it isn't set,
                         the end is unknown
    """

    def __init__(self, stop, clock, grace=None):
        self.stop, self.clock = stop, clock

    # TODO: how long does a step take, how long a save? How much time is left?
