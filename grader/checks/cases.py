"""Questions to single functions, each asked in a process of its own: what was found wrong there, as rows of evidence."""

from __future__ import annotations

import signal

from grader.checks.expect import crashed, finished
from grader.harness.lab import Lab
from grader.verdicts import Finding


def right(lab: Lab, script: str, cases: tuple[str, ...], case: str, think: str, when: tuple[str, str] | None = None) -> None:
    """`case` of the workload's `script` found nothing wrong. All `cases` run in one life, once a grading.

    when   a row that goes with a crash: what the function was asked
    """
    asked = [word for name in cases for word in ("--case", name)]
    life = lab.undisturbed(script, "--seed", lab.seed, *asked).last
    question = ("think", think)
    for answer in life.all("answer"):
        if answer["case"] == case:
            if answer["rows"]:
                raise Finding(f"case:{case}", [*map(tuple, answer["rows"]), question])
            return
    for crash in life.all("crash"):
        if crash.get("point") == case:
            finding = crashed(crash, [when] if when else [], life=life)
            finding.rows.append(question)
            raise finding
    for ended in life.all("ended"):
        if ended["point"] == case:
            raise Finding(f"case:{case}", [("ended", _how(ended)), question])
    finished(lab, lab.undisturbed(script, "--seed", lab.seed, *asked))
    raise Finding(f"case:{case}", [("ended", "the process left before it was asked"), question])


def _how(ended: dict) -> str:
    if ended["late"]:
        return "the process that was asked was still running after 20 s"
    if ended["status"] < 0:
        name = signal.Signals(-ended["status"]).name
        return f"{name} killed the process: nothing handles it (any more)"
    return f"the process that was asked left with exit status {ended['status']}"
