"""How much a page shows at most."""

from __future__ import annotations

STEPS = 1_000  # the last step that is drawn; the longest run has about thirty
CHECKS, RUNS, LANES = 8, 6, 24  # most of a task, of a check, of a run
NAMES, MARKS, FILES = 40, 200, 60  # most components, marks of a life, files of a disk state
SAMPLES = 2_000  # most of an epoch
LINES, LINE = 200, 300  # most lines that a process printed, and characters of a line
PRINTED = 200_000  # characters that all processes of a task printed
EVENTS = 14  # most operations before a crash
