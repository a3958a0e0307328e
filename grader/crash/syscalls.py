"""Which system calls can change a directory, by number, and the filter that stops a process at
exactly those.

The filter runs in the kernel (seccomp): reading, computing and everything else runs at full speed.
Numbers from the kernel's own tables (arch/x86/entry/syscalls/syscall_64.tbl,
include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

# name: (number on x86_64, number on aarch64; None: that machine hasn't got it)
CALLS = {
    "open": (2, None),
    "creat": (85, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "write": (1, 64),
    "pwrite64": (18, 68),
    "writev": (20, 66),
    "pwritev": (296, 70),
    "pwritev2": (328, 287),
    "sendfile": (40, 71),
    "splice": (275, 76),
    "copy_file_range": (326, 285),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "msync": (26, 227),
    "mmap": (9, 222),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "ioctl": (16, 29),
    "io_setup": (206, 0),
    "io_uring_setup": (425, 425),
}

# calls whose first, or third, argument is the descriptor of the file that they change
FD_FIRST = {
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "sendfile",
    "ftruncate",
    "fallocate",
    "ioctl",
}
FD_THIRD = {"splice", "copy_file_range"}
MADE = {"open", "creat", "openat", "openat2"}
# where a call's paths are: (directory's descriptor, path), None for a path that starts at the
# working directory
PATHS: dict[str, list[tuple[int | None, int]]] = {
    "open": [(None, 0)],
    "creat": [(None, 0)],
    "openat": [(0, 1)],
    "openat2": [(0, 1)],
    "truncate": [(None, 0)],
    "rename": [(None, 0), (None, 1)],
    "renameat": [(0, 1), (2, 3)],
    "renameat2": [(0, 1), (2, 3)],
    "link": [(None, 0), (None, 1)],
    "linkat": [(0, 1), (2, 3)],
    "symlink": [(None, 1)],
    "symlinkat": [(1, 2)],
    "unlink": [(None, 0)],
    "unlinkat": [(0, 1)],
    "mkdir": [(None, 0)],
    "mkdirat": [(0, 1)],
    "rmdir": [(None, 0)],
}
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

FICLONE, FICLONERANGE = 0x40049409, 0x4020940D
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
MAP_SHARED = 1


def architecture() -> str | None:
    """This machine's, if its numbers are known here."""
    machine = platform.machine()
    return machine if machine in ARCHITECTURES else None


def numbers(machine: str) -> dict[int, str]:
    column, _ = ARCHITECTURES[machine]
    here = {name: which[column] for name, which in CALLS.items()}
    return {number: name for name, number in here.items() if number is not None}


# --- the filter -----------------------------------------------------------------------------------

# BPF: load a word, jump if equal, jump if a bit is set, return
_LOAD, _EQUAL, _SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_TRACE, _ALLOW, _REFUSE = 0x7FF00000, 0x7FFF0000, 0x00050000 | 38  # 38: ENOSYS

# calls of which only some matter: (which argument, how it is compared, with what)
_ONLY = {
    "open": (1, _SET, WRITING),
    "openat": (2, _SET, WRITING),
    "mmap": (3, _SET, MAP_SHARED),
}
_IOCTLS = (FICLONE, FICLONERANGE)


def program(machine: str, reads: bool = False) -> bytes:
    """The filter's instructions: stop at what may change a directory; refuse another machine's
    calls, whose numbers mean something else.

    reads  also stop where a file is opened to be read
    """
    _, arch = ARCHITECTURES[machine]
    found = {name: number for number, name in numbers(machine).items()}

    def one(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, k)

    def argument(n: int) -> bytes:
        return one(_LOAD, 16 + 8 * n)  # its low word

    out = [one(_LOAD, 4), one(_EQUAL, arch, 1, 0), one(_RETURN, _REFUSE), one(_LOAD, 0)]
    out += [one(0x35, 0x40000000, 0, 1), one(_RETURN, _REFUSE)]  # x32: nr >= 2**30
    for name, number in found.items():
        if name in _ONLY and not (reads and name in MADE):
            n, how, what = _ONLY[name]
            out += [
                one(_EQUAL, number, 0, 4),
                argument(n),
                one(how, what, 0, 1),
                one(_RETURN, _TRACE),
                one(_RETURN, _ALLOW),
            ]
        elif name == "ioctl":
            out += [
                one(_EQUAL, number, 0, 5),
                argument(1),
                one(_EQUAL, _IOCTLS[0], 1, 0),
                one(_EQUAL, _IOCTLS[1], 0, 1),
            ]
            out += [one(_RETURN, _TRACE), one(_RETURN, _ALLOW)]
        else:
            out += [one(_EQUAL, number, 0, 1), one(_RETURN, _TRACE)]
    return b"".join([*out, one(_RETURN, _ALLOW)])


class _Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def install(machine: str, reads: bool = False) -> None:
    """Put this process, and all that it will start, under the filter. It can't be taken off."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = program(machine, reads)
    buffer = ctypes.create_string_buffer(code, len(code))
    fprog = _Program(len(code) // 8, ctypes.addressof(buffer))
    PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
    for call in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0),
    ):
        if libc.prctl(*call) != 0:
            number = ctypes.get_errno()
            raise OSError(
                number, f"the kernel doesn't let system calls be filtered: {os.strerror(number)}"
            )
