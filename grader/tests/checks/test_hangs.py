"""What is said of code that hangs: where it stood, and nothing of what the grader did to it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from grader.checks import crashes, endings, fault_points, questions, ranks, stacks
from grader.checks.ex02 import rank_assertions, rank_plan
from grader.checks.ex02.observations import Seen
from grader.harness.launcher import Limits
from grader.harness.run import Life, Process, Run
from grader.verdicts import FAIL, INCONCLUSIVE, Finding

CODE = "/s/x-code/code"
HELPER = f"""\
Current thread 0x1 (most recent call first):
  File "/usr/lib/python3/threading.py", line 9 in wait
  File "{CODE}/own.py", line 3 in inner
  File "{CODE}/own.py", line 6 in save
  File "/course/grader/workload/ex01/storage_plan.py", line 80 in handle
"""
DRIVER = """\
Current thread 0x1 (most recent call first):
  File "/course/grader/workload/isolate.py", line 30 in ask
  File "/course/grader/workload/ex01/storage_plan.py", line 110 in main
"""


def test_the_students_frames_are_shown_the_innermost_last():
    rows = [("stood at", "own.py:6 in save"), ("", "own.py:3 in inner")]
    assert stacks.rows_of(HELPER + DRIVER, None) == rows
    assert stacks.rows_of(DRIVER + HELPER, None) == rows


def test_without_a_frame_of_theirs_the_training_script_is_named():
    ((label, text),) = stacks.rows_of(DRIVER, None)
    assert label == "stood at" and text.startswith("isolate.py:30 (the training script)")
    assert stacks.rows_of("", None) == []


def test_a_process_that_waits_for_another_is_shown_after_it():
    waits = HELPER.replace("line 3 in inner", "line 4 in inner")
    rows = stacks.rows_of(HELPER + waits, None)
    assert [label for label, _ in rows] == ["stood at", "", "stood at", ""]
    assert rows[1][1].startswith("own.py:3 ") and rows[3][1].startswith("own.py:4 ")


def test_a_forked_process_has_its_parents_frames_and_they_are_shown_once():
    parent = HELPER.replace(f'  File "{CODE}/own.py", line 3 in inner\n', "")
    assert stacks.rows_of(HELPER + parent, None) == stacks.rows_of(HELPER, None)


def test_the_thread_that_was_asked_comes_before_others():
    beside = f'Thread 0x2 (most recent call first):\n  File "{CODE}/own.py", line 20 in beside\n'
    rows = stacks.rows_of(beside + HELPER, None)
    assert rows[0] == ("stood at", "own.py:6 in save")
    assert rows[-1] == ("stood at", "own.py:20 in beside")


def test_a_line_of_the_source_is_shown_if_it_is_the_submissions(tmp_path):
    code = tmp_path / "x-code" / "code"
    code.mkdir(parents=True)
    (code / "own.py").write_text("def save():\n    lock.acquire()\n")
    (tmp_path / "secret").write_text("a secret\n")
    (code / "link.py").symlink_to(tmp_path / "secret")
    (code / "away").symlink_to(tmp_path)

    def shown(name: str, line: int = 1) -> str:
        frame = f'  File "{code}/{name}", line {line} in save\n'
        ((_, text),) = stacks.rows_of(
            f"Current thread 0x1 (most recent call first):\n{frame}", code
        )
        return text

    assert shown("own.py", 2) == "own.py:2 in save: lock.acquire()"
    assert shown("own.py", 99) == "own.py:99 in save"
    for name in ("link.py", "away/secret", "../../secret", "away/../../../secret", "no.py"):
        assert "a secret" not in shown(name)


# --- what is made of it ---------------------------------------------------------------------------


class Controls:
    limits = Limits()

    def __init__(self, slow: bool = False):
        self.slow = slow

    def too_slow(self) -> bool:
        return self.slow


def process(folder: Path, ended: str | None = None, *events: dict, **result) -> Process:
    usual = {"status": -9 if ended else 0, "ended": ended, "wall": 9.0, "cpu": 0.1}
    one = Process(folder, None, usual | {"silent": 8.1, "waited": 0.0} | result)
    (folder / "stack").write_text(HELPER)
    return one.with_events(list(events))


def run(*processes: Process) -> Run:
    return Run([Life(list(processes), None)], (), Path("/nowhere/checkpoints"), "train.py")


def found(*args) -> Finding:
    with pytest.raises(Finding) as raised:
        endings.finished(*args)
    return raised.value


def test_a_hang_is_a_limit_with_a_stack(tmp_path):
    finding = found(Controls(), run(process(tmp_path, "quiet")))
    assert (finding.verdict, finding.cause) == (FAIL, "limit:quiet")
    assert "8 s" in finding.gist and finding.think
    assert ("stood at", "own.py:6 in save") in finding.rows


def test_a_hang_on_a_machine_that_is_too_slow_proves_nothing(tmp_path):
    finding = found(Controls(slow=True), run(process(tmp_path, "quiet")))
    assert (finding.verdict, finding.code) == (INCONCLUSIVE, "slow")


def test_a_rank_that_the_grader_ended_is_not_said_to_have_left(tmp_path):
    said = ranks.standing([process(tmp_path, "quiet")])[0]
    assert said == "was ended by the grader: it got no further, at own.py:3 in inner"


SAVED = {"id": "a", "at": "first", "ops": [{"op": "write", "step": 9}]}
KILLED = {"op": "write", "step": 10, "fault": {"kind": "kill", "step": 10, "event": 3}}
NEXT = {"id": "c", "at": "second", "ops": [{"op": "prune", "keep": 1}]}


def at(point: str, ops: int) -> list[dict]:
    return [{"event": "point", "point": point}, *[{"event": "op", "point": point}] * ops]


def test_a_plan_says_what_its_life_was_doing():
    plan = [SAVED, {"id": "b", "at": "second", "ops": [KILLED, {"op": "write", "step": 11}]}, NEXT]
    saving = fault_points.under_way(plan, at("a", 1))
    assert saving == [("called", "write_checkpoint of step 9")]
    killed = fault_points.under_way(plan, [*at("a", 1), *at("b", 1)])
    assert killed == [("called", "write_checkpoint of step 10")]
    again = fault_points.under_way(plan, [*at("a", 1), *at("b", 2)])
    assert again[0].label == "fault" and "SIGKILL in the save of step 10" in again[0].text
    assert again[1:] == [("called", "write_checkpoint of step 11")]
    after = fault_points.under_way(plan, [*at("a", 1), *at("b", 2), *at("c", 1)])
    assert after == [again[0], ("called", "prune")]
    assert fault_points.under_way(plan, []) == []
    assert fault_points.under_way(plan, [{"event": "point"}, {"event": "op", "point": ["b"]}]) == []


def test_a_rank_that_goes_on_alone_is_what_a_point_hangs_of(tmp_path):
    spins = {"event": "ended point", "t": 12.0, "id": "x", "status": -9, "stack": HELPER}
    waits = {"event": "collective", "t": 1.0, "n": 1, "name": "barrier"}
    failed = {"event": "collective failed", "t": 9.0, "n": 1, "type": "RuntimeError"}
    left = {"event": "ended point", "t": 9.1, "id": "x", "status": 3, "stack": None}
    folders = [tmp_path / str(rank) for rank in range(2)]
    for folder in folders:
        folder.mkdir()
    events = [[waits, failed, left], [spins]]
    lives = [process(folders[0], None, *events[0]), process(folders[1], None, *events[1])]
    seen = Seen({"ops": []}, lives, events, [{}, {}])
    with pytest.raises(Finding) as raised:
        rank_assertions.works(seen)
    rows = dict(raised.value.rows)
    assert raised.value.cause == "limit:quiet" and rows["rank"] == "1 (of 2)"
    assert rows["stood at"] == "own.py:6 in save" and rows["rank 0"].startswith("waits in barrier")
    later = Seen({"ops": []}, lives, [[], []], [{}, {}])
    rank_plan._after_a_hang([seen, later])
    with pytest.raises(Finding) as raised:
        later.found()
    assert raised.value.cause == "limit:quiet"


def test_an_error_of_a_loaders_worker_shows_the_students_frames():
    message = (
        "Caught NameError in DataLoader worker process 0.\n"
        "Original Traceback (most recent call last):\n"
        '  File "/torch/worker.py", line 306, in _worker_loop\n    init_fn(worker_id)\n'
        f'  File "{CODE}/own.py", line 4, in worker_init\n    undefined_name\n'
        "NameError: name 'undefined_name' is not defined\n"
    )
    frame = {"file": f"{CODE}/own.py", "line": 9, "function": "train", "text": "for batch in job"}
    finding = crashes.crashed({"type": "NameError", "message": message, "frames": [frame]}, [])
    assert finding.rows[:3] == [
        ("crashed", "own.py:9 in train: for batch in job"),
        ("", "own.py:4 in worker_init: undefined_name"),
        ("error", "NameError: name 'undefined_name' is not defined"),
    ]


# --- questions ------------------------------------------------------------------------------------


class Lab:
    """Each life answers one question after another, until one that hangs."""

    def __init__(self, folder: Path, hangs: set[str]):
        self.folder, self.hangs, self.asked = folder, hangs, []
        self.draw = random.Random(1)

    limits = Limits()

    def too_slow(self) -> bool:
        return False

    def launch(self, script: str, *argv, given: dict, **how) -> Run:
        events, ended = [], None
        for question in given["questions"]:
            name = question["id"]
            self.asked.append(question["ask"])
            events.append({"event": "asked", "point": name})
            if question["ask"] in self.hangs:
                ended = "quiet"
                break
            events.append({"event": "answer", "id": name, "values": {"did": question["ask"]}})
            events.append({"event": "ended", "point": name, "status": 0})
        if not ended:
            events.append({"event": "end", "step": 0})
        return run(process(self.folder, ended, *events))


def numbered(*asks: str) -> list[dict]:
    return [{"ask": ask} for ask in asks]


def test_a_question_that_hangs_is_a_finding_with_what_was_asked(tmp_path):
    lab = Lab(tmp_path, {"load"})
    saved, loaded, later = questions.ask(lab, "driver.py", numbered("save", "load", "save"))
    assert saved.given("?") == {"did": "save"} and lab.asked == ["save", "load"]
    when = ("loaded", "a file from a GPU")
    for answer, rows in ((loaded, [when]), (later, [])):
        for _ in range(2):  # checks share answers
            with pytest.raises(Finding) as raised:
                answer.given("?", when)
            assert raised.value.cause == "limit:quiet"
            assert [row for row in raised.value.rows if row == when] == rows


def test_after_a_hang_the_questions_of_other_functions_are_asked(tmp_path):
    lab = Lab(tmp_path, {"load", "restore"})
    asks = ("load", "save", "load", "restore", "save", "restore")
    answers = questions.ask(lab, "driver.py", numbered(*asks), alike=lambda q: q["ask"])
    assert [answer.status for answer in answers] == [None, 0, None, None, 0, None]
    assert lab.asked == ["load", "save", "restore", "save"]
