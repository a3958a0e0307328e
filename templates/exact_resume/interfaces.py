"""What users of the package see besides its classes: outcomes, errors, what can be saved."""

from __future__ import annotations

import os
from typing import Any, Protocol

DONE, PREEMPTED, FAILED = "done", "preempted", "failed"
EXIT_STATUS = {DONE: 0, PREEMPTED: 75, FAILED: 1}  # 75: EX_TEMPFAIL of sysexits.h, "try again"


AnyPath = str | os.PathLike[str]


class Stateful(Protocol):
    """Anything with a state to save and load: a model, an optimizer, a scheduler, a sampler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


class CheckpointError(Exception):
    """A checkpoint can't be written or read, or none of the existing ones is intact."""


class DiskFull(CheckpointError):
    """A rank found no room on the disk."""


class Mismatch(CheckpointError):
    """The checkpoint is intact but doesn't fit this job; older ones won't fit either."""
