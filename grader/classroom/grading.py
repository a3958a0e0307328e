"""Grades what isn't graded yet: a process for each exercise of each student, a few at a time.

The results folder is the only state. A unit is done when its record holds the key of its files,
seed and course, so the command can be killed at any moment and run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from grader.classroom.records import Graded, Results, Settings, Student
from grader.classroom.worker import Unit
from grader.course import catalog
from grader.errors import UsageError
from grader.processes import die_with_parent, kill_session
from grader.report import message
from grader.verdicts import INCONCLUSIVE, ExerciseResult, TaskResult

PATIENCE = 60.0  # s after the grading's own limit until its process is killed
ENDING = 15.0  # s for a process to end in order
MOST_PRINTED = 4000  # characters of a process that failed


@dataclass
class Work:
    """Students whose files of one exercise are the same: graded once."""

    unit: Unit
    key: str
    twins: list[Student] = field(default_factory=list)


class Watcher(Protocol):
    def done(self, work: Work, graded: Graded) -> None: ...


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the results folder. Raises UsageError if another command has locked it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another `grade class` writes to {folder}") from None
        yield


def open_work(
    results: Results,
    settings: Settings,
    students: Sequence[Student],
    make: Callable[[Student, str], Unit],
    *,
    retry_inconclusive: bool = False,
    regrade: bool = False,
) -> list[Work]:
    """What isn't graded yet, student by student."""
    found: dict[str, Work] = {}
    for student in students:
        for exercise in settings.exercises:
            if exercise not in student.digests:
                continue
            graded = None if regrade else student.graded(exercise, settings)
            if graded and not (retry_inconclusive and is_inconclusive(graded.result)):
                continue
            key = student.key(exercise, settings)
            work = found.setdefault(key, Work(make(student, exercise), key))
            work.twins.append(student)
    return list(found.values())


def is_inconclusive(result: ExerciseResult) -> bool:
    return any(task.verdict == INCONCLUSIVE for task in result.tasks)


def grade_here(todo: Sequence[Work], watcher: Watcher, *, at_once: int) -> None:
    """Grade everything on this machine."""
    asyncio.run(_grade_here(todo, at_once, watcher))


async def _grade_here(todo: Sequence[Work], at_once: int, watcher: Watcher) -> None:
    free = asyncio.Semaphore(at_once)

    async def one(work: Work) -> None:
        async with free:
            begin(work)
            printed = await _run(work.unit)
        settle(work, printed, watcher)

    await _all([one(work) for work in todo])


async def _all(jobs: Sequence[Awaitable[None]]) -> None:
    """Await all; if one fails or we are interrupted, cancel the others and await their ends."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(unit: Unit) -> str:
    """Run the unit's process to its end, or to its limit; return the end of what it printed."""
    process = await asyncio.create_subprocess_exec(
        *unit.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_parent,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        cwd=catalog.ROOT,
    )
    printed = b""

    async def follow() -> None:
        nonlocal printed
        assert process.stdout
        while data := await process.stdout.read(1 << 16):
            printed = (printed + data)[-MOST_PRINTED:]
        await process.wait()

    try:
        await asyncio.wait_for(follow(), unit.seconds + PATIENCE)
    except asyncio.TimeoutError:
        printed += b"\nit took longer than its limit, and was killed"
    finally:
        if process.returncode is None:
            await _end(process)
    if process.returncode:
        printed += f"\nexit status {process.returncode}".encode()
    return printed.decode(errors="replace").strip()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask it to end in order; kill it if it doesn't."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), ENDING)
    except asyncio.TimeoutError:
        kill_session(process.pid)
        await process.wait()


def begin(work: Work) -> None:
    """Delete the earlier record: it isn't the result of this grading."""
    work.twins[0].record(work.unit.exercise).unlink(missing_ok=True)


def settle(work: Work, printed: str, watcher: Watcher) -> None:
    """Give the result to every student with the same files; without a record, it is
    inconclusive.
    """
    first, *others = work.twins
    record = first.record(work.unit.exercise)
    graded = Graded.read(record)
    if graded is None or graded.key != work.key:
        graded = Graded(work.key, failed(work.unit.exercise, printed, first, work.unit))
        graded.write(record)
    for twin in others:
        for task in graded.result.tasks:
            if log := task.evidence.get("log"):
                (twin.folder / log).parent.mkdir(exist_ok=True)
                with contextlib.suppress(OSError):
                    shutil.copyfile(first.folder / log, twin.folder / log)
        graded.write(twin.record(work.unit.exercise))
    watcher.done(work, graded)


def failed(exercise: str, printed: str, student: Student, unit: Unit) -> ExerciseResult:
    """The result of a grading that ended without one: inconclusive, whatever the reason."""
    settings = Settings.of(Path(unit.results))
    assert settings
    last = printed.splitlines()[-1] if printed else "it printed nothing"
    rows = [("grader", f"the grading ended without a result: {last}")]
    said = message.Message(rows, {"code": "machinery", "about": "", "cause": "machinery"})
    (student.folder / "logs").mkdir(exist_ok=True)
    (student.folder / "logs" / f"{exercise}-grader.log").write_text(printed + "\n")
    tasks = [
        TaskResult(t.id, t.title, INCONCLUSIVE, 0, t.points, 0.0, str(said), said.data)
        for t in catalog.find(exercise).tasks
    ]
    title = catalog.find(exercise).title
    return ExerciseResult(exercise, title, tasks, 0.0, 0, settings.seed)


class Clock:
    """How long the rest will take, by what has been graded so far."""

    def __init__(self, todo: Sequence[Work], at_once: int):
        self.left = [work.unit.exercise for work in todo]
        self.at_once = at_once
        self.took: dict[str, list[float]] = {}
        self.began = time.monotonic()

    def done(self, exercise: str, seconds: float) -> None:
        self.left.remove(exercise)
        self.took.setdefault(exercise, []).append(seconds)

    def estimate(self) -> float | None:
        """Seconds; None as long as nothing is known."""
        if not self.took:
            return None
        known = {name: sum(times) / len(times) for name, times in self.took.items()}
        usual = sum(known.values()) / len(known)
        return sum(known.get(name, usual) for name in self.left) / self.at_once
