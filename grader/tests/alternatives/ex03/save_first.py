"""A right solution in another style: the loop is a generator, which yields where the job may stop;
it saves at the end of every epoch's training, too; status.json is removed at the start; ranks
gather objects.
"""

import json
import os
import signal
import time

import torch.distributed as dist

EX_TEMPFAIL = 75
_current = []


def _handle(number, frame):
    for stop in _current[-1:]:
        stop.came.setdefault("number", number)
        stop.came.setdefault("at", stop.clock())


class StopSignal:
    def __init__(self, signals=(signal.SIGTERM, signal.SIGUSR1), clock=time.time):
        self.signals, self.clock, self.came = signals, clock, {}

    @property
    def received(self):
        return self.came.get("number")

    @property
    def at(self):
        return self.came.get("at")

    def __enter__(self):
        _current.append(self)
        self.old = [(n, signal.getsignal(n)) for n in self.signals]
        for n in self.signals:
            signal.signal(n, _handle)
        return self

    def __exit__(self, *error):
        for n, handler in self.old:
            signal.signal(n, handler)
        _current.remove(self)


def write_status(directory, outcome, step):
    with open(os.path.join(directory, f"status.{os.getpid()}"), "w") as f:
        json.dump({"outcome": outcome, "step": step, "host": os.uname().nodename}, f)
    os.replace(f.name, os.path.join(directory, "status.json"))


def worker_init(worker):
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def stop_together(mine):
    if not dist.is_initialized():
        return mine
    answers = [None] * dist.get_world_size()
    dist.all_gather_object(answers, mine)
    return any(answers)


def places(job, save):
    """Trains, and yields wherever nothing is half done, and nothing fetched ahead: what comes next
    there.
    """
    while job.epoch < job.epochs:
        yield "step"
        for batch in job.batches():
            job.train_step(batch)
            if job.step % job.save_every == 0:
                yield "save"
                save()
            yield "step"
        save()
        losses = []
        for part in job.validation_parts():
            yield "step"
            losses.append(job.validate(part))
        job.end_epoch(losses)
    save()


def main(make_job, directory, clock=time.time, grace=None):
    speaks = not dist.is_initialized() or dist.get_rank() == 0
    with StopSignal(clock=clock) as stop:
        if speaks and os.path.exists(os.path.join(directory, "status.json")):
            os.remove(os.path.join(directory, "status.json"))
        longest = {"step": 0, "save": 0}

        def left():
            ends = [float(os.environ.get("SLURM_JOB_END_TIME", "inf"))]
            if stop.received and grace is not None:
                ends.append(stop.at + grace)
            return min(ends) - clock()

        try:
            job = make_job()
            job.resume()
            outcome, began, was = "done", None, None

            def save():
                begun = clock()
                job.save()
                longest["save"] = max(longest["save"], clock() - begun)

            for kind in places(job, save):
                now = clock()
                if was == "step":
                    longest["step"] = max(longest["step"], now - began)
                # what comes next, and a save after it, must fit in
                need = 1.6 * (longest["step"] + longest["save"] * (2 if kind == "save" else 1))
                if stop_together(stop.received is not None or left() <= need):
                    outcome = "preempted"
                    if not stop_together(left() <= 1.5 * longest["save"]):
                        save()
                    break
                began, was = clock(), kind
        except BaseException:
            if speaks:
                write_status(directory, "failed", None)
            raise
        if speaks:
            write_status(directory, outcome, job.step)
        return EX_TEMPFAIL if outcome == "preempted" else 0
