"""A right solution in another style: StopSignal is a generator with signals held back while it
begins and ends; ranks agree on one number, the seconds that are left to the first that must go; the
loop leaves by SystemExit.
"""

import contextlib
import json
import os
import signal
import tempfile
import time
import types

import numpy
import torch
import torch.distributed as dist

END = float(os.environ.get("SLURM_JOB_END_TIME") or "inf")
RANK = int(os.environ.get("RANK", "0"))


@contextlib.contextmanager
def held_back(signals):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def StopSignal(signals=(signal.SIGTERM, signal.SIGUSR1), clock=None):
    now = clock or time.time
    stop = types.SimpleNamespace(received=None, at=None)

    def heard(number, _):
        if stop.received is None:
            stop.at = now()
            stop.received = number

    old = {}
    with held_back(signals):
        for number in signals:
            old[number] = signal.signal(number, heard)
    try:
        yield stop
    finally:
        with held_back(signals):
            while old:
                signal.signal(*old.popitem())


def write_status(directory, outcome, step):
    with tempfile.NamedTemporaryFile("w", dir=directory, prefix=".word-", delete=False) as f:
        f.write(json.dumps({"step": step, "outcome": outcome, "time": time.time()}))
        f.flush()
        os.fsync(f.fileno())
    os.chmod(f.name, 0o644)
    os.replace(f.name, os.path.join(directory, "status.json"))


def worker_init(worker):
    numpy.random.seed((torch.initial_seed() + 17) % 2**32)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def least(seconds):
    """The least of what all ranks say."""
    if not dist.is_initialized():
        return seconds
    found = torch.tensor([seconds], dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return found.item()


def stop_together(mine):
    return least(0.0 if mine else 1.0) < 0.5


class Leaves(SystemExit):
    """The job was told to stop: not another SystemExit, which is an error."""


class Longest(dict):
    def __init__(self, clock):
        super().__init__(work=0.0, save=0.0)
        self.clock = clock

    def time(self, kind, call, *args):
        begun = self.clock()
        result = call(*args)
        self[kind] = max(self[kind], self.clock() - begun)
        return result


def main(make_job, directory, clock=time.time, grace=None):
    def say(outcome, step=None):
        if RANK == 0:
            write_status(directory, outcome, step)

    with StopSignal(clock=clock) as stop:
        try:
            say("running")
            job = make_job()
            job.resume()
            longest, held = Longest(clock), set()

            def left():
                graced = stop.at + grace if stop.received and grace is not None else float("inf")
                return min(END, graced) - clock()

            def save():
                longest.time("save", job.save)
                held.add((job.epoch, job.step))

            def may_stop():
                spare = (
                    -1.0 if stop.received else left() - 1.7 * (longest["work"] + longest["save"])
                )
                if least(spare) > 0:
                    return
                if (job.epoch, job.step) not in held and least(left() - 1.5 * longest["save"]) > 0:
                    save()
                say("preempted", job.step)
                raise Leaves(75)

            while job.epoch < job.epochs:
                may_stop()
                for batch in job.batches():
                    longest.time("work", job.train_step, batch)
                    may_stop()
                    if job.step % job.save_every == 0:
                        save()
                        may_stop()
                losses = []
                for part in job.validation_parts():
                    losses.append(longest.time("work", job.validate, part))
                    if part < len(job.validation_parts()) - 1:
                        may_stop()
                job.end_epoch(losses)
            save()
            say("done", job.step)
            return 0
        except Leaves:
            raise
        except BaseException:
            say("failed")
            raise
