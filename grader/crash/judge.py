"""Lets a program's own load read many directories, each in a fresh process.

The processes are forked from one that has everything loaded, so each costs a fork and not a start.
"""

from __future__ import annotations

import gc
import json
import os
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from grader.crash.operations import Tree
from grader.processes import die_with_parent, kill_session
from grader.processor_time import RunningTime

SECONDS = 20  # for one load, less those without a processor; milliseconds are normal
ENOUGH = 1 << 16  # bytes of one answer


K = TypeVar("K")


@dataclass(frozen=True)
class Outcome:
    """What load did. `kind`: "state" (it gave one, with this digest), "none" (it found nothing),
    "error" (it raised), "died" (the process ended under it) or "late" (it didn't end in time).
    """

    kind: str
    digest: str = ""
    text: str = ""  # the error's type and first line, or how the process ended
    stack: str = ""  # of one that is late: where it stood, if anybody asked


def lay(tree: Tree, place: Path) -> None:
    """Make the directory `place` what the tree says."""
    with suppress(FileNotFoundError):
        shutil.rmtree(place)
    place.mkdir(parents=True)
    for path, content in tree.items():
        at = place / path
        if content is None:
            at.mkdir(exist_ok=True)
        elif isinstance(content, str):
            at.symlink_to(content)
        else:
            at.write_bytes(content)


def judge(
    trees: Mapping[K, Tree],
    load: Callable[[str], str | None],
    places: list[Path],
    seconds: float = SECONDS,
    where: Callable[[int], str] = lambda pid: "",
    on_answer: Callable[[], None] = lambda: None,
) -> dict[K, Outcome]:
    """Lay each tree out in one of `places` and ask `load(place)` for the digest of what lies there
    (None: nothing).

    One process per place works through its share; it and what it starts die with this one. After a
    load that hangs, it asks no more: some of the keys are missing in the answer.

    where  the stack of a process whose load hangs
    on_answer  called at each answer
    """
    keys = list(trees)
    readers: list[tuple[int, int]] = []
    gc.collect()
    gc.freeze()  # pages that are shared stay shared
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        for n, place in enumerate(places):
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(reading)
                    die_with_parent()
                    for i in range(n, len(keys), len(places)):
                        lay(trees[keys[i]], place)
                        outcome = _ask(load, place, seconds, where)
                        answer = json.dumps([i, asdict(outcome)]).encode() + b"\n"
                        while answer:
                            answer = answer[os.write(writing, answer) :]
                        if outcome.kind == "late":
                            break
                finally:
                    os._exit(0)
            os.close(writing)
            readers.append((pid, reading))
        return _collect(keys, readers, on_answer)
    finally:
        gc.unfreeze()
        for pid, reading in readers:
            os.close(reading)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _collect(
    keys: list[K], readers: list[tuple[int, int]], on_answer: Callable[[], None]
) -> dict[K, Outcome]:
    found: dict[K, Outcome] = {}
    rest = {fd: b"" for _, fd in readers}
    while rest:
        for fd in select.select(list(rest), [], [])[0]:
            data = os.read(fd, 1 << 16)
            if not data:
                del rest[fd]
                continue
            *lines, rest[fd] = (rest[fd] + data).split(b"\n")
            for line in lines:
                i, outcome = json.loads(line)
                found[keys[i]] = Outcome(**outcome)
                on_answer()
    if len(found) < len(keys) and not any(o.kind == "late" for o in found.values()):
        raise RuntimeError(
            f"{len(keys) - len(found)} of {len(keys)} states weren't judged: the judging process "
            "ended"
        )
    return found


def silence() -> None:
    """Let this process read and print nothing from here on."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)


def _ask(
    load: Callable[[str], str | None], place: Path, seconds: float, where: Callable[[int], str]
) -> Outcome:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            os.setsid()
            die_with_parent()
            silence()
            os.write(writing, json.dumps(asdict(_loaded(load, place))).encode()[:ENOUGH])
        finally:
            os._exit(0)
    os.close(writing)
    answer, clock = b"", RunningTime([pid, os.getpid()])
    try:
        while clock.seconds() < seconds:
            if not select.select([reading], [], [], 0.1)[0]:
                continue
            data = os.read(reading, ENOUGH)
            if not data:
                break
            answer += data
            with suppress(ValueError):
                return Outcome(**json.loads(answer))
        else:
            text = f"was still running after {seconds:g} s"
            return Outcome("late", text=text, stack=where(pid))
    finally:
        os.close(reading)
        kill_session(pid)
        _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return Outcome(
        "died",
        text=f"was killed by {signal.Signals(-code).name}"
        if code < 0
        else f"ended its process with exit status {code}",
    )


def _loaded(load: Callable[[str], str | None], place: Path) -> Outcome:
    try:
        digest = load(str(place))
    except SystemExit as e:
        return Outcome("died", text=f"called sys.exit({e.code!r})")
    except BaseException as e:
        first = next(iter("".join(traceback.format_exception_only(e)).strip().splitlines()), "")
        return Outcome("error", text=first.replace(str(place), ".").strip()[:300])
    return Outcome("none") if digest is None else Outcome("state", digest)
