"""What the command keeps between two calls, in .grade: logs, hints seen, verdicts."""

from __future__ import annotations

from grader.course.catalog import ROOT
from grader.course.progress import Progress

STATE = ROOT / ".grade"
PROGRESS = Progress(STATE / "progress.json")
