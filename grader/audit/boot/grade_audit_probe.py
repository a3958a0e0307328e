"""The probe inside an audited job: records each optimizer step and each file event, makes faults.

It enters through public hooks of torch, and changes nothing that the job computes. A record is one
line of JSON, written by one os.write to a file opened with O_APPEND, so it survives SIGKILL. An
error of the probe is recorded and ends its work, never the job.

The record of a step holds digests of what the step depends on. Weights, optimizer and learning
rate are taken just before the optimizer's step. Batch, buffers and generators are taken before each
outermost forward pass since the step before: a value for each, with spaces between.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

_spec: dict[str, Any] = {}
_main = 0  # the process that the audit started; it may be a launcher such as torchrun
_digest: Any = None  # grader/harness/inside/digest.py
_fd: int | None = None
_off = False  # the probe met an error
_forked = False  # a forked child, such as a DataLoader's worker
_steps = 0  # optimizer steps that this process has done
_events = 0  # file events of this process
_last_file = ""
_optimizers: list[Any] = []  # weak references, in the order of their first steps
# since the last step, of the outermost modules; those of a job that takes no steps don't pile up
_forwards: deque[dict[str, str]] = deque(maxlen=64)
_found_losses: deque[str] = deque(maxlen=64)
_watch: Any = None  # of files
_depth = threading.local()


def install() -> None:
    """Call it once, after torch was imported."""
    global _spec, _main, _digest, _watch
    if _spec:
        return
    with open(os.environ["GRADE_AUDIT"]) as f:
        _spec = json.load(f)
    _main = int(os.environ["GRADE_AUDIT_MAIN"])
    try:
        _digest = _load(_spec["digest"], "_grade_audit_digest")
        events = _load(_spec["fsevents"], "_grade_audit_fsevents")
        _install_hooks()
        _watch = events.watching(_spec["out"], _file_event)  # ends with the process
        _watch.__enter__()
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
    if _fd is None:
        name = os.path.join(_spec["records"], f"{os.getpid()}-{time.monotonic_ns()}.jsonl")
        _fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    line = {"kind": kind, "rank": _rank(), "t": round(time.monotonic(), 4), **fields}
    os.write(_fd, json.dumps(line).encode() + b"\n")


def _rank() -> int:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    return int(os.environ.get("RANK", "0") or 0)


def _give_up(error: Exception) -> None:
    global _off
    if not _off:
        _off = True
        _emit("trouble", error=f"{type(error).__name__}: {error}"[:500])


def _guarded(function: Callable[..., None]) -> Callable[..., None]:
    """The function, as a hook that never raises into the job and returns None."""

    def hook(*args: Any, **kwargs: Any) -> None:
        if _off:
            return
        try:
            function(*args, **kwargs)
        except Exception as e:
            _give_up(e)

    return hook


# --- what a step depends on -----------------------------------------------------------------------


def _install_hooks() -> None:
    import torch
    from torch.nn.modules import module
    from torch.optim import optimizer

    def compiled() -> bool:
        return bool(torch.compiler.is_compiling() or torch._C._get_tracing_state())

    before, after = _guarded(_before_forward), _guarded(_after_forward)

    def pre(inner: Any, args: Any) -> None:
        if not compiled():
            # a global hook isn't given the keyword arguments; its caller has them
            before(inner, args, sys._getframe(1).f_locals.get("kwargs") or {})

    def post(inner: Any, args: Any, output: Any) -> None:
        if not compiled():
            after(inner, output)

    module.register_module_forward_pre_hook(pre)
    module.register_module_forward_hook(post, always_call=True)
    optimizer.register_optimizer_step_pre_hook(_guarded(_before_step))
    optimizer.register_optimizer_step_post_hook(_guarded(_after_step))


def _before_forward(module: Any, args: Any, kwargs: Any) -> None:
    import torch

    depth = getattr(_depth, "value", 0)
    _depth.value = depth + 1
    if depth or not torch.is_grad_enabled():
        return
    buffers = dict(module.named_buffers())
    _forwards.append(
        {
            **_generators(),
            "batch": _digest.digest(_inputs([list(args), kwargs])),
            "buffers": _digest.digest(buffers) if buffers else "none",
        }
    )


def _after_forward(module: Any, output: Any) -> None:
    _depth.value = max(0, getattr(_depth, "value", 1) - 1)
    if _depth.value == 0:
        _found_losses.extend(_losses(output))


def _inputs(value: Any) -> Any:
    """The tensors and plain values in the arguments of a forward pass.

    What was computed from the weights is no batch, such as the outputs that a loss is given.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return None if value.requires_grad else value
    if isinstance(value, dict) or hasattr(value, "keys"):
        return {str(key): _inputs(value[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return [_inputs(item) for item in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else None


def _losses(output: Any) -> list[str]:
    """Scalars with a gradient in what the outermost module returned."""
    import torch

    if isinstance(output, torch.Tensor):
        one = output.numel() == 1 and output.requires_grad and output.is_floating_point()
        return [float(output.detach()).hex()] if one else []
    if isinstance(output, dict):
        return [loss for value in output.values() for loss in _losses(value)]
    if isinstance(output, (list, tuple)):
        return [loss for value in output for loss in _losses(value)]
    return []


def _generators() -> dict[str, str]:
    import torch

    found = {
        "Python RNG": _digest.digest(repr(random.getstate())),
        "torch RNG": _digest.digest(torch.get_rng_state()),
    }
    if "numpy.random" in sys.modules:
        found["NumPy RNG"] = _digest.rng_digests()["NumPy RNG"]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["CUDA RNG"] = _digest.digest(torch.cuda.get_rng_state())
    return found


def _before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    began = time.monotonic()
    parts = _state(optimizer)
    parts["gradients"] = _digest.digest([p.grad for p in _parameters(optimizer)])
    forwards = list(_forwards) or [_generators()]
    for name in dict.fromkeys(name for forward in forwards for name in forward):
        parts[name] = " ".join(forward.get(name, "none") for forward in forwards)
    parts["loss"] = " ".join(_found_losses)
    _forwards.clear()
    _found_losses.clear()
    which = _number(optimizer)
    took = round(time.monotonic() - began, 5)
    _emit("step", step=_steps, optimizer=which, parts=parts, took=took)


def _number(optimizer: Any) -> int:
    for number, ref in enumerate(_optimizers):
        if ref() is optimizer:
            return number
    _optimizers.append(weakref.ref(optimizer))
    return len(_optimizers) - 1


def _parameters(optimizer: Any) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _state(optimizer: Any) -> dict[str, str]:
    """Weights, the optimizer's tensors by kind, and its settings."""
    parameters = _parameters(optimizer)
    kinds: dict[str, list[Any]] = {}
    for index, parameter in enumerate(parameters):
        state = optimizer.state.get(parameter)
        for kind, value in (state or {}).items():
            kinds.setdefault(str(kind), []).append([index, value])
    rates, settings = [], []
    for group in optimizer.param_groups:
        rate = group.get("lr", 0.0)
        rates.append(repr(rate.item() if hasattr(rate, "item") else rate))
        settings.append({k: v for k, v in group.items() if k not in ("params", "lr")})
    return {
        "weights": _digest.digest(parameters),
        **{f"optimizer {kind}": _digest.digest(value) for kind, value in kinds.items()},
        "learning rate": " ".join(dict.fromkeys(rates)),
        "optimizer settings": _digest.digest(settings),
    }


def _after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    global _steps
    _steps += 1
    fault = _spec.get("fault")
    if not fault or fault.get("step") != _steps or "event" in fault:
        return
    if fault["rank"] is not None and fault["rank"] != _rank():
        return
    _emit("fault", step=_steps, optimizer=_number(optimizer), parts=_state(optimizer))
    if fault["kind"] == "kill":
        _kill()
    else:
        _signal(fault)


def _at_end() -> None:
    if _steps:
        left = [ref() for ref in _optimizers]
        weights = [_digest.digest(_parameters(o)) for o in left if o is not None]
        _emit("end", step=_steps, weights=" ".join(weights))


# --- files and faults -----------------------------------------------------------------------------


def _file_event(name: str) -> None:
    """Called just before each file event below the run's folder."""
    global _events, _last_file
    if _off:
        return
    number, size = _events, None
    _events += 1
    if _last_file:
        try:
            size = os.stat(_last_file).st_size
        except OSError:
            pass
    _emit("file", step=_steps, number=number, name=name, size=size)
    _last_file = os.path.join(_spec["out"], name.rpartition(" ")[2])
    fault = _spec.get("fault")
    if fault and fault.get("event") == number and fault["rank"] == _rank() and not _forked:
        _emit("fault", step=_steps, before=name)
        if fault["kind"] == "kill":
            _kill()
        else:
            _tear(fault["bytes"])


def _kill() -> None:
    """End the whole job at this point: the audit ends what the main process leaves behind."""
    os.kill(_main, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _tear(size: int) -> None:
    """From now on no file may grow beyond `size`: the kernel kills the process that writes on."""
    # signal.signal works only in the main thread, and a save may run in another one
    ctypes.CDLL(None).signal(signal.SIGXFSZ, None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _signal(fault: dict[str, Any]) -> None:
    if _rank() == 0:
        timer = threading.Timer(fault["grace"], _grace_over)
        timer.daemon = True
        timer.start()
    # a scheduler's warning reaches each rank; an eviction, the process that was started
    os.kill(os.getpid() if fault["rank"] is None else _main, fault["number"])


def _grace_over() -> None:
    _emit("grace over", step=_steps)
    _kill()
