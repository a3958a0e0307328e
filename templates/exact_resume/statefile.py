"""A state in one file of its own: `write_file` writes it, and older checkpoints hold such files.

Layout: magic, header length, header digest, header (JSON), the tensors' bytes in order, a digest
of everything. Tensors are written from and read into their own memory, without a second copy.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from typing import Any

import torch

from .digest import CHUNK, _Digest
from .durable import _write_all
from .interfaces import AnyPath, CheckpointError
from .packing import _Packed
from .tensorfile import _as_bytes, _memory
from .unpacking import _Unpacked
from .writing import _Syncs

MAGIC = b"ckpt-v1\n"


def write_file(path: AnyPath, state: Any) -> str:
    """Write `state` durably to a new file and return the file's digest (hex).

    state   nested dicts, lists and tuples of tensors and plain values
    Needs at most 64 MiB of memory beyond the state itself.
    Raises  OSError if the disk is full or `path` exists; TypeError if a value can't be saved.
    """
    packed = state if isinstance(state, _Packed) else _Packed(state)
    header = json.dumps({"tree": packed.tree, "tensors": packed.about}).encode()
    digest = _Digest()
    with _Syncs() as syncs:
        f = syncs.open(path)
        head = MAGIC + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header
        _write_all(f, head)
        digest.update(head)
        for t in packed.tensors:
            if t is None or not t.numel():
                continue
            flat = _as_bytes(t)
            for start in range(0, len(flat), CHUNK):
                piece = flat[start : start + CHUNK].cpu()
                view = _memory(piece)
                digest.update(view, piece)
                syncs.write(f, view)
        _write_all(f, digest.digest())
        syncs.start(f)
        syncs.wait()
    return digest.digest().hex()


def read_file(path: AnyPath) -> Any:
    """The state that `write_file` wrote, tensors on the CPU.

    Raises  CheckpointError if the file can't be read or any bit of it is wrong.
    """
    return _read(path)[0]


def _read(path: AnyPath, keep: bool = True, home: Collection[str] = ()) -> tuple[Any, str]:
    """(state, digest); keep=False only verifies the file and gives None as its state.

    home    keys of the state whose tensors go back to the device that they were on
    """
    digest = _Digest()
    tensors: list[torch.Tensor | None] = []
    try:
        with open(path, "rb") as f:
            head = f.read(48)
            length = int.from_bytes(head[8:16], "little")
            header = f.read(length) if length <= os.fstat(f.fileno()).st_size else b""
            if head[:8] != MAGIC or hashlib.sha256(header).digest() != head[16:]:
                raise CheckpointError(f"{path} is damaged: its header is wrong")
            digest.update(head + header)
            about = json.loads(header)
            for dtype, shape, *more in about["tensors"]:
                if more and "view" in more[0]:  # its bytes are another tensor's
                    tensors.append(None)
                    continue
                t = torch.empty(
                    shape, dtype=getattr(torch, dtype), device="cpu" if keep else "meta"
                )
                tensors.append(t)
                view, size = _memory(t) if keep else None, t.numel() * t.element_size()
                for start in range(0, size, CHUNK):
                    piece = (
                        view[start : start + CHUNK]
                        if view is not None
                        else memoryview(bytearray(min(CHUNK, size - start)))
                    )
                    if f.readinto(piece) != len(piece):
                        raise CheckpointError(f"{path} is damaged: it ends early")
                    digest.update(piece, t)
            if f.read() != digest.digest():
                raise CheckpointError(f"{path} is damaged: its digest doesn't match")
    except OSError as e:
        raise CheckpointError(f"{path} can't be read: {e}") from e
    state = _Unpacked(about["tree"], about["tensors"], tensors, home).state if keep else None
    return state, digest.digest().hex()
