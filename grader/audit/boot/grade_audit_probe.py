"""The probe inside an audited job: records each optimizer step and each file event, makes faults.

It changes nothing that the job computes. A record is one line of JSON, written by one os.write to a
file opened with O_APPEND, so it survives SIGKILL. An error of the probe is recorded and ends its
work, never the job. What a step's record holds: grade_audit_state.py, beside this file.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import functools
import importlib.util
import json
import os
import resource
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grade_audit_state as state  # type: ignore[import-not-found]  # it lies beside this file

MARKS = 0x7FF0FACE  # grader/crash/recorder.py: what is written to it is for the recorder
FIRST = 3  # steps of a life that are recorded in full, and after file events
LOG = 1024  # bytes that a job may print on a full disk

_spec: dict[str, Any] = {}
_main = 0  # the process that the audit started; it may be a launcher such as torchrun
_fd: int | None = None
_off = False  # the probe met an error
_forked = False  # a forked child, such as a DataLoader's worker
_steps = 0  # optimizer steps that this process has done
_counted = True  # the step under way is one
_events = 0  # file events of this process
_last_file = ""
_last_event = -FIRST  # steps done at the last file event
_cost = 0.0  # s that the probe has taken since the last step
_largest: int | None = None  # bytes, of any file: the fault has set it
_full_since: int | None = None  # the step in whose save the disk became full
_watch: Any = None  # of files


def install() -> None:
    """Call it once, after torch was imported."""
    global _spec, _main, _watch
    if _spec:
        return
    with open(os.environ["GRADE_AUDIT"]) as f:
        _spec = json.load(f)
    _main = int(os.environ["GRADE_AUDIT_MAIN"])
    try:
        digest = _load(_spec["digest"], "_grade_audit_digest")
        events = _load(_spec["fsevents"], "_grade_audit_fsevents")
        state.install(digest, _guarded, _wanted)
        from torch.optim import optimizer

        optimizer.register_optimizer_step_pre_hook(_guarded(_before_step))
        optimizer.register_optimizer_step_post_hook(_guarded(_after_step))
        _watch = events.watching(_spec["out"], _file_event)  # ends with the process
        _watch.__enter__()
        _watch_saves()
        os.register_at_fork(after_in_child=_after_fork)
        atexit.register(_guarded(_at_end))
    except Exception as e:
        _give_up(e)


def _load(path: str, name: str) -> Any:
    """A module of the grader by its path: the job's Python may not have the grader."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _after_fork() -> None:
    global _fd, _forked, _steps, _events
    _fd, _forked, _steps, _events = None, True, 0, 0


# --- records --------------------------------------------------------------------------------------


def _emit(kind: str, **fields: object) -> None:
    global _fd
    with _no_limit():
        if _fd is None:
            name = os.path.join(_spec["records"], f"{os.getpid()}-{time.monotonic_ns()}.jsonl")
            _fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        line = {"kind": kind, "rank": _rank(), "t": round(time.monotonic(), 4), **fields}
        if restart := _restart():
            line["restart"] = restart
        os.write(_fd, json.dumps(line).encode() + b"\n")


@contextlib.contextmanager
def _no_limit() -> Iterator[None]:
    """The limit that a fault has set is for the job's files, not for records."""
    if _largest is None:
        yield
        return
    _limit_files(resource.RLIM_INFINITY)
    try:
        yield
    finally:
        _limit_files(_largest)


def _limit_files(size: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    soft = size if hard == resource.RLIM_INFINITY or 0 <= size < hard else hard
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _rank() -> int:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    return int(os.environ.get("RANK", "0") or 0)


def _restart() -> int:
    """How often torchrun has started its ranks again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") or 0)


def _give_up(error: Exception) -> None:
    global _off
    if not _off:
        _off = True
        _emit("trouble", error=f"{type(error).__name__}: {error}"[:500])


def _guarded(function: Callable[..., None]) -> Callable[..., None]:
    """The function, as a hook that never raises into the job and returns None; timed."""

    def hook(*args: Any, **kwargs: Any) -> None:
        global _cost
        if _off:
            return
        began = time.monotonic()
        try:
            function(*args, **kwargs)
        except Exception as e:
            _give_up(e)
        _cost += time.monotonic() - began

    return hook


# --- steps ----------------------------------------------------------------------------------------


def _wanted() -> bool:
    """Is the step under way recorded in full? Where that costs too much, only some are."""
    every = _spec.get("every", 1)
    return every == 1 or _steps % every == 0 or _steps < max(FIRST, _last_event + FIRST)


def _before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    global _cost, _counted
    began = time.monotonic()
    _counted = not state.is_none(optimizer)
    if not _counted:
        state.forget_forwards()
        return
    parts: dict[str, str] = {}
    if _wanted():
        parts = state.before_step(optimizer)
    else:
        state.forget_forwards()
    took = round(_cost + time.monotonic() - began, 5)
    _emit("step", step=_steps, optimizer=state.number(optimizer), parts=parts, took=took)
    _cost = began - time.monotonic()  # the guard adds this call, which is counted


def _after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    global _steps
    if not _counted:
        return
    _steps += 1
    if _spec.get("recorded") and not _forked and _rank() == 0:
        with contextlib.suppress(OSError):
            os.write(MARKS, json.dumps({"kind": "step", "save": _steps, "digest": ""}).encode())
    fault = _spec.get("fault")
    if not fault or _restart() or _forked:
        return
    if _full_since is not None:
        if _steps == _full_since + fault["more"]:
            _kill()
        return
    if fault.get("step") != _steps or "event" in fault:
        return
    if fault["rank"] is not None and fault["rank"] != _rank():
        return
    _emit(
        "fault",
        step=_steps,
        optimizer=state.number(optimizer),
        parts=state.of_optimizer(optimizer),
    )
    if fault["kind"] == "kill":
        _kill()
    elif fault["kind"] == "kill alone":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        _signal(fault)


def _at_end() -> None:
    if _steps:
        _emit("end", step=_steps, weights=state.last_weights())


# --- files ----------------------------------------------------------------------------------------


def _watch_saves() -> None:
    import torch

    inner, note = torch.save, _guarded(_note_saved)

    @functools.wraps(inner)
    def save(obj: object, *args: Any, **kwargs: Any) -> Any:
        if not _forked:
            note(obj)
        return inner(obj, *args, **kwargs)

    torch.save = torch.serialization.save = save


def _note_saved(obj: object) -> None:
    found = state.saved(obj)
    if found is not None:
        parts, tensors = found
        _emit("saved", step=_steps, parts=parts, tensors=tensors)


def _file_event(name: str) -> None:
    """Called just before each file event below the run's folder."""
    global _events, _last_file, _last_event
    if _off:
        return
    number, size = _events, None
    _events += 1
    if _last_file:
        try:
            size = os.stat(_last_file).st_size
        except OSError:
            pass
    background = threading.current_thread() is not threading.main_thread()
    _emit("file", step=_steps, number=number, name=name, size=size, background=background)
    _last_file = os.path.join(_spec["out"], name.rpartition(" ")[2])
    _last_event = _steps
    fault = _spec.get("fault")
    if fault and fault.get("event") == number and fault["rank"] == _rank() and not _forked:
        _emit("fault", step=_steps, before=name)
        if fault["kind"] == "kill":
            _kill()
        elif fault["kind"] == "tear":
            _tear(fault)
        else:
            _fill_disk(fault)


# --- faults ---------------------------------------------------------------------------------------


def _kill() -> None:
    """End the whole job at this point: the audit ends what the main process leaves behind."""
    os.kill(_main, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _tear(fault: dict[str, Any]) -> None:
    """From now on no file may grow beyond a size: the kernel kills the process that writes on."""
    global _largest
    # signal.signal works only in the main thread, and a save may run in another one
    ctypes.CDLL(None).signal(signal.SIGXFSZ, None)
    _largest = max(fault["bytes"], min(_printed() + LOG, fault["size"] - 1))
    _limit_files(_largest)


def _fill_disk(fault: dict[str, Any]) -> None:
    """From now on a write fails that would make a file larger than a size."""
    global _largest, _full_since
    _full_since = _steps
    room = max(fault["bytes"], _printed() + LOG)
    if room < fault["size"]:
        ctypes.CDLL(None).signal(signal.SIGXFSZ, 1)  # ignored: the write fails with EFBIG
        _largest = room
        _limit_files(_largest)
    else:  # what the job prints lies in a larger file than the checkpoint
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _printed() -> int:
    """The size of the files that standard output and error go to."""
    sizes = [0]
    for fd in (1, 2):
        with contextlib.suppress(OSError):
            st = os.fstat(fd)
            sizes.append(st.st_size if stat.S_ISREG(st.st_mode) else 0)
    return max(sizes)


def _signal(fault: dict[str, Any]) -> None:
    """Announce the end. A scheduler's warning reaches each rank; an eviction, the main process."""
    if _rank() == 0:
        _later(fault["grace"], _grace_over)
        if fault["kind"] == "limit":
            _later(fault["grace"] / 2, functools.partial(os.kill, _main, signal.SIGTERM))
    os.kill(os.getpid() if fault["rank"] is None else _main, fault["number"])


def _later(seconds: float, do: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()


def _grace_over() -> None:
    _emit("grace over", step=_steps)
    _kill()
