"""Optimizers: each parameter's state by its name and in its own type."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from .interfaces import Mismatch
from .modules import _plain_key, bare
from .packing import _identity
from .reporting import _few, _say

Names = list[list[str]]  # of an optimizer's parameters, in each of its groups


def _names_of(optimizer: torch.optim.Optimizer, modules: Mapping[str, torch.nn.Module]) -> Names:
    """Where each parameter is in the registered modules; else its shape, and which of that shape.

    A loaded optimizer gets its state by these names, not by the parameters' order.
    """
    return _names_among(optimizer, _parameters_of(modules))


def _parameters_of(modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """By their names in an optimizer's state."""
    return {
        f"{part}.{_plain_key(name)}": p
        for part, module in modules.items()
        for name, p in bare(module).named_parameters()
    }


def _names_among(optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor]) -> Names:
    known: dict[int, str] = {}
    for name, p in parameters.items():
        known.setdefault(id(p), name)
    others: collections.Counter[str] = collections.Counter()

    def name_of(p: torch.Tensor) -> str:
        if id(p) in known:
            return known[id(p)]
        others[shape := str(tuple(p.shape))] += 1
        return f"{shape} number {others[shape]}"

    return [[name_of(p) for p in group["params"]] for group in optimizer.param_groups]


def _changed_by_steps(optimizers: Iterable[torch.optim.Optimizer]) -> set[object]:
    """Identities of what only an optimizer's step changes: trained parameters and its own state."""
    tensors: list[object] = []
    for optimizer in optimizers:
        tensors += [p for group in optimizer.param_groups for p in group["params"]]
        tensors += [v for values in optimizer.state.values() for v in values.values()]
    return {
        _identity(t.detach())
        for t in tensors
        if isinstance(t, torch.Tensor)
        and (t.requires_grad or not isinstance(t, torch.nn.Parameter))
    }


def _load_optimizer(
    part: torch.optim.Optimizer,
    state: Any,
    saved: Names | None,
    parameters: Mapping[str, torch.Tensor],
    exact: bool,
) -> None:
    """Load an optimizer's state_dict: each parameter's state by name, in type as it was saved.

    saved       the names in the state's groups; None: it is from a version that didn't save any
    parameters  of the job's models, by name
    exact       the state's tensors are on the devices where they belong
    """
    groups = state["param_groups"]
    if saved is not None:
        _add_groups(part, groups, saved, parameters)
    job = _names_among(part, parameters)
    if saved is None and all("param_names" in g for g in [*groups, *part.param_groups]):
        saved, job = ([g["param_names"] for g in gs] for gs in (groups, part.param_groups))
    if saved is not None:
        for n, (was, now) in enumerate(itertools.zip_longest(saved, job, fillvalue=())):
            if sorted(was) != sorted(now):
                raise Mismatch(
                    f"group {n} of the optimizer held {_few(set(was) - set(now))}, which the job's "
                    f"doesn't; the job's holds {_few(set(now) - set(was))} instead"
                )
        ordered = []
        for group, was, now in zip(groups, saved, job, strict=True):
            number = dict(zip(was, group["params"], strict=True))
            ordered.append({**group, "params": [number[name] for name in now]})
            if len(names := dict(zip(was, group.get("param_names", ()), strict=False))) == len(was):
                ordered[-1] |= {"param_names": [names[name] for name in now]} if names else {}
        state, groups = {**state, "param_groups": ordered}, ordered
    part.load_state_dict(state)
    numbers = [n for g in groups for n in g["params"]]
    params = [p for g in part.param_groups for p in g["params"]]
    for n, p in zip(numbers, params, strict=True):
        for k, v in state["state"].get(n, {}).items():
            mine = part.state[p].get(k)
            if mine is None or k == "step":  # torch decides where step belongs
                continue
            # else load_state_dict casts to the parameter's type, and makes nonsense of strings
            if not isinstance(v, torch.Tensor):
                part.state[p][k] = v if exact or isinstance(v, (str, bytes)) else mine
            elif v.shape != p.shape:
                part.state[p][k] = v if exact else v.to(mine.device)
            elif (mine.dtype, mine.stride()) != (v.dtype, p.stride()):
                new = torch.empty_like(p, dtype=v.dtype, requires_grad=False)
                part.state[p][k] = new.copy_(v)


def _add_groups(
    part: torch.optim.Optimizer,
    groups: list[dict[str, Any]],
    saved: Names,
    parameters: Mapping[str, torch.Tensor],
) -> None:
    """Add the groups that the saved job added while it trained (layers that it unfroze)."""
    for n in range(len(part.param_groups), len(saved)):
        held = {id(p) for g in part.param_groups for p in g["params"]}
        added = [parameters[name] for name in saved[n] if name in parameters]
        if len(added) < len(saved[n]) or any(id(p) in held for p in added):
            return
        names = groups[n].get("param_names")
        part.add_param_group(
            {"params": added if names is None else list(zip(names, added, strict=True))}
        )
        _say(f"added group {n} to the optimizer, as in the checkpoint: {_few(saved[n])}")


def _set(part: Any, key: str, new: Any) -> Any:
    """Set a value of a part (of an optimizer: in all groups); return what it was."""
    if isinstance(part, torch.optim.Optimizer):
        before = [group[key] for group in part.param_groups]
        for group in part.param_groups:
            if isinstance(group[key], torch.Tensor):
                group[key].fill_(new)
            else:
                group[key] = new
        return before[0] if all(value == before[0] for value in before) else before
    before = part[key] if isinstance(part, dict) else getattr(part, key)
    if isinstance(part, dict):
        part[key] = new
    else:
        setattr(part, key, new)
    return before
