"""How far this process's resident memory rises: whatever allocates it, torch, Python or C."""

from __future__ import annotations

import os

RESET, STATUS = "/proc/self/clear_refs", "/proc/self/status"


class Peak:
    """Context manager; `extra`: bytes beyond what was held at its begin. None where it can't be
    measured (not Linux).
    """

    extra: int | None = None

    def __enter__(self) -> Peak:
        self.measures = os.access(RESET, os.W_OK)
        if self.measures:
            with open(RESET, "w") as f:
                f.write("5")  # the high-water mark is now what is held
            self.before = _high_water()
        return self

    def __exit__(self, *_: object) -> None:
        if self.measures:
            self.extra = _high_water() - self.before


def _high_water() -> int:
    with open(STATUS) as f:
        return int(next(line.split()[1] for line in f if line.startswith("VmHWM"))) << 10
