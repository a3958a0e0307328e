"""Text from lives, cut and escaped: a life may print anything, in any amount."""

from __future__ import annotations

from collections.abc import Callable

from grader.report.history.limits import LINE, PRINTED
from grader.report.logs import escaped

Translate = Callable[[str], str]


class Budget:
    """Turns texts of lives into safe ones, as long as there is room for them."""

    def __init__(self, translate: Translate):
        self.left, self.translate = PRINTED, translate

    def text(self, value: object, most: int = LINE) -> str:
        return escaped(self.translate(str(value)[: 2 * most]))[:most]

    def line(self, text: str) -> str | None:
        """None: there is no room left."""
        safe = self.text(text)
        self.left -= len(safe)
        return safe if self.left > 0 else None
