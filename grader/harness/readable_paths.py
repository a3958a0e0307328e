"""What a life may read: parts of the system and of the grader."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

GRADER = Path(__file__).resolve().parent.parent
# the parts of the grader that a life with student code may see
INSIDE = (
    "__init__.py",
    "errors.py",
    "processes.py",
    "processor_time.py",
    "workload",
    "harness",
    "crash",
)

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


def readable_by(job: dict[str, Any]) -> list[str]:
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
