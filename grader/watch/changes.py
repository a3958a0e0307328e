"""When a file of a submission was saved.

A file-system event is only a reason to look. What counts is each file's time and size. So one save
with five events counts once. A lost event loses no save, because the files are checked every second
anyway.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import watchfiles

# ms
QUIET = 30  # without an event: the editor has finished
AT_MOST = 300  # to wait for that
LOOK = 1000  # between looks without an event
POLL = 300  # between looks where no events arrive
MAX_ENTRIES = 10_000

# whose changes by another machine, or by the host, are no events here
NETWORK = (
    *("nfs", "cifs", "smb", "afs", "9p", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "webdav"),
    *("fuse.sshfs", "vboxsf", "vmhgfs", "fuse.vmhgfs", "virtiofs", "prl_fs", "osxfs", "fuse.grpc"),
)

State = dict[str, tuple[int, int, int]]


def state(folder: Path) -> State | None:
    """Name -> time, size and inode of each file; None if there is no such folder."""
    if not folder.is_dir():
        return None
    found: State = {}
    seen = 0
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _skipped(name)]
        seen += len(folders) + len(names)
        if seen > MAX_ENTRIES:
            break
        for name in names:
            path = os.path.join(top, name)
            try:
                what = os.lstat(path)
            except OSError:
                continue  # it is gone
            if not _skipped(name):
                found[path] = (what.st_mtime_ns, what.st_size, what.st_ino)
    return found


def _skipped(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def network(folder: Path) -> str:
    """The kind of network file system that `folder` is on; empty for a local one."""
    path, kind, longest = os.path.realpath(folder), "", -1
    for mount in psutil.disk_partitions(all=True):
        below = mount.mountpoint.rstrip("/") + "/"
        if f"{path}/".startswith(below) and len(below) >= longest:
            kind, longest = mount.fstype, len(below)
    return kind if kind.startswith(NETWORK) else ""


class Changes:
    """Calls `saved` from its own thread whenever the files in `folder` differ from before."""

    def __init__(self, folder: Path, saved: Callable[[], None], poll: bool = False):
        self.folder, self.poll = folder, poll
        self._saved = saved
        self._state = state(folder)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Changes:
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except Exception:  # no folder, no permission, or no watches left (their type is Rust's)
                self._look()
                self._stop.wait(POLL / 1000)

    def _follow(self) -> None:
        """Until the folder is replaced by another one, as `grade reset` does."""
        inode = os.stat(self.folder).st_ino
        for _ in watchfiles.watch(
            self.folder,
            watch_filter=None,
            debounce=AT_MOST,
            step=QUIET,
            rust_timeout=LOOK,
            yield_on_timeout=True,
            stop_event=self._stop,
            force_polling=True if self.poll else None,
            poll_delay_ms=POLL,
            raise_interrupt=False,
        ):
            self._look()
            if os.stat(self.folder).st_ino != inode:
                return

    def _look(self) -> None:
        now = state(self.folder)
        if now != self._state:
            self._state = now
            self._saved()
