"""Other people's files next to a submission's own, with similar names: the submission must not
read, count or delete them, or trip over them.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from grader.checks.directory_damage import owned_alike
from grader.harness import scratch

LARGEST = 64 << 20  # bytes of a file that are compared
MOST = 3  # most of the submission's own names that others imitate
PLAIN = ("notes.tmp", "checkpoint_final.pt", "best.bak", "latest.txt")
SYSTEM = (
    ".nfs000000000012ab3400000007",
    ".DS_Store",
)  # what an NFS server and a Mac leave in any folder


@dataclass(frozen=True)
class Stranger:
    """Something that others own: a file's bytes, a link's target, or neither for a folder."""

    content: bytes | None = None
    target: str | None = None

    def stands(self, path: Path) -> bool:
        try:
            if self.target is not None:
                return os.readlink(path) == self.target
            if self.content is not None:
                return scratch.read(path, LARGEST) == self.content
            return path.is_dir() and not path.is_symlink()
        except OSError:
            return False


def put(directory: Path, own: list[str], draw: random.Random) -> dict[str, Stranger]:
    """Put strangers next to the files `own` (paths below the directory)."""
    found: dict[str, Stranger] = {}
    names = sorted(
        {path.split("/")[0] for path in own},
        key=lambda name: os.lstat(directory / name).st_mtime_ns,
    )
    chosen = sorted(draw.sample(names, min(MOST, len(names))), key=names.index) if names else []
    for name in chosen:
        older = next(
            (n for n in names if (directory / n).is_dir() == (directory / name).is_dir()), name
        )
        stem, suffix = os.path.splitext(name)
        for copy in (f"{name}.bak", f"{stem}_final{suffix}"):
            _copied(directory, older, copy, found)
        found[f"{name}.link"] = Stranger(target=name)
        found[f"{name}.orig"] = Stranger(target="nowhere")
        found[f"{name}.old"] = Stranger()
        found[f"{name}.old/readme"] = Stranger(b"of the run before\n")
    for name in PLAIN:
        found.setdefault(name, Stranger(b"learning rate 3e-4 was too high\n"))
    folders = {os.path.dirname(path) for path in own} | {""}
    for folder in sorted(folders):
        for name in SYSTEM:
            found[os.path.join(folder, name)] = Stranger(b"\0\0\0\1Bud1")
    for path, stranger in found.items():
        at = directory / path
        if stranger.stands(at):  # copied already
            owned_alike(directory, at)
            continue
        if stranger.target is not None:
            at.symlink_to(stranger.target)
        elif stranger.content is None:
            at.mkdir()
        else:
            at.write_bytes(stranger.content)
        owned_alike(directory, at)
    return found


def _copied(directory: Path, name: str, copy: str, found: dict[str, Stranger]) -> None:
    """A copy of what the submission wrote as `name`, whole: it would pass for a checkpoint."""
    source = directory / name
    if source.is_symlink() or os.path.lexists(directory / copy):
        return
    if source.is_dir():
        shutil.copytree(source, directory / copy, symlinks=True)
        found[copy] = Stranger()
        for path in (directory / copy).rglob("*"):
            if path.is_file() and not path.is_symlink():
                found[str(path.relative_to(directory))] = Stranger(path.read_bytes())
    else:
        shutil.copy(source, directory / copy)
        found[copy] = Stranger(source.read_bytes())


def lost(directory: Path, others: dict[str, Stranger]) -> list[str]:
    """Those that changed. What was in one of the submission's own folders may go with it."""
    return [
        path
        for path, stranger in others.items()
        if (os.path.lexists((directory / path).parent) or os.path.dirname(path) in others)
        and not stranger.stands(directory / path)
    ]
