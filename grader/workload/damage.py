"""What may befall the files of a directory: bytes lost, bits flipped, dates changed, and all of it undone.

Only regular files below the directory are touched, never what a symbolic link leads to, and a file with
several names (hard links) once.
"""

from __future__ import annotations

import os
import random
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

EDGE = 4096  # bytes at both ends of a file, where headers, directories and digests lie
MOST_FILES = 12  # of a checkpoint that are damaged one after another
Identity = tuple[int, int, int, int]  # device, inode, size, date: another one after every write


@dataclass
class Harm:
    file: str
    how: str  # "truncate" or "flip"
    at: int
    bit: int = 0
    what: str = ""  # the value that lies there, if known


def listing(directory: str) -> dict[str, Identity]:
    """Every regular file below `directory`; links aren't followed."""
    found = {}
    if os.path.islink(directory):
        return found
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            path = os.path.join(folder, name)
            st = os.lstat(path)
            if stat.S_ISREG(st.st_mode):
                found[path] = (st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns)
    return found


def each_once(files: dict[str, Identity]) -> dict[str, Identity]:
    """One name for every file."""
    first = {identity[:2]: path for path, identity in reversed(files.items())}
    return {path: files[path] for path in files if first[files[path][:2]] == path}


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open for reading and writing, whatever its mode; its mode and dates stay as they are."""
    st = os.lstat(path)
    if not st.st_mode & stat.S_IWUSR:
        os.chmod(path, st.st_mode | stat.S_IWUSR)
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)
        os.chmod(path, st.st_mode)
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def do(harm: Harm) -> Callable[[], None]:
    """Damage the file; returns what repairs it."""
    with _opened(harm.file) as fd:
        lost = os.pread(fd, os.fstat(fd).st_size if harm.how == "truncate" else 1, harm.at)
        if harm.how == "truncate":
            os.ftruncate(fd, harm.at)
        else:
            os.pwrite(fd, bytes([lost[0] ^ 1 << harm.bit]), harm.at)

    def undo() -> None:
        with _opened(harm.file) as fd:
            os.pwrite(fd, lost, harm.at)

    return undo


def age(files: dict[str, Identity]) -> dict[Identity, Identity]:
    """Give older files newer dates; returns what they were and are."""
    changed = {}
    by_date = sorted(each_once(files).items(), key=lambda item: item[1][3])
    for n, (path, old) in enumerate(by_date):
        date = (1_700_000_000 - 60 * n) * 10**9
        os.utime(path, ns=(date, date), follow_symlinks=False)
        changed[old] = (*old[:3], date)
    return changed


# --- one file after another ---------------------------------------------------------------------------


def every_way(files: dict[str, Identity], state: dict, draw: random.Random) -> Iterator[Harm]:
    """Each of the files damaged in turn: cut short, and a bit flipped where it is easily overlooked."""
    paths = sorted((path for path, i in each_once(files).items() if i[2]), key=lambda path: (-files[path][2], path))
    if len(paths) > MOST_FILES:
        paths = paths[: MOST_FILES // 2] + paths[-MOST_FILES // 2 :]
    for number, path in enumerate(paths):
        size = files[path][2]
        cuts = [0, 1, draw.randrange(size), size - 1] if number == 0 else [0, draw.randrange(size)]
        for at in dict.fromkeys(cuts):
            if at < size:
                yield Harm(path, "truncate", at)
        with open(path, "rb") as f:
            data = f.read()
        yield from _values(path, data, state, draw)
        if number == 0:
            places = [draw.randrange(min(size, EDGE)) for _ in range(4)]
            places += [size - 1 - draw.randrange(min(size, EDGE)) for _ in range(4)]
            places += [int((n + draw.random()) / 6 * size) for n in range(6)]
            for at in places:
                yield Harm(path, "flip", at, draw.randrange(8))
        else:
            # digests and pointers are text, and a flipped high bit makes a text unreadable
            for part, bit in ((0.1, 7), (draw.uniform(0.2, 0.8), 7), (0.9, 7), (draw.random(), draw.randrange(7))):
                yield Harm(path, "flip", int(part * size), bit)


def _values(path: str, data: bytes, state: dict, draw: random.Random) -> Iterator[Harm]:
    """A low bit flipped in a value of `state`, where the file's format holds it as it is: no format objects to that."""
    for name, value in _leaves(state):
        for needle, byte in _as_bytes(value):
            begin = data.find(needle)
            if begin >= 0:
                if isinstance(value, torch.Tensor):
                    width = value.element_size()
                    item = draw.choice([0, value.numel() - 1, draw.randrange(value.numel())])
                    byte = item * width
                yield Harm(path, "flip", begin + byte, 0, name)
                break


def _leaves(value, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for n, item in enumerate(value):
            yield from _leaves(item, f"{name}.{n}")
    else:
        yield name, value


def _as_bytes(value) -> list[tuple[bytes, int]]:
    """How formats may write a value: its bytes, and the one in which a low bit can flip unnoticed."""
    if isinstance(value, torch.Tensor):
        data = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.dtype != torch.bool else b""
        return [(data, 0)] if len(data) >= 16 else []
    if isinstance(value, float) and value not in (0.9, float("inf")):
        text = repr(value).encode()
        return [(struct.pack(">d", value), 7), (struct.pack("<d", value), 0), (text, len(text) - 1)]
    if isinstance(value, str):
        return [(value.encode(), 0)]
    return []
