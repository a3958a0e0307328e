"""What a process gives up for good: capabilities, its user id, system calls, being looked into."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

from grader.harness.linux import PR_CAPBSET_DROP, PR_SET_DUMPABLE, checked, libc

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


def drop_capabilities(uid: int | None) -> None:
    """Give up all capabilities for good; as root, become another user."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # those beyond the kernel's last fail
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = struct.pack("Ii", 0x2008_0522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    checked(libc.capset(header, struct.pack("6I", *[0] * 6)), "capset")
    # else it couldn't read its own /proc/self
    checked(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")


def hide_from_others() -> None:
    """Stop the same user's processes without capabilities from reading this one's memory.

    Their access to its environment ends, too.
    """
    if sys.platform == "linux":
        checked(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")


def refuse_keeping() -> None:
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
    checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0), "seccomp")
