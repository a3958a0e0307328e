"""The drawings of the page: a run's timeline, the components of its state, an epoch's samples.

They are SVG from the template, not a plotting library's. Their text stays text, which a screen
reader reads and the browser sets in its own size; colors come from the page's style, so they follow
light and dark; x is in percent, so a phone shows the same figure. matplotlib's SVG of one run is 25
to 41 KB with fixed colors and sizes, and its import takes 0.4 s. Here a run takes about 15 KB, with
its tables and what it printed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LANE, TOP = 46, 26  # px of a lane, and of the axis above the lanes
NAMED = 14  # most samples that are listed by number


def ranges(numbers: Iterable[int], most: int = NAMED) -> str:
    """Numbers as text, neighbors joined: "3, 6 to 30"."""
    parts = _joined(sorted(set(numbers)))
    said = [str(a) if a == b else f"{a} to {b}" for a, b in parts]
    more = len(said) - most
    return ", ".join(said[:most]) + (f" and {more} more" if more > 0 else "")


@dataclass
class Axis:
    """Steps 1 to `last` over the width of a figure; a finished step n ends at x(n)."""

    last: int

    def x(self, step: float) -> str:
        return f"{100 * max(0, min(step, self.last)) / max(1, self.last):.2f}%"

    def width(self, first: float, last: float) -> str:
        return f"{100 * max(0, last - first) / max(1, self.last):.2f}%"

    @property
    def ticks(self) -> list[int]:
        """Round steps, at most seven of them."""
        every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 200) if self.last <= 7 * n)
        return list(range(every, self.last + 1, every))


class Timeline(Axis):
    """The lives of a run, below each other."""

    def __init__(self, run: dict[str, Any]):
        super().__init__(max(run["last"], run.get("compared_to", 0)))
        self.run, self.lanes = run, run["lanes"]

    @property
    def height(self) -> int:
        return TOP + LANE * len(self.lanes)

    def y(self, lane: int) -> int:
        """The upper edge of a lane."""
        return TOP + LANE * lane

    def places(self, lane: dict[str, Any]) -> list[dict[str, Any]]:
        """The marks of a lane, and their positions."""
        out: list[dict[str, Any]] = []
        before: dict[float, int] = {}
        for mark in lane["marks"]:
            step = mark["step"]
            before[step] = before.get(step, -1) + 1
            # marks of one step are side by side, to the left: there is room even at the end
            out.append(mark | {"x": self.x(step), "shift": -12 * before[step]})
        return out

    @property
    def resumptions(self) -> list[dict[str, Any]]:
        """Lines from the life that saved to the one that resumed there."""
        first_of: dict[int, int] = {}
        for n, lane in enumerate(self.lanes):
            first_of.setdefault(lane["life"], n)
        return [
            {"x": self.x(lane["from"]), "top": self.y(before) + 32, "bottom": self.y(n) + 32}
            for n, lane in enumerate(self.lanes)
            if lane["from"]
            and first_of[lane["life"]] == n
            and (before := first_of.get(lane["life"] - 1)) is not None
        ]

    @property
    def described(self) -> str:
        """The figure in words."""
        return " ".join(
            f"{lane['who'].capitalize()} trains "
            + (f"steps {lane['from'] + 1} to {lane['to']}" if lane["to"] > lane["from"] else "none")
            + (f" and repeats steps {lane['from'] + 1} to {lane['again']}" if _again(lane) else "")
            + f": {lane['end']}."
            for lane in self.lanes
        )


def _again(lane: dict[str, Any]) -> bool:
    return bool(lane["again"] > lane["from"])


class Strip(Axis):
    """Component by component, which steps equal the undisturbed run's."""

    def bars(self, row: dict[str, Any]) -> list[dict[str, str]]:
        """Neighbouring equal steps, and different ones, as one bar each."""
        found = []
        for kind in ("same", "different"):
            for first, last in _joined(row[kind]):
                x, width = self.x(first - 1), self.width(first - 1, last)
                found.append({"kind": kind, "x": x, "width": width})
        return found


class Samples:
    """The samples of an epoch, a cell each."""

    def __init__(self, epoch: dict[str, Any]):
        self.axis = Axis(len(epoch["samples"]))
        self.missed, self.more = set(epoch["missed"]), set(epoch["more"])
        self.samples = epoch["samples"]

    @property
    def bars(self) -> list[dict[str, str]]:
        places: dict[str, list[int]] = {"same": [], "missed": [], "more": []}
        for n, sample in enumerate(self.samples, 1):
            kind = "missed" if sample in self.missed else "more" if sample in self.more else "same"
            places[kind].append(n)
        return [
            {
                "kind": kind,
                "x": self.axis.x(first - 1),
                "width": self.axis.width(first - 1, last),
            }
            for kind, numbers in places.items()
            for first, last in _joined(numbers)
        ]


def _joined(numbers: list[int]) -> list[tuple[int, int]]:
    parts: list[tuple[int, int]] = []
    for n in numbers:
        if parts and n == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], n)
        else:
            parts.append((n, n))
    return parts
