"""status.json: how the lives of a run ended, and whether they get anywhere."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .interfaces import DONE, FAILED, PREEMPTED, CheckpointError
from .reporting import _say


class _Lives:
    def __init__(self, directory: Path):
        self.path = directory / "status.json"
        self.last = self.read()  # of the life before this one

    def read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, **more: object) -> None:
        tmp = self.path.with_name("status.json.tmp")
        tmp.write_text(json.dumps(self.read() | more) + "\n")
        os.replace(tmp, self.path)

    def end(
        self,
        outcome: str,
        trained: bool,
        begun: bool,
        may_write: Callable[[], bool],
        more: dict[str, Any],
    ) -> None:
        """Note how this life ended. `begun`: it counts as one."""
        last = self.last.get("outcome")
        # one that is asked to stop before its first step may have no other way to say so
        asked = outcome == PREEMPTED and last != DONE
        if outcome == DONE and not trained:
            outcome = last or DONE  # it trained nothing: the last life's outcome still holds
        try:
            if begun or (asked and may_write()):
                self.note(outcome=outcome, **more)
        except OSError as e:  # don't hide the error that ended the job
            _say(f"status.json can't be written: {e}")

    def begin(self, progress: dict[str, Any], max_stuck: int) -> None:
        """Count a life; raise after max_stuck lives that began at the same step and died.

        It counts before training, so that a life that SIGKILL ends counts, too.
        """
        self.last, step = self.read(), progress["steps"]
        last = self.last
        stuck = last.get("stuck", 0) if last.get("started_at") == step else 0
        died = last.get("outcome") in ("running", FAILED) and not last.get("interrupted")
        stuck += last.get("started_at") == step and died
        if stuck >= max_stuck:
            raise CheckpointError(
                f"{stuck} lives in a row began at step {step} and died before the next checkpoint; "
                f"find out why, then delete {self.path}"
            )
        self.note(
            **progress,
            outcome="running",
            reason=None,
            started_at=step,
            stuck=stuck,
            interrupted=False,
        )


def _tell_if_open(manager: weakref.ref[Any]) -> None:
    """Say at the process's end that a manager without `with` was never closed."""
    if (ckpt := manager()) is not None and ckpt.outcome is None:
        _say(
            "the process ends without close() of the CheckpointManager: what was trained since the "
            "last save isn't saved. Use it in `with`, or call close() in a `finally`"
        )
