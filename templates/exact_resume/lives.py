"""status.json: how the lives of a run ended, and whether they get anywhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .interfaces import FAILED, CheckpointError


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
