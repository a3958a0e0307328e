"""Checkpoints for task 4.1, and the damage that is done to them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

NAMES = (
    "state.json",
    "optimizer.bin",
    "rng",
    "model-00001-of-00002.safetensors",
    "data loader.json",
)


def checkpoint(
    directory: Path, draw: Random, step: int, files: dict[str, bytes] | None = None
) -> Path:
    """Of two to four files, state.json among them."""
    if files is None:
        names = ["state.json", *draw.sample(NAMES[1:], draw.randint(1, 3))]
        files = {name: draw.randbytes(draw.randint(200, 6000)) for name in names}
    folder = directory / f"step-{step}"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    said = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()}
    (folder / "manifest.json").write_text(json.dumps({"step": step, "files": said}))
    return folder


def several(directory: Path, draw: Random, *steps: int) -> None:
    """Written in any order, so that dates say nothing."""
    order = draw.sample(steps, len(steps))
    for n, step in enumerate(order):
        os.utime(checkpoint(directory, draw, step), (1e9 + n, 1e9 + n))


def copy(folder: Path, other: Path) -> None:
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[Path, Random], object]] = {
    "cut short": lambda f, draw: f.write_bytes(
        f.read_bytes()[: draw.randint(1, f.stat().st_size - 1)]
    ),
    "with its first bit flipped": lambda f, draw: f.write_bytes(_flip(f.read_bytes(), 0)),
    "with one bit flipped": lambda f, draw: f.write_bytes(
        _flip(f.read_bytes(), draw.randrange(f.stat().st_size))
    ),
    "with its last byte changed": lambda f, draw: f.write_bytes(
        _flip(f.read_bytes(), f.stat().st_size - 1)
    ),
    "gone": lambda f, draw: f.unlink(),
    "empty": lambda f, draw: f.write_bytes(b""),
    "longer than it was": lambda f, draw: f.write_bytes(f.read_bytes() + b"\0"),
    "zeros in its second half": lambda f, draw: f.write_bytes(
        f.read_bytes()[: f.stat().st_size // 2].ljust(f.stat().st_size, b"\0")
    ),
    # two calls, for what they do
    "a folder": lambda f, draw: (f.unlink(), f.mkdir()),  # type: ignore[func-returns-value]
}


def damage(folder: Path, draw: Random, how: str, file: str | None = None) -> None:
    files = sorted(f.name for f in folder.iterdir() if f.name != "manifest.json")
    DAMAGE[how](folder / (file or draw.choice(files)), draw)
