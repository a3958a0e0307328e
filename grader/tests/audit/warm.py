"""Starts audited Python scripts from a process that has torch loaded: tests needn't wait for it.

A life is a fork that runs the script as `python script.py` does, with the probe inside. It takes a
tenth of the time of a new interpreter. Other tests start real interpreters.

`ranks N script.py ...` starts N ranks, as torchrun does: if one of them fails, all end.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from grader.files import write_atomically
from grader.processes import kill_session

BOOT = str(Path(__file__).resolve().parents[2] / "audit" / "boot")
_kept: list[dict] = []


class Warm:
    """A launcher (harness/launcher.py: Launcher) of commands `python script.py ...`."""

    def __init__(self) -> None:
        mine, theirs = socket.socketpair()
        self._lock, self._socket = threading.Lock(), mine
        self._answers = mine.makefile("r")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "grader.tests.audit.warm", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        theirs.close()

    def run(self, jobs: list[Path], seconds: float, start: str = "") -> None:
        with self._lock:  # one life at a time
            self._socket.sendall(str(jobs[0]).encode() + b"\n")
            assert self._answers.readline(), "the warm process has ended"

    def end(self) -> None:
        self._socket.close()
        self._answers.close()
        self._process.wait(60)

    def close(self) -> None:
        """Nothing: the next audit uses it, too."""


def serve(sock: socket.socket) -> None:
    import numpy
    import torch._dynamo  # the first optimizer loads it

    assert numpy and torch
    with sock.makefile("rw") as lines:
        for line in iter(lines.readline, ""):
            with open(line.strip()) as f:
                job = json.load(f)
            result = _live(job)
            write_atomically(job["result"], json.dumps(result))
            print("done", file=lines, flush=True)


def _live(job: dict) -> dict:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        _become(job)
    ended, began = None, time.monotonic()
    timer = threading.Timer(job["limits"]["wall"], kill_session, [pid])
    timer.start()
    try:
        _, code, usage = os.wait4(pid, 0)
    finally:
        timer.cancel()
    seconds = time.monotonic() - began
    if seconds >= job["limits"]["wall"]:
        ended = "wall"
    kill_session(pid)
    status, cpu = os.waitstatus_to_exitcode(code), usage.ru_utime + usage.ru_stime
    return {"status": status, "ended": ended, "wall": seconds, "cpu": cpu, "left_behind": 0}


def _become(job: dict) -> None:
    """What enter.py does, and then the script instead of a new program."""
    status = 1
    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)  # as in every Python program
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for fd in (1, 2):
            os.dup2(output, fd)
        os.closerange(3, 256)
        os.chdir(job["cwd"])
        os.environ.clear()
        os.environ.update(job["command_env"] | {"GRADE_AUDIT_MAIN": str(os.getpid())})
        first, *words = job["command"]
        status = _ranks(int(words[0]), words[1:]) if first == "ranks" else _script(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _ranks(number: int, words: list[str]) -> int:
    """As torchrun: SIGTERM is passed on, and a rank that fails ends the others."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    world = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = []
    for rank in range(number):
        pid = os.fork()
        if pid == 0:
            os.environ.update(world | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            status = 1
            try:
                status = _script(words)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        ranks.append(pid)
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGTERM) for pid in ranks])
    status = 0
    for _ in range(number):
        pid, code = os.wait()
        ranks.remove(pid)
        if code:
            status = os.waitstatus_to_exitcode(code) if os.WIFEXITED(code) else 1
            for other in ranks:
                os.kill(other, signal.SIGKILL)
    return status


def _script(words: list[str]) -> int:
    """Run a script with the probe inside; return its exit status."""
    import numpy
    import torch

    for seed in (random.seed, numpy.random.seed):
        seed()  # a fork has its parent's generators
    torch.seed()
    sys.path.insert(0, BOOT)
    import grade_audit_probe

    grade_audit_probe.install()
    sys.argv = words
    sys.path.insert(0, os.path.dirname(words[0]))
    status = 0
    try:
        # never freed: ~Reducer holds the GIL while it joins a thread of gloo's that may be waiting
        # for the GIL to free what it holds of the last backward pass (torch 2.13: a deadlock)
        _kept.append(runpy.run_path(words[0], run_name="__main__"))
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
    finally:
        atexit._run_exitfuncs()  # os._exit doesn't
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(socket.socket(fileno=int(sys.argv[1])))
