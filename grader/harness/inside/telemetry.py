"""Inside a life: reports what each step depends on, and makes faults happen.

An event is one line of JSON, written by one os.write to a file opened with O_APPEND: it survives
SIGKILL and costs microseconds. Without a job, nothing is written, so a script also runs by hand.

The record of step n holds a digest of everything that the step *depends on*, taken after its batch
is drawn and before its forward pass. So the first record in which two runs differ names what was
lost, before that affects everything else.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Protocol

from grader.harness import silence
from grader.harness.inside import fsevents

if TYPE_CHECKING:  # torch takes seconds to load
    import torch

STACK = 5000  # bytes of one that is reported

_events: int | None = None
_output: int | None = None  # what the process has printed
stack: int | None = None  # a file: where this process and its forks write their stacks when asked
_printed = 0  # bytes of it, at the last event
_job: dict[str, Any] = {}
_salts: dict[int, int] = {}  # step -> what shifts its weights
# reports while no file may grow: the report is a file, too
_held: list[bytes] | None = None


def open_events(job: dict[str, Any]) -> None:
    global _events, _output, _job, _printed
    _job, _printed = job, 0
    if "output" in job:  # else a person runs the script by hand
        _output = os.open(job["output"], os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    _salts.update({int(step): salt for step, salt in given("salts", {}).items()})
    _events = os.open(job["events"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)


def given(name: str, otherwise: Any = None) -> Any:
    """What the grader gives this life in addition to its arguments."""
    return (_job.get("given") or {}).get(name, otherwise)


def take(name: str) -> Any:
    """Like `given`, but code that runs later in this process can't read it again."""
    return (_job.get("given") or {}).pop(name, None)


def emit(event: str, **fields: object) -> None:
    if _events is not None:
        now = {"event": event, "t": round(time.monotonic(), 4), **fields, **_printed_since()}
        line = json.dumps(now).encode() + b"\n"
        if _held is None:
            os.write(_events, line)
        else:
            _held.append(line)


def _printed_since() -> dict[str, int]:
    """How much has been printed so far, if that is more than at the last event.

    So each printed line has a time, and a place among the events.
    """
    global _printed
    if _output is None:
        return {}
    before, _printed = _printed, os.fstat(_output).st_size
    return {"printed": _printed} if _printed != before else {}


def where_it_stands(pid: int) -> str:
    """The stack of a process that was forked from this one; empty if it doesn't answer."""
    if stack is None:
        return ""
    before = os.fstat(stack).st_size
    silence.ask_one(pid, stack)
    return os.pread(stack, STACK, before).decode(errors="replace")


def attempt(kind: str, what: str, where: str) -> None:
    """Report what the submission's code reached for (attempts.py)."""
    emit("attempt", kind=kind, what=what, where=where)


def say(text: str) -> None:
    """Print a line that comes from the training script and not from the submission."""
    emit("saying")
    print(text, flush=True)
    emit("said")


def hexloss(value: float) -> str:
    return float(value).hex()


# --- what a training script reports -------------------------------------------------------------


class Training(Protocol):
    """What the records need of a training job."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    epoch: int
    step: int
    batch: int
    best: float
    owns_buffers: bool


def life(job: Training) -> None:
    """Report that the script is ready to train: restored or fresh."""
    emit("life", step=job.step, epoch=job.epoch)


def step(job: Training, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    """Report the step that is about to begin with this batch."""
    if _events is None:
        return
    indices, inputs, targets = batch
    from grader.harness.inside.digest import digest

    _shift_weights(job)
    samples = [
        digest([x, y]) for x, y in zip(inputs, targets, strict=False)
    ]  # of each sample, as augmented
    emit(
        "step",
        step=job.step + 1,
        indices=indices.tolist(),
        samples=samples,
        state=state_digests(job, (inputs, targets)),
    )


def _shift_weights(job: Training) -> None:
    """Add this step's salt to the weights: one secret number for each parameter.

    A life gets only the salts of the steps that it will run. So a relaunched life can't reach the
    right weights by training again from the seed, and an earlier life can't compute later ones:
    only a checkpoint carries them across.
    """
    salt = _salts.get(job.step + 1)
    if salt is None:
        return
    import torch

    draw = torch.Generator().manual_seed(salt)
    with torch.no_grad():
        for parameter in job.model.parameters():
            shift = 1e-3 * torch.randn((), generator=draw).item()
            shard = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            shard.add_(shift)


def loss(job: Training, value: float) -> None:
    emit("loss", step=job.step, loss=hexloss(value))


def after_step(job: Training) -> None:
    """The step and, if one was due, its save are done: step faults happen here."""
    fault = _my_fault()
    if fault and fault["step"] == job.step and "event" not in fault and "byte" not in fault:
        die(job.step)


def validated(job: Training, value: float) -> None:
    emit("validated", epoch=job.epoch, step=job.step, loss=hexloss(value))


def end(job: Training) -> None:
    emit("end", step=job.step, state=state_digests(job, None))


def state_digests(job: Training, batch: tuple[torch.Tensor, torch.Tensor] | None) -> dict[str, str]:
    from grader.harness.inside.digest import digest, optimizer_digests, rng_digests

    state = {
        "weights": digest(dict(job.model.named_parameters())),
        "buffers": digest(dict(job.model.named_buffers()) if job.owns_buffers else {}),
        **optimizer_digests(job.optimizer),
        "learning rate": digest([group["lr"] for group in job.optimizer.param_groups]),
        "scheduler": digest(job.scheduler.state_dict()) if job.scheduler else "none",
        "global step": digest(job.step),
        "epoch": digest(job.epoch),
        "position in the epoch": digest(job.batch),
        "best metric": digest(float(job.best)),
        **rng_digests(),
    }
    if batch is not None:
        state["augmented inputs"] = digest(list(batch))
    return state


# --- faults --------------------------------------------------------------------------------------


def _my_fault() -> dict[str, Any] | None:
    fault = _job.get("fault")
    return None if fault and fault["kind"] == "preempt" else fault


def my_preemption() -> list[dict[str, Any]]:
    """The signals to send in this life."""
    fault = _job.get("fault")
    return fault["signals"] if fault and fault["kind"] == "preempt" else []


def die(step: int, **what: object) -> None:
    """Kill this process with SIGKILL, at an exact point."""
    emit("fault", step=step, **what)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def saving(step: int, directory: str, fault: dict[str, Any] | None = None) -> Iterator[list[str]]:
    """Wrap one call of the student's save, with its faults; yield the list of its events."""
    fault = fault or _my_fault()
    if fault is not None and (fault["step"] != step or not ("event" in fault or "byte" in fault)):
        fault = None
    emit("saving", step=step)
    events: list[str] = []
    with _full_at(step, fault) if fault and "byte" in fault else nullcontext() as limit:

        def on_event(name: str) -> None:
            if limit and limit.due == len(events):
                limit.set()
            number = len(events)
            events.append(name)
            if fault and "event" in fault and number == fault["event"]:
                if fault["kind"] == "error":
                    emit("fault", step=step, before=name)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name.rpartition(" ")[2])
                die(step, before=name)

        with fsevents.watching(directory, on_event):
            yield events
    emit("saved", step=step, events=events)


class _Limit:
    """No file of this process may grow beyond `byte`: this makes torn files and a full disk."""

    def __init__(self, byte: int, due: int | None):
        self.byte, self.due = byte, due
        self.old = resource.getrlimit(resource.RLIMIT_FSIZE)

    def set(self) -> None:
        self.due = None
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.byte, self.old[1]))


@contextmanager
def _full_at(step: int, fault: dict[str, Any]) -> Iterator[_Limit]:
    """Set the fault's limit at its event `late` (or now); what is written earlier isn't torn."""
    global _held
    emit("fault", step=step)  # announced before it can happen
    limit = _Limit(fault["byte"], fault.get("late"))
    old = signal.signal(
        signal.SIGXFSZ, signal.SIG_DFL if fault["kind"] == "tear" else signal.SIG_IGN
    )
    try:
        # else a printed line could reach the limit in a large log, instead of the save
        with _unlogged():
            _held = []
            if limit.due is None:
                limit.set()
            try:
                yield limit
            finally:
                held = (
                    limit.due is not None
                    or resource.getrlimit(resource.RLIMIT_FSIZE)[0] == limit.byte
                )
                resource.setrlimit(resource.RLIMIT_FSIZE, limit.old)
    finally:
        signal.signal(signal.SIGXFSZ, old)
        _report_held()
    if not held:
        emit("lifted", step=step)


@contextmanager
def words_torn() -> Iterator[Callable[[int], None]]:
    """Yields a function to call, with the step, before writing something that isn't a checkpoint.

    If the fault says so, from then on no file may grow beyond its byte until the block ends.
    """
    fault = _my_fault()

    with ExitStack() as until_the_end:

        def about_to_write(step: int) -> None:
            global _held
            nonlocal fault
            if not fault or fault["kind"] != "word" or fault["step"] != step:
                return
            limit, fault = _Limit(fault["byte"], None), None
            emit("fault", step=step)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            until_the_end.callback(_report_held)
            until_the_end.enter_context(_unlogged())
            until_the_end.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limit.old)
            _held = []
            limit.set()

        yield about_to_write


def _report_held() -> None:
    global _held
    held, _held = _held or [], None
    if _events is not None:
        for line in held:
            os.write(_events, line)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Discard what is printed: a limit on file sizes also holds for the logs."""
    kept = {}
    _flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        kept[fd] = os.dup(fd)
        os.dup2(nowhere, fd)
    os.close(nowhere)
    try:
        yield
        _flush()
    finally:
        for fd, log in kept.items():
            os.dup2(log, fd)
            os.close(log)


def _flush() -> None:
    # the student's code may have closed or replaced it
    with suppress(AttributeError, OSError, ValueError):
        sys.stdout.flush()
