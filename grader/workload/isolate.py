"""Many questions in one life, each in a forked process that may die of it."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grader.harness.inside import child, telemetry


class Helper:
    """A forked process that answers questions in order; a new one replaces it when it dies.

    `handle(question)` runs there. A crash in it is reported as an event, and so is how each
    question ended: {"event": "ended", "point", "part", "status"}. The life's guardian
    ends one that hangs, since the life is silent.
    """

    def __init__(self, part: str, handle: Callable[[dict], None]):
        self.part, self.handle = part, handle
        self.pid: int | None = None
        # readable when the process is dead; macOS has none and relies on the pipe
        self.pidfd: int | None = None

    def ask(self, name: str, question: dict) -> int:
        """How the question ended: 0 if all went well."""
        if self.pid is None:
            self._fork()
        telemetry.emit("asked", point=name, part=self.part)
        line = json.dumps(question | {"name": name}).encode()
        os.write(self.to_helper, len(line).to_bytes(4, "big") + line)
        # it answers or is dead
        watched = [self.from_helper] if self.pidfd is None else [self.from_helper, self.pidfd]
        select.select(watched, [], [])
        # a process that it left behind may hold the pipe open: don't wait for its end
        answered = select.select([self.from_helper], [], [], 0)[0]
        answer = os.read(self.from_helper, 1) if answered else b""
        if answer:
            status = answer[0]
        else:
            _, code = os.waitpid(self.pid, 0)
            status = os.waitstatus_to_exitcode(code)
            self._forget()
        telemetry.emit("ended", point=name, part=self.part, status=status)
        return status

    def close(self) -> None:
        """End the process; the next question gets a new one."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._forget()

    def _forget(self) -> None:
        os.close(self.to_helper)
        os.close(self.from_helper)
        if self.pidfd is not None:
            os.close(self.pidfd)
        self.pid = self.pidfd = None

    def _fork(self) -> None:
        theirs_in, self.to_helper = os.pipe()
        self.from_helper, theirs_out = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.to_helper)
            os.close(self.from_helper)
            self._serve(theirs_in, theirs_out)
        os.close(theirs_in)
        os.close(theirs_out)
        if hasattr(os, "pidfd_open"):
            self.pidfd = os.pidfd_open(self.pid)

    def _serve(self, questions: int, answers: int) -> None:
        try:
            while size := _exactly(questions, 4):
                question = json.loads(_exactly(questions, int.from_bytes(size, "big")))
                os.write(answers, bytes([self._answer(question)]))
        finally:
            sys.stdout.flush()
            os._exit(0)

    def _answer(self, question: dict) -> int:
        try:
            self.handle(question)
        except SystemExit as e:
            telemetry.emit("exit", point=question["name"], part=self.part, **child.describe(e))
            os._exit(e.code if isinstance(e.code, int) else 1 if e.code else 0)
        except BaseException as e:
            telemetry.emit("crash", point=question["name"], part=self.part, **child.describe(e))
            return 1
        return 0


@contextmanager
def watching_cwd(point: str) -> Iterator[None]:
    """Emit a "moved" event if the block leaves another working directory; go back there."""
    before = os.getcwd()
    yield
    if os.getcwd() != before:
        telemetry.emit("moved", point=point)
        os.chdir(before)


def ask_each(cases: list[str], answer: Callable[[str], None]) -> None:
    """`answer` each case in a process of its own."""
    for case in cases:
        helper = Helper("cases", lambda question: answer(question["name"]))
        helper.ask(case, {})
        helper.close()


def _exactly(fd: int, number: int) -> bytes:
    data = b""
    while len(data) < number and (more := os.read(fd, number - len(data))):
        data += more
    return data
