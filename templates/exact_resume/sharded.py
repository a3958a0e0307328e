"""FSDP2: every rank writes and reads its shards."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from .digest import digest_of
from .durable import _fsync_path
from .interfaces import Mismatch
from .modules import _compare_types, _plain_key, bare
from .optimizers import _load_optimizer, _names_of
from .packing import _Packed
from .ranks import _Ranks
from .reporting import _few
from .unpacking import _Unpacked


def _shards_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """As torch's get_state_dict, except that it invents no state for parameters without any.

    Parameters have names instead of numbers: on another number of ranks, too.
    """
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    # first: it reshards, and between forward and backward the module holds other parameters
    weights = get_model_state_dict(model)
    names = _names_of(optimizer, {"": model})
    for group in names:
        for n, name in enumerate(group):
            if not name.startswith("."):
                raise TypeError(f"the optimizer holds a parameter {name} that 'model' doesn't")
            group[n] = name[1:]
    whole = optimizer.state_dict()
    number = {
        n: name
        for group, ns in zip(whole["param_groups"], names, strict=True)
        for n, name in zip(group["params"], ns, strict=True)
    }
    shapes = {name: p.shape for name, p in _named(model).items()}
    for n, values in whole["state"].items():
        for k, v in values.items() if n in number else ():
            if hasattr(v, "to_local") and v.shape != shapes[number[n]]:
                raise TypeError(
                    f"'optimizer': {k} of {number[n]} is a DTensor of another shape than its "
                    "parameter: it can't be saved"
                )
    state = {number.get(n, n): values for n, values in whole["state"].items()}
    groups = [{**g, "params": ns} for g, ns in zip(whole["param_groups"], names, strict=True)]
    return {
        "model": weights,
        "optimizer": {"state": state, "param_groups": groups},
    }


def _named(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {_plain_key(n): p for n, p in bare(model).named_parameters()}


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


def _read_shards(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, ranks: _Ranks
) -> None:
    """Load what is there, as it is there: what has no state in the checkpoint gets none."""
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint._nested_dict import flatten_state_dict, unflatten_state_dict
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    metadata = FileSystemReader(path).read_metadata()
    saved, paths = metadata.state_dict_metadata, metadata.planner_data
    weights = flatten_state_dict({"model": get_model_state_dict(model)})[0]
    params = _named(model)  # after resharding
    held = {k: saved[k] for k, path in paths.items() if path[0] == "optimizer"}  # in its order
    if lost := saved.keys() - weights.keys() - held.keys():
        raise Mismatch(f"the checkpoint holds {_few(lost)}, which the job lacks")
    about = {k: m.properties for k, m in saved.items() if hasattr(m, "properties")}
    _compare_types(
        "model",
        {k: SimpleNamespace(dtype=p.dtype) for k, p in about.items() if k not in held},
        weights,
    )
    tree: dict[str, Any] = dict(weights)
    for key, m in held.items():
        p = params.get(paths[key][2]) if len(paths[key]) > 2 else None
        if key not in about:
            tree[key] = None
        elif p is not None and m.size == p.shape and paths[key][3:] != ("step",):
            tree[key] = torch.empty_like(p, dtype=about[key].dtype, requires_grad=False)
        else:
            tree[key] = torch.empty(m.size, dtype=about[key].dtype, device="cpu")
    try:
        load(tree, storage_reader=FileSystemReader(path), process_group=ranks.group)
    except BaseException as e:
        # the message holds every rank's traceback: the first rank's error is enough
        first = next(iter(getattr(e, "failures", {0: (e,)}).values()))[0]
        raise Mismatch(f"the shards don't fit: {first}") from None
    weights = {paths[k][1]: tree[k] for k in weights}
    state = unflatten_state_dict({k: tree[k] for k in held}, {k: paths[k] for k in held})
    state = {"state": {}, **state["optimizer"]}  # torch leaves out what is empty
    set_model_state_dict(model, weights)
    job = [[n.removeprefix(".") for n in group] for group in _names_of(optimizer, {"": model})]
    names = [group["params"] for group in state["param_groups"]]
    _load_optimizer(optimizer, state, names, job, exact=False)
