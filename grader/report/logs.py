"""Keeps what a crashed life wrote; otherwise it would be deleted with the scratch folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from grader.course.catalog import ROOT
from grader.files import write_atomically
from grader.harness import scratch
from grader.verdicts import Finding

MOST = 1 << 20  # the last bytes of each stream


def keep(file: Path, finding: Finding | None, translate: Callable[[str], str]) -> str:
    """Write the log that the finding names to `file`, in place of an earlier one.

    translate  turns a text's paths into those that the student knows

    Returns the file's path in the course; empty if there is nothing to keep or nowhere to keep it.
    """
    try:
        file.unlink(missing_ok=True)
        text = _text(Path(finding.data["log"])) if finding and finding.data.get("log") else ""
        if not text:
            return ""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, escaped(translate(text)))
    except OSError:  # the course can't be written to
        return ""
    return os.path.relpath(file, ROOT) if file.is_relative_to(ROOT) else str(file)


def escaped(text: str) -> str:
    """Lines that a life wrote, safe for a terminal: without control characters."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def _text(stderr: Path) -> str:
    """Both streams of a life, given its stderr."""
    out = []
    for path in (stderr.with_name("stdout"), stderr):
        try:
            written = scratch.read(path, MOST, tail=True).decode(errors="replace").strip()
        except OSError:
            continue
        if written:
            out.append(f"--- {path.name}\n{written}\n")
    return "\n".join(out)
