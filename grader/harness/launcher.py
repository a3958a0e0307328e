"""Starts lives: through the fork server where it is safe, as plain processes elsewhere.

Both put the same guardian between the grader and the life, and both give the same outcome.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import psutil

from grader.harness import sandbox

HERE = Path(__file__).resolve().parent
# what a fork server loads besides torch: the grader's modules that every life imports
PRELOADED = (
    *(f"grader.harness.inside.{name}" for name in ("child", "collectives", "digest", "fsevents")),
    *(f"grader.harness.inside.{name}" for name in ("ranks", "telemetry")),
    *(f"grader.workload.{name}" for name in ("isolate", "job", "load_submission", "questions")),
)
THREADS = {
    f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM")
}


_launchers = itertools.count(1)


def _mark() -> str:
    """A mark for the command line of every process of one launcher, inherited by its forks."""
    return f"grader={os.getpid()}-{next(_launchers)}"


# how a life starts: as a run's first one, as a later one, or plainly in a new interpreter
FIRST, RELAUNCHED, FRESH = "first", "relaunched", "fresh"

# s to wait for an end that the grader has asked for, before and after waking stopped processes
PROMPTLY = (2, 10)


def _sweep(mark: str, number: int = signal.SIGKILL) -> None:
    """Kill every process with the mark: none is left unless someone tampered with a guardian."""
    try:
        found = list(psutil.process_iter(["pid", "cmdline"]))
    except (psutil.Error, OSError, IndexError):
        return  # without /proc, there is nothing to search
    for process in found:
        if mark in (process.info["cmdline"] or []) and process.pid != os.getpid():
            try:
                process.send_signal(number)
            except psutil.Error:
                pass


# what lives and their helpers get of the caller's environment: no secrets, no habits
PASSED_ON = (
    "PATH",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "HOME",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
)


def environment() -> dict[str, str]:
    """One thread, no GPU, and little of the caller's environment."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return passed_on | THREADS | {"CUDA_VISIBLE_DEVICES": ""}


class Lost(Exception):
    """The machinery failed (not the student's code): the verdict is inconclusive."""

    label = "machinery"


class DiskFull(Lost):
    """The disk that the grader works on is full."""

    label = "disk"

    def __init__(self, where: object):
        super().__init__(
            f"the machine's disk is full, at {where}: free some space or set TMPDIR to another disk"
        )

    @staticmethod
    def says(error: BaseException) -> bool:
        return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Limits:
    wall: float = 60.0  # s
    quiet: float = 8.0  # s without a report, though it could run; ranks get a little more
    cpu: float = 30.0  # s, per process
    memory: int = 4 << 30  # bytes, private, all processes of a life together
    output: int = 16 << 20  # bytes, of what it prints
    disk: int = 2 << 30  # bytes, in all folders that a life may write to
    events: int = 32 << 20  # bytes of its report; a run reports about a hundred kilobytes

    @classmethod
    def within(cls, wall: float) -> Limits:
        """The limits of lives that may take `wall` seconds."""
        quiet = cls.quiet * max(1.0, wall / cls.wall)
        return cls(wall=wall, quiet=quiet, cpu=max(5.0, wall / 2))


class Launcher(Protocol):
    """What both launchers, and those of tests, can do."""

    def run(self, jobs: list[Path], seconds: float, start: str = FIRST) -> None:
        """Run one life, with a job for each of its processes, to its end."""

    def close(self) -> None:
        """End every life for good; return when all are gone."""


class Plain:
    """Starts every life in a new interpreter, as `python train.py` does. That takes seconds."""

    name = "plain"

    def __init__(self, mark: str | None = None) -> None:
        self.mark = mark or _mark()
        self._lock = threading.Lock()
        self._guardians: set[subprocess.Popen[bytes]] | None = set()  # running; None: closed

    def run(self, jobs: list[Path], seconds: float, start: str = FIRST) -> None:
        """Run one life, with a job for each of its processes, to its end.

        Every `start` means new interpreters here.
        """
        guardian = self._begin(jobs)
        try:
            guardian.wait(seconds)
        except subprocess.TimeoutExpired:
            _sweep(self.mark)
            guardian.wait()
            raise Lost("a life's guardian was stopped") from None
        finally:
            _close_lifeline(guardian)
            with self._lock:
                if self._guardians is not None:
                    self._guardians.discard(guardian)

    def _begin(self, jobs: list[Path]) -> subprocess.Popen[bytes]:
        with self._lock, open(jobs[0].parent / "guardian.log", "wb") as log:
            if self._guardians is None:
                raise Lost("the grading is over")
            guardian = subprocess.Popen(
                [sys.executable, "-I", str(HERE / "guardian.py"), self.mark, *map(str, jobs)],
                stdin=subprocess.PIPE,  # its lifeline: closes when the grader dies
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment(),
            )
            self._guardians.add(guardian)
            return guardian

    def close(self) -> None:
        """End every life for good; return when all are gone."""
        with self._lock:
            running, self._guardians = self._guardians or set(), None
        for guardian in running:
            _close_lifeline(guardian)
        for guardian in running:
            _await_end(guardian, self.mark)
        _sweep(self.mark)


def _close_lifeline(guardian: subprocess.Popen[bytes]) -> None:
    assert guardian.stdin  # a pipe
    guardian.stdin.close()


class ForkServer:
    """Two warm processes from which lives are forked.

    A relaunched job must be another process than the first one: its hash secret and addresses
    differ. Two forks of one server share both. So one server forks the first lives of runs, and the
    other server forks the later lives.
    """

    name = "fork server"

    def __init__(self, kind: str | None = None) -> None:
        """kind  of the lives' sandbox"""
        self.mark = _mark()
        self.kind = kind or sandbox.choose().kind
        self.servers = {
            FIRST: Server(self.mark, self.kind),
            RELAUNCHED: Server(self.mark, self.kind),
        }
        self._plain = Plain(self.mark)

    def start(self) -> None:
        """Begin loading torch in the background; `run` waits for it."""
        for server in self.servers.values():
            server.start()

    def run(self, jobs: list[Path], seconds: float, start: str = FIRST) -> None:
        """Run one life, with a job for each of its processes, to its end."""
        if start == FRESH:
            self._plain.run(jobs, seconds)
        else:
            self.servers[start].run(jobs, seconds)

    def close(self) -> None:
        """End every life and the servers for good; return when all are gone."""
        parts: list[Server | Plain] = [*self.servers.values(), self._plain]
        for part in parts:
            part.close()


class Server:
    """One warm process; started on first use, and again if it dies."""

    def __init__(self, mark: str, kind: str) -> None:
        self.mark, self.kind = mark, kind
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: dict[str, Future[None]] = {}
        self._ready = False  # torch is loaded
        self._closed = False

    def start(self) -> None:
        """Begin loading torch in the background."""
        with self._lock:
            if not self._closed:
                self._ensure()

    def run(self, jobs: list[Path], seconds: float) -> None:
        done: Future[None] = Future()
        paths = json.dumps([str(job) for job in jobs])
        with self._lock:
            if self._closed:
                raise Lost("the grading is over")
            self._ensure()
            self._waiting[str(jobs[0])] = done
            assert self._socket  # _ensure has opened it
            try:
                self._socket.sendall(paths.encode() + b"\n")
            except OSError:
                raise Lost("the fork server died") from None
        try:
            done.result(seconds)
        except FutureTimeout:
            _sweep(self.mark)
            raise Lost("the fork server or a guardian was stopped") from None

    def _ensure(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        mine, theirs = socket.socketpair()
        # the old listener fails the futures of the dead server
        self._socket, self._ready, self._waiting = mine, False, {}
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                str(HERE / "forkserver.py"),
                str(theirs.fileno()),
                self.kind,
                self.mark,
                *PRELOADED,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=environment(),
        )
        theirs.close()
        assert self._process.stderr  # a pipe
        log = _Tail(self._process.stderr)
        threading.Thread(
            target=self._listen, args=(mine, self._process, self._waiting, log), daemon=True
        ).start()

    def _listen(
        self,
        sock: socket.socket,
        process: subprocess.Popen[bytes],
        waiting: dict[str, Future[None]],
        log: _Tail,
    ) -> None:
        # a killed server may reset the connection or tear a line
        with contextlib.suppress(OSError, ValueError):
            for line in sock.makefile():
                message = json.loads(line)
                if "ready" in message:
                    self._ready = True
                if "id" in message and (future := waiting.pop(message["id"], None)):
                    if "error" in message:
                        future.set_exception(Lost(f"a life could not begin: {message['error']}"))
                    else:
                        future.set_result(None)
        process.wait()
        with self._lock:
            lost = dict(waiting)
            waiting.clear()
        for future in lost.values():
            future.set_exception(Lost(f"the fork server died{log.say()}"))

    def close(self) -> None:
        """End every life and the server for good; return when all are gone."""
        with self._lock:
            self._closed = True
        if self._process is None:
            return
        assert self._socket  # opened before the process started
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        if not self._ready:  # else it would first load all of torch
            self._process.kill()
        _await_end(self._process, self.mark)
        _sweep(self.mark)


def _await_end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Wait until the process ends by itself; kill it if it doesn't."""
    for seconds in PROMPTLY:
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            _sweep(mark, signal.SIGCONT)  # a stopped guardian can't end its life
    process.kill()
    process.wait()


class _Tail:
    """Keeps the last lines of a pipe, so that it never fills and can explain a death."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._lines: list[str] = []
        threading.Thread(target=self._drain, args=(pipe,), daemon=True).start()

    def _drain(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            self._lines = [*self._lines[-19:], line.decode(errors="replace")]

    def say(self) -> str:
        return ": " + self._lines[-1].strip() if self._lines else ""


def choose(name: str | None = None, kind: str | None = None) -> ForkServer | Plain:
    """The launcher called `name` ('fork' or 'plain'), or the best one for this platform.

    kind  of the lives' sandbox; without it, the best one
    """
    if name is None:
        # forking a process that has loaded macOS frameworks isn't safe
        name = "fork" if sys.platform.startswith("linux") else "plain"
    return ForkServer(kind) if name == "fork" else Plain()
