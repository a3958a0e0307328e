"""A sandbox's own root directory, built of bind mounts (linux/mount.h)."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Any

from grader.harness.linux import CLONE_NEWNS, checked, libc
from grader.harness.readable_paths import DEVICES, GRADER

INODES = 50_000  # of /tmp and /dev/shm, each: empty files need memory, too

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(platform.machine())


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [text.encode() if text is not None else None for text in (source, target, kind)]
    checked(libc.mount(*words, ctypes.c_ulong(flags), data.encode()), f"mount {target}")


def _set_attributes(path: str, attributes: int) -> None:
    given = struct.pack("QQQQ", attributes, 0, 0, 0)
    number = ctypes.c_long(SYS_MOUNT_SETATTR)
    checked(
        libc.syscall(
            number, AT_FDCWD, path.encode(), AT_RECURSIVE, given, ctypes.c_size_t(len(given))
        ),
        f"mount {path}",
    )


def enter_new_root(job: dict[str, Any], reads: list[str]) -> None:
    if SYS_PIVOT_ROOT is None:
        raise OSError(errno.ENOSYS, f"pivot_root on {platform.machine()}")
    checked(libc.unshare(CLONE_NEWNS), "mount namespace")
    root, mask = job["root"], os.umask(0o022)
    options = f"mode=1777,size={job['memory']},nr_inodes={INODES}"
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=4m")
    for name in ("tmp", "dev", "dev/shm", "proc"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
        if name in ("tmp", "dev/shm"):
            mount("tmpfs", f"{root}/{name}", "tmpfs", MS_NOSUID | MS_NODEV, options)
    for path in reads:
        if path == str(GRADER) or (str(GRADER) not in job["grader"] and path in job["grader"]):
            continue  # it is mounted below
        _bind(path, root, read_only=True)
    _cover_grader(job, root)
    for path in job["writable"]:
        _bind(path, root)
    for name in DEVICES:
        if os.path.exists(f"/dev/{name}"):
            _bind(f"/dev/{name}", root)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ):
        os.symlink(target, f"{root}/dev/{name}")
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.umask(mask)
    os.chdir(root)
    number = ctypes.c_long(SYS_PIVOT_ROOT)
    # the old root now covers the new one
    checked(libc.syscall(number, b".", b"."), "pivot_root")
    checked(libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


def _cover_grader(job: dict[str, Any], root: str) -> None:
    """Show only the parts of the grader that the job names, even inside a readable folder."""
    if str(GRADER) in job["grader"]:
        return _bind(str(GRADER), root, read_only=True)
    os.makedirs(f"{root}{GRADER}", exist_ok=True)
    mount("tmpfs", f"{root}{GRADER}", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    for piece in job["grader"]:
        _bind(piece, root, read_only=True)
    return None


def _bind(path: str, root: str, read_only: bool = False) -> None:
    target = root + path
    if os.path.islink(path):
        if not os.path.lexists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(os.readlink(path), target)
        return
    if not os.path.lexists(target):
        if os.path.isdir(path):
            os.makedirs(target)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(path, target, None, MS_BIND | MS_REC)
    _set_attributes(
        target, MOUNT_ATTR_NOSUID | (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV if read_only else 0)
    )
