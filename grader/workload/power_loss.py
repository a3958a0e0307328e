"""Runs a crash test (grader/crash) inside of a life, and tells what it found as events."""

from __future__ import annotations

from pathlib import Path

from grader.crash import crashtest, description
from grader.crash.file_systems import MODELS
from grader.crash.recorder import Incomplete, Unavailable
from grader.harness.inside import telemetry

SECONDS = 20  # for the saves; milliseconds are normal
PATIENCE = 8  # s for one load; the same
TREES = 120  # different directories that are read; of more, so many are drawn


def test(program: crashtest.Program, directory: str, most_trees: int = TREES) -> None:
    """Every state that a power loss may leave of the program's saves, tried in folders below
    `directory`.

    What a killed process leaves is left out: other checks kill real ones.

    Emits "crash states" with the report as data; "crash states unseen" with `why` where there is no
    verdict.
    """
    try:
        report = crashtest.test(
            program,
            list(MODELS),
            errors=False,
            flips=False,
            seconds=SECONDS,
            folder=Path(directory),
            workers=1,
            most_trees=most_trees,
            patience=PATIENCE,
        )
    except (Unavailable, Incomplete, RuntimeError) as e:
        telemetry.emit("crash states unseen", why=str(e), seen=not isinstance(e, Unavailable))
        return
    except (OSError, ValueError, MemoryError) as e:
        # of what records and reads, not of the student's
        telemetry.emit(
            "crash states unseen", why=f"the record broke: {type(e).__name__}: {e}", seen=True
        )
        return
    telemetry.emit(
        "crash states", report=description.as_data(report), advice=description.advice(report)
    )
