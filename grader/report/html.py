"""The results as one page: no request to elsewhere, for keyboards and screen readers, light and
dark.

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
from typing import Protocol

from grader.report.page_figures import Samples, Strip, Timeline, ranges
from grader.report.terminal import WORD
from grader.verdicts import BLOCKED, FAIL, INCONCLUSIVE, PASS, ExerciseResult

HERE = Path(__file__).resolve().parent


class Explained(Protocol):
    """The parts of an explanation that the page needs (grader/explain.py)."""

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
    live: Live | None = None,
) -> str:
    """The page of a grading.

    made  its date; None: now
    live  of a page that `grade watch` serves, and that loads itself again
    """
    number = count(1)
    return render(
        HERE / "page.html",
        results=results,
        verdicts=[(v, WORD[v].lower()) for v in (PASS, FAIL, BLOCKED, INCONCLUSIVE)],
        heading=_heading(results, live),
        live=live,
        time=seconds(sum(r.seconds for r in results)),
        made=(made or datetime.now()).astimezone().strftime("%Y-%m-%d %H:%M %z"),
        codes=[explanations[code] for code in _codes(results) if code in explanations],
        new_id=lambda: f"figure-{next(number)}",
    )


@dataclass(frozen=True)
class Live:
    """A page that asks the address it came from for a newer one."""

    version: int  # of this page
    state: str  # what the grader does, such as "grading ex01.3"


def _heading(results: list[ExerciseResult], live: Live | None) -> str:
    if most := sum(r.max_score for r in results):
        return f"Grading: {sum(r.score for r in results)} of {most} points"
    titles = [str(check["title"]) for r in results for task in r.tasks for check in task.history]
    if any(r.tasks for r in results):
        return f"Grading: {titles[0] if len(titles) == 1 else 'single checks'}"
    return "Grading"


def render(template: Path, *more_style: Path, live: object = None, **values: object) -> str:
    """A page from its template: self-contained, and safe whatever the values hold."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"Timeline": Timeline, "Strip": Strip, "Samples": Samples}
    environment.filters |= {"ranges": ranges, "seconds": seconds}
    style = "".join(file.read_text() for file in (HERE / "page.css", *more_style))
    script = (HERE / "page.js").read_text()
    if live:
        script += (HERE / "page_live.js").read_text()
    text = environment.get_template(template.name).render(
        style=style,
        script=script,
        policy="default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_digest(style)}; script-src {_digest(script)}"
        + ("; connect-src 'self'" if live else ""),
        live=live,
        **values,
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
