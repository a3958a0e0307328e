"""Tensors in a file that `safetensors.torch.load_file` reads.

Layout: length of the header, header (JSON: each tensor's type, shape and offsets), the tensors'
bytes without gaps. Types that safetensors lacks lie there as numbers of another type, with one
more dimension: complex ones as pairs of floats, others as bytes.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .digest import CHUNK, _Part, _Reads
from .interfaces import CheckpointError

_TYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_PAIRS = {"complex32": "F16", "complex64": "F32", "complex128": "F64"}
_RESERVED = "__metadata__"


def _memory(t: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without NumPy (which has no bfloat16)."""
    size = t.numel() * t.element_size()
    return memoryview((ctypes.c_char * size).from_address(t.data_ptr() if size else 1)).cast("B")


def _as_bytes(t: torch.Tensor) -> torch.Tensor:
    """Its bytes in order; not copied if they are in order already."""
    t = t.resolve_conj().resolve_neg().contiguous()
    if t.numel() == 1:
        t = t.as_strided((1,), (1,))  # a single number counts as contiguous with any stride
    return t.view(-1).view(torch.uint8)


def _size(t: torch.Tensor) -> int:
    return int(t.numel() * t.element_size())


def _type_and_shape(t: torch.Tensor) -> tuple[str, list[int]]:
    """As safetensors has them."""
    name = str(t.dtype).removeprefix("torch.")
    if name in _TYPES:
        return _TYPES[name], list(t.shape)
    if name in _PAIRS:
        return _PAIRS[name], [*t.shape, 2]
    return "U8", [*t.shape, t.element_size()]


def _tensor_file(tensors: Mapping[str, torch.Tensor], tied: Mapping[str, str]) -> Iterator[_Part]:
    """The parts of a file of `tensors`; `tied` maps other names of theirs to those in the file."""
    # aligned: the widest type first; load_file can't read a number that begins anywhere
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header: dict[str, Any] = {_RESERVED: {**tied, "format": "pt"}}
    end = 0
    for name, t in ordered:
        kind, shape = _type_and_shape(t)
        begin, end = end, end + _size(t)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text, None
    for _, t in ordered:
        if not t.numel():
            continue
        flat = _as_bytes(t)
        for start in range(0, len(flat), CHUNK):
            piece = flat[start : start + CHUNK].cpu()
            yield _memory(piece), piece


def _read_tensor_file(
    path: Path, wanted: Mapping[str, torch.Tensor], reads: _Reads
) -> Callable[[], str]:
    """Fill the `wanted` tensors, which are all that the file holds; return what gives its digest.

    Raises  CheckpointError if the file can't be read or isn't made of them.
    """
    try:
        with open(path, "rb", buffering=0) as f:
            size = os.fstat(f.fileno()).st_size
            head = f.read(8)
            length = int.from_bytes(head, "little")
            head += f.read(length) if length <= size else b""
        header = json.loads(head[8:])
        if header.keys() - {_RESERVED} != wanted.keys():
            raise CheckpointError(f"{path} is damaged: it holds other tensors")
        header.pop(_RESERVED, None)
        end, views = 0, [memoryview(head)]
        for name, about in sorted(header.items(), key=lambda i: i[1]["data_offsets"]):
            t = wanted[name]
            if about["data_offsets"] != [end, end + _size(t)]:
                raise CheckpointError(f"{path} is damaged: '{name}' isn't where it was")
            end += _size(t)
            views.append(_memory(t))
        if size != len(head) + end:
            wrong = "it ends early" if size < len(head) + end else "it is too long for its header"
            raise CheckpointError(f"{path} is damaged: {wrong}")
        return reads.start(path, views)
    except OSError as e:
        raise CheckpointError(f"{path} can't be read: {e}") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{path} is damaged: its header is wrong") from e
