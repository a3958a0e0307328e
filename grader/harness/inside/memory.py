"""How far this process's resident memory rises, whether torch, Python or C allocates it."""

from __future__ import annotations

import os

RESET, STATUS = "/proc/self/clear_refs", "/proc/self/status"


class Peak:
    """Context manager; `extra`: bytes above the level at entry, None where that can't be measured.

    Only Linux can measure it.
    """

    extra: int | None = None

    def __enter__(self) -> Peak:
        self.measures = os.access(RESET, os.W_OK)
        if self.measures:
            with open(RESET, "w") as f:
                f.write("5")  # reset the high-water mark to the current level
            self.before = _high_water()
        return self

    def __exit__(self, *_: object) -> None:
        if self.measures:
            self.extra = _high_water() - self.before


def _high_water() -> int:
    with open(STATUS) as f:
        return int(next(line.split()[1] for line in f if line.startswith("VmHWM"))) << 10
