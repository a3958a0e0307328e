"""Where the student's code stood when the grader ended it, put into evidence."""

from __future__ import annotations

import os
import re
from pathlib import Path

from grader.harness import scratch
from grader.harness.run import WHY_ENDED, Process

LONGEST = 20_000  # characters of the stacks of a process
FRAMES = 4  # of a stack, the innermost ones
STACKS = 3  # of a process and those that it has started
SOURCE = 1 << 20  # bytes of a file of which a line is shown


def stood_at(process: Process) -> list[tuple[str, str]]:
    """As evidence: the student's frames, of each process and thread that had some."""
    return rows_of(process.text("stack", LONGEST), process.code)


def rows_of(stacks: str, code: Path | None) -> list[tuple[str, str]]:
    """The same of a text that Python's faulthandler wrote. `code`: the copy that ran.

    Without a frame of the student's: the training script's line.
    """
    if own := [stack for stack in map(_own, _blocks(stacks)) if stack]:
        return [
            ("" if n else "stood at", _shown(frame, code))
            for stack in _distinct(own)[:STACKS]
            for n, frame in enumerate(stack[-FRAMES:])
        ]
    for file, line, _ in re.findall(FRAME, stacks):
        if "/grader/workload/" in file:
            where = f"{file.rpartition('/')[2]}:{line} (the training script)"
            return [("stood at", f"{where}, in none of your functions")]
    return []


def ended_by_the_grader(process: Process) -> str:
    """Of a process that went over a limit, in one line: that it did, and where it stood."""
    where = [text for _, text in stood_at(process)][-1:]
    at = f", at {where[0]}" if where else ""
    return f"was ended by the grader: {WHY_ENDED.get(process.ended or '', '')}{at}"


FRAME = r'File "(.*)", line (\d+) in (.*)'
Stack = list[tuple[str, int, str]]  # (the student's file, line, function), the innermost last


def _blocks(stacks: str) -> list[str]:
    """Each thread's part of the text; those that ran when they were asked come first."""
    found = re.findall(r"^(Current thread|Thread)(.*(?:\n  .*)*)", stacks, re.MULTILINE)
    return [text for _, text in sorted(found, key=lambda block: block[0])]


def _own(block: str) -> Stack:
    frames = [
        (name, int(line), function)
        for file, line, function in re.findall(FRAME, block)
        if (name := scratch.submitted(file))
    ]
    return frames[::-1]


def _distinct(stacks: list[Stack]) -> list[Stack]:
    """Without those that another one continues: a forked process has its parent's frames, too."""
    kept: list[Stack] = []
    for stack in stacks:
        if not any(other[: len(stack)] == stack for other in kept):
            kept.append(stack)
    return kept


def _shown(frame: tuple[str, int, str], code: Path | None) -> str:
    name, line, function = frame
    source = _source(code, name, line) if code else ""
    return f"{name}:{line} in {function}" + (f": {source}" if source else "")


def _source(code: Path, name: str, number: int) -> str:
    """The line itself; nothing of a file that isn't the submission's."""
    try:
        path = os.path.realpath(code / name)
        if path != os.path.join(os.path.realpath(code), name):
            return ""  # the student's process names the file, and may have made a link
        lines = scratch.read(Path(path), SOURCE).decode(errors="replace").splitlines()
        return lines[number - 1].strip()[:200]
    except (OSError, ValueError, IndexError):
        return ""
