"""The grader's witness of a job on a cluster: it holds what the training needs, and records what
happens.

The training (grader/workload/ex04/train.py) connects in each life and asks for a number before each
step. The numbers are secret, and each is given when it's due, so a history can't be forged without
training. Only what the witness sees itself counts, not what is claimed: which job of the cluster
the process belongs to, by its ancestors; whether it lives; what time it is; what lies on the disk.
It strikes the faults, and kills.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from grader.checks.ex04.checkpoints_on_disk import intact, newest_intact, read, step_of
from grader.processes import wait_until
from grader.slurm import ancestors, processes
from grader.slurm.errors import ClusterError
from grader.workload.ex04.train import Walk, pump

LINE = 10_000  # bytes of one report
REPORTS = 3_000  # of one life; a whole run has 150
MOST_LETTERS = 100  # lives that report through files; a run has about five
DYING = 2.0  # s within which a killed process ends
TEARS = ("state cut", "state zeros", "state gone", "manifest cut", "manifest gone")


@dataclass
class _Life:
    """One process that reports, and what is known of it."""

    number: int
    socket: socket.socket
    pid: int | None  # None: on another machine
    job: str
    known: dict | None = None  # its identity: pid and start time
    step: int = 0
    slow: float = 0.0  # s that the save after a signal takes
    struck: bool = False  # a fault is under way, and a signal to come
    signalled: bool = False
    doomed: bool = False  # it must die


class Strange(Exception):
    """A report that the training never makes."""


class Witness:
    """Of one run. `address` is for the training, `events` for the checks.

    plan         the faults, in their order: {"step": 7, "do": "preempt", "save": 2.0}; one with
                 "every" strikes each life that comes to its step
    checkpoints  the run's folder of checkpoints
    strike       called with (fault, job id): does to the job what the cluster does
    job_of       pid -> id of the running job that this process belongs to, or None. None: the
                 processes are on other machines, and what they say of themselves must do
    """

    def __init__(
        self, folder: Path, checkpoints: Path, plan: list[dict], steps: int,
        strike: Callable[[dict, str], None], job_of: Callable[[int], str | None] | None,
    ):  # fmt: skip
        self.folder, self.checkpoints, self.plan, self.steps = folder, checkpoints, plan, steps
        self.strike, self.job_of = strike, job_of
        self.command: list[str] = []  # of the training; what has another command line isn't it
        self.events: list[dict] = []
        self.trouble = ""  # why nothing is proved
        self.pace = 0.0  # s that a step takes, for those who want to follow it
        self.on_event: Callable[[dict], None] = lambda event: None  # gets each event
        self._struck = 0
        self._lives: list[_Life] = []
        self._began = 0
        self._listener: socket.socket | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._salts = {n: secrets.randbelow(1 << 52) / (1 << 60) for n in range(1, steps + 1)}
        walk, self.undisturbed = Walk(), {}
        for n in range(1, steps + 1):
            walk.advance(self._salts[n])
            self.undisturbed[n] = walk.digest()

    def __enter__(self) -> Witness:
        if self.job_of:
            path = str(self.folder / "witness")
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self.address = f"unix:{path}"
            self._listener.listen(16)
            threading.Thread(target=self._accept, daemon=True).start()
        else:  # on other machines: no port is opened for them, they see this folder
            post = self.folder / "post"
            post.mkdir()
            self.address = f"files:{post}"
            threading.Thread(target=self._look_for_letters, args=(post,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        if self._listener:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for life in list(self._lives):
            with suppress(OSError):
                life.socket.shutdown(socket.SHUT_RDWR)

    @property
    def under_way(self) -> bool:
        """Whether a life is connected."""
        return bool(self._lives)

    # --- who reports

    def _accept(self) -> None:
        assert self._listener  # __enter__ has opened it
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _look_for_letters(self, post: Path) -> None:
        """A life begins with a file in this folder."""
        known: set[str] = set()
        while not self._over.wait(0.2):
            with suppress(OSError):
                new = {name for name in os.listdir(post) if name.endswith(".in")} - known
                for name in sorted(new)[: MOST_LETTERS - len(known)]:
                    known.add(name)
                    mine, theirs = socket.socketpair()
                    files = (str(post / name), str(post / name.removesuffix(".in")) + ".out")
                    threading.Thread(target=pump, args=(theirs, *files), daemon=True).start()
                    threading.Thread(target=self._serve, args=(mine,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        life, lines = None, _Lines(sock)
        try:
            hello = json.loads(lines.next() or "{}")
            if hello.get("event") != "hello":
                return
            life = self._meet(sock, hello)
            self._same(life)
            if life.pid and ancestors.arguments(life.pid) != self.command:
                raise Strange("its command line isn't $TRAIN's")
            self._note(life, "life", at_once=self._beside(life))
            self._attend(life, lines)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass  # torn in its last report, or no training at all
        except Strange as e:
            self._note(life, "strange", what=str(e))
            if life and life.known:
                processes.send(life.known, signal.SIGKILL)
        except ClusterError as e:
            self.trouble = str(e)
        finally:
            if life:
                with self._lock:
                    self._lives.remove(life)
                self._note(life, "gone")
            sock.close()

    def _meet(self, sock: socket.socket, hello: dict) -> _Life:
        pid = _peer(sock) if self.job_of else None
        job = (self.job_of(pid) or "") if self.job_of and pid is not None else str(hello.get("job"))
        with self._lock:
            self._began += 1
            life = _Life(self._began, sock, pid, job, processes.identity(pid) if pid else None)
            self._lives.append(life)
        return life

    def _beside(self, life: _Life) -> list[str]:
        """The jobs of other lives that are under way; on other machines, the cluster's queue says
        it.
        """
        with self._lock:
            others = [o for o in self._lives if o is not life]
        return [o.job for o in others if o.known and processes.alive(o.known)]

    def _same(self, life: _Life) -> None:
        """It still runs in its job."""
        pid, known = life.pid, life.known
        if not self.job_of or (life.job and pid and self.job_of(pid) == life.job):
            return
        # a job that is killed loses its processes one after another
        if not wait_until(lambda: not (known and processes.alive(known)), DYING):
            raise Strange("outside")
        raise ConnectionError

    def _note(self, life: _Life | None, event: str, **fields) -> None:
        who = {"life": life.number, "pid": life.pid, "job": life.job} if life else {}
        with self._lock:
            self.events.append({"event": event, "t": time.time(), **who, **fields})
            self.on_event(self.events[-1])

    # --- what it reports

    def _attend(self, life: _Life, lines: _Lines) -> None:
        owed: tuple[float, dict] | None = None  # when an answer is due, and which
        for _ in range(REPORTS):
            if owed and (left := owed[0] - time.monotonic()) > 0:
                if not select.select([life.socket], [], [], left)[0]:
                    continue
            elif owed:
                self._answer(life, owed[1])
                owed = None
            if (line := lines.next()) is None:
                return
            report = json.loads(line)
            pause, answer = self._take(life, report)
            if answer is not None:
                if owed:
                    raise Strange("it asked twice")
                owed = (time.monotonic() + pause, answer)
                if not pause:
                    self._answer(life, answer)
                    owed = None
        raise Strange("it reports without end")

    def _answer(self, life: _Life, answer: dict) -> None:
        self._same(life)
        with suppress(OSError):  # it has just died
            life.socket.sendall(json.dumps(answer).encode() + b"\n")
        if answer.get("do") == "die" and life.known:
            processes.send(life.known, signal.SIGKILL)

    def _take(self, life: _Life, report: dict) -> tuple[float, dict | None]:
        """(s to wait, the answer) to one report; None: it waits for none."""
        event, step = report["event"], report.get("step")
        if life.doomed:
            raise Strange("it reports after its end")
        if event == "signal":
            life.signalled = True
            self._note(life, "signal", signal=str(report["signal"])[:10])
            return 0, None
        if event in ("error", "nothing to do"):
            kind, text = str(report.get("type", ""))[:100], str(report.get("message", ""))[:500]
            error = {"type": kind, "message": text, "frames": _frames(report.get("frames"))}
            self._note(life, event, **(error if event == "error" else {"step": step}))
            return 0, None
        self._same(life)
        if event == "life":
            mark = secrets.token_hex(4)
            self._note(life, "mark", mark=mark)
            return 0, {"mark": mark}
        if event == "where":
            found = newest_intact(self.checkpoints)
            return 0, {"checkpoint": found and str(found)}
        if event == "left":
            self._note(life, "left", status=int(report["status"]))
            return 0, {}
        if event == "torn":
            life.doomed = True
            self._check_torn(life)
            return 0, {"do": "die"}
        if not isinstance(step, int) or not 0 <= step <= self.steps:
            raise Strange(f"step {step!r}")
        if event == "resumed":
            life.step = step
            newest = newest_intact(self.checkpoints)
            self._note(life, "resumed", step=step, newest=step_of(newest) if newest else 0)
            return 0, self._next(life)
        if event == "step" and step == life.step + 1:
            life.step = step
            self._note(life, "step", step=step, digest=str(report["digest"])[:64])
            return 0, {}
        if step != life.step:
            raise Strange(f"{event} at step {step}, not {life.step}")
        if event == "saving":
            self._note(life, "saving", step=step)
            return (life.slow if life.signalled else 0), {}
        if event == "saved":
            data = read(self.checkpoints / f"step-{step}" / "state.json")
            if data is None or hashlib.sha256(data).hexdigest() != self.undisturbed.get(
                step, hashlib.sha256(data).hexdigest()
            ):
                raise Strange(f"what is saved isn't step {step}")
            self._note(life, "saved", step=step)
            return 0, {}
        if event == "ready":
            return self.pace, self._next(life)
        raise Strange(f"{event!r}")

    # --- what happens to it

    def _next(self, life: _Life) -> dict:
        """The number of the next step, or what happens instead."""
        with self._lock:
            number = self._struck
            fault = (
                self.plan[number]
                if number < len(self.plan) and self.plan[number]["step"] == life.step
                else None
            )
            if fault and not fault.get("every"):
                self._struck += 1
        if fault is None:
            return {"salt": self._salts[life.step + 1]} if life.step < self.steps else {}
        newest = newest_intact(self.checkpoints)
        self._note(
            life,
            "fault",
            do=fault["do"],
            step=life.step,
            number=number,
            saved=step_of(newest) if newest else 0,
            **({"status": fault["status"]} if "status" in fault else {}),
        )
        if fault["do"] == "exit":
            return {"do": "exit", "status": fault["status"]}
        if fault["do"] == "kill":
            life.doomed = True
            return {"do": "die"}
        if fault["do"] == "torn":
            if newest is None:
                raise ValueError("there is nothing to tear")
            return {"do": "tear", "folder": newest.name, "how": fault["how"]}
        life.slow = fault.get("save", 0.0)
        self.strike(fault, life.job)
        return {"do": "wait"}

    def _check_torn(self, life: _Life) -> None:
        torn = [
            e["saved"] for e in self.events if e["event"] == "fault" and e["life"] == life.number
        ][-1]
        if intact(self.checkpoints / f"step-{torn}"):
            raise Strange("the checkpoint wasn't torn")


def _frames(reported: object) -> list[dict]:
    """The frames of an error in the student's file, as far as they were reported whole."""
    frames = reported if isinstance(reported, list) else []
    return [
        {
            "line": f["line"],
            "function": str(f.get("function", ""))[:100],
            "text": str(f.get("text", ""))[:300],
        }
        for f in frames[-5:]
        if isinstance(f, dict) and isinstance(f.get("line"), int)
    ]


class _Lines:
    """The lines that come from a socket, none longer than LINE."""

    def __init__(self, sock: socket.socket):
        self._socket, self._rest = sock, b""

    def next(self) -> bytes | None:
        while b"\n" not in self._rest:
            if len(self._rest) > LINE or not (more := self._socket.recv(LINE)):
                return None
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def _peer(sock: socket.socket) -> int:
    """The pid of the process at the other end, from the kernel."""
    if sys.platform.startswith("linux"):
        size = struct.calcsize("3i")
        return struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
    SOL_LOCAL, LOCAL_PEERPID = 0, 2  # macOS
    return struct.unpack("i", sock.getsockopt(SOL_LOCAL, LOCAL_PEERPID, 4))[0]
