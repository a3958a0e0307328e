"""What an optimizer's step depends on, as digests; seen through torch's public global hooks.

Weights, optimizer, learning rate, gradient scaler and averages are taken just before the
optimizer's step. Batch, targets, buffers and generators are taken before each outermost forward
pass since the step before: a value for each, with spaces between.
"""

from __future__ import annotations

import functools
import random
import re
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

Guard = Callable[[Callable[..., None]], Callable[..., None]]

RATE = "learning rate"  # of optimizers that are saved

digests: Any = None  # grader/harness/inside/digest.py
_wanted: Callable[[], bool]  # is the step under way recorded?
# since the last step, of the outermost modules; those of a job that takes no steps don't pile up
_forwards: deque[dict[str, str]] = deque(maxlen=64)
_depth = threading.local()
# weak references
_optimizers: list[Any] = []  # in the order of their first steps
_scalers: list[Any] = []  # torch.amp.GradScaler
_averages: list[Any] = []  # torch.optim.swa_utils.AveragedModel


def install(module: Any, guarded: Guard, wanted: Callable[[], bool]) -> None:
    """`guarded` makes a function a hook that never raises into the job."""
    global digests, _wanted
    import torch
    from torch.nn.modules import module as modules

    digests, _wanted = module, wanted

    def compiled() -> bool:
        return bool(torch.compiler.is_compiling() or torch._C._get_tracing_state())

    before, after = guarded(_before_forward), guarded(_after_forward)

    def pre(inner: Any, args: Any) -> None:
        if not compiled():
            # a global hook isn't given the keyword arguments; its caller has them
            before(inner, args, sys._getframe(1).f_locals.get("kwargs") or {})

    def post(inner: Any, args: Any, output: Any) -> None:
        if not compiled():
            after(inner, output)

    modules.register_module_forward_pre_hook(pre)
    modules.register_module_forward_hook(post, always_call=True)
    _remember(torch.amp.GradScaler, _scalers)
    _remember(torch.optim.swa_utils.AveragedModel, _averages)


def _remember(kind: Any, known: list[Any]) -> None:
    """Put a reference to each new object of this class into the list."""
    begin = kind.__init__

    @functools.wraps(begin)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        known.append(weakref.ref(self))

    kind.__init__ = init


def _alive(known: list[Any]) -> list[Any]:
    return [it for ref in known if (it := ref()) is not None]


# --- forward passes -------------------------------------------------------------------------------


def _before_forward(module: Any, args: Any, kwargs: Any) -> None:
    import torch

    depth = getattr(_depth, "value", 0)
    _depth.value = depth + 1
    if depth:
        return
    _depth.forward = {}
    if not torch.is_grad_enabled() or not _wanted():
        return
    buffers = dict(module.named_buffers())
    # a module without weights, such as a loss, is also given what other models computed
    name = "targets" if next(module.parameters(), None) is None else "batch"
    _depth.forward = {
        **_generators(),
        name: digests.quick_digest(_inputs([list(args), kwargs])),
        "buffers": digests.quick_digest(buffers) if buffers else "none",
    }
    _forwards.append(_depth.forward)


def _after_forward(module: Any, output: Any) -> None:
    _depth.value = max(0, getattr(_depth, "value", 1) - 1)
    forward = getattr(_depth, "forward", {})
    if _depth.value == 0 and forward and (losses := _losses(output)):
        forward["loss"] = ",".join(losses)


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
        "Python RNG": digests.quick_digest(repr(random.getstate())),
        "torch RNG": digests.quick_digest(torch.get_rng_state()),
    }
    if "numpy.random" in sys.modules:
        found["NumPy RNG"] = digests.rng_digests()["NumPy RNG"]
    if torch.cuda.is_initialized():
        found["CUDA RNG"] = digests.quick_digest(torch.cuda.get_rng_state_all())
    return found


# --- steps ----------------------------------------------------------------------------------------


def before_step(optimizer: Any) -> dict[str, str]:
    """All that the step depends on; forgets the forward passes before it."""
    parts = of_optimizer(optimizer)
    gradients = [p.grad for p in _parameters(optimizer)]
    found = any(gradient is not None for gradient in gradients)
    parts["gradients"] = digests.quick_digest(gradients) if found else "none"
    if scalers := _alive(_scalers):
        parts["gradient scaler"] = digests.quick_digest([scaler.state_dict() for scaler in scalers])
    if averages := _alive(_averages):
        parts["averaged weights"] = digests.quick_digest([dict(a.state_dict()) for a in averages])
    forwards = list(_forwards) or [_generators()]
    for name in dict.fromkeys(name for forward in forwards for name in forward):
        parts[name] = " ".join(forward.get(name, "none") for forward in forwards)
    forget_forwards()
    return parts


def is_none(optimizer: Any) -> bool:
    """A step that changes no weights and only makes the optimizer's state.

    torch.distributed.checkpoint takes one before it loads: with a learning rate and gradients of 0.
    """
    if any(float(group.get("lr", 1.0)) != 0 for group in optimizer.param_groups):
        return False
    gradients = [p.grad.detach() for p in _parameters(optimizer) if p.grad is not None]
    own = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
    return not any(bool(g.ne(0).any()) for g in own)


def forget_forwards() -> None:
    _forwards.clear()


def number(optimizer: Any) -> int:
    for n, ref in enumerate(_optimizers):
        if ref() is optimizer:
            return n
    _optimizers.append(weakref.ref(optimizer))
    return len(_optimizers) - 1


def shared(optimizer: Any) -> bool:
    """Does another optimizer train some of the same weights?"""
    others = [other for other in _alive(_optimizers) if other is not optimizer]
    mine = {id(p) for p in _parameters(optimizer)} if others else set()
    return any(id(p) in mine for other in others for p in _parameters(other))


def of_optimizer(optimizer: Any) -> dict[str, str]:
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
        "weights": digests.quick_digest(parameters),
        **{f"optimizer {kind}": digests.quick_digest(value) for kind, value in kinds.items()},
        "learning rate": " ".join(dict.fromkeys(rates)),
        "optimizer settings": digests.quick_digest(settings),
    }


def _parameters(optimizer: Any) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def last_weights() -> str:
    """Of all optimizers that still exist."""
    return " ".join(
        digests.quick_digest(_parameters(optimizer)) for optimizer in _alive(_optimizers)
    )


# --- saves ----------------------------------------------------------------------------------------


def saved(value: Any, file: str) -> tuple[dict[str, str], list[str]] | None:
    """(key -> digest, keys with tensors) of a dictionary that is saved; None for anything else.

    One that holds nothing but tensors, such as a model's, counts as one value: the file's name.
    """
    import torch

    while isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value)), str):
        (value,) = value.values()  # {"state": {...}}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return None
    if value and file and all(isinstance(each, torch.Tensor) for each in value.values()):
        name = re.sub(r"\d+", "N", file)
        return {name: digests.quick_digest(value)}, [name]
    if _of_optimizer(value):
        value = {re.sub(r"\d+", "N", file) or "optimizer": value}
    parts = {key: digests.quick_digest(_without_groups(each)) for key, each in value.items()}
    if rates := [_rates(each) for each in value.values() if _of_optimizer(each)]:
        parts[RATE] = repr(rates)
    return parts, [key for key, each in value.items() if _holds_tensors(each)]


def _of_optimizer(value: Any) -> bool:
    """Is it an optimizer's state_dict()?"""
    return isinstance(value, dict) and value.keys() == {"state", "param_groups"}


def _without_groups(value: Any) -> Any:
    """An optimizer's tensors without its settings, which schedulers change."""
    return value["state"] if _of_optimizer(value) else value


def _rates(value: Any) -> list[str]:
    rates = [group.get("lr", 0.0) for group in value["param_groups"]]
    return [repr(rate.item() if hasattr(rate, "item") else rate) for rate in rates]


def _holds_tensors(value: Any) -> bool:
    import torch

    if isinstance(value, torch.Tensor):
        return bool(value.is_floating_point())
    if isinstance(value, dict):
        return any(_holds_tensors(each) for each in value.values())
    return isinstance(value, (list, tuple)) and any(_holds_tensors(each) for each in value)
