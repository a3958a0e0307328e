"""Starts lives: through the fork server where it is safe, as plain processes anywhere.

Both put the same guardian between the grader and the life, and both give the same outcome.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM")}


_launchers = itertools.count(1)


def _mark() -> str:
    """Stands in the command line of every process of one launcher, and of all that forks from them."""
    return f"grader={os.getpid()}-{next(_launchers)}"


# s beyond a life's own limit, after which its guardian must have been killed or stopped
PATIENCE = 60


def _sweep(mark: str) -> None:
    """Kill whatever still carries the mark: nothing does, unless somebody tampered with a guardian."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        if mark in (process.info["cmdline"] or []) and process.pid != os.getpid():
            try:
                process.kill()
            except psutil.Error:
                pass


class Lost(Exception):
    """The machinery failed (not the student's code): the verdict is inconclusive."""


@dataclass(frozen=True)
class Limits:
    wall: float = 60.0  # s
    cpu: float = 30.0  # s, per process
    memory: int = 4 << 30  # bytes, private, all processes of a life together
    output: int = 16 << 20  # bytes, stdout and stderr each


def life_environment(scratch: str) -> dict[str, str]:
    """The environment of every life: one thread, no GPU, none of the caller's Python settings."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "GRADE_"))}
    return env | THREADS | {"CUDA_VISIBLE_DEVICES": "", "TMPDIR": scratch, "HOME": scratch, "PYTHONDONTWRITEBYTECODE": "1"}


def run_life(launcher, folder: Path, script: Path, argv: list[str], fault, limits: Limits) -> dict:
    """One life in `folder`, to its end; the guardian's result. Blocks."""
    folder.mkdir(parents=True)
    scratch = folder / "t"  # short: sockets are made below it, and their paths are limited to 104 bytes
    scratch.mkdir()
    job = {
        "script": str(script),
        "argv": argv,
        "cwd": str(scratch),
        "env": life_environment(str(scratch)),
        "fault": fault.to_json() if fault else None,
        "limits": limits.__dict__,
        "child": str(HERE / "child.py"),
        **{name: str(folder / name) for name in ("stdout", "stderr", "events", "stack", "result")},
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    launcher.run(path, limits.wall + PATIENCE)
    try:
        return json.loads((folder / "result").read_text())
    except FileNotFoundError:
        note = (folder / "guardian.log").read_text() if (folder / "guardian.log").exists() else ""
        raise Lost(f"a life ended without a result{': ' + note.strip()[-500:] if note.strip() else ''}")


class Plain:
    """Every life an interpreter of its own, as `python train.py` would be: seconds each, no magic."""

    name = "plain"

    def __init__(self) -> None:
        self.mark = _mark()

    def run(self, path: Path, seconds: float) -> None:
        log = open(path.parent / "guardian.log", "wb")
        guardian = subprocess.Popen(
            [sys.executable, "-I", str(HERE / "guardian.py"), str(path), self.mark],
            stdin=subprocess.PIPE,  # its lifeline: closes when the grader dies
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **THREADS},
        )
        log.close()
        try:
            guardian.wait(seconds)
        except subprocess.TimeoutExpired:
            _sweep(self.mark)
            guardian.wait()
            raise Lost("a life's guardian was stopped")
        finally:
            guardian.stdin.close()

    def close(self) -> None:
        _sweep(self.mark)


class ForkServer:
    """A warm process from which lives are forked; started on first use, again if it dies."""

    name = "fork server"

    def __init__(self) -> None:
        self.mark = _mark()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen | None = None
        self._waiting: dict[str, Future] = {}
        self._log = None

    def start(self) -> None:
        """Begin loading torch in the background; `run` waits for it by itself."""
        with self._lock:
            self._ensure()

    def run(self, path: Path, seconds: float) -> None:
        done: Future = Future()
        with self._lock:
            self._ensure()
            self._waiting[str(path)] = done
            try:
                self._socket.sendall(str(path).encode() + b"\n")
            except OSError:
                raise Lost("the fork server died")
        try:
            done.result(seconds)
        except FutureTimeout:
            _sweep(self.mark)
            raise Lost("the fork server or a guardian was stopped")

    def _ensure(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        mine, theirs = socket.socketpair()
        self._socket = mine
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(HERE / "forkserver.py"), str(theirs.fileno()), self.mark],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env={**os.environ, **THREADS, "CUDA_VISIBLE_DEVICES": ""},
        )
        theirs.close()
        self._log = _Tail(self._process.stderr)
        threading.Thread(target=self._listen, args=(mine, self._process), daemon=True).start()

    def _listen(self, sock: socket.socket, process: subprocess.Popen) -> None:
        for line in sock.makefile():
            message = json.loads(line)
            if "id" in message and (future := self._waiting.pop(message["id"], None)):
                future.set_result(message["exit"])
        process.wait()
        with self._lock:
            lost, self._waiting = self._waiting, {}
        for future in lost.values():
            future.set_exception(Lost(f"the fork server died{self._log.say()}"))

    def close(self) -> None:
        """End every life and the server; returns when they are gone."""
        if self._process is None:
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _sweep(self.mark)


class _Tail:
    """Keeps the last lines of a pipe, so that it never fills and a death can be explained."""

    def __init__(self, pipe) -> None:
        self._lines: list[str] = []
        threading.Thread(target=self._drain, args=(pipe,), daemon=True).start()

    def _drain(self, pipe) -> None:
        for line in pipe:
            self._lines = [*self._lines[-19:], line.decode(errors="replace")]

    def say(self) -> str:
        return ": " + self._lines[-1].strip() if self._lines else ""


def choose(name: str | None = None):
    """The launcher called `name` ('fork' or 'plain'), or the best one for this platform."""
    if name is None:
        # forking a process that has loaded macOS frameworks isn't safe
        name = "fork" if sys.platform.startswith("linux") else "plain"
    return {"fork": ForkServer, "plain": Plain}[name]()
