"""A checkpoint's files for one state: NAME.json, and its tensors beside it in PART.safetensors.

NAME.json holds everything but the tensors' bytes (those of small ones, too, where asked): values
with their types, and of each tensor the type, the shape, the device, and where its bytes are.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .digest import _FileDigest, _Part, _Reads
from .interfaces import CheckpointError
from .packing import _Packed, _Path
from .tensorfile import _RESERVED, _memory, _read_tensor_file, _size, _tensor_file
from .unpacking import _Unpacked

_SMALL = 16 << 10  # bytes


def _state_files(name: str, packed: _Packed, apart: bool) -> dict[str, Iterable[_Part]]:
    """The files of a state, by name.

    apart  each part (key of the state) gets a file of its own for its tensors; else small tensors
           are in NAME.json, and others in NAME.safetensors
    """
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    ties: dict[str, dict[str, str]] = {}
    about = [list(entry) for entry in packed.about]
    places: dict[int, tuple[str, str]] = {}
    stems = _stems(p[0] for p in packed.paths if p) if apart else {}
    for number, t in enumerate(packed.tensors):
        if t is None:  # its bytes are another tensor's
            continue
        more = dict(about[number][2]) if len(about[number]) > 2 else {}
        path = packed.paths[number]
        if not apart and _size(t) <= _SMALL:
            piece = t.resolve_conj().resolve_neg().contiguous().cpu()
            more["base64"] = base64.b64encode(_memory(piece)).decode()
        else:
            file = (stems[path[0]] if apart and path else name) + ".safetensors"
            names = tensors.setdefault(file, {})
            key = _unused(_joined(path[1:] if apart else path), names.keys() | {_RESERVED})
            names[key] = t
            places[number] = file, key
            more |= {"file": file, "name": key}
        about[number] = [*about[number][:2], more]
    for number, path in packed.tied if apart else ():
        if number in places and path and places[number][0] == f"{stems.get(path[0])}.safetensors":
            file, key = places[number]
            ties.setdefault(file, {}).setdefault(_joined(path[1:]), key)
    text = json.dumps({"tree": packed.tree, "tensors": about}).encode()
    files: dict[str, Iterable[_Part]] = {
        file: _tensor_file(held, ties.get(file, {})) for file, held in tensors.items()
    }
    return {**files, f"{name}.json": [(text, None)]}


def _joined(path: _Path) -> str:
    return ".".join(map(str, path)) or "value"


def _unused(name: str, taken: Collection[str]) -> str:
    return name if name not in taken else _unused(name + "_", taken)


def _stems(parts: Iterable[Any]) -> dict[Any, str]:
    """File names for parts of any name, without those that mean something else."""
    found: dict[Any, str] = {}
    for part in parts:
        if part not in found:
            stem = re.sub(r"[^\w.-]", "_", str(part)).lstrip(".") or "_"
            stem += "_" if re.fullmatch(r"(?i)rank-\d+", stem) else ""
            taken = {s.casefold() for s in found.values()}  # macOS doesn't tell A from a
            while stem.casefold() in taken:
                stem += "_"
            found[part] = stem
    return found


def _read_state(
    folder: Path, file: str, digests: Mapping[str, str], home: Collection[str] = ()
) -> Any:
    """The state of which `file` is the NAME.json, verified.

    digests  of the checkpoint's files
    home     keys of the state whose tensors go back to the device that they were on
    Raises   CheckpointError if any bit of it is wrong.
    """
    path = folder / file
    try:
        text = path.read_bytes()
    except OSError as e:
        raise CheckpointError(f"{path} can't be read: {e}") from e
    digest = _FileDigest()
    digest.update(text)
    _compare_digests(path, digest.digest().hex(), digests)
    try:
        return _state_in(folder, json.loads(text), digests, home)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
        raise CheckpointError(f"{path} isn't a state that this version reads: {e}") from e


def _state_in(
    folder: Path, about: dict[str, Any], digests: Mapping[str, str], home: Collection[str]
) -> Any:
    tensors: list[torch.Tensor | None] = []
    held: dict[str, dict[str, torch.Tensor]] = {}
    for dtype, shape, more in (([*entry, {}])[:3] for entry in about["tensors"]):
        if "view" in more:
            tensors.append(None)
            continue
        tensors.append(t := torch.empty(shape, dtype=getattr(torch, dtype), device="cpu"))
        if "base64" in more:
            _memory(t)[:] = base64.b64decode(more["base64"])
        else:
            held.setdefault(more["file"], {})[more["name"]] = t
    with _Reads() as reads:
        reading = {
            folder / other: _read_tensor_file(folder / other, wanted, reads)
            for other, wanted in held.items()
        }
        for other, digest_of_it in reading.items():
            _compare_digests(other, digest_of_it(), digests)
    return _Unpacked(about["tree"], about["tensors"], tensors, home).state


def _compare_digests(path: Path, digest: str, digests: Mapping[str, str]) -> None:
    if digests.get(path.name) != digest:
        raise CheckpointError(f"{path} is damaged, or belongs to another checkpoint")
