"""Exercise 3: signal handling, graceful shutdown.

The functions below are yours. As they stand, they do what a first attempt does; run `grade ex03` to
see what that costs. The contract of each stands in its docstring, the story in ../README.md. `job`
is the grader's (grader/workload/ex03/preempt_job.py): it trains, saves and resumes. *When* it does
so is your part.

Names of your own, helpers and constants are welcome. Nothing outside of this file is graded.
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
    """Notes that the job was told to stop, and does nothing else.

        with StopSignal() as stop:
            ...
            if stop.received:
                ...

    signals    the signals that it notes while the `with` block runs, and only then
    clock      gives the time, in seconds
    received   None, or the number of the first of these signals that came
    at         None, or the clock's time when it came
    More signals change nothing, and none is lost, whenever it comes. After the block, also after
    one that raised, the handlers are in place again that were there before it, and its error goes
    on.
    """

    def __init__(self, signals=(signal.SIGTERM, signal.SIGUSR1), clock=time.time):
        self.signals, self.clock = signals, clock
        self.received = self.at = None

    def __enter__(self):
        # TODO: what happens when a signal comes now?
        return self

    def __exit__(self, *error):
        # TODO: whose signals are they afterwards?
        return False


# ---------------------------------------------------------------- 3.2  the graceful stop


def write_status(directory, outcome, step):
    """Tell whoever looks into `directory` how the job stands: status.json, whole at every
    moment.
    """
    path = os.path.join(directory, "status.json")
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w") as f:
        json.dump({"outcome": outcome, "step": step}, f)
    os.replace(temporary, path)


def main(make_job, directory, clock=time.time, grace=None):
    """One life of the training job, from its building to its end.

    make_job   builds the job, which takes a while. Call it once; then job.resume() brings it to its
               newest checkpoint, if there is one
    directory  str: where checkpoints lie (the job knows that), and status.json (use write_status;
               under DDP, rank 0)
    clock      gives the time, in seconds since the epoch. Here, it's the grader's
    grace      seconds from the first signal to SIGKILL; None: nobody knows (task 3.5)
    Returns    the process's exit status: 0 when training is done, 75 when the job was told to stop
               (by SIGTERM or SIGUSR1) before that. An error, wherever it comes, is an error here:
               it goes on to the caller.
    status.json says {"outcome": "done"} or {"outcome": "preempted"} in the end, "failed" after an
    error, and none of these while the job runs: what the life before has left there isn't true any
    more. It is whole at every moment.
    """
    # TODO: this is how it stands in many tutorials. What is wrong with it?
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

    A signal that goes to the whole process group comes here, too. The worker lives on: the main
    process still needs it.
    """
    # TODO: what does a worker do with the SIGTERM that the whole process group gets?


# ---------------------------------------------------------------- 3.4  all ranks together


def stop_together(mine):
    """Does any rank have to stop? Called by every rank at the same points, with its own answer; all
    get the same one.

    mine       bool: this rank has to stop
    Returns    bool. In a job of one process (no process group), it is `mine`.
    """
    # TODO: and the other ranks?
    return mine


# ---------------------------------------------------------------- 3.5  the grace period


class Deadline:
    """When this job will be killed, and whether there is time for one more thing before that.

    stop, clock, grace   as in `main`. Slurm tells the end of the job's time limit, in seconds since
                         the epoch, in the environment variable SLURM_JOB_END_TIME; where there is
                         none, nobody knows
    """

    def __init__(self, stop, clock, grace=None):
        self.stop, self.clock = stop, clock

    # TODO: how long does a step take, how long a save? How much time is left?
