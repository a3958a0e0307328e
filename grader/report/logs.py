"""Keeps what a failing check's processes printed; it would be deleted with the scratch folder."""

from __future__ import annotations

import os
from pathlib import Path

from grader.course.catalog import ROOT
from grader.files import write_atomically


def keep(file: Path, text: str, below: Path = ROOT) -> str:
    """Write `text` to `file`, in place of an earlier log.

    Returns the file's path below the folder `below`; empty if there is nothing to keep or nowhere
    to keep it.
    """
    try:
        file.unlink(missing_ok=True)
        if not text:
            return ""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, escaped(text))
    except OSError:  # the course can't be written to
        return ""
    return os.path.relpath(file, below) if file.is_relative_to(below) else str(file)


def escaped(text: str) -> str:
    """Lines that a life wrote, safe for a terminal: without control characters."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
