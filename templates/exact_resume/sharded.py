"""FSDP2: every rank writes and reads its shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from .digest import digest_of
from .durable import _fsync_path
from .interfaces import Mismatch
from .modules import _compare_types, _plain_key, bare
from .optimizers import _load_optimizer, _names_among, _parameters_of
from .packing import _Packed
from .ranks import _Ranks
from .reporting import _few
from .unpacking import _Unpacked

Modules = Mapping[str, torch.nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer]


def _sharded_parts(state: Mapping[str, Any]) -> tuple[Modules, Optimizers]:
    """The sharded models, and the optimizers of their parameters."""
    modules = {n: p for n, p in state.items() if isinstance(p, torch.nn.Module)}
    for model in modules.values():
        for module in model.modules():
            if hasattr(module, "unshard") and hasattr(module, "reshard"):
                module.reshard()  # after a forward pass, FSDP2's parameters look unsharded
    sharded = {
        n: m for n, m in modules.items() if any(hasattr(p, "to_local") for p in m.parameters())
    }
    theirs = {id(p) for m in sharded.values() for p in m.parameters()}
    optimizers = {
        n: part
        for n, part in state.items()
        if isinstance(part, torch.optim.Optimizer)
        and any(id(p) in theirs for group in part.param_groups for p in group["params"])
    }
    return sharded, optimizers


def _parameters_for(
    optimizer: torch.optim.Optimizer, modules: Modules
) -> Mapping[str, torch.Tensor]:
    """The models' parameters by their names in the optimizer's state.

    Without "model." if the optimizer has parameters of no other model.
    """
    ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
    owners = {n: m for n, m in modules.items() if any(id(p) in ids for p in m.parameters())}
    if list(owners) == ["model"]:
        return {_plain_key(n): p for n, p in bare(owners["model"]).named_parameters()}
    return _parameters_of(owners)


def _shards_of(modules: Modules, optimizers: Optimizers) -> dict[str, Any]:
    """As torch's get_state_dict, except that it invents no state for parameters without any.

    Parameters have names instead of numbers: on another number of ranks, too.
    """
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    # first: it reshards, and between forward and backward the module holds other parameters
    states: dict[str, Any] = {name: get_model_state_dict(m) for name, m in modules.items()}
    for name, optimizer in optimizers.items():
        states[name] = _optimizer_shards(name, optimizer, modules)
    return states


def _optimizer_shards(
    part: str, optimizer: torch.optim.Optimizer, modules: Modules
) -> dict[str, Any]:
    parameters = _parameters_for(optimizer, modules)
    names = _names_among(optimizer, parameters)
    for name in (name for group in names for name in group):
        if name not in parameters:
            raise TypeError(f"'{part}' holds a parameter {name} that no registered model has")
    whole = optimizer.state_dict()
    number = {
        n: name
        for group, ns in zip(whole["param_groups"], names, strict=True)
        for n, name in zip(group["params"], ns, strict=True)
    }
    for n, values in whole["state"].items():
        for k, v in values.items() if n in number else ():
            if hasattr(v, "to_local") and v.shape != parameters[number[n]].shape:
                raise TypeError(
                    f"'{part}': {k} of {number[n]} is a DTensor of another shape than its "
                    "parameter: it can't be saved"
                )
    state = {number.get(n, n): values for n, values in whole["state"].items()}
    groups = [{**g, "params": ns} for g, ns in zip(whole["param_groups"], names, strict=True)]
    return {"state": state, "param_groups": groups}


def _write_shards(path: Path, shards: _Packed, ranks: _Ranks) -> None:
    from torch.distributed.checkpoint import FileSystemWriter, save

    tree = _Unpacked(shards.tree, shards.about, shards.tensors).state
    save(tree, storage_writer=FileSystemWriter(path), process_group=ranks.group)


def _seal_shards(path: Path, rank: int) -> dict[str, str]:
    """Sync this rank's files and return their digests.

    torch syncs .metadata too early, before it has written all of it.
    """
    files = [
        f
        for f in path.iterdir()
        if f.name.startswith(f"__{rank}_") or (rank == 0 and f.name == ".metadata")
    ]
    for f in files:
        _fsync_path(f)
    _fsync_path(path)
    return {f"shards/{f.name}": digest_of(f) for f in files}


def _read_shards(path: Path, modules: Modules, optimizers: Optimizers, ranks: _Ranks) -> None:
    """Load what is there, as it is there: what has no state in the checkpoint gets none."""
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint._nested_dict import flatten_state_dict, unflatten_state_dict
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    metadata = FileSystemReader(path).read_metadata()
    saved, paths = metadata.state_dict_metadata, metadata.planner_data
    weights, places = flatten_state_dict({n: get_model_state_dict(m) for n, m in modules.items()})
    # after resharding
    params = {n: _parameters_for(optimizer, modules) for n, optimizer in optimizers.items()}
    held = {k: saved[k] for k, place in paths.items() if place[0] in optimizers}  # in its order
    if lost := saved.keys() - weights.keys() - held.keys():
        raise Mismatch(f"the checkpoint holds {_few(lost)}, which the job lacks")
    if lacking := optimizers.keys() - {paths[k][0] for k in held}:
        raise Mismatch(f"the checkpoint holds no {_few(lacking)} in shards")
    about = {k: m.properties for k, m in saved.items() if hasattr(m, "properties")}
    types = {k: SimpleNamespace(dtype=p.dtype) for k, p in about.items() if k not in held}
    _compare_types("model", types, weights)
    tree: dict[str, Any] = dict(weights)
    for key, m in held.items():
        part, *place = paths[key]
        p = params[part].get(place[1]) if len(place) > 1 else None
        if key not in about:
            tree[key] = None
        elif p is not None and m.size == p.shape and place[2:] != ["step"]:
            tree[key] = torch.empty_like(p, dtype=about[key].dtype, requires_grad=False)
        else:
            tree[key] = torch.empty(m.size, dtype=about[key].dtype, device="cpu")
    try:
        load(tree, storage_reader=FileSystemReader(path), process_group=ranks.group)
    except BaseException as e:
        # the message holds every rank's traceback: the first rank's error is enough
        first = next(iter(getattr(e, "failures", {0: (e,)}).values()))[0]
        raise Mismatch(f"the shards don't fit: {first}") from None
    states = unflatten_state_dict(
        {k: tree[k] for k in [*weights, *held]}, places | {k: paths[k] for k in held}
    )
    for name, module in modules.items():
        set_model_state_dict(module, states.get(name, {}))  # torch leaves out what is empty
    for name, optimizer in optimizers.items():
        state = {"state": {}, **states[name]}
        names = [group["params"] for group in state["param_groups"]]
        _load_optimizer(optimizer, state, names, params[name], exact=False)
