"""What StopSignal does with signals (grader/workload/signal_cases.py)."""

from __future__ import annotations

import signal

from grader.checks.expect import crashed, finished
from grader.harness.lab import Lab
from grader.verdicts import Finding

CASES = (
    "each_signal_is_noted",
    "the_first_one_counts",
    "it_does_nothing_else",
    "a_save_survives_signals",
    "the_old_handlers_come_back",
    "one_within_another",
    "only_its_own_signals",
)


def answers_well(lab: Lab, case: str, think: str) -> None:
    """The case found nothing wrong. All cases run in one life, once a grading; each in a process of its own."""
    asked = [word for name in CASES for word in ("--case", name)]
    life = lab.undisturbed("signal_cases.py", "--seed", lab.seed, *asked).last
    question = ("think", think)
    for answer in life.all("answer"):
        if answer["case"] == case:
            if answer["rows"]:
                raise Finding(f"handler:{case}", [*map(tuple, answer["rows"]), question])
            return
    for crash in life.all("crash"):
        if crash.get("point") == case:
            finding = crashed(crash, [("when", "a signal came in a `with StopSignal()` block")], life=life)
            finding.rows.append(question)
            raise finding
    for ended in life.all("ended"):
        if ended["point"] == case:
            raise Finding(f"handler:{case}", [("ended", _how(ended)), question])
    finished(lab, lab.undisturbed("signal_cases.py", "--seed", lab.seed, *asked))
    raise Finding(f"handler:{case}", [("ended", "the process left before it was asked"), question])


def _how(ended: dict) -> str:
    if ended["late"]:
        return "the process that got the signals was still running after 20 s"
    if ended["status"] < 0:
        name = signal.Signals(-ended["status"]).name
        return f"{name} killed the process: nothing handles it (any more)"
    return f"the process that got the signals left with exit status {ended['status']}"
