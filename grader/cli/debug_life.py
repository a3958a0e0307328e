"""One life of a check in the foreground: `grade debug`.

The check runs as in a grading, with the same seed, up to the life that is asked for. That life
finds the checkpoint directory as it was, and meets the same fault. But it runs on the terminal:
without limits and without a sandbox, from the student's own file.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grader.collection import Check
from grader.course.submissions import Submission
from grader.errors import UsageError
from grader.files import write_atomically
from grader.harness import launcher as launchers
from grader.harness.lab import Debugged, Lab
from grader.harness.launcher import FIRST, HERE, Launcher, Limits
from grader.harness.run import Run
from grader.harness.sandbox import NONE
from grader.harness.workbench import Bench
from grader.report import excerpt
from grader.verdicts import Finding, NotSelected

UNLIMITED = Limits(
    wall=86400.0, quiet=86400.0, cpu=86400.0
)  # a person thinks for longer than a life runs
TERMINAL, DEBUGPY = "terminal", "debugpy"


class Over(Exception):
    """The debugged life has ended."""

    def __init__(self, status: int):
        self.status = status


class Foreground:
    """A launcher that runs one process of a life on the terminal, and the others next to it."""

    name = "foreground"

    def __init__(self, inner: Launcher, rank: int, how: str):
        self.inner, self.rank, self.how = inner, rank, how

    def run(self, jobs: list[Path], seconds: float, start: str = FIRST) -> None:
        """Run the life to its end, whatever time that takes. Raises Over."""
        for path in jobs:
            _without_limits(path, self.how if path is jobs[self.rank] else "")
        others = [path for path in jobs if path is not jobs[self.rank]]
        beside = threading.Thread(
            target=self.inner.run, args=(others, UNLIMITED.wall, start), daemon=True
        )
        if others:
            beside.start()
        raise Over(_in_the_foreground(jobs[self.rank]))

    def close(self) -> None:
        self.inner.close()


def _without_limits(path: Path, debug: str) -> None:
    job = json.loads(path.read_text())
    job["limits"] |= {name: getattr(UNLIMITED, name) for name in ("wall", "quiet", "cpu")}
    job["given"] |= {"patience": UNLIMITED.wall}  # the others wait in collectives
    job["sandbox"] |= {"kind": NONE}  # ranks in a sandbox have a private network
    if debug:
        job["debug"] = debug
    write_atomically(path, json.dumps(job))


def _in_the_foreground(path: Path) -> int:
    child = str(HERE / "inside" / "child.py")
    with _interrupts_go_to_the_life():
        return subprocess.run([sys.executable, "-I", child, str(path)]).returncode


@contextmanager
def _interrupts_go_to_the_life() -> Iterator[None]:
    """Ctrl-C reaches the whole foreground group; only the life reacts to it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Wanted:
    """The life that will run in the foreground, by its name: "7c1f.2"."""

    def __init__(self, life: str, rank: int, how: str):
        self.life, self.rank, self.how = life, rank, how

    def wants(self, life: str) -> Debugged | None:
        return self if life == self.life else None

    def launcher(self, inner: Launcher) -> Launcher:
        return Foreground(inner, self.rank, self.how)


def debug(
    check: Check, work: Submission, seed: int, life: str | None, rank: int | None, how: str
) -> int:
    """Run `check` up to that life, and the life in the foreground.

    life  its name, as a message gives it: "7c1f.2". None: the one that fails
    rank  the process of it; None: the one that fails

    Returns the exit status of the command. Raises UsageError if there is no such life.
    """
    if how == DEBUGPY:
        _needs_debugpy()
    if life is None:
        print(f"looking for the life in which {check.slug} fails ...", flush=True)
        finding, runs = _tried(check, work, seed, None)
        if finding is None:
            print("the check passes: no life fails")
            return 0
        print(str(finding).strip("\n"))
        target = excerpt.failing_life(runs, finding)
        if target is None:
            raise UsageError(_no_life(check))
        life, found_rank = target
        rank = found_rank if rank is None else rank
    where = f"life {life}" + (f", rank {rank}" if rank else "")
    print(f"--- {where} of {check.slug}, seed {seed}. breakpoint() works; Ctrl-C interrupts.")
    began = time.monotonic()
    try:
        finding, _ = _tried(check, work, seed, Wanted(life, rank or 0, how))
    except Over as over:
        print(f"--- {where} ended with {_ended(over.status)}, {time.monotonic() - began:.0f} s")
        return 0
    if finding:
        print(str(finding).strip("\n"))
        raise UsageError(f"the check failed before life {life} began")
    raise UsageError(f"{check.slug} has no life {life}; {_no_life(check)}")


def _no_life(check: Check) -> str:
    return (
        f"nothing of {check.task} runs under a debugger here: a job on a cluster writes a log "
        "instead, which a failing check's message names"
        if check.task.startswith("ex04")
        else "a message's `debug` line names the life"
    )


def _tried(
    check: Check, work: Submission, seed: int, wanted: Wanted | None
) -> tuple[Finding | None, list[Run]]:
    """The check's finding, and its runs."""
    launcher = launchers.choose()
    bench = Bench(work, launcher, seed, jobs=2)
    lab = Lab(bench, check.name, debugger=wanted)
    try:
        check.function(lab, **check.params)
    except Finding as finding:
        return finding, lab.runs
    except NotSelected:
        pass
    finally:
        launcher.close()
        bench.close()
    return None, lab.runs


def _ended(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _needs_debugpy() -> None:
    try:
        import debugpy  # noqa: F401  # the life imports it; here, only to say what is missing
    except ImportError as e:
        raise UsageError("--debugpy needs debugpy: pip install debugpy") from e
