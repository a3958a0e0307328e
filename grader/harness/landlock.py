"""Landlock: access to files by path, to the network and to signals (linux/landlock.h)."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

from grader.harness.linux import checked, libc
from grader.harness.readable_paths import DEVICES

SYS_LANDLOCK_CREATE_RULESET, SYS_LANDLOCK_ADD_RULE, SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15  # 14: truncate, 15: ioctl
# ABI -> all rights that it knows
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
BIND_TCP_CONNECT_TCP, SCOPE_ABSTRACT_UNIX_AND_SIGNAL = 3, 3


def restrict_self(job: dict[str, Any], reads: list[str]) -> None:
    abi = checked(
        libc.syscall(ctypes.c_long(SYS_LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), 1),
        "Landlock",
    )
    rights = RIGHTS[max(known for known in RIGHTS if known <= abi)]
    network = BIND_TCP_CONNECT_TCP if abi >= 4 and not job["network"] else 0
    scope = SCOPE_ABSTRACT_UNIX_AND_SIGNAL if abi >= 6 else 0
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    given = struct.pack("QQQ", rights, network, scope)
    number = ctypes.c_long(SYS_LANDLOCK_CREATE_RULESET)
    rules = checked(libc.syscall(number, given, ctypes.c_size_t(size), 0), "Landlock")
    for path in [*reads, "/proc"]:
        _allow(rules, path, rights & (EXECUTE | READ_FILE | READ_DIR))
    for path in [*job["writable"], "/dev/shm", *(f"/dev/{name}" for name in DEVICES)]:
        if os.path.exists(path):
            _allow(rules, path, rights)
    checked(libc.syscall(ctypes.c_long(SYS_LANDLOCK_RESTRICT_SELF), rules, 0), "Landlock")
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= OF_FILES
        rule = struct.pack("=Qi", rights, fd)
        checked(
            libc.syscall(ctypes.c_long(SYS_LANDLOCK_ADD_RULE), rules, 1, rule, 0),
            f"Landlock {path}",
        )
    finally:
        os.close(fd)
