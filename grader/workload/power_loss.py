"""Runs a crash test (grader/crash) inside a life, and emits what it found as events."""

from __future__ import annotations

from pathlib import Path

from grader.crash import crashtest, description
from grader.crash.file_systems import MODELS
from grader.crash.recorder import Incomplete, Unavailable
from grader.harness.inside import telemetry

SECONDS = 20  # for the saves; milliseconds are normal
PATIENCE = 6  # s for one load, less those without a processor; milliseconds are normal
TREES = 120  # the most different directories to read; of more, this many are drawn


def test(
    program: crashtest.Program, directory: str, most_trees: int = TREES, since: int = 1
) -> None:
    """Try every state that a power loss may leave of the program's saves, from save `since` on,
    below `directory`.

    It skips what a killed process leaves: other checks kill real ones.

    Emits "crash states" with the report as data; "crash states unseen" with `why` if there is no
    verdict.
    """
    telemetry.emit("recording")
    try:
        report = crashtest.test(
            program,
            list(MODELS),
            errors=False,
            flips=False,
            seconds=SECONDS,
            folder=Path(directory),
            since=since,
            workers=1,
            most_trees=most_trees,
            patience=PATIENCE,
            where=telemetry.where_it_stands,
            on_answer=lambda: telemetry.emit("judged"),
        )
    except (Unavailable, Incomplete, RuntimeError) as e:
        telemetry.emit("crash states unseen", why=str(e), seen=not isinstance(e, Unavailable))
        return
    except (OSError, ValueError, MemoryError) as e:
        # raised by recording or reading, not by the student's code
        telemetry.emit(
            "crash states unseen", why=f"the record broke: {type(e).__name__}: {e}", seen=True
        )
        return
    telemetry.emit(
        "crash states", report=description.as_data(report), advice=description.advice(report)
    )
