"""Damage to the files of a directory (bytes lost, bits flipped, dates changed), and its repair.

The grader's own process does it, to directories that student code wrote: only regular files below
the directory are touched, never what a symbolic link leads to, and a file with several names (hard
links) once.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grader.harness import scratch

EDGE = 4096  # bytes at both ends of a file, where headers, directories and digests lie
MOST_FILES = 12  # of a checkpoint that are damaged one after another
MOST_NAMES = 5000  # below one directory; a save writes a handful
LARGEST = 64 << 20  # bytes of a file that are searched
Identity = tuple[int, int, int, int]  # device, inode, size, date: another one after every write
Value = tuple[
    str, bytes, int, list[int]
]  # name, how its bytes begin, how many, and which may flip unnoticed


@dataclass
class Harm:
    file: str  # below the directory
    how: str  # "truncate" or "flip"
    at: int
    size: int  # of the file before
    bit: int = 0
    what: str = ""  # the value that lies there, if known


def listing(directory: Path, links: bool = False) -> dict[str, Identity]:
    """Every regular file below `directory`, by its path there; links aren't followed. With `links`,
    they are listed, too."""
    found: dict[str, Identity] = {}
    if directory.is_symlink():
        return found
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            path = os.path.join(folder, name)
            try:
                st = os.lstat(path)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(st.st_mode) or (links and stat.S_ISLNK(st.st_mode)):
                found[os.path.relpath(path, directory)] = (
                    st.st_dev,
                    st.st_ino,
                    st.st_size,
                    st.st_mtime_ns,
                )
            if len(found) > MOST_NAMES:
                return found
    return found


def each_once(files: dict[str, Identity]) -> dict[str, Identity]:
    """One name for every file."""
    first = {identity[:2]: path for path, identity in reversed(files.items())}
    return {path: files[path] for path in files if first[files[path][:2]] == path}


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open for reading and writing, whatever its mode; its mode and dates stay as they are."""
    st = os.lstat(path)
    if not st.st_mode & stat.S_IWUSR and stat.S_ISREG(st.st_mode):
        os.chmod(path, stat.S_IMODE(st.st_mode) | stat.S_IWUSR)
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.fchmod(fd, stat.S_IMODE(st.st_mode))
        os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))
        os.close(fd)


def do(directory: Path, harm: Harm) -> Callable[[], None]:
    """Damage the file; returns what repairs it."""
    path = directory / harm.file
    with _opened(path) as fd:
        lost = os.pread(fd, os.fstat(fd).st_size if harm.how == "truncate" else 1, harm.at)
        if harm.how == "truncate":
            os.ftruncate(fd, harm.at)
        else:
            os.pwrite(fd, bytes([lost[0] ^ 1 << harm.bit]), harm.at)

    def undo() -> None:
        with _opened(path) as fd:
            os.pwrite(fd, lost, harm.at)

    return undo


def age(directory: Path) -> None:
    """Give older files newer dates."""
    by_date = sorted(each_once(listing(directory)).items(), key=lambda item: item[1][3])
    for n, (path, _) in enumerate(by_date):
        date = (1_700_000_000 - 60 * n) * 10**9
        os.utime(directory / path, ns=(date, date), follow_symlinks=False)


# --- copies ---------------------------------------------------------------------------------------


def copy(directory: Path, to: Path) -> None:
    """Copy the directory with its dates, its links, and its files of several names."""
    first: dict[tuple[int, int], Path] = {}
    to.mkdir(parents=True)
    owned_alike(directory, to)
    for folder, folders, names in os.walk(directory):
        here = to / os.path.relpath(folder, directory)
        for name in folders:
            if not os.path.islink(os.path.join(folder, name)):
                (here / name).mkdir()
                owned_alike(directory, here / name)
        for name in (*names, *(n for n in folders if os.path.islink(os.path.join(folder, n)))):
            path, st = os.path.join(folder, name), os.lstat(os.path.join(folder, name))
            if (st.st_dev, st.st_ino) in first:
                os.link(first[st.st_dev, st.st_ino], here / name, follow_symlinks=False)
            elif stat.S_ISREG(st.st_mode) or stat.S_ISLNK(st.st_mode):
                shutil.copy2(path, here / name, follow_symlinks=False)
                owned_alike(directory, here / name)
                first[st.st_dev, st.st_ino] = here / name


def owned_alike(directory: Path, path: Path) -> None:
    """Give `path` to the user that the directory belongs to: as root, lives run under an id of
    their own."""
    if os.geteuid() == 0:
        st = os.lstat(directory)
        os.chown(path, st.st_uid, st.st_gid, follow_symlinks=False)


def knows_its_place(directory: Path) -> bool:
    """A file or a link in it holds its absolute path: a copy would lead back to it."""
    place = os.fsencode(directory)
    for path in listing(directory, links=True):
        at = directory / path
        held = os.fsencode(os.readlink(at)) if at.is_symlink() else scratch.read(at, LARGEST)
        if place in held:
            return True
    return False


# --- one file after another -----------------------------------------------------------------------


def all_at_once(files: dict[str, Identity], how: str, to: float) -> list[Harm]:
    """Every file cut short, or with a flipped bit, at this share of its length."""
    out = []
    for path, (_, _, size, _) in each_once(files).items():
        if size:
            at = min(int(to * size), size - 1)
            out.append(Harm(path, how, at, size, at % 8))
    return out


def every_way(
    directory: Path, files: dict[str, Identity], values: list[Value], draw: random.Random
) -> Iterator[Harm]:
    """Each of the files damaged in turn: cut short, and a bit flipped where it is easily
    overlooked."""
    paths = sorted(
        (path for path, i in each_once(files).items() if i[2]),
        key=lambda path: (-files[path][2], path),
    )
    if len(paths) > MOST_FILES:
        paths = paths[: MOST_FILES // 2] + paths[-MOST_FILES // 2 :]
    for number, path in enumerate(paths):
        size = files[path][2]
        cuts = [0, 1, draw.randrange(size), size - 1] if number == 0 else [0, draw.randrange(size)]
        for at in dict.fromkeys(cuts):
            if at < size:
                yield Harm(path, "truncate", at, size)
        yield from _in_values(path, scratch.read(directory / path, LARGEST), values, draw)
        if number == 0:
            places = [draw.randrange(min(size, EDGE)) for _ in range(4)]
            places += [size - 1 - draw.randrange(min(size, EDGE)) for _ in range(4)]
            places += [int((n + draw.random()) / 6 * size) for n in range(6)]
            for at in places:
                yield Harm(path, "flip", at, size, draw.randrange(8))
        else:
            # digests and pointers are text, and a flipped high bit makes a text unreadable
            for part, bit in (
                (0.1, 7),
                (draw.uniform(0.2, 0.8), 7),
                (0.9, 7),
                (draw.random(), draw.randrange(7)),
            ):
                yield Harm(path, "flip", int(part * size), size, bit)


def far_apart(files: dict[str, Identity], number: int, draw: random.Random) -> Iterator[Harm]:
    """Single flipped bits in large files (a digest may cover only part of them): spread evenly, and
    denser toward both ends.
    """
    for path, (_, _, size, _) in each_once(files).items():
        if size > EDGE:
            near = (
                [draw.randrange(min(size, 1 << bits)) for bits in (12, 14, 16)]
                if size < 1 << 20
                else []
            )
            far = [size - 1 - draw.randrange(min(size, 1 << bits)) for bits in (7, 12, 16, 18)]
            even = [int((n + draw.random()) / number * size) for n in range(number)]
            for at in (*near, *far, *even):
                yield Harm(path, "flip", at, size, draw.randrange(8))


def _in_values(path: str, data: bytes, values: list[Value], draw: random.Random) -> Iterator[Harm]:
    """A low bit flipped in a value of the state, where the file's format holds it as it is: no
    format objects to that."""
    found = set()
    for name, begins, length, places in values:
        at = data.find(begins)
        if at >= 0 and name not in found and at + length <= len(data):
            found.add(name)
            yield Harm(path, "flip", at + draw.choice(places), len(data), 0, name)
