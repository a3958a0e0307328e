"""Records what processes do to a directory: each of their calls, as an operation of operations.py.

What a call did is taken from the kernel and not from its arguments: names by listing the directory
again, bytes by reading them back, offsets from /proc. So links, relative paths, appending, several
threads and several processes need no special rules. At the end, replaying the record from the start
must give what is on the disk.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from grader.crash import enumeration
from grader.crash.directory import Directory, File, Incomplete
from grader.crash.operations import (
    Disk,
    Mark,
    Names,
    Note,
    Op,
    Sync,
    SyncAll,
    Truncate,
    Write,
)
from grader.crash.outside import FileId
from grader.crash.syscalls import FD_FIRST, FD_THIRD, FICLONE, FICLONERANGE, MADE, PATHS
from grader.crash.tracer import HOLD, PASS, Ended, Tracee, Tracer, Unavailable

__all__ = ["Incomplete", "Record", "Unavailable", "mark", "record"]

MARKS = 0x7FF0FACE  # a descriptor that no process has: what is written to it is for the recorder
LARGEST = 256 << 20  # bytes of writes that a record may hold


def mark(kind: str, save: int, digest: str = "") -> None:
    """Tell the recorder, from a recorded process, how far it has got."""
    with suppress(OSError):
        os.write(MARKS, json.dumps({"kind": kind, "save": save, "digest": digest}).encode())


@dataclass
class Record:
    """What processes did to a directory."""

    disk: Disk
    ops: list[Op]
    # of each process, in the order in which they were given
    ended: list[Ended] = field(default_factory=list)
    calls: int = 0  # that could have been refused
    outside: set[FileId] = field(
        default_factory=set
    )  # files that were written in other directories


class Recorder:
    """Turns each call of the recorded processes into operations on the directory."""

    def __init__(self, root: Path, refuse: int | None = None):
        self.directory = Directory(root)
        self.refuse = refuse
        self.calls = 0
        self.ops: list[Op] = []
        self.blind = ""
        # inode number -> our own descriptor, for files that are written through memory
        self.mapped: dict[int, int] = {}
        self.size = 0
        self.outside: set[FileId] = set()
        self._fresh = False

    # --- what there is
    # --- calls

    def entry(self, tracee: Tracee) -> str | int:
        call, args = tracee.call, tracee.args
        if call == "write" and args[0] & 0xFFFFFFFF == MARKS:
            self._refresh(tracee)
            self._add(tracee, Mark("", "", **json.loads(tracee.bytes(args[1], args[2]))))
            return PASS
        if call in ("io_setup", "io_uring_setup"):
            self.blind = self.blind or f"{call}: what it writes isn't seen"
            return PASS
        if call in ("sync", "syncfs"):
            return HOLD
        if call == "msync":
            return HOLD
        if call == "mmap":
            return HOLD if args[2] & mmap.PROT_WRITE and self._watched(tracee, args[4]) else PASS
        if call in FD_FIRST | FD_THIRD:
            if not self._watched(tracee, args[2 if call in FD_THIRD else 0]):
                return PASS
            if call == "ioctl" and args[1] not in (FICLONE, FICLONERANGE):
                return PASS
        elif call in ("fsync", "fdatasync"):
            st = tracee.stat(args[0])
            if (
                st is None
                or st.st_ino not in self.directory.ids
                or st.st_dev not in self.directory.devices
            ):
                return PASS
        elif call in MADE:
            path = self._path(tracee, 0)
            self._fresh = not os.path.lexists(path)
            return HOLD
        if self._refusable(tracee):
            self.calls += 1
            if self.calls == self.refuse:
                return errno.EIO if call in ("fsync", "fdatasync") else errno.ENOSPC
        return HOLD

    def _refusable(self, tracee: Tracee) -> bool:
        return tracee.call in FD_FIRST | FD_THIRD | {
            "fsync",
            "fdatasync",
        } and tracee.call not in ("ioctl", "ftruncate")

    def exit(self, tracee: Tracee, result: int) -> None:
        call, args = tracee.call, tracee.args
        self._refresh(tracee)
        if call in ("fsync", "fdatasync"):
            st = tracee.stat(args[0])
            if st is not None and st.st_ino in self.directory.ids:
                self._synced(tracee, st.st_ino, result)
        elif result < 0:
            self._failed(tracee, result)
        elif call in MADE:
            self._opened(tracee, result)
        elif call in ("write", "writev", "pwrite64", "pwritev", "pwritev2"):
            self._wrote(tracee, result)
        elif call in FD_FIRST | FD_THIRD:
            self._changed(tracee, args[2 if call in FD_THIRD else 0])
        elif call == "truncate":
            self._changed_at(tracee, self._path(tracee, 0))
        elif call in ("sync", "syncfs"):
            st = tracee.stat(args[0]) if call == "syncfs" else None
            if st is None or st.st_dev in self.directory.devices:
                self._add(tracee, SyncAll(f"{call}()"))
        elif call == "mmap":
            st = tracee.stat(args[4])
            if st is not None and st.st_ino not in self.mapped:
                self.mapped[st.st_ino] = tracee.open(args[4])
        elif call == "msync":
            if args[2] & 4 and (ino := tracee.mapped_at(args[0])) in self.directory.known:
                self._synced(tracee, ino, 0, "msync")
        else:
            if call.startswith(("mkdir", "symlink")):
                # a new one; its number may have been another's
                self.directory.forget(os.lstat(self._path(tracee, 0)).st_ino)
            self._renamed(tracee)

    # --- what they did

    def _add(self, tracee: Tracee, op: Op) -> None:
        op.who = tracee.label
        last = self.ops[-1] if self.ops else None
        if (
            isinstance(op, Write)
            and isinstance(last, Write)
            and (last.inode, last.who, last.text) == (op.inode, op.who, op.text)
            and last.offset + len(last.data) == op.offset
        ):
            last.parts.append(len(last.data) + len(op.data))
            last.data += op.data
        else:
            self.ops.append(op)

    def _failed(self, tracee: Tracee, result: int) -> None:
        error = os.strerror(-result)
        if tracee.call in PATHS and tracee.call not in MADE:
            shown = self._call(tracee)
            if shown.startswith("mkdir") and -result == errno.EEXIST:
                return  # "it shall exist": it does
            if any(
                self.directory.holds(self._path(tracee, n)) for n in range(len(PATHS[tracee.call]))
            ):
                self._add(tracee, Note(f"{shown} fails: {error}"))
        elif tracee.call in FD_FIRST | FD_THIRD:
            st = tracee.stat(tracee.args[2 if tracee.call in FD_THIRD else 0])
            if st is not None and st.st_ino in self.directory.ids:
                self._add(
                    tracee,
                    Note(f"write to {self.directory.name_of(st.st_ino)} fails: {error}"),
                )

    def _opened(self, tracee: Tracee, fd: int) -> None:
        st = tracee.stat(fd)
        if st is None or not stat.S_ISREG(st.st_mode):
            return
        path = os.readlink(f"/proc/{tracee.pid}/fd/{fd}")
        if not self.directory.holds(path):
            self.outside.add((st.st_dev, st.st_ino))
        if st.st_dev not in self.directory.devices:
            return
        if st.st_size == 0 and (self._fresh or st.st_nlink == 0):
            self.directory.forget(st.st_ino)  # a new file; its number may have been another's
            inode = self.directory.number(st.st_ino)
            self.directory.known[st.st_ino] = File(inode, bytearray())
            self.directory.disk.contents[inode] = b""
            self.directory.disk.names[inode] = self.directory.path_below(path)
        elif st.st_ino not in self.directory.known:
            if not self.directory.holds(path) and st.st_size > LARGEST:
                return
            self.directory.learn(path, st)
        file = self.directory.known[st.st_ino]
        if len(file.content) > st.st_size:
            self._add(
                tracee,
                Truncate(
                    f"open {self.directory.name_of(st.st_ino)} (emptied)",
                    inode=file.id,
                    size=st.st_size,
                ),
            )
            del file.content[st.st_size :]
        if self.directory.holds(path):
            self._renamed(tracee, f"create {self.directory.path_below(path)}")

    def _wrote(self, tracee: Tracee, n: int) -> None:
        if n == 0:
            return
        fd = tracee.args[0]
        st = tracee.stat(fd)
        assert st  # it is one of those that are watched
        file = self.directory.known[st.st_ino]
        info = tracee.info(fd)
        if (
            tracee.call in ("pwrite64", "pwritev", "pwritev2")
            and not info["flags"] & os.O_APPEND
            and tracee.args[3] != (1 << 64) - 1
        ):
            offset = tracee.args[3]
        elif tracee.call in ("pwrite64", "pwritev"):
            offset = st.st_size - n  # appended, whatever its offset says
        else:
            offset = info["pos"] - n
        ours = tracee.open(fd)
        try:
            data = os.pread(ours, n, offset)
        finally:
            os.close(ours)
        self._put(tracee, file, offset, data)
        if info["flags"] & os.O_DSYNC:
            self._synced(tracee, st.st_ino, 0, "O_SYNC write")

    def _put(self, tracee: Tracee, file: File, offset: int, data: bytes) -> None:
        self.size += len(data)
        if self.size > LARGEST:
            raise Incomplete(
                f"more than {LARGEST >> 20} MiB were written; try it with a smaller state"
            )
        if len(file.content) < offset:
            file.content.extend(bytes(offset - len(file.content)))
        file.content[offset : offset + len(data)] = data
        self._add(
            tracee,
            Write(
                f"write {self.directory.path_of(file)}",
                inode=file.id,
                offset=offset,
                data=data,
                parts=[len(data)],
            ),
        )

    def _changed(self, tracee: Tracee, fd: int) -> None:
        ours = tracee.open(fd)
        try:
            self._compare(tracee, self.directory.known[os.fstat(ours).st_ino], ours)
        finally:
            os.close(ours)

    def _changed_at(self, tracee: Tracee, path: str) -> None:
        try:
            ours = os.open(path, os.O_RDONLY)
        except OSError:
            return
        try:
            st = os.fstat(ours)
            if stat.S_ISREG(st.st_mode) and self.directory.watches(st):
                self._compare(tracee, self.directory.known[st.st_ino], ours)
        finally:
            os.close(ours)

    def _compare(self, tracee: Tracee, file: File, ours: int) -> None:
        """Bring a file up to date with the disk."""
        size = os.fstat(ours).st_size
        if size > LARGEST:
            raise Incomplete(
                f"{self.directory.disk.names.get(file.id, 'a file')} has more than "
                f"{LARGEST >> 20} MiB; try it with a smaller state"
            )
        if size < len(file.content) or (
            size > len(file.content) and tracee.call in ("ftruncate", "truncate")
        ):
            self._add(
                tracee,
                Truncate(
                    f"truncate {self.directory.path_of(file)} to {size}",
                    inode=file.id,
                    size=size,
                ),
            )
            del file.content[size:]
            file.content.extend(bytes(size - len(file.content)))
        now = bytearray()
        while chunk := os.pread(ours, 1 << 20, len(now)):
            now += chunk
        first = next(
            (
                n
                for n in range(0, len(now), 4096)
                if now[n : n + 4096] != file.content[n : n + 4096]
            ),
            None,
        )
        if first is not None:
            last = max(
                n
                for n in range(first, len(now), 4096)
                if now[n : n + 4096] != file.content[n : n + 4096]
            )
            self._put(tracee, file, first, bytes(now[first : last + 4096]))

    def _refresh(self, tracee: Tracee) -> None:
        """What has been written to files through memory since the last call."""
        for ino, ours in self.mapped.items():
            if ino in self.directory.known:
                self._compare(tracee, self.directory.known[ino], ours)

    def _synced(self, tracee: Tracee, ino: int, result: int, call: str = "fsync") -> None:
        if tracee.call == "fdatasync":
            call = "fdatasync"
        text = f"{call} {self.directory.name_of(ino)}" + (
            f" fails: {os.strerror(-result)}" if result < 0 else ""
        )
        self._add(tracee, Sync(text, inode=self.directory.ids[ino], worked=result >= 0))

    def _renamed(self, tracee: Tracee, text: str | None = None) -> None:
        if changes := self.directory.changes():
            self._add(tracee, Names(text or self._call(tracee), changes=changes))

    # --- names

    def _watched(self, tracee: Tracee, fd: int) -> bool:
        st = tracee.stat(fd)
        return st is not None and self.directory.watches(st)

    def _path(self, tracee: Tracee, which: int) -> str:
        directory, path = PATHS[tracee.call][which]
        return tracee.path(tracee.args[path], None if directory is None else tracee.args[directory])

    def _call(self, tracee: Tracee) -> str:
        verb = tracee.call.removesuffix("2").removesuffix("at")
        if tracee.call == "unlinkat" and tracee.args[2] & 0x200:
            verb = "rmdir"
        paths = (
            self.directory.path_below(self._path(tracee, n)) for n in range(len(PATHS[tracee.call]))
        )
        return f"{verb} {' -> '.join(paths)}"

    # --- the end

    def check(self) -> None:
        """That nothing was missed: replaying the operations gives what is on the disk."""
        self._refresh(Tracee(0, ""))
        if self.blind:
            raise Incomplete(self.blind)
        for path, content in enumeration.final(self.directory.disk, self.ops).items():
            if not isinstance(content, bytes):
                continue
            try:
                there = Path(self.directory.root, path).read_bytes()
            except OSError as e:
                raise Incomplete(f"{path} is gone ({e.strerror})") from e
            if there != content:
                raise Incomplete(f"{path} was written in a way that wasn't seen")

    def close(self) -> None:
        for ours in self.mapped.values():
            os.close(ours)
        self.mapped.clear()


def record(
    root: Path,
    programs: Mapping[str, Callable[[], None]],
    seconds: float,
    refuse: int | None = None,
) -> Record:
    """Run each of `programs` in its own process (label: what it does) and record what they do
    to `root`.

    refuse   k: the k-th write or sync is answered with an error (ENOSPC, EIO), and not made
    Raises   Unavailable where processes can't be traced; Incomplete if something escaped the
             record.
    """
    recorder = Recorder(root, refuse)
    tracer = Tracer(recorder.entry, recorder.exit)
    try:
        pids = [tracer.spawn(label, program) for label, program in programs.items()]
        ended = tracer.run(seconds)
        if recorder.directory.scan() != recorder.directory.entries:
            raise Incomplete("names in the directory changed in a way that wasn't seen")
        recorder.check()
    finally:
        tracer.abort()
        recorder.close()
    return Record(
        recorder.directory.disk,
        recorder.ops,
        [ended[pid] for pid in pids],
        recorder.calls,
        recorder.outside,
    )
