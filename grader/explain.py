"""What the codes of findings mean: messages.toml, next to the checks."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grader.course.catalog import read_toml
from grader.errors import UsageError
from grader.verdicts import Finding

CHECKS = Path(__file__).resolve().parent / "checks"


@dataclass(frozen=True)
class Explanation:
    code: str
    exercise: str  # "ex04"; "" for a code that several exercises share
    summary: str  # what went wrong, in one sentence
    production: str  # what it costs in a real job
    example: str  # the mistake, and the right way
    means: str = ""  # for a finding that has none of its own
    think: str = ""
    about: Mapping[str, str] = field(default_factory=dict)  # in words

    def subject(self, about: str) -> str:
        """What a finding's `about` is called."""
        return self.about.get(about, self.about.get("*", about)).replace("{}", about)


@functools.cache
def explanations() -> dict[str, Explanation]:
    """All of them, by code."""
    found: dict[str, Explanation] = {}
    for path in sorted(CHECKS.glob("**/messages.toml")):
        exercise = path.parent.name if path.parent != CHECKS else ""
        for code, texts in read_toml(path).items():
            if code in found:
                raise ValueError(f"{path}: {code} is explained already")
            about = texts.pop("about", {})
            texts = {name: text.strip() for name, text in texts.items()}
            found[code] = Explanation(code, exercise, **texts, about=about)
    return found


def find(code: str) -> Explanation:
    """UsageError, with the codes that look like it, if there is none of this name."""
    known = explanations()
    if code not in known:
        near = difflib.get_close_matches(code, known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `grade explain` lists all codes"
        raise UsageError(f"no finding has the code {code!r}{hint}")
    return known[code]


def complete(finding: Finding) -> Finding:
    """The finding; where it has no `means`, `think` or gist, with what its code says."""
    if known := explanations().get(finding.code):
        if finding.rows and not finding.has_gist:
            summary = known.summary[:1].lower() + known.summary[1:].rstrip(".")
            finding.gist = f"{finding.rows[0][1]}: {summary}"
        finding.means = finding.means or known.means
        finding.think = finding.think or known.think
    return finding
