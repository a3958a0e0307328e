"""The node's daemon: from outside, it sends signals to a job, its process group or torchrun."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from subprocess import PIPE

from grader.harness.inside import telemetry
from grader.harness.preemption import proof
from grader.processes import wait_until

NOTICED = 0.05  # s in which a job gets SIGCHLD after a worker's death, and its handler runs
WORKERS = 2.0  # s within which a signalled worker is dead, even on a busy machine
# to the daemon: a process or a group (0 or 1), the signal, the order's number; back: that number
ORDER, SENT = struct.Struct("iiiq"), struct.Struct("q")


class Daemon:
    """The node's daemon: a process outside the job that sends it signals.

    Make it before the student's code is loaded. Then nothing that this code does to its own process
    keeps a signal away, and a DataLoader worker sees a sender that isn't its parent. (In PyTorch, a
    worker exits normally after a SIGTERM from its own parent.)
    """

    def __init__(self) -> None:
        orders, self._orders = os.pipe()
        self._sent, sent = os.pipe()
        job, token = os.getpid(), telemetry.take("token") or ""
        if os.fork() == 0:
            os.close(self._orders)
            os.close(self._sent)
            self._serve(orders, sent, job, token)
        os.close(orders)
        os.close(sent)

    def send(self, number: int, pid: int | None = None, group: bool = False) -> None:
        """Send it to `pid`, by default to this process; when this returns, it is sent."""
        order = time.monotonic_ns()
        os.write(self._orders, ORDER.pack(pid or os.getpid(), group, number, order))
        # an earlier answer may be left, for a process that died of its signal
        while (answer := os.read(self._sent, SENT.size)) != SENT.pack(order):
            if not answer:
                raise BrokenPipeError

    @staticmethod
    def _serve(orders: int, sent: int, job: int, token: str) -> None:
        """What it reports is signed: the job writes into the same file, and could say the same."""

        def report(event: str, **what: object) -> None:
            telemetry.emit(event, **what, proof=proof(token, event, what))

        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            while order := os.read(orders, ORDER.size):
                pid, group, number, asked = ORDER.unpack(order)
                workers = _workers(job) if group else []
                # before it is sent: the job may die of it, and this process with it
                report("sent", n=asked, signal=number, job=pid == job, group=bool(group))
                with suppress(ProcessLookupError):
                    (os.killpg if group else os.kill)(pid, number)
                if group:
                    gone = _gone(workers, number)
                    report("struck", n=asked, workers=len(workers), gone=gone)
                os.write(sent, SENT.pack(asked))
        finally:
            os._exit(0)


def _workers(job: int) -> list[int]:
    """The living processes that `job` has forked, and that are in its group."""
    table = {pid: row for pid, *row in _processes()}
    command = table[job][-1] if job in table else None
    return [
        pid
        for pid, (parent, group, state, own) in table.items()
        if parent == job and group == job and own == command and state not in "ZX"
    ]


def _gone(workers: list[int], number: int) -> int:
    """How many of the workers are dead, when those that the signal kills are, and the job has got
    SIGCHLD.

    Workers that ignore or block it live on: don't wait for them.
    """
    may_die = [pid for pid in workers if not _unmoved(pid, number)]
    wait_until(lambda: not _alive(may_die), WORKERS, at_most=0.005)
    gone = len(workers) - len(_alive(workers))
    if gone:
        time.sleep(NOTICED)
    return gone


def _alive(workers: list[int]) -> list[int]:
    return [pid for pid, *_, state, _ in _processes() if pid in workers and state not in "ZX"]


def _processes() -> Iterator[tuple[int, int, int, str, str]]:
    """Of every process: its number, its parent's, its group's, its state, its command."""
    if not os.path.exists("/proc/self/stat"):  # not Linux
        columns = ["-o", "pid=,ppid=,pgid=,stat=,command="]
        for line in subprocess.run(["ps", "-A", *columns], stdout=PIPE, text=True).stdout.split(
            "\n"
        ):
            if len(words := line.split(None, 4)) == 5:
                yield int(words[0]), int(words[1]), int(words[2]), words[3][0], words[4]
        return
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):  # it has ended
            with open(f"/proc/{name}/stat") as f:
                state, parent, group, *_ = f.read().rpartition(")")[2].split()
            with open(f"/proc/{name}/cmdline") as f:
                command = f.read()
            yield int(name), int(parent), int(group), state, command


def _unmoved(pid: int, number: int) -> bool:
    try:
        with open(f"/proc/{pid}/status") as f:
            masks = dict(line.split(":", 1) for line in f)
    except OSError:
        return False  # not Linux, or dead already
    return any(int(masks[name], 16) >> (number - 1) & 1 for name in ("SigIgn", "SigBlk"))
