"""What a life may see and touch: torch, the interpreter and its own folders, and nothing else.

    namespaces  a root of its own, built of bind mounts; private /tmp, /dev/shm, IPC, network and
                process table; as root, a user id of its own. Needs root or user namespaces (Linux
                5.12).
    landlock    the same files by path, and no signals to others (Linux 5.13; signals from 6.12 on).
                /tmp isn't private and can't be written to. /dev/shm is shared.
    none        no restrictions: for trusted submissions

The life's own process sets all this up before it runs any student code, and can't undo it. That
needs no root, no helper program and no container runtime. System calls go through ctypes; their
numbers and flags come from linux/mount.h, linux/landlock.h and linux/sched.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import random
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from grader.errors import UsageError
from grader.processes import die_with_parent

NAMESPACES, LANDLOCK, NONE = "namespaces", "landlock", "none"
POLICIES = ("auto", "require", "off")

GRADER = Path(__file__).resolve().parent.parent
# the parts of the grader that a life with student code may see
INSIDE = ("__init__.py", "errors.py", "processes.py", "workload", "harness", "crash")

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "nsswitch.conf",
    "passwd",
    "group",
    "hosts",
    "alternatives",
)
OTHER = ("/sys/devices/system/cpu", "/sys/devices/system/node")
NETWORK = ("/sys/class/net", "/sys/bus/pci", "/sys/devices")  # gloo looks for interfaces there
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
INODES = 50_000  # of /tmp and /dev/shm, each: empty files need memory, too
UIDS = range(50_000, 60_000)  # as root, lives run under these: no users of a usual system

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x0002_0000, 0x0400_0000, 0x0800_0000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x1000_0000, 0x2000_0000, 0x4000_0000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(platform.machine())
SYS_LANDLOCK_CREATE_RULESET, SYS_LANDLOCK_ADD_RULE, SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446
# these keep something for later processes: add_key, request_key, keyctl; without namespaces also
# shmget, semget, msgget, mq_open
KEEPING_CALLS = {
    "x86_64": (248, 249, 250, 29, 64, 68, 240),
    "aarch64": (217, 218, 219, 194, 190, 186, 180),
}
AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = (
    22,
    2,
    0x7FFF_0000,
    0x0005_0000,
)
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 24, 38
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


# --- choosing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sandbox:
    """The kind of sandbox that a grading's lives get, and their user id (None: the caller's)."""

    kind: str
    uid: int | None = None

    def job(
        self,
        readable: Sequence[object] = (),
        network: bool = False,
        trusted: bool = False,
        memory: int = 1 << 30,
        given: bool = False,
    ) -> dict[str, Any]:
        """The sandbox settings for a life's job. Its folders are added where the job is prepared.

        readable  paths besides those that every life may read
        network   it talks to other ranks over loopback
        trusted   it runs no student code and may import all of the grader
        given     it runs a later exercise's job, which gets what exercise 1 asks for (grader/given)
        memory    the most bytes that its /tmp and its /dev/shm may hold, each
        """
        names = (*INSIDE, "given") if given else INSIDE
        pieces = [GRADER] if trusted else [GRADER / name for name in names]
        return {
            "kind": self.kind,
            "uid": self.uid,
            "grader": [str(piece) for piece in pieces if piece.exists()],
            "readable": [str(path) for path in readable],
            "network": network,
            "memory": memory,
        }


def choose(policy: str = "auto") -> Sandbox:
    """The best sandbox on this machine.

    Raises UsageError if the policy is "require" and there is none.
    """
    if policy == "off":
        return Sandbox(NONE)
    tried = []
    # if the interpreter can't be read under another user id, root keeps its own without
    # capabilities
    uid = random.SystemRandom().choice(UIDS) if os.geteuid() == 0 else None
    for found in (Sandbox(NAMESPACES, uid), Sandbox(NAMESPACES), Sandbox(LANDLOCK)):
        if why := _unavailable(found):
            tried.append(f"{found.kind}: {why}")
        else:
            return found
    if policy == "require":
        raise UsageError(
            f"no sandbox works here ({'; '.join(tried)}); --sandbox off grades trusted submissions"
        )
    return Sandbox(NONE)


def _unavailable(sandbox: Sandbox) -> str:
    """Why this sandbox doesn't work here; empty if it does. A child process really tries it."""
    if sys.platform != "linux":
        return "only on Linux"
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(r)
            _try(sandbox)
        except BaseException as e:
            os.write(w, str(e).encode()[:300] or b"unknown")
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        why = f.read().decode(errors="replace")
    os.waitpid(pid, 0)
    return why


def _try(sandbox: Sandbox) -> None:
    folder = tempfile.mkdtemp(prefix="g-")
    try:
        own(sandbox.kind)
        if (pid := in_new_pid_namespace(sandbox.kind, os.fork)) == 0:
            try:
                os.mkdir(f"{folder}/root")
                job = sandbox.job(memory=1 << 20) | {"root": f"{folder}/root", "writable": []}
                around_guardian(job)
                if (pid := os.fork()) == 0:
                    enter(job)
                    for path in (
                        sys.executable,
                        os.__file__,
                        str(GRADER / "workload" / "__init__.py"),
                        "/dev/urandom",
                    ):
                        os.close(os.open(path, os.O_RDONLY))
                    os._exit(0)
                os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) and 1)
            except BaseException as e:
                os._exit(getattr(e, "errno", None) or 1)
        if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise OSError(
                code, os.strerror(code) if code > 1 else "the interpreter can't be read there"
            )
    finally:
        for path in (f"{folder}/root", folder):
            if os.path.isdir(path):
                os.rmdir(path)


# --- namespaces, from the outside in --------------------------------------------------------------


def own(kind: str) -> None:
    """Get the right to make namespaces without root. For the process that starts guardians.

    Call it before there are threads. A process without root may leave a namespace only for one that
    it owns. So this process continues as a child in namespaces of its own; the parent waits for it
    and ends as the child does.
    """
    if kind != NAMESPACES or os.geteuid() == 0:
        return
    uid, gid = os.getuid(), os.getgid()
    # else uid_map belongs to root (hide_from_others)
    _check(_libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")
    _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET), "user namespace")
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as f:
            f.write(text)
    if pid := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os._exit(status if status >= 0 else 128 - status)
    die_with_parent()


def in_new_pid_namespace(kind: str, fork: Callable[[], int]) -> int:
    """`fork()`, whose child becomes the first process of a new process table."""
    if kind != NAMESPACES:
        return fork()
    mine = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(CLONE_NEWPID), "process namespace")
        pid = fork()
        if pid:
            _check(_libc.setns(mine, CLONE_NEWPID), "process namespace")
        return pid
    finally:
        os.close(mine)


class SharedNetwork:
    """While entered, forked processes share a network of their own with only loopback."""

    def __init__(self, kind: str):
        self.kind = kind

    def __enter__(self) -> None:
        if self.kind == NAMESPACES:
            self.mine = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            _new_network()

    def __exit__(self, *exception: object) -> None:
        if self.kind == NAMESPACES:
            _check(_libc.setns(self.mine, CLONE_NEWNET), "network namespace")
            os.close(self.mine)


def _new_network() -> None:
    _check(_libc.unshare(CLONE_NEWNET), "network namespace")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(s, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def around_guardian(job: dict[str, Any]) -> None:
    """In a guardian, the first of its process table: set up what it shares with its life."""
    if job["kind"] != NAMESPACES:
        return
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS), "namespaces")
    if not job["network"]:  # ranks share one (SharedNetwork)
        _new_network()
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # two lives must not know each other's process ids: real processes don't, either
    with open("/proc/sys/kernel/ns_last_pid", "w") as f:
        f.write(str(random.SystemRandom().randrange(300, 30_000)))
    if job["uid"] is not None:
        for path in job["writable"]:
            _give(path, job["uid"])


def _give(path: str, uid: int) -> None:
    """Give `path` and all below it to the user.

    By descriptors: another rank may already run and move folders.
    """
    os.chown(path, uid, uid, follow_symlinks=False)
    for _, names, files, folder in os.fwalk(path):
        for name in (*names, *files):
            with contextlib.suppress(FileNotFoundError):
                os.chown(name, uid, uid, dir_fd=folder, follow_symlinks=False)


# --- entering -------------------------------------------------------------------------------------


def enter(job: dict[str, Any]) -> None:
    """In the life, before any student code, when everything that it reports to is open."""
    if job["kind"] == NONE:
        return
    reads = readable_paths(job)
    if job["kind"] == NAMESPACES:
        _new_root(job, reads)
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if job["kind"] == LANDLOCK:
        _landlock(job, reads)
    _drop(job["uid"])
    _refuse_keeping()


def readable_paths(job: dict[str, Any]) -> list[str]:
    """Everything that this life may read, without paths that lie below another one."""
    paths = [*everybodys(), *job["grader"], *job["readable"], *(NETWORK if job["network"] else ())]
    found: list[str] = []
    for path in sorted({os.path.normpath(p) for p in paths if os.path.lexists(p)}):
        if not (found and path.startswith(found[-1] + os.sep)) or path in job["grader"]:
            found.append(path)
    return found


@cache
def everybodys() -> tuple[str, ...]:
    """What every life may read: the system, the interpreter, and libraries loaded from elsewhere.

    A fork server asks once, after it has loaded torch: its lives inherit the answer.
    """
    interpreter = [sys.prefix, sys.base_prefix, sys.exec_prefix]
    interpreter += [os.path.realpath(path) for path in interpreter]  # either may be a symbolic link
    paths = [*SYSTEM, *(f"/etc/{name}" for name in ETC), *OTHER, *interpreter]
    with open("/proc/self/maps") as f:
        files = {line.rstrip("\n").partition("/")[2] for line in f if ".so" in line}
    paths += [f"/{file}" for file in files if not file.endswith(" (deleted)")]
    folders = tuple(path + os.sep for path in paths if os.path.isdir(path))
    return tuple(path for path in paths if not path.startswith(folders) and os.path.lexists(path))


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [text.encode() if text is not None else None for text in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), data.encode()), f"mount {target}")


def _set_attributes(path: str, attributes: int) -> None:
    given = struct.pack("QQQQ", attributes, 0, 0, 0)
    number = ctypes.c_long(SYS_MOUNT_SETATTR)
    _check(
        _libc.syscall(
            number, AT_FDCWD, path.encode(), AT_RECURSIVE, given, ctypes.c_size_t(len(given))
        ),
        f"mount {path}",
    )


def _new_root(job: dict[str, Any], reads: list[str]) -> None:
    if SYS_PIVOT_ROOT is None:
        raise OSError(errno.ENOSYS, f"pivot_root on {platform.machine()}")
    _check(_libc.unshare(CLONE_NEWNS), "mount namespace")
    root, mask = job["root"], os.umask(0o022)
    options = f"mode=1777,size={job['memory']},nr_inodes={INODES}"
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=4m")
    for name in ("tmp", "dev", "dev/shm", "proc"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
        if name in ("tmp", "dev/shm"):
            _mount("tmpfs", f"{root}/{name}", "tmpfs", MS_NOSUID | MS_NODEV, options)
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
    _mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.umask(mask)
    os.chdir(root)
    number = ctypes.c_long(SYS_PIVOT_ROOT)
    # the old root now covers the new one
    _check(_libc.syscall(number, b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


def _cover_grader(job: dict[str, Any], root: str) -> None:
    """Show only the parts of the grader that the job names, even inside a readable folder."""
    if str(GRADER) in job["grader"]:
        return _bind(str(GRADER), root, read_only=True)
    os.makedirs(f"{root}{GRADER}", exist_ok=True)
    _mount("tmpfs", f"{root}{GRADER}", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
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
    _mount(path, target, None, MS_BIND | MS_REC)
    _set_attributes(
        target, MOUNT_ATTR_NOSUID | (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV if read_only else 0)
    )


def _drop(uid: int | None) -> None:
    """Give up all capabilities for good; as root, become another user."""
    for capability in range(64):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # those beyond the kernel's last fail
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = struct.pack("Ii", 0x2008_0522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _check(_libc.capset(header, struct.pack("6I", *[0] * 6)), "capset")
    # else it couldn't read its own /proc/self
    _check(_libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")


# what slurmd needs as root: other users' files and processes, the job's user id, limits: CHOWN,
# DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SYS_NICE, SYS_RESOURCE
KEPT_CAPABILITIES = {0, 1, 3, 4, 5, 6, 7, 23, 24}


def confine_jobs(readable: Sequence[str], writable: Sequence[str]) -> None:
    """Confine this process and all that it starts by Landlock: a cluster's daemon and its jobs.

    They reach the cluster over the network and each other by signals. Does nothing where there is
    no Landlock.
    """
    if not jobs_can_be_confined():
        return
    job = {
        "grader": [str(GRADER / name) for name in (*INSIDE, "slurm")],
        "readable": list(readable),
        "writable": list(writable),
        "network": True,
    }
    for capability in set(range(64)) - KEPT_CAPABILITIES:
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _landlock(job, readable_paths(job))


def jobs_can_be_confined() -> bool:
    if sys.platform != "linux":
        return False
    number = ctypes.c_long(SYS_LANDLOCK_CREATE_RULESET)
    version: int = _libc.syscall(number, None, ctypes.c_size_t(0), 1)
    return version >= 1


def hide_from_others() -> None:
    """Stop the same user's processes without capabilities from reading this one's memory.

    Their access to its environment ends, too.
    """
    if sys.platform == "linux":
        _check(_libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")


def _refuse_keeping() -> None:
    """Refuse, by a seccomp filter, the system calls that keep something for later processes.

    Files stay possible.
    """
    arch, calls = AUDIT_ARCH.get(platform.machine()), KEEPING_CALLS.get(platform.machine(), ())
    if arch is None:
        return
    # load the architecture; another one is allowed; load the number; refuse it if it's in the list
    steps = [(0x20, 0, 0, 4), (0x15, 0, len(calls) + 1, arch), (0x20, 0, 0, 0)]
    steps += [(0x15, len(calls) - n, 0, number) for n, number in enumerate(calls)]
    steps += [(0x06, 0, 0, SECCOMP_RET_ALLOW), (0x06, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    _check(_libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0), "seccomp")


# --- Landlock -------------------------------------------------------------------------------------

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15  # 14: truncate, 15: ioctl
# ABI -> all rights that it knows
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
BIND_TCP_CONNECT_TCP, SCOPE_ABSTRACT_UNIX_AND_SIGNAL = 3, 3


def _landlock(job: dict[str, Any], reads: list[str]) -> None:
    abi = _check(
        _libc.syscall(ctypes.c_long(SYS_LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), 1),
        "Landlock",
    )
    rights = RIGHTS[max(known for known in RIGHTS if known <= abi)]
    network = BIND_TCP_CONNECT_TCP if abi >= 4 and not job["network"] else 0
    scope = SCOPE_ABSTRACT_UNIX_AND_SIGNAL if abi >= 6 else 0
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    given = struct.pack("QQQ", rights, network, scope)
    number = ctypes.c_long(SYS_LANDLOCK_CREATE_RULESET)
    rules = _check(_libc.syscall(number, given, ctypes.c_size_t(size), 0), "Landlock")
    for path in [*reads, "/proc"]:
        _allow(rules, path, rights & (EXECUTE | READ_FILE | READ_DIR))
    for path in [*job["writable"], "/dev/shm", *(f"/dev/{name}" for name in DEVICES)]:
        if os.path.exists(path):
            _allow(rules, path, rights)
    _check(_libc.syscall(ctypes.c_long(SYS_LANDLOCK_RESTRICT_SELF), rules, 0), "Landlock")
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= OF_FILES
        rule = struct.pack("=Qi", rights, fd)
        _check(
            _libc.syscall(ctypes.c_long(SYS_LANDLOCK_ADD_RULE), rules, 1, rule, 0),
            f"Landlock {path}",
        )
    finally:
        os.close(fd)
