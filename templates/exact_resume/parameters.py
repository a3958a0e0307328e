"""What a model's state_dict doesn't say: tied and frozen parameters, and those it leaves out."""

from __future__ import annotations

import collections
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from .interfaces import Mismatch
from .modules import _holds, _plain_key, _same_bytes, bare
from .packing import _identity
from .reporting import _few, _say
from .tensorfile import _as_bytes

_Names = dict[str, list[Any]]


def _named_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Tied ones under each of their names."""
    named = bare(module).named_parameters(remove_duplicate=False)
    return {_plain_key(n): p for n, p in named}


def _frozen_in(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its parameters that training doesn't change."""
    return {n: p.detach() for n, p in _named_parameters(module).items() if not p.requires_grad}


def _tied_and_frozen(modules: Mapping[str, torch.nn.Module]) -> dict[str, Any]:
    tied: _Names = {}
    still: _Names = {}
    for part, module in modules.items():
        names = collections.defaultdict(list)
        for name, p in (named := _named_parameters(module)).items():
            names[id(p)].append(name)
        tied[part] = [found for found in names.values() if len(found) > 1]
        still[part] = [name for name, p in named.items() if not p.requires_grad]
    return {"tied": tied, "still": still, "shared": _shared(modules)}


def _shared(modules: Mapping[str, torch.nn.Module]) -> list[list[str]]:
    """Names of parameters and buffers, of all parts, that have the same memory."""
    names: dict[object, list[str]] = collections.defaultdict(list)
    for part, module in modules.items():
        buffers = bare(module).named_buffers(remove_duplicate=False)
        mine = _named_parameters(module) | {_plain_key(n): b for n, b in buffers}
        for name, t in mine.items():
            # a rank's share may have no memory
            names[id(t) if hasattr(t, "to_local") else _identity(t)].append(f"{part}.{name}")
    return [found for found in names.values() if len(found) > 1]


def _compare_ties(about: Mapping[str, Any], modules: Mapping[str, torch.nn.Module]) -> None:
    """Mismatch if parameters are the same in the checkpoint and two in the job, or vice versa."""
    mine = _tied_and_frozen(modules)["tied"]
    for part, tied in about.get("tied", {}).items():
        saved = {frozenset(names) for names in tied}
        job = {frozenset(names) for names in mine[part]}
        for names in saved ^ job:
            where = ("checkpoint", "job") if names in saved else ("job", "checkpoint")
            raise Mismatch(
                f"'{part}': {_few(names)} are one tied parameter in the {where[0]}, but not in "
                f"the {where[1]}"
            )
    if "shared" in about:  # not in earlier versions
        here = {frozenset(names) for names in _shared(modules)}
        there = {frozenset(names) for names in about["shared"]}
        for names in there ^ here:
            which = ("checkpoint", "job") if names in there else ("job", "checkpoint")
            raise Mismatch(
                f"{_few(names)} share memory in the {which[0]}, but not in the {which[1]}"
            )


def _thaw(about: Mapping[str, Any], modules: Mapping[str, torch.nn.Module]) -> None:
    """Train what the saved job trained, and no more: it may have unfrozen layers on the way."""
    for part, still in about.get("still", {}).items():
        module, frozen = modules[part], set(still)
        named = _named_parameters(module)
        changed = {n: p for n, p in named.items() if p.requires_grad == (n in frozen)}
        if part in about.get("frozen", {}):  # their values aren't saved: loading refuses these
            changed = {n: p for n, p in changed.items() if n not in frozen}
        if not changed:
            continue
        wrapped = isinstance(module, torch.nn.parallel.DistributedDataParallel)
        if wrapped or any(hasattr(p, "to_local") for p in changed.values()):
            _say(
                f"'{part}': whether {_few(changed)} is frozen differs from the checkpoint, and "
                "can't be changed now: freeze or unfreeze it before you wrap or shard the model"
            )
            continue
        for name, p in changed.items():
            p.requires_grad_(name not in frozen)
        told = [
            (_few(changed.keys() & frozen), "frozen"),
            (_few(changed.keys() - frozen), "trainable"),
        ]
        for names, how in told:
            if names != "nothing":
                _say(f"'{part}': {names}: now {how}, as in the checkpoint")


def _left_out(
    name: str,
    module: torch.nn.Module,
    state: Mapping[str, Any],
    checked: dict[str, tuple[set[str], set[str]]],
) -> dict[str, torch.Tensor]:
    """Frozen parameters that the module's own state_dict leaves out.

    TypeError for others, which training changes, and for what wouldn't come back as it is.

    checked  by module: parameters that aren't in the state as they are, and which of them are lost
    """
    named = _named_parameters(module)
    lacking = {n: p for n, p in named.items() if _is_usual(p) and not _holds(state, n, p)}
    if not lacking:
        return {}
    held = {_identity(t) for t in _tensors_in(state)}  # under any name
    lacking = {
        n: p
        for n, p in lacking.items()
        if _identity(p) not in held and not _same_bytes(state.get(n), p)
    }
    if not lacking:
        return {}
    own = {_identity(t) for t in [*named.values(), *bare(module).buffers()]}
    lost = set(lacking)
    if held - own:  # in another form, perhaps
        if checked.get(name, ((), ()))[0] != set(lacking):
            checked[name] = set(lacking), _lost(name, module, lacking)
        lost = checked[name][1]
    if left_out := [n for n in lost - state.keys() if named[n].requires_grad]:
        raise TypeError(
            f"'{name}': its state_dict leaves out {_few(left_out)}, which training changes"
        )
    if changed := lost & state.keys():
        raise TypeError(
            f"'{name}': its state_dict holds {_few(changed)} changed, and load_state_dict doesn't "
            "bring back what it was"
        )
    return {n: p.detach() for n, p in lacking.items() if n in lost}


def _is_usual(p: torch.Tensor) -> bool:
    """Not of a subclass or without memory: such a parameter is refused later, by name."""
    return type(p) is torch.nn.Parameter and p.device.type != "meta"


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(inner)


def _lost(name: str, module: torch.nn.Module, parameters: Mapping[str, torch.Tensor]) -> set[str]:
    """Parameters that a copy of the module doesn't get back from the module's state_dict."""
    state = bare(module).state_dict()
    try:
        other = copy.deepcopy(bare(module))
    except (RuntimeError, TypeError, ValueError, AttributeError, copy.Error) as e:
        _say(f"'{name}' can't be copied ({e}): whether its state_dict holds all of it isn't known")
        return set()
    theirs = _named_parameters(other)
    for n, p in parameters.items():
        flipped = _as_bytes(p.detach()).bitwise_not().view(p.dtype).view(p.shape)
        theirs[n].data.copy_(flipped)
    try:
        other.load_state_dict(state)
    except Exception as e:
        raise TypeError(f"'{name}': its load_state_dict refuses its own state_dict: {e}") from e
    theirs = _named_parameters(other)
    return {n for n, p in parameters.items() if not _same_bytes(theirs[n], p)}
