"""Keeps what a crashed life wrote, which would else go with the grading's scratch folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from grader.course.catalog import ROOT
from grader.harness import scratch
from grader.harness.lab import course_paths
from grader.verdicts import Finding

if TYPE_CHECKING:
    from grader.engine import Grading

MOST = 1 << 20  # bytes of each stream, the last ones


def keep(grading: Grading, task_id: str, finding: Finding | None) -> str:
    """Write the log that the finding names to .grade/logs, in place of this task's earlier one.

    Its path in the course; empty if there is nothing to keep, or nowhere.
    """
    if grading.logs is None:
        return ""
    file = grading.logs / f"{task_id}.log"
    try:
        file.unlink(missing_ok=True)
        text = _text(Path(finding.data["log"])) if finding and finding.data.get("log") else ""
        if not text:
            return ""
        grading.logs.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.{os.getpid()}")
        new.write_text(escaped(course_paths(text, grading.bench)))
        new.replace(file)
    except OSError:  # a course that can't be written to
        return ""
    return os.path.relpath(file, ROOT) if file.is_relative_to(ROOT) else str(file)


def escaped(text: str) -> str:
    """Several lines of what a life wrote: no control character of it reaches a terminal, not even
    by `cat`.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def _text(stderr: Path) -> str:
    """Both streams of the life whose stderr it is."""
    out = []
    for path in (stderr.with_name("stdout"), stderr):
        try:
            written = scratch.read(path, MOST, tail=True).decode(errors="replace").strip()
        except OSError:
            continue
        if written:
            out.append(f"--- {path.name}\n{written}\n")
    return "\n".join(out)
