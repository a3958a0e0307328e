"""The results as one page: no request to elsewhere, for keyboards and screen readers, light and
dark.

The timelines are SVG from the template, not a plotting library's. Their text stays text, which a
screen reader reads and the browser sets in its own size; colors come from the page's style, so
they follow light and dark; x is in percent, so a phone shows the same figure. matplotlib's SVG of
one run is 25 to 41 KB with fixed colors and sizes, and its import takes 0.4 s. Here a run takes
about 15 KB, with its tables and what it printed.

Everything that a submission printed is hostile. The template escapes it, and the page's policy
allows only the style and the script that we wrote, by their digests.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from grader.report.terminal import WORD
from grader.verdicts import BLOCKED, FAIL, INCONCLUSIVE, PASS, ExerciseResult

HERE = Path(__file__).resolve().parent
LANE, TOP = 46, 26  # px of a lane, and of the axis above the lanes
NAMED = 14  # most samples that are listed by number


class Explained(Protocol):
    """What the page needs of an explanation (grader/explain.py)."""

    @property
    def code(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def production(self) -> str: ...
    @property
    def example(self) -> str: ...


def page(
    results: list[ExerciseResult],
    explanations: Mapping[str, Explained],
    made: datetime | None = None,
) -> str:
    """The page of a grading; `made`: its date, now if None."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"Timeline": Timeline, "Strip": Strip, "Samples": Samples}
    environment.filters |= {"ranges": ranges, "seconds": seconds}
    style, script = (HERE / "page.css").read_text(), (HERE / "page.js").read_text()
    number = count(1)
    text = environment.get_template("page.html").render(
        results=results,
        verdicts=[(v, WORD[v].lower()) for v in (PASS, FAIL, BLOCKED, INCONCLUSIVE)],
        score=sum(r.score for r in results),
        max_score=sum(r.max_score for r in results),
        time=seconds(sum(r.seconds for r in results)),
        made=(made or datetime.now()).astimezone().strftime("%Y-%m-%d %H:%M %z"),
        codes=[explanations[code] for code in _codes(results) if code in explanations],
        style=style,
        script=script,
        policy="default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_digest(style)}; script-src {_digest(script)}",
        new_id=lambda: f"figure-{next(number)}",
    )
    # a lone surrogate is a character that no file can hold
    return text.lstrip().encode("utf-8", "replace").decode()


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _codes(results: Iterable[ExerciseResult]) -> list[str]:
    """The codes of all findings, each once, in the order in which the page names them."""
    tasks = [task for r in results for task in r.tasks]
    found = [str(t.evidence["code"]) for t in tasks if "code" in t.evidence]
    found += [str(check["code"]) for t in tasks for check in t.history]
    return list(dict.fromkeys(found))


def seconds(value: float) -> str:
    return f"{value / 60:.0f} min {value % 60:.0f} s" if value >= 120 else f"{value:.1f} s"


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
