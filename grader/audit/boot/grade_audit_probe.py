"""The probe inside an audited job: records each optimizer step and each file event, makes faults.

It changes nothing that the job computes. An error of the probe is recorded and ends its work, never
the job. Beside this file: what a step's record holds (grade_audit_state.py), and how records are
written (grade_audit_records.py).
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
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grade_audit_imports as imports  # type: ignore[import-not-found]  # beside this file
import grade_audit_records as records  # type: ignore[import-not-found]
import grade_audit_state as state  # type: ignore[import-not-found]
from grade_audit_records import emit, rank, restart, spec

FIRST = 3  # steps of a life that are recorded in full, and after file events
LOG = 1024  # bytes that a job may print on a full disk

_main = 0  # the process that the audit started; it may be a launcher such as torchrun
_off = False  # the probe met an error
_forked = False  # a forked child, such as a DataLoader's worker
_steps = 0  # optimizer steps that this process has done
_full: bool | None = None  # what _wanted has said of the step under way
_counted = True  # the step under way is one
_noted = False  # the step under way has its record
_events = 0  # file events of this process
_last_file = ""
_last_event = -FIRST  # steps done at the last file event
_cost = 0.0  # s that the probe has taken since the last step
_full_since: int | None = None  # the step in whose save the disk became full
_watch: Any = None  # of files


def install() -> None:
    """Call it once, after torch was imported."""
    global _main, _watch
    if spec:
        return
    with open(os.environ["GRADE_AUDIT"]) as f:
        spec.update(json.load(f))
    _main = int(os.environ["GRADE_AUDIT_MAIN"])
    try:
        digest = _load(spec["digest"], "_grade_audit_digest")
        events = _load(spec["fsevents"], "_grade_audit_fsevents")
        state.install(digest, _guarded, _wanted)
        from torch.optim import optimizer

        optimizer.register_optimizer_step_pre_hook(_step_begins)
        optimizer.register_optimizer_step_post_hook(_guarded(_after_step))
        _watch = events.watching(spec["out"], _file_event)  # ends with the process
        _watch.__enter__()
        _watch_saves()
        imports.after("safetensors.torch", functools.partial(_watch_save_file, events))
        os.register_at_fork(after_in_child=_after_fork)
        atexit.register(_guarded(_at_end))
    except Exception as e:
        _give_up(e)


def _load(path: str, name: str) -> Any:
    """A module of the grader by its path: the job's Python may not have the grader."""
    found = importlib.util.spec_from_file_location(name, path)
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _after_fork() -> None:
    global _forked, _steps, _events
    _forked, _steps, _events = True, 0, 0
    records.after_fork()


# --- errors of the probe -------------------------------------------------------------------------


def _give_up(error: Exception) -> None:
    global _off
    if not _off:
        _off = True
        emit("trouble", error=f"{type(error).__name__}: {error}"[:500])


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
    """Is the step under way recorded in full? Where that costs too much, only some are.

    Once for each step: a save in the background doesn't change it between two forward passes.
    """
    global _full
    if _full is None:
        every = spec.get("every", 1)
        near = _steps < max(FIRST, _last_event + FIRST)  # a save, or the begin of the life
        _full = every == 1 or _steps % every == 0 or near
    return _full


def _step_begins(optimizer: Any, args: Any, kwargs: Any) -> Any:
    """Hook before a step. Where the step is given a closure, the forward pass is still to come."""
    global _noted
    _noted = False
    closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
    if _off or closure is None:
        _before_step(optimizer)
        return None

    @functools.wraps(closure)
    def noting(*given: Any, **named: Any) -> Any:
        result = closure(*given, **named)
        if not _noted:  # some optimizers call it more than once
            _before_step(optimizer)
        return result

    if len(args) > 1:
        return (args[0], noting, *args[2:]), kwargs
    return args, {**kwargs, "closure": noting}


def _note_step(optimizer: Any) -> None:
    global _cost, _counted, _full, _noted
    began = time.monotonic()
    _noted = True
    _counted = not state.is_none(optimizer)
    if not _counted:
        state.forget_forwards()
        return
    if _last_event == _steps:  # a save has just ended
        _note_open()
    parts: dict[str, str] = {}
    if _wanted():
        parts = state.before_step(optimizer)
    else:
        state.forget_forwards()
    _full = None
    number, shared = state.number(optimizer), state.shared(optimizer)
    took = round(_cost + time.monotonic() - began, 5)
    emit("step", step=_steps, optimizer=number, parts=parts, shared=shared, took=took)
    _cost = began - time.monotonic()  # the guard adds this call, which is counted


_before_step = _guarded(_note_step)


def _after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    global _steps
    if not (_noted and _counted):
        return
    _steps += 1
    if spec.get("recorded") and rank() == 0:
        records.mark(_steps)
    fault = spec.get("fault")
    if not fault or restart():
        return
    if _full_since is not None:
        if _steps == _full_since + fault["more"]:
            _kill()
        return
    if fault.get("step") != _steps or "event" in fault:
        return
    if fault["rank"] is not None and fault["rank"] != rank():
        return
    emit(
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
        # Python sets last_value when it prints an exception that nothing has caught
        raised = getattr(sys, "last_value", None) is not None
        emit("end", step=_steps, weights=state.last_weights(), raised=raised)


# --- files ----------------------------------------------------------------------------------------


def _watch_saves() -> None:
    import torch

    inner, note = torch.save, _guarded(_note_saved)

    @functools.wraps(inner)
    def save(obj: object, *args: Any, **kwargs: Any) -> Any:
        note(obj, args[0] if args else kwargs.get("f"))
        return inner(obj, *args, **kwargs)

    torch.save = torch.serialization.save = save


def _watch_save_file(events: Any) -> None:
    """What safetensors writes raises no audit event."""
    module = sys.modules["safetensors.torch"]
    inner, note = module.save_file, _guarded(_note_saved)

    @functools.wraps(inner)
    def save_file(tensors: object, filename: Any, *args: Any, **kwargs: Any) -> Any:
        note(tensors, filename)
        events.report("save_file begins", [filename])
        result = inner(tensors, filename, *args, **kwargs)
        events.report("save_file ended", [filename])
        return result

    module.save_file = save_file  # type: ignore[attr-defined]


def _note_saved(obj: object, file: object) -> None:
    name = getattr(file, "name", file)
    found = state.saved(obj, os.path.basename(name) if isinstance(name, (str, os.PathLike)) else "")
    if found is not None:
        parts, tensors = found
        emit("saved", step=_steps, parts=parts, tensors=tensors)


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
    emit("file", step=_steps, number=number, name=name, size=size, background=background)
    _last_file = os.path.join(spec["out"], _path(name))
    _last_event = _steps
    fault = spec.get("fault")
    if fault and fault.get("event") == number and fault["rank"] == rank() and not _forked:
        emit("fault", step=_steps, before=name)
        if fault["kind"] == "kill":
            _kill()
        elif fault["kind"] == "tear":
            _tear(fault)
        else:
            _fill_disk(fault)


def _path(name: str) -> str:
    """Of an event; history.py does the same."""
    words = 2 if name.startswith(("torch.save ", "save_file ")) else 1
    return name.split(" ", words)[words].removesuffix(" from another directory")


def _note_open() -> None:
    """The files that stay open while the job trains: logs and databases, no checkpoints."""
    out, found = os.path.realpath(spec["out"]) + os.sep, set()
    with contextlib.suppress(OSError):  # not Linux
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/self/fd/{fd}"))
    names = sorted(name.removeprefix(out) for name in found if name.startswith(out))
    if names:
        emit("open", step=_steps, files=names)


# --- faults ---------------------------------------------------------------------------------------


def _kill() -> None:
    """End the whole job at this point: the audit ends what the main process leaves behind."""
    os.kill(_main, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _tear(fault: dict[str, Any]) -> None:
    """From now on no file may grow beyond a size: the kernel kills the process that writes on."""
    # signal.signal works only in the main thread, and a save may run in another one
    ctypes.CDLL(None).signal(signal.SIGXFSZ, None)
    records.limit_files(max(fault["bytes"], min(_printed() + LOG, fault["size"] - 1)))


def _fill_disk(fault: dict[str, Any]) -> None:
    """From now on a write fails that would make a file larger than a size."""
    global _full_since
    _full_since = _steps
    room = max(fault["bytes"], _printed() + LOG)
    if room < fault["size"]:
        ctypes.CDLL(None).signal(signal.SIGXFSZ, 1)  # ignored: the write fails with EFBIG
        records.limit_files(room)
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
    if rank() == 0:
        _later(fault["grace"], _grace_over)
        if fault["kind"] == "limit":
            _later(fault["grace"] / 2, functools.partial(os.kill, _main, signal.SIGTERM))
    os.kill(os.getpid() if fault["rank"] is None else _main, fault["number"])


def _later(seconds: float, do: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()


def _grace_over() -> None:
    emit("grace over", step=_steps)
    _kill()
