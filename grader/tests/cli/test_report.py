"""Messages: what a line of one says, and how it is set."""

from __future__ import annotations

from rich.console import Console

from grader.checks.crashes import crashed
from grader.report import message, terminal
from grader.verdicts import FAIL, Damaged, Finding, Found, Gist, Outcome, Struck, TaskResult


def gist(*rows: tuple[str, str]) -> str:
    return Finding("code", rows).gist


def test_a_further_finding_says_what_struck_the_job():
    assert gist(Damaged("a.pt"), Found("None")) == "damaged a.pt: None"
    assert gist(Damaged("a.pt"), Gist("error", "ValueError")) == "damaged a.pt: ValueError"
    assert gist(Struck("SIGKILL in the save"), Found("None")) == "SIGKILL in the save: None"
    after = (Struck("SIGKILL after step 3"), ("diverged", "at step 4"))
    assert gist(*after, Gist("different", "weights")) == "weights"
    assert gist(("asked", "this"), Found("None")) == "None"


def test_a_finding_that_marks_no_row_is_told_by_the_first():
    finding = Finding("code", [("stopped", "at step 3")])
    assert finding.gist == "at step 3"
    finding.rows = [("time limit", "90 s"), *finding.rows]
    assert finding.gist == "90 s"
    finding.gist = "too late"
    assert finding.gist == "too late"


def test_a_row_that_is_reworded_keeps_its_kind():
    finding = Finding("code", [("asked", "a"), Found("b")])
    finding.reword(str.upper)
    assert finding.rows == [("asked", "A"), ("found", "B")] and finding.gist == "B"


def test_further_findings_that_read_alike_are_one():
    def outcome(title: str, about: str, *rows: tuple[str, str]) -> Outcome:
        finding = Finding("crashed", list(rows), about=about)
        return Outcome(title, title, "ex01.3", FAIL, 0, 1, finding)

    error = Gist("error", "TypeError: no")
    grouped = message._grouped(
        [
            outcome("a", "1", Struck("SIGKILL in save 1"), Found("x"), error),
            outcome("b", "2", ("ended", "exit status 3")),
            outcome("c", "3", Struck("SIGKILL in save 2"), Found("x"), error),
        ]
    )
    assert grouped == [(["a", "c"], "TypeError: no"), (["b"], "exit status 3")]


def test_no_label_touches_its_text(capsys):
    labels = ("found", "undisturbed", "can't import")
    said = message.Message([(label, "text") for label in labels])
    evidence = {"rows": [list(row) for row in said.rows]}
    result = TaskResult("ex01.1", "title", FAIL, 0, 4, 1.0, str(said), evidence)
    terminal.show_task(Console(width=60), result)
    shown = " ".join(capsys.readouterr().out.split())
    for label in labels:
        assert f"{label} text" in " ".join(result.message.split())
        assert f"{label} text" in shown


def test_of_an_error_that_holds_the_tracebacks_of_all_ranks_their_ends_are_told():
    frames = [
        "Traceback (most recent call last): (RANK {})",
        '  File "torch/utils.py", line 193, in reduce_scatter',
        "    local_data = map_fun()",
        "RuntimeError: Missing key",
    ]
    message = "\n".join(
        ["ranks:dict_keys([0, 1])", *(line.format(rank) for rank in (0, 1) for line in frames)]
    )
    rows = crashed({"type": "CheckpointException", "message": message, "frames": []}, []).rows
    assert rows == [
        ("error", "CheckpointException: ranks:dict_keys([0, 1])"),
        ("", "RuntimeError: Missing key"),
    ]
