"""Holds processes at each system call that may change a directory, before and after it.

It uses ptrace, as a debugger does, so it sees everything: C++ and Rust writers, every thread, every
process that they start. Pure Python, no root, Linux. It lets one call run at a time: while a call
is in progress, other threads wait before theirs. So the record has the true order of the calls.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader.crash import syscalls

OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
AT_FDCWD = (1 << 64) - 100  # stands for the current directory where a call takes one that is open

# linux/ptrace.h
CONT, POKEUSER, SYSCALL, SEIZE, LISTEN = 7, 6, 24, 0x4206, 0x4208
GETEVENTMSG, GETREGSET, SETREGSET, GET_SYSCALL_INFO = 0x4201, 0x4204, 0x4205, 0x420E
TRACESYSGOOD, TRACEFORK, TRACEVFORK, TRACECLONE, TRACEEXEC, TRACESECCOMP, EXITKILL = (
    1,
    2,
    4,
    8,
    16,
    128,
    1 << 20,
)
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_SECCOMP, EVENT_STOP = 1, 2, 3, 7, 128
WALL = 0x40000000  # waitpid: threads, too
STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

PASS, HOLD = "pass", "hold"  # what a handler wants of a call: nothing more, or to hear how it ended


class Unavailable(Exception):
    """Processes can't be traced here; the message says why."""


_libc = ctypes.CDLL(None, use_errno=True)


def _print_error(error: BaseException) -> None:
    """As Python tells it, without our own part of the way there."""
    shown = traceback.TracebackException.from_exception(error)
    shown.stack = traceback.StackSummary.from_list(
        [f for f in shown.stack if not f.filename.startswith(OURS)]
    )
    sys.stderr.write("".join(shown.format()))


def _ptrace(
    request: int, pid: int, address: int | None = None, data: int | ctypes.c_void_p | None = None
) -> int:
    ctypes.set_errno(0)
    result: int = _call(request, pid, address, data)
    if result == -1 and (number := ctypes.get_errno()):
        raise OSError(number, os.strerror(number))
    return result


_call: Any = getattr(_libc, "ptrace", None)
if _call:
    _call.restype = ctypes.c_long
    _call.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@dataclass
class Tracee:
    """One thread that is held at its calls."""

    pid: int  # of the thread
    label: str  # which of the processes that were spawned it comes from
    call: str = ""
    args: tuple[int, ...] = ()
    refuse: int = 0  # errno that the call under way is answered with

    def text(self, address: int) -> bytes:
        """The C string at an address of its memory."""
        out, fd = b"", os.open(f"/proc/{self.pid}/mem", os.O_RDONLY)
        try:
            while len(out) < 1 << 16:
                chunk = os.pread(fd, 4096 - address % 4096, address)
                text, end, _ = chunk.partition(b"\0")
                out += text
                if end or not chunk:
                    break
                address += len(chunk)
        finally:
            os.close(fd)
        return out

    def bytes(self, address: int, n: int) -> bytes:
        fd = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY)
        try:
            return os.pread(fd, n, address)
        finally:
            os.close(fd)

    def stat(self, fd: int) -> os.stat_result | None:
        """Of a file that it has open; None if there is none."""
        try:
            return os.stat(f"/proc/{self.pid}/fd/{fd & 0xFFFFFFFF}")
        except OSError:
            return None

    def open(self, fd: int) -> int:
        """A descriptor of our own, to read a file that it has open."""
        return os.open(f"/proc/{self.pid}/fd/{fd & 0xFFFFFFFF}", os.O_RDONLY)

    def info(self, fd: int) -> dict[str, int]:
        """ "pos", where it stands in an open file, and the "flags" that it was opened with."""
        lines = Path(f"/proc/{self.pid}/fdinfo/{fd}").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        return {"pos": int(found["pos"]), "flags": int(found["flags"], 8)}

    def mapped_at(self, address: int) -> int | None:
        """The number of the file that lies at an address of its memory."""
        for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines():
            span, _, _, _, ino, *_ = line.split(None, 5)
            begin, end = (int(n, 16) for n in span.split("-"))
            if begin <= address < end:
                return int(ino)
        return None

    def path(self, address: int, directory: int | None) -> str:
        """The path at an address of its memory, as seen from the `directory` that it has open
        (None: where it stands).
        """
        at = AT_FDCWD if directory is None else directory
        start = "cwd" if at & 0xFFFFFFFF == AT_FDCWD & 0xFFFFFFFF else f"fd/{at & 0xFFFFFFFF}"
        return os.path.normpath(
            os.path.join(os.readlink(f"/proc/{self.pid}/{start}"), os.fsdecode(self.text(address)))
        )


@dataclass
class Ended:
    """How a spawned process ended: its exit status, or minus the signal that killed it."""

    status: int | None = None
    late: bool = False


@dataclass
class Tracer:
    """`entry(tracee)` says what to do with a call (PASS, HOLD, or an errno that it fails with
    instead of being made); `exit(tracee, result)` hears the result of those that were held, minus
    an errno if it failed. `reads`: files that are opened to be read are calls, too.
    """

    entry: Callable[[Tracee], str | int]
    exit: Callable[[Tracee, int], None]
    reads: bool = False
    machine: str = field(default_factory=lambda: syscalls.architecture() or "")

    def __post_init__(self) -> None:
        if not self.machine or not hasattr(_libc, "ptrace"):
            raise Unavailable("system calls are recorded on Linux, x86_64 and aarch64, only")
        self.numbers = syscalls.numbers(self.machine)
        self.tracees: dict[int, Tracee] = {}
        self.roots: dict[int, Ended] = {}
        self.labels: dict[int, str] = {}  # of threads that were announced and haven't stopped yet
        self.under_way: Tracee | None = None
        self.waiting: deque[Tracee] = deque()
        self._info = ctypes.create_string_buffer(88)

    # --- starting

    def spawn(self, label: str, do: Callable[[], None]) -> int:
        """A forked process that does `do()`, held at its calls from the first one on. It begins
        with `run`.
        """
        ready, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(go)
                os.read(ready, 1)
                os.close(ready)
                syscalls.install(self.machine, self.reads)
                do()
                status = 0
            except SystemExit as e:
                status = e.code if isinstance(e.code, int) else int(e.code is not None)
            except BaseException as e:
                _print_error(e)
            finally:
                sys.stderr.flush()
                os._exit(status)
        os.close(ready)
        options = (
            TRACESYSGOOD | TRACEFORK | TRACEVFORK | TRACECLONE | TRACEEXEC | TRACESECCOMP | EXITKILL
        )
        try:
            _ptrace(SEIZE, pid, None, options)
        except OSError as e:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise Unavailable(
                f"this machine doesn't let a process be traced ({e.strerror}); in a container: "
                "--cap-add SYS_PTRACE"
            ) from e
        else:
            os.write(go, b".")
        finally:
            os.close(go)
        self.tracees[pid] = Tracee(pid, label)
        self.roots[pid] = Ended()
        return pid

    def run(self, seconds: float) -> dict[int, Ended]:
        """Until the spawned processes have ended; whatever they leave behind is killed, and so are
        they when time is up.
        """
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            while any(ended.status is None for ended in self.roots.values()):
                self._next()
            self.abort()
        finally:
            timer.cancel()
        return self.roots

    def abort(self) -> None:
        """End everything that is still there."""
        while self.tracees:
            self._kill()
            self._next()

    def _expire(self) -> None:
        for ended in self.roots.values():
            ended.late = ended.status is None
        self._kill()

    def _kill(self) -> None:
        for pid in list(self.tracees):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # --- stops

    def _next(self) -> None:
        try:
            pid, status = os.waitpid(-1, WALL)
        except ChildProcessError:
            self.tracees.clear()
            return
        if not os.WIFSTOPPED(status):
            self._gone(pid, os.waitstatus_to_exitcode(status))
            return
        tracee = self.tracees.get(pid) or self._new(pid)
        number, event = os.WSTOPSIG(status), status >> 16
        try:
            if event == EVENT_SECCOMP:
                self._entry(tracee)
            elif number == signal.SIGTRAP | 0x80:
                self._exit(tracee)
            elif event in (EVENT_FORK, EVENT_VFORK, EVENT_CLONE):
                message = ctypes.c_ulong()
                _ptrace(GETEVENTMSG, pid, None, ctypes.addressof(message))
                if known := self.tracees.get(message.value):
                    known.label = tracee.label
                else:
                    self.labels[message.value] = tracee.label
                _ptrace(CONT, pid)
            elif event == EVENT_STOP and number in STOPS:
                _ptrace(LISTEN, pid)
            else:
                _ptrace(CONT, pid, None, 0 if event else number)
        except OSError as e:
            if e.errno != errno.ESRCH:
                raise
            self._release(tracee)  # killed while it was held

    def _new(self, pid: int) -> Tracee:
        tracee = self.tracees[pid] = Tracee(pid, self.labels.pop(pid, ""))
        return tracee

    def _gone(self, pid: int, status: int) -> None:
        tracee = self.tracees.pop(pid, None)
        if pid in self.roots:
            self.roots[pid].status = status
        if tracee:
            self._release(tracee)

    def _entry(self, tracee: Tracee) -> None:
        size = _ptrace(GET_SYSCALL_INFO, tracee.pid, len(self._info), ctypes.addressof(self._info))
        if size < 80 or self._info.raw[0] != 3:
            raise RuntimeError("a call was announced that the kernel doesn't describe")
        number, *args = struct.unpack_from("7Q", self._info.raw, 24)
        tracee.call, tracee.args = self.numbers.get(number, "?"), tuple(args)
        if self.under_way:
            self.waiting.append(tracee)
        else:
            self._begin(tracee)

    def _begin(self, tracee: Tracee) -> None:
        wanted = self.entry(tracee)
        if wanted == PASS:
            _ptrace(CONT, tracee.pid)
            return
        self.under_way = tracee
        if wanted != HOLD:
            tracee.refuse = int(wanted)
            self._skip(tracee.pid)
        _ptrace(SYSCALL, tracee.pid)

    def _exit(self, tracee: Tracee) -> None:
        _ptrace(GET_SYSCALL_INFO, tracee.pid, len(self._info), ctypes.addressof(self._info))
        (result,) = struct.unpack_from("q", self._info.raw, 24)
        if tracee.refuse:
            result = -tracee.refuse
            self._answer(tracee.pid, result)
        if self.under_way is tracee:
            self.exit(tracee, result)
        tracee.refuse = 0
        _ptrace(CONT, tracee.pid)
        self._release(tracee)

    def _release(self, tracee: Tracee) -> None:
        """The next process to report."""
        with suppress(ValueError):
            self.waiting.remove(tracee)
        if self.under_way is tracee:
            self.under_way = None
        while self.waiting and self.under_way is None:
            following = self.waiting.popleft()
            try:
                self._begin(following)
            except OSError as e:
                if e.errno != errno.ESRCH:
                    raise
                self.under_way = None

    # --- a call that fails without being made

    def _skip(self, pid: int) -> None:
        if self.machine == "x86_64":
            _ptrace(POKEUSER, pid, 15 * 8, ctypes.c_void_p(-1))  # orig_rax
        else:
            self._regset(
                SETREGSET, pid, 0x404, ctypes.create_string_buffer(struct.pack("i", -1), 4)
            )

    def _answer(self, pid: int, result: int) -> None:
        if self.machine == "x86_64":
            _ptrace(POKEUSER, pid, 10 * 8, ctypes.c_void_p(result & (1 << 64) - 1))  # rax
        else:
            registers = ctypes.create_string_buffer(34 * 8)
            self._regset(GETREGSET, pid, 1, registers)
            struct.pack_into("q", registers, 0, result)  # x0
            self._regset(SETREGSET, pid, 1, registers)

    @staticmethod
    def _regset(request: int, pid: int, which: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
        vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), len(buffer))
        _ptrace(request, pid, which, ctypes.addressof(vector))
