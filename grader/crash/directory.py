"""The directory that is recorded, as it is now: its inodes, their names and their contents."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from grader.crash import operations
from grader.crash.operations import ROOT, Disk


class Incomplete(Exception):
    """Something happened to the directory that the record doesn't hold; the message says what."""


@dataclass
class File:
    """An inode, as it is now."""

    id: int
    content: bytearray


class Directory:
    """Files, directories and links below `root`. Inodes get our own numbers: the kernel gives the
    number of a deleted file to a new one.
    """

    def __init__(self, root: Path):
        self.root = os.path.realpath(root)
        st = os.lstat(self.root)
        # an overlay may give files another number than directories
        with tempfile.TemporaryFile(dir=self.root) as probe:
            self.devices = {st.st_dev, os.fstat(probe.fileno()).st_dev}
        self.disk = Disk()  # as it was when the recording began
        self.known: dict[int, File] = {}  # by inode number
        self.ids = {st.st_ino: ROOT}  # inode number -> ours
        self._next = ROOT + 1
        self.entries = self.scan()
        # as files are called now
        self.names = {
            inode: path for path, inode in operations.paths(self.entries, self.disk).items()
        }
        self.disk.before = dict(self.entries)

    def number(self, ino: int) -> int:
        if ino not in self.ids:
            self.ids[ino] = self._next
            self._next += 1
        return self.ids[ino]

    def learn(self, path: str, st: os.stat_result) -> None:
        """An inode that existed before the recording: as it is, and durable."""
        inode = self.number(st.st_ino)
        if stat.S_ISDIR(st.st_mode):
            self.disk.directories.add(inode)
        elif stat.S_ISLNK(st.st_mode):
            self.disk.links[inode] = os.readlink(path)
        elif stat.S_ISREG(st.st_mode):
            content = Path(path).read_bytes()
            self.disk.contents[inode] = content
            self.known[st.st_ino] = File(inode, bytearray(content))
        self.disk.names.setdefault(inode, self.path_below(path))

    def scan(self) -> operations.Entries:
        found: operations.Entries = {}

        def walk(folder: str, inode: int) -> None:
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                try:
                    st = os.lstat(path)
                except FileNotFoundError:
                    continue
                if st.st_dev not in self.devices:
                    raise Incomplete(f"{self.path_below(path)} is on another file system")
                if not (
                    stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode) or stat.S_ISLNK(st.st_mode)
                ):
                    raise Incomplete(
                        f"{self.path_below(path)} is neither a file, a directory nor a link"
                    )
                if st.st_ino not in self.ids:
                    self.learn(path, st)
                found[inode, name] = self.number(st.st_ino)
                if stat.S_ISDIR(st.st_mode):
                    walk(path, found[inode, name])

        walk(self.root, ROOT)
        return found

    def changes(self) -> list[tuple[int, str, int | None, int | None]]:
        """(folder, name, inode before, inode now) of each name that changed since the last call."""
        now, was = self.scan(), self.entries
        keys = [*(k for k in was if now.get(k) != was[k]), *(k for k in now if k not in was)]
        found = [(*key, was.get(key), now.get(key)) for key in keys]
        if not found:
            return []
        self.entries = now
        self.names |= {inode: path for path, inode in operations.paths(now, self.disk).items()}
        for inode in {before for _, _, before, _ in found if before is not None} - set(
            now.values()
        ):
            # a directory or link that is gone; a file may be open still
            for ino in [i for i, n in self.ids.items() if n == inode and i not in self.known]:
                del self.ids[ino]
        return found

    def watches(self, st: os.stat_result) -> bool:
        """Is it a file whose content is recorded?"""
        return st.st_dev in self.devices and st.st_ino in self.known

    def path_below(self, path: str) -> str:
        real = self.real_path(path)
        if real == self.root:
            return "."
        return (
            real[len(self.root) + 1 :]
            if real.startswith(self.root + "/")
            else f".../{os.path.basename(path)}"
        )

    def real_path(self, path: str) -> str:
        return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))

    def forget(self, ino: int) -> None:
        self.ids.pop(ino, None)
        self.known.pop(ino, None)

    def holds(self, path: str) -> bool:
        return (
            self.real_path(path).startswith(self.root + "/") or os.path.realpath(path) == self.root
        )

    def path_of(self, file: File) -> str:
        return self.names.get(file.id) or self.disk.names[file.id]

    def name_of(self, ino: int) -> str:
        """What it is called now, or was."""
        inode = self.ids[ino]
        return (
            "the directory"
            if inode == ROOT
            else self.names.get(inode) or self.disk.names.get(inode, "a file without a name")
        )
