"""What a model's state_dict doesn't say: tied and frozen parameters, and those it leaves out."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import torch

from .interfaces import Mismatch
from .modules import _plain_key, bare
from .reporting import _few, _say

_Names = dict[str, list[Any]]


def _named_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Tied ones under each of their names."""
    named = bare(module).named_parameters(remove_duplicate=False)
    return {_plain_key(n): p for n, p in named}


def _frozen_in(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its parameters that training doesn't change."""
    return {n: p.detach() for n, p in _named_parameters(module).items() if not p.requires_grad}


def _tied_and_frozen(modules: Mapping[str, torch.nn.Module]) -> dict[str, _Names]:
    tied: _Names = {}
    still: _Names = {}
    for part, module in modules.items():
        names = collections.defaultdict(list)
        for name, p in (named := _named_parameters(module)).items():
            names[id(p)].append(name)
        tied[part] = [found for found in names.values() if len(found) > 1]
        still[part] = [name for name, p in named.items() if not p.requires_grad]
    return {"tied": tied, "still": still}


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
    name: str, module: torch.nn.Module, state: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Frozen parameters that the module's own state_dict leaves out.

    TypeError for others, which training changes. A state_dict that holds parameters in another form
    is left to its load_state_dict.
    """
    if state.keys() >= (named := _named_parameters(module)).keys():
        return {}
    held = {_storage(t) for t in state.values() if isinstance(t, torch.Tensor)}
    own = {_storage(t) for t in [*named.values(), *bare(module).buffers()]}
    if held - own:
        return {}
    missing = {n: p for n, p in named.items() if n not in state and _storage(p) not in held}
    if trained := [n for n, p in missing.items() if p.requires_grad]:
        raise TypeError(
            f"'{name}': its state_dict leaves out {_few(trained)}, which training changes"
        )
    return {n: p.detach() for n, p in missing.items()}


def _storage(t: torch.Tensor) -> int:
    return int(t.untyped_storage().data_ptr())
