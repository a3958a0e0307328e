"""Messages: what a line of one says, and how it is set."""

from __future__ import annotations

from rich.console import Console

from grader.report import message, terminal
from grader.verdicts import FAIL, Finding, Outcome, TaskResult


def gist(*rows: tuple[str, str]) -> str:
    return message._gist(Outcome("test_x", "x", "ex01.3", FAIL, 0, 1, Finding("cause", list(rows))))


def test_a_further_finding_says_what_befell_the_job():
    assert gist(("damaged", "a.pt"), ("found", "None")) == "damaged a.pt: None"
    assert gist(("fault", "SIGKILL in the save"), ("found", "None")) == "SIGKILL in the save: None"
    assert gist(("fault", "SIGKILL after step 3"), ("diverged", "at step 4"), ("different", "weights")) == "weights"
    assert gist(("asked", "this"), ("found", "None")) == "None"


def test_no_label_touches_its_text(capsys):
    result = TaskResult("ex01.1", "title", FAIL, 0, 4, 1.0)
    labels = ("found", "undisturbed", "can't import")
    message._set(result, [(label, "text") for label in labels], {})
    terminal.show_task(Console(width=60), result)
    shown = " ".join(capsys.readouterr().out.split())
    for label in labels:
        assert f"{label} text" in " ".join(result.message.split())
        assert f"{label} text" in shown
