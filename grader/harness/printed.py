"""What the processes of a run printed: each line with its time, its life and its rank."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grader.harness import scratch

if TYPE_CHECKING:
    from grader.harness.run import Run

MOST = 1 << 20  # the last bytes of a process's output
# torch's own log lines: "[W1126 ...]", "[rank0]:[W1126 ...]"
_OF_TORCH = re.compile(r"(\[rank\d+\]:)?\[[IWE]\d{4} ")


POLL = 0.1  # s between two looks at what a process that is followed has printed


@dataclass(frozen=True)
class Line:
    """A line that a process printed, to stdout or stderr.

    t          s on the machine's clock: at the latest then it was printed
    life       the life's number, from 1; 0: of a job whose lives share one log
    rank       None: a life of one process
    script     the training script printed it, and not the submission
    traceback  it belongs to the report of the exception that ended the process
    """

    t: float
    life: int
    rank: int | None
    text: str
    script: bool = False
    traceback: bool = False

    @property
    def who(self) -> str:
        life = f"life {self.life}" if self.life else "job"
        return life if self.rank is None else f"{life} rank {self.rank}"


def lines(run: Run) -> list[Line]:
    """All lines of a run, in the order of time."""
    found = []
    for number, life in enumerate(run.lives, 1):
        many = len(life.processes) > 1
        for rank, process in enumerate(life.processes):
            found += _of_process(process, number, rank if many else None)
    return sorted(found, key=lambda line: line.t)  # stable: a process's own order stays


def _of_process(process: Any, life: int, rank: int | None) -> list[Line]:
    try:
        path = process.folder / "output"
        size, data = path.stat().st_size, scratch.read(path, MOST, tail=True)
    except OSError:
        return []
    marks = [e for e in process.events if isinstance(e.get("printed"), int)]
    end = max([e["t"] for e in process.events], default=0.0)
    crash = process.first("crash")
    at, out, offset = 0, [], size - len(data)
    printed_before_crash = _printed_by(marks, crash["t"]) if crash else None
    for raw in data.splitlines(keepends=True):
        started, offset = offset, offset + len(raw)
        while at < len(marks) and marks[at]["printed"] < offset:
            at += 1
        mark: dict[str, Any] = marks[at] if at < len(marks) else {"event": "", "t": end}
        text = raw.decode(errors="replace").rstrip()
        if not text or _OF_TORCH.match(text):
            continue
        out.append(
            Line(
                mark["t"],
                life,
                rank,
                text,
                mark["event"] == "said",
                printed_before_crash is not None and started >= printed_before_crash,
            )
        )
    return out


def _printed_by(marks: list[dict[str, Any]], t: float) -> int:
    """Bytes that a process had printed at that time."""
    return max([mark["printed"] for mark in marks if mark["t"] <= t], default=0)


@contextmanager
def followed(files: dict[str, Path], show: Callable[[str, str], None]) -> Iterator[None]:
    """Show each line that appears in the files, soon after it does: show(whose, line).

    files  whose output -> the file, which may not exist yet
    """
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(files, show, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(
    files: dict[str, Path], show: Callable[[str, str], None], over: threading.Event
) -> None:
    read = dict.fromkeys(files, 0)
    while True:
        last = over.wait(POLL)  # what came before the end is shown, too
        for who, path in files.items():
            try:
                data = scratch.read(path, MOST, start=read[who])
            except OSError:
                continue
            whole = len(data) if last else data.rfind(b"\n") + 1
            read[who] += whole
            for line in data[:whole].decode(errors="replace").splitlines():
                show(who, line)
        if last:
            return
