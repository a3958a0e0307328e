"""What a run printed, in the order of time, from events and outputs that are written down here."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

from grader.harness import printed
from grader.harness.faults import Kill
from grader.harness.printed import Line, lines
from grader.harness.run import Life, Process, Run
from grader.report import excerpt
from grader.verdicts import Finding


def life(folder: Path, output: str, events: list[dict], fault=None) -> Process:
    """Events give "printed" as a number of lines; here it becomes bytes."""
    folder.mkdir()
    (folder / "output").write_text(output)
    made = Process(folder, fault, {"status": 0, "ended": None})
    ends = [0]
    for line in output.splitlines(keepends=True):
        ends.append(ends[-1] + len(line.encode()))
    made.events = [e | ({"printed": ends[e["printed"]]} if "printed" in e else {}) for e in events]
    return made


def alone(process: Process) -> Run:
    """The run of one process."""
    return Run([Life([process], None)], (), process.folder)


def event(t: float, name: str = "step", **more) -> dict:
    return {"event": name, "t": t, **more}


def test_lines_have_the_time_of_the_next_event_and_ranks_are_merged(tmp_path):
    first = life(tmp_path / "0", "a\nb\nc\n", [event(1, printed=1), event(5, printed=3)])
    second = life(tmp_path / "1", "x\n[W1126 gloo] noise\n", [event(3, printed=1), event(9)])
    told = lines(Run([Life([first, second], None)], (), tmp_path))
    assert [(line.who, line.t, line.text) for line in told] == [
        ("life 1 rank 0", 1, "a"),
        ("life 1 rank 1", 3, "x"),
        ("life 1 rank 0", 5, "b"),
        ("life 1 rank 0", 5, "c"),
    ]


def test_the_scripts_own_lines_and_the_traceback_are_marked(tmp_path):
    output = "mine\nstarting\nlast words\nTraceback (most recent call last):\nValueError\n"
    events = [
        event(1, "saying", printed=1),
        event(1, "said", printed=2),
        event(4, "crash", printed=3),
    ]
    told = lines(alone(life(tmp_path / "0", output, events)))
    assert [(line.script, line.traceback) for line in told] == [
        (False, False),
        (True, False),
        (False, False),
        (False, True),
        (False, True),
    ]


def test_a_message_shows_what_came_before_the_fault_and_before_the_divergence(tmp_path):
    kill = Kill(2)
    before = life(
        tmp_path / "0",
        "one\ntwo\nthree\nfour\n",
        [event(1, printed=4), event(2, "fault")],
        fault=kill,
    )
    after = life(
        tmp_path / "1",
        "loaded\ntrained on\n",
        [event(3, printed=1), event(3, "step", step=3), event(9, printed=2)],
    )
    run = Run([Life([before], kill), Life([after], None)], (kill,), tmp_path)
    other = alone(life(tmp_path / "2", "undisturbed\n", [event(0, printed=1)]))
    lost = Finding("state-lost", [], str(kill), step=3)
    assert excerpt.rows([other, run], lost) == [
        ("printed", "life 1: two"),
        ("", "life 1: three"),
        ("", "life 1: four"),
        ("", "life 2: loaded"),
    ]
    log = excerpt.whole([("one check", [other, run]), ("another", [run])], str)
    assert "life 2         | trained on" in log and "undisturbed" in log
    assert log.startswith("##### one check\n") and "another" not in log  # its run is known


def test_of_many_questions_only_the_finding_s_own_lines_are_shown(tmp_path):
    text = "one\ntwo\nthree\n"
    events = []
    for number, point in enumerate("abc", 1):
        events += [event(number, "asked", point=point)]
        events += [event(number + 0.9, "ended", point=point, printed=number)]
    run = alone(life(tmp_path / "0", text, events))
    assert excerpt.rows([run], Finding("x", [], window=(2, 2.9))) == [("printed", "life 1: two")]
    assert excerpt.rows([run], Finding("x", [])) == []  # nobody knows which question it was


def test_silent_runs_have_no_log(tmp_path):
    run = alone(life(tmp_path / "0", "", [event(1)]))
    assert excerpt.rows([run], Finding("x", [])) == [] and excerpt.whole([("x", [run])], str) == ""
    assert excerpt.rows([], Finding("x", [])) == [] and excerpt.whole([], str) == ""


def test_lines_are_shown_while_a_process_runs(tmp_path):
    """Each as soon as it is whole; at the end, also one without a line break."""
    file, shown, first = tmp_path / "output", [], threading.Event()

    def show(who: str, text: str) -> None:
        shown.append((who, text))
        first.set()

    files = {"life 1.1": file, "life 1.2": tmp_path / "never"}
    with printed.followed(files, show), open(file, "w") as f:
        f.write("one\ntw")
        f.flush()
        assert first.wait(60)
        assert shown == [("life 1.1", "one")]
        f.write("o\nthree")
        f.flush()
    assert [text for _, text in shown] == ["one", "two", "three"]


def test_the_last_lines_of_a_jobs_log_are_shown():
    """Its lives are lists of events, and share one log."""
    log = [Line(t, 0, None, f"line {t}") for t in range(9)]
    job = SimpleNamespace(lives=[[{"event": "asked"}]], schedule=None, printed=lambda: log)
    shown = excerpt.rows([job], Finding("x", []))
    assert shown[0] == ("printed", "job: line 3") and len(shown) == excerpt.OF_A_JOB
