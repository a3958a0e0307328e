"""What a life may see and touch: torch, the interpreter and its own folders, and nothing else.

    namespaces  a root of its own, built of bind mounts; private /tmp, /dev/shm, IPC, network and
                process table; as root, a user id of its own. Needs root or user namespaces (Linux
                5.12).
    landlock    the same files by path, and no signals to others (Linux 5.13; signals from 6.12 on).
                /tmp isn't private and can't be written to. /dev/shm is shared.
    none        no restrictions: for trusted submissions

The life's own process sets all this up before it runs any student code, and can't undo it. That
needs no root, no helper program and no container runtime. The parts: readable_paths.py, mounts.py,
landlock.py, privileges.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grader.errors import UsageError
from grader.harness.landlock import SYS_LANDLOCK_CREATE_RULESET, restrict_self
from grader.harness.linux import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    checked,
    libc,
)
from grader.harness.mounts import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    enter_new_root,
    mount,
)
from grader.harness.privileges import drop_capabilities, refuse_keeping
from grader.harness.readable_paths import GRADER, INSIDE, readable_by
from grader.processes import die_with_parent

NAMESPACES, LANDLOCK, NONE = "namespaces", "landlock", "none"
POLICIES = ("auto", "require", "off")

UIDS = range(50_000, 60_000)  # as root, lives run under these: no users of a usual system

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


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
            f"no sandbox works here ({'; '.join(tried)}); if you trust the submission, use "
            "--sandbox off"
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
    it owns. So this process continues as a child in its own namespaces; the parent waits for it
    and ends as the child does.
    """
    if kind != NAMESPACES or os.geteuid() == 0:
        return
    uid, gid = os.getuid(), os.getgid()
    # else uid_map belongs to root (hide_from_others)
    checked(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")
    checked(libc.unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET), "user namespace")
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
        checked(libc.unshare(CLONE_NEWPID), "process namespace")
        pid = fork()
        if pid:
            checked(libc.setns(mine, CLONE_NEWPID), "process namespace")
        return pid
    finally:
        os.close(mine)


class SharedNetwork:
    """While entered, forked processes share a private network with only loopback."""

    def __init__(self, kind: str):
        self.kind = kind

    def __enter__(self) -> None:
        if self.kind == NAMESPACES:
            self.mine = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            _new_network()

    def __exit__(self, *exception: object) -> None:
        if self.kind == NAMESPACES:
            checked(libc.setns(self.mine, CLONE_NEWNET), "network namespace")
            os.close(self.mine)


def _new_network() -> None:
    checked(libc.unshare(CLONE_NEWNET), "network namespace")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(s, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def around_guardian(job: dict[str, Any]) -> None:
    """In a guardian, the first of its process table: set up what it shares with its life."""
    if job["kind"] != NAMESPACES:
        return
    checked(libc.unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS), "namespaces")
    if not job["network"]:  # ranks share one (SharedNetwork)
        _new_network()
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
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
    reads = readable_by(job)
    if job["kind"] == NAMESPACES:
        enter_new_root(job, reads)
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if job["kind"] == LANDLOCK:
        restrict_self(job, reads)
    drop_capabilities(job["uid"])
    refuse_keeping()


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
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    restrict_self(job, readable_by(job))


def jobs_can_be_confined() -> bool:
    if sys.platform != "linux":
        return False
    number = ctypes.c_long(SYS_LANDLOCK_CREATE_RULESET)
    version: int = libc.syscall(number, None, ctypes.c_size_t(0), 1)
    return version >= 1
