"""The grader's own side: what it reads, writes, loads and waits for, whatever a submission is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grader import engine
from grader.course import derive, selection, submissions
from grader.course.catalog import ROOT
from grader.errors import UsageError
from grader.harness.sandbox import NONE, Sandbox
from grader.report.logs import escaped
from grader.verdicts import INCONCLUSIVE, PASS

GRADE = [sys.executable, "-m", "grader"]


def grade(*args: object, **env: str) -> subprocess.CompletedProcess:
    command = [*GRADE, *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | env, timeout=300
    )


def starter(ex01) -> str:
    return derive.starter_files(ex01)[ex01.module].decode()


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.needs_solution
@pytest.mark.parametrize("name", ["", "ex01", "ex01-basic-checkpoint", "ex01/starter"])
def test_no_link_leads_to_the_solution(ex01, tmp_path, name):
    """A link in a submission's place gets no point, and says why."""
    place = tmp_path / "work" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(ex01.solution)
    with pytest.raises(UsageError, match="symbolic link"):
        submissions.submission(ex01, tmp_path / "work")


@pytest.mark.needs_solution
def test_linked_files_and_folders_arent_read(ex01, tmp_path):
    (tmp_path / ex01.module).symlink_to(ex01.solution / ex01.module)
    (tmp_path / "folder").symlink_to(ex01.solution)
    work = submissions.submission(ex01, tmp_path)
    assert work.files == {} and "symbolic link" in work.problem


def test_plain_files_are_read_at_any_depth(ex01, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.py").write_text("x = 1")
    (tmp_path / ex01.module).write_text("y = 2")
    assert submissions.submission(ex01, tmp_path).files == {
        "a/b/c.py": b"x = 1",
        ex01.module: b"y = 2",
    }


# --- limits ---------------------------------------------------------------------------------------


def test_a_grading_that_takes_too_long_is_inconclusive(ex01):
    """A submission that waits as long as it may in every call doesn't hold up a class."""
    slow = "import time\ntime.sleep(30)\n" + starter(ex01)
    work = submissions.Submission(ex01.starter, ex01.module, {ex01.module: slow.encode()})
    result = engine.grade(ex01, work, seed=1, seconds=3)
    assert result.score == 0
    verdicts = {task.verdict for task in result.tasks if not task.evidence.get("blocked_by")}
    assert verdicts == {INCONCLUSIVE} and "--grading-limit" in result.tasks[0].message


# --- output ---------------------------------------------------------------------------------------


def test_no_control_character_of_a_life_reaches_a_terminal_or_a_log(ex01, tmp_path):
    nasty = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\x08"
    code = starter(ex01) + (
        f"\ndef save_checkpoint(*_):\n    print({nasty!r}, flush=True)\n    raise "
        f"RuntimeError({nasty!r})\n"
    )
    work = submissions.Submission(tmp_path, ex01.module, {ex01.module: code.encode()})
    result = engine.grade(ex01, work, seed=1, tasks=[1], logs=tmp_path / "logs")
    logs = [path.read_text() for path in (tmp_path / "logs").rglob("*.log")]
    assert logs and "title" in logs[0]
    for text in (
        result.tasks[0].message,
        json.dumps(result.tasks[0].evidence, ensure_ascii=False),
        *logs,
    ):
        assert not [c for c in text if not c.isprintable() and c not in "\n\t"], text


def test_escaped_text_keeps_its_lines():
    assert escaped("a\tb\nc\x1b[0m\r") == "a\tb\nc\\x1b[0m\\x0d"


def test_logs_of_two_submissions_lie_apart(ex01, tmp_path):
    folders = [tmp_path / "a b", tmp_path / "a-b"]
    slugs = {submissions.Submission(folder, ex01.module, {}).slug for folder in folders}
    assert len(slugs) == 2 and all(slug == Path(slug).name for slug in slugs)


# --- surroundings ---------------------------------------------------------------------------------


@pytest.mark.needs_solution
def test_every_module_is_loaded_before_a_life_starts(ex01):
    """What student code writes, should it get out of its sandbox, is nothing that is loaded
    later.
    """
    code = """
import sys
from grader import cli, engine
from grader.course import catalog, submissions
from grader.harness import lab
loaded = set()
begin = lab.Lab._live
def first(*args):
    loaded.update(sys.modules) if not loaded else None
    return begin(*args)
lab.Lab._live = first
try:
    sys.argv = ["grade", "ex01", "--solution", "--task", "1", "--seed", "1", "--json", "-"]
    cli.main()
finally:
    late = sorted(name for name in set(sys.modules) - loaded if name.split(".")[0] == "grader")
    print("late", late, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.stderr.splitlines()[-1] == "late []", done.stderr


@pytest.mark.needs_solution
def test_a_shadowed_standard_library_changes_nothing(tmp_path):
    for name in ("random", "json", "click", "socket"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('shadowed')\n")
    done = grade("ex01", "--solution", "--task", 2, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_name_that_the_shell_would_run_is_a_name(tmp_path):
    flag = tmp_path / "ran"
    for name in (
        f"O'Brien; touch {flag}",
        f"$(shell touch {flag})",
        f"`touch {flag}`",
        f'" ; touch {flag}; "',
    ):
        done = subprocess.run(
            ["make", "-n", "grade", f"SUBMISSION={name}"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
        assert '--submission "$SUBMISSION"' in done.stdout, done.stdout + done.stderr
        assert not flag.exists()


def test_a_mistake_of_the_graders_is_one_line(monkeypatch, capsys, tmp_path):
    from grader import cli

    monkeypatch.setattr(cli, "STATE", ROOT / ".grade")
    monkeypatch.setattr(selection, "parse", lambda *args: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["grade", "ex01"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    shown = capsys.readouterr().err
    assert (
        left.value.code == 3
        and shown.count("\n") == 1
        and "ZeroDivisionError" in shown
        and ".py" not in shown.split("(")[0]
    )


@pytest.mark.needs_solution
def test_the_result_says_which_sandbox_it_was():
    for policy, kinds in (("off", {"none"}), ("auto", {"namespaces", "landlock", "none"})):
        done = grade("ex01", "--solution", "--task", 1, "--sandbox", policy, "--json", "-")
        assert json.loads(done.stdout)["exercises"][0]["sandbox"] in kinds
    shown = grade("ex01", "--solution", "--task", 1, "--sandbox", "off")
    assert "trusted submissions only" in shown.stdout


@pytest.mark.needs_solution
def test_without_a_sandbox_the_verdicts_are_the_same(ex01, launcher):
    work = submissions.submission(ex01, None, solution=True)
    result = engine.grade(ex01, work, launcher, seed=1, tasks=[1, 2], sandbox=Sandbox(NONE))
    assert {task.verdict for task in result.tasks} == {PASS} and result.sandbox == NONE
