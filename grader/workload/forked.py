"""Many questions in one life, asked in forked processes that may die of them."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from grader.harness import child, watch

SECONDS = 20  # for one question; milliseconds are normal


class Helper:
    """A forked process that answers questions one after another, and is forked anew when it has died.

    `handle(question)` runs there; a crash in it goes out as an event, and so does how each question
    ended: {"event": "ended", "point", "part", "status", "late"}.
    """

    def __init__(self, part: str, handle: Callable[[dict], None]):
        self.part, self.handle = part, handle
        self.pid: int | None = None

    def ask(self, name: str, question: dict) -> None:
        if self.pid is None:
            self._fork()
        late = False
        line = json.dumps(question | {"name": name}).encode()
        os.write(self.to_helper, len(line).to_bytes(4, "big") + line)
        if not _readable(self.from_helper, SECONDS):
            late = True
            os.kill(self.pid, signal.SIGKILL)
        answer = os.read(self.from_helper, 1)
        if answer:
            status = answer[0]
        else:  # it died, or left
            _, code = os.waitpid(self.pid, 0)
            status = os.waitstatus_to_exitcode(code)
            self._forget()
        watch.emit("ended", point=name, part=self.part, status=status, late=late)

    def close(self) -> None:
        """End the process; the next question gets a new one."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._forget()

    def _forget(self) -> None:
        os.close(self.to_helper)
        os.close(self.from_helper)
        self.pid = None

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
            watch.emit("exit", point=question["name"], part=self.part, **child.describe(e))
            os._exit(e.code if isinstance(e.code, int) else 1 if e.code else 0)
        except BaseException as e:
            watch.emit("crash", point=question["name"], part=self.part, **child.describe(e))
            return 1
        return 0


def _exactly(fd: int, number: int) -> bytes:
    data = b""
    while len(data) < number and (more := os.read(fd, number - len(data))):
        data += more
    return data


def _readable(fd: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([fd], [], [], left)[0]:
            return True
    return False
