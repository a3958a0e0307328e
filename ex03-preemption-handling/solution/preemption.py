"""Exercise 3: signal handling, graceful shutdown.

You write the functions below. For now, they do what a first attempt does; run `grade ex03` to see
what that costs. Each docstring is a contract; ../README.md tells the story. The grader's `job`
(grader/workload/ex03/preempt_job.py) trains, saves and resumes. *When* it does so is up to you.

You may add names, helpers and constants of your own. Nothing outside of this file is graded.
"""

import json
import math
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
        ### BEGIN SOLUTION
        self.before = {number: signal.signal(number, self._note) for number in self.signals}
        ### END SOLUTION
        #| # TODO: what happens when a signal comes now?
        return self

    def __exit__(self, *error):
        ### BEGIN SOLUTION
        for number, handler in self.before.items():
            signal.signal(number, handler)
        ### END SOLUTION
        #| # TODO: who handles these signals afterwards?
        return False

    ### BEGIN SOLUTION
    def _note(self, number, frame):
        if self.received is None:
            self.received, self.at = number, self.clock()

    ### END SOLUTION


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
    ### BEGIN SOLUTION
    with StopSignal(clock=clock) as stop:  # first: building the job takes a while
        job = None
        try:
            if main_rank():
                write_status(directory, "running", None)
            job = make_job()
            job.resume()
            outcome = train(job, stop, Deadline(stop, clock, grace))
        except BaseException:
            if main_rank():
                write_status(directory, FAILED, job and job.step)
            raise
        if main_rank():
            write_status(directory, outcome, job.step)
    return EXIT_STATUS[outcome]
    ### END SOLUTION
    #| # TODO: many tutorials do it like this. What is wrong with it?
    #| job = make_job()
    #| job.resume()
    #|
    #| def handler(number, frame):
    #|     print(f"Received signal {number}, saving checkpoint...")
    #|     job.save()
    #|     raise SystemExit(0)
    #|
    #| signal.signal(signal.SIGTERM, handler)
    #| signal.signal(signal.SIGUSR1, handler)
    #| train(job)
    #| write_status(directory, DONE, job.step)
    #| return 0


### BEGIN SOLUTION
def main_rank():
    return not dist.is_initialized() or dist.get_rank() == 0


def train(job, stop, deadline):
    """Train `job` until it is done or must stop, and save it. Returns how it ended."""
    saved = None  # where in training the newest checkpoint was saved

    def save():
        nonlocal saved
        if saved != (job.epoch, job.step):
            with deadline.measures("save"):
                job.save()
            saved = (job.epoch, job.step)

    def must_stop():
        """Asked where nothing is half done, before a step (or part of an evaluation) and a save."""
        return stop_together(stop.received is not None or not deadline.time_for("step", "save"))

    def leave():
        if not stop_together(not deadline.time_for("save")):
            save()
        return PREEMPTED

    while job.epoch < job.epochs:
        if must_stop():
            return leave()
        for batch in job.batches():
            with deadline.measures("step"):
                job.train_step(batch)
            if must_stop():
                return leave()
            if job.step % job.save_every == 0:
                save()
                if must_stop():  # a save takes time, too
                    return leave()
        losses = []
        for part in job.validation_parts():
            if must_stop():
                return leave()  # evaluated again by the next life, as a whole
            with deadline.measures("step"):
                losses.append(job.validate(part))
        job.end_epoch(losses)
    save()
    return DONE


### END SOLUTION
#| def train(job):
#|     """Train `job` to its end."""
#|     while job.epoch < job.epochs:
#|         for batch in job.batches():
#|             job.train_step(batch)
#|             if job.step % job.save_every == 0:
#|                 job.save()
#|         job.end_epoch([job.validate(part) for part in job.validation_parts()])
#|     job.save()


# ---------------------------------------------------------------- 3.3  workers


def worker_init(worker):
    """Runs first in every DataLoader worker (worker_init_fn); `worker` is its number.

    A signal to the whole process group reaches the worker, too. It must survive: the main process
    still needs it.
    """
    ### BEGIN SOLUTION
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    ### END SOLUTION
    #| # TODO: what does a worker do with the SIGTERM that the whole process group gets?


# ---------------------------------------------------------------- 3.4  all ranks together


def stop_together(mine):
    """Does any rank have to stop? All ranks get the same answer.

    Called by every rank at the same points. Leaves nothing open: no file, no process group.

    mine       bool: whether this rank has to stop
    Returns    bool. In a job of one process (no process group), it is `mine`.
    """
    ### BEGIN SOLUTION
    if not dist.is_initialized():
        return mine
    flag = torch.tensor(int(mine))
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)
    ### END SOLUTION
    #| # TODO: and the other ranks?
    #| return mine


# ---------------------------------------------------------------- 3.5  the grace period


class Deadline:
    """Knows when this job will be killed, and whether there is time for one more thing before that.

    stop, clock, grace   as in `main`. Slurm sets the environment variable SLURM_JOB_END_TIME to the
                         end of the job's time limit, in seconds since the epoch. If it isn't set,
                         the end is unknown
    """

    def __init__(self, stop, clock, grace=None):
        self.stop, self.clock = stop, clock
        ### BEGIN SOLUTION
        self.grace = math.inf if grace is None else grace
        self.end_time = float(os.environ.get("SLURM_JOB_END_TIME", math.inf))
        self.longest = {"step": 0.0, "save": 0.0}  # seconds
        ### END SOLUTION

    ### BEGIN SOLUTION
    MARGIN = 1.6  # the next one may take longer than the longest so far

    def measures(self, what):
        return _Measured(self, what)

    def remaining(self):
        """Seconds until SIGKILL."""
        killed = self.end_time
        if self.stop.received:
            # the grace begins when the signal comes, not when we look
            killed = min(killed, self.stop.at + self.grace)
        return killed - self.clock()

    def time_for(self, *things):
        return self.remaining() > self.MARGIN * sum(self.longest[thing] for thing in things)


class _Measured:
    """Context manager: measures how long its block takes."""

    def __init__(self, deadline, what):
        self.deadline, self.what = deadline, what

    def __enter__(self):
        self.began = self.deadline.clock()

    def __exit__(self, *error):
        longest, took = self.deadline.longest, self.deadline.clock() - self.began
        longest[self.what] = max(longest[self.what], took)

    ### END SOLUTION
    #| # TODO: how long does a step take, how long a save? How much time is left?
