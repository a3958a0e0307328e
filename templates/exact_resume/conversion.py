"""Checkpoints for other programs, and from them: torch.save, safetensors, DCP."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .commands import _checkpoint, _everything, _read_dcp
from .digest import _Reads
from .directory import CheckpointDirectory
from .durable import _fsync_path
from .interfaces import CheckpointError
from .lock import _Lock
from .optimizers import Names
from .packing import _Packed
from .plain import _is_plain
from .stateparts import _state_files
from .tensorfile import _RESERVED, _TYPES, _read_tensor_file, _tensor_file
from .writing import _write_durably

_TORCH = (".pt", ".pth", ".bin", ".ckpt")  # endings of torch.save's files


def export(checkpoint: str, to: str, part: str | None) -> int:
    """Write a checkpoint's parts to a new file or folder; the ending of `to` decides how."""
    path = Path(to).expanduser().absolute()
    if path.exists():
        raise CheckpointError(f"{path} exists already")
    if not path.parent.is_dir():
        raise CheckpointError(f"{path.parent} isn't a directory")
    if path.suffix not in ("", ".safetensors", *_TORCH):
        raise CheckpointError(
            f"{path}: end it in .pt for a file of torch.save, in .safetensors, or in nothing for a "
            "folder of DCP"
        )
    where, name = _checkpoint(checkpoint)
    state = _everything(where, name)
    state.pop("progress", None)
    parts = {key: value for key, value in state.items() if not key.startswith("rank-")}
    if part is not None and part not in parts:
        raise CheckpointError(f"{where.path / name} holds no '{part}'; it holds {', '.join(parts)}")
    content = parts if part is None else parts[part]
    if path.suffix == ".safetensors":
        weights = parts.get("model") if part is None else content
        if not isinstance(weights, dict) or not all(
            isinstance(t, torch.Tensor) for t in weights.values()
        ):
            raise CheckpointError("a .safetensors file holds the tensors of one part: --part model")
        whole = {str(k): t.clone() for k, t in weights.items()}  # tied ones twice
        _write_one(
            path, lambda tmp: _write_durably(tmp.parent, {tmp.name: _tensor_file(whole, {})})
        )
    elif path.suffix:
        _write_one(path, lambda tmp: torch.save(content, tmp))
    else:
        from torch.distributed.checkpoint import FileSystemWriter, save

        for key, value in content.items():
            _refuse_other_keys(key, value)
        save(content, storage_writer=FileSystemWriter(path), no_dist=True)
    _fsync_path(path.parent)
    print(f"wrote {path} from {where.path / name}")
    return 0


def _write_one(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file that appears when it is whole."""
    tmp = path.with_name(f"tmp-{os.getpid()}-{path.name}")
    try:
        write(tmp)
        _fsync_path(tmp)
        os.rename(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


def convert(source: str, directory: str, step: int, epoch: int, names: Sequence[str]) -> int:
    """Add a checkpoint with the parts of `source` to `directory`. A job resumes from it.

    The job's own generators and what a part doesn't hold aren't in it.
    """
    parts = _parts_of(source, names)
    where = CheckpointDirectory(directory)
    _require_newest(where, step)
    progress: dict[str, Any] = {"epoch": epoch, "steps": step, "best": math.inf}
    progress |= {"world_size": 1, "gradients": False, "buffers": {}}
    numbered = {name: _numbered(part, parts.get("model")) for name, part in parts.items()}
    about = {"converted": True, "parameters": {n: ps for n, (_, ps) in numbered.items() if ps}}
    states = {name: part for name, (part, _) in numbered.items()}
    packed = _Packed({"progress": progress, "about": about, **states})
    lock = _Lock(where.path)
    lock.require()
    try:
        tmp = where.begin("step", step)
        digests = _write_durably(tmp, _state_files("shared", packed, apart=True))
        name = where.commit(tmp, digests, step=step, world_size=1)
    finally:
        lock.release()
    print(f"wrote {where.path / name} with {', '.join(parts)}")
    return 0


def _parts_of(source: str, names: Sequence[str]) -> dict[str, Any]:
    """What `source` holds of a job's parts, under the job's names."""
    found = _read_source(Path(source).expanduser())
    if not all(isinstance(key, str) for key in found):
        raise CheckpointError(f"{source} isn't made of parts: it has keys that aren't names")
    if all(isinstance(value, torch.Tensor) for value in found.values()):
        found = {"model": found}  # a bare state_dict
    renamed = {}
    for name in names:
        old, _, new = name.partition("=")
        if not (old and new):
            raise CheckpointError(f"--name {name}: write OLD=NEW")
        renamed[old] = new
    if missing := renamed.keys() - found.keys():
        raise CheckpointError(f"{source} holds no {', '.join(missing)}: {', '.join(found)}")
    parts: dict[str, Any] = {}
    if left_out := [key for key, value in found.items() if not _is_state(value)]:
        print(f"left out, because it isn't the state of a part: {', '.join(left_out)}")
    for key in (key for key in found if key not in left_out):
        name = renamed.get(key, key)
        if name in parts:
            raise CheckpointError(f"{source} holds two parts for the name '{name}': use --name")
        if name in ("progress", "about"):
            raise CheckpointError(f"the manager saves its own under '{name}': use --name {key}=NEW")
        parts[name] = found[key]
    if not any(value is not None for value in parts.values()):
        raise CheckpointError(f"{source} holds no state of a part")
    return parts


def _require_newest(where: CheckpointDirectory, step: int) -> None:
    if where.path.exists() and not where.path.is_dir():
        raise CheckpointError(f"{where.path} is a file: give a directory")
    for name in where.names()[:1]:
        if int(name.split("-")[1]) > step:
            raise CheckpointError(
                f"{where.path} holds {name}, which is of a later step: a job would resume from it"
            )


def _is_optimizer(part: Any) -> bool:
    return isinstance(part, dict) and {"state", "param_groups"} <= part.keys()


def _refuse_other_keys(name: str, part: Any) -> None:
    """DCP makes strings of all keys. Only an optimizer's can be numbered again."""
    values = {k: v for k, v in part.items() if k != "state"} if _is_optimizer(part) else part
    if key := _other_key(values, name):
        raise CheckpointError(
            f"DCP would make a string of a key in '{key}': export a .pt file, or another --part"
        )


def _other_key(value: Any, where: str) -> str | None:
    """Where a dict in `value` has keys that aren't strings."""
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        return where
    inner: Any = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, (list, tuple)) else inner
    return next((found for k, v in inner if (found := _other_key(v, f"{where}.{k}"))), None)


def _numbered(part: Any, model: Any) -> tuple[Any, Names | None]:
    """An optimizer's state by numbers, as its load_state_dict takes it, and the parameters' names.

    Shards have names instead, and DCP makes strings of numbers.
    """
    if not _is_optimizer(part):
        return part, None
    keys = [key for group in part["param_groups"] for key in group["params"]]
    numbers = {key: n for n, key in enumerate(keys)}
    if all(isinstance(key, int) for key in keys):
        state = {int(key): values for key, values in part["state"].items()}
        return {**part, "state": state}, None
    prefix = "model." if isinstance(model, dict) and all(key in model for key in keys) else ""
    names = [[prefix + key for key in group["params"]] for group in part["param_groups"]]
    groups = [{**g, "params": [numbers[key] for key in g["params"]]} for g in part["param_groups"]]
    state = {numbers[key]: values for key, values in part["state"].items()}
    return {**part, "state": state, "param_groups": groups}, names


def _is_state(value: object) -> bool:
    return value is None or isinstance(value, dict) or _is_plain(value)


def _read_source(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return _read_dcp(path)
    with open(path, "rb") as f:
        head = f.read(9)
    if head[8:] == b"{":
        return _read_safetensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as e:  # of any kind: the file may hold anything
        if code := re.search(r"GLOBAL (\S+)", str(e)):
            told = f"{path} holds a {code[1]}, and reading it would run code (weights_only)"
        else:
            told = f"{path} isn't a file of torch.save or safetensors, or is damaged"
        raise CheckpointError(told) from e
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not a dict of parts")
    return found


def _read_safetensors(path: Path) -> dict[str, Any]:
    types = {name: dtype for dtype, name in _TYPES.items()}
    tensors: dict[str, torch.Tensor] = {}
    try:
        with open(path, "rb") as f:
            length = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(min(length, path.stat().st_size)))
        for name, about in header.items():
            if name != _RESERVED:
                dtype = getattr(torch, types[about["dtype"]])
                tensors[name] = torch.empty(about["shape"], dtype=dtype, device="cpu")
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as e:
        raise CheckpointError(f"{path} isn't a safetensors file, or is damaged") from e
    with _Reads() as reads:
        _read_tensor_file(path, tensors, reads)()
    return tensors
