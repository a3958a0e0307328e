"""The `grade` command, as its users call it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from grader import course
from grader.tests.test_hostile import none_left, processes

ROOT = course.ROOT
SCHEMA = {"schema", "score", "max_score", "seconds", "exercises"}
TASK = {"id", "title", "verdict", "score", "max_score", "seconds", "message", "evidence"}


def grade(*args, root: Path = ROOT, **options):
    """`python -m grader ...` of the checkout at `root`."""
    env = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "100"}
    return subprocess.run([sys.executable, "-m", "grader", *map(str, args)], capture_output=True, text=True, env=env, timeout=300, **({"cwd": root} | options))


@pytest.fixture
def checkout(tmp_path):
    """A copy of this checkout, for commands that write into it."""
    target = tmp_path / "course"
    ignore = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".grade", "starter.kept-*", "*.ipynb", ".pytest_cache")
    shutil.copytree(ROOT, target, ignore=ignore)
    return target


@pytest.mark.needs_solution
def test_full_marks_exit_0_and_both_reports(tmp_path):
    done = grade("ex01", "--solution", "--task", 2, "--task", "ex01.1", "--seed", 7, "--json", tmp_path / "r.json", "--junit", tmp_path / "r.xml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout  # no colours: not a terminal
    assert done.stderr == ""
    result = json.loads((tmp_path / "r.json").read_text())
    assert set(result) == SCHEMA and result["schema"] == "grade/v1"
    (exercise,) = result["exercises"]
    assert [t["id"] for t in exercise["tasks"]] == ["ex01.1", "ex01.2"]
    assert all(set(t) == TASK and t["verdict"] == "pass" for t in exercise["tasks"])
    assert (result["score"], result["max_score"]) == (8, 8)
    suite = ElementTree.parse(tmp_path / "r.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("2", "0")


@pytest.mark.needs_solution
def test_a_failure_exits_1_and_its_replay_command_reproduces_it(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    solution = (course.find("ex01").solution / "checkpoint.py").read_text()
    (work / "checkpoint.py").write_text(solution.replace('    random.setstate(state["python"])\n', ""))
    first = grade("ex01", "--submission", work, "--task", 2, "--json", "-")
    assert first.returncode == 1
    (task,) = json.loads(first.stdout)["exercises"][0]["tasks"]
    replay = task["evidence"]["replay"].split()
    assert replay[0] == "grade" and "--fault" in replay
    again = grade(*replay[1:], "--submission", work, "--json", "-")
    (same,) = json.loads(again.stdout)["exercises"][0]["tasks"]
    assert again.returncode == 1
    assert same["evidence"]["rows"][:6] == task["evidence"]["rows"][:6]
    assert same["evidence"]["cause"] == "component:Python RNG"


@pytest.mark.parametrize(
    "args",
    [
        ["ex99"],
        ["ex01", "--task", "9"],
        ["--task", "x", "ex01"],
        ["ex01", "--submission", "/nowhere/at/all"],
        ["ex01", "--fault", "boom@3"],
        ["ex01", "--jobs", "0"],
        ["ex01", "--seed", "x"],
        ["ex01", "--json", "/nowhere/at/all/r.json"],
        ["ex01", "--solution", "--submission", "."],
        ["ex01", "--unknown"],
        ["hint", "ex01"],
        ["hint", "ex01.9"],
        ["hint"],
        ["show", "nothing"],
        ["reset", "ex77"],
        ["run", "ex01", "--submission", "grader"],
    ],
)
def test_wrong_usage_is_one_line_on_stderr_and_exit_2(args):
    done = grade(*args)
    assert done.returncode == 2, done.stdout
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("grade: ")
    assert done.stdout == ""


def test_a_submission_may_hold_exercises_by_either_name(tmp_path):
    for number, name in enumerate(("ex01", "ex01-basic-checkpoint")):
        folder = tmp_path / str(number) / name
        folder.mkdir(parents=True)
        (folder / "checkpoint.py").write_text("x = 1\n")
        done = grade("--submission", folder.parent, "--json", "-")
        assert done.returncode == 1, done.stderr
        assert json.loads(done.stdout)["exercises"][0]["id"] == "ex01"


def test_hints_come_one_rung_at_a_time(checkout):
    task = course.find("ex01").task(3)
    shown = [grade("hint", "ex01.3", root=checkout).stdout for _ in range(len(task.hints) + 1)]
    flat = [" ".join(s.split()) for s in shown]
    for n, text in enumerate(task.hints):
        assert text[:40] in flat[n]
        assert all(text[:40] not in other for i, other in enumerate(flat) if i != n and n < len(task.hints) - 1)
    assert task.hints[-1][:40] in flat[-1]  # the last one stays
    assert task.hints[0][:40] in " ".join(grade("hint", "ex01.3", "--again", root=checkout).stdout.split())


@pytest.mark.needs_solution
def test_reset_keeps_the_students_version_aside(checkout):
    starter = checkout / "ex01-basic-checkpoint" / "starter" / "checkpoint.py"
    for mine in ("# my first work\n", "# my second work\n"):
        starter.write_text(mine)
        assert grade("reset", "ex01", root=checkout).returncode == 0
    kept = sorted(p.read_text() for p in starter.parent.parent.glob("starter.kept-*/checkpoint.py"))
    assert kept == ["# my first work\n", "# my second work\n"]
    from grader import derive

    assert starter.read_bytes() == derive.starter_files(course.find("ex01"))["checkpoint.py"]


def test_reset_without_solutions_goes_back_to_what_git_first_knew(checkout):
    exercise = checkout / "ex01-basic-checkpoint"
    shutil.rmtree(exercise / "solution", ignore_errors=True)
    done = grade("reset", "ex01", root=checkout)
    assert done.returncode == 2 and (exercise / "starter" / "checkpoint.py").exists()  # nothing to go back to, nothing lost
    handed_out = (exercise / "starter" / "checkpoint.py").read_text()
    for step in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "handed out"]):
        subprocess.run(["git", *step], cwd=checkout, check=True)
    (exercise / "starter" / "checkpoint.py").write_text("# mine\n")
    assert grade("reset", "ex01", root=checkout).returncode == 0
    assert (exercise / "starter" / "checkpoint.py").read_text() == handed_out


def test_show_names_every_task_and_its_points():
    text = grade("show").stdout
    for task in course.find("ex01").tasks:
        assert f"{task.id}  {task.title}  ({task.points})" in text


@pytest.mark.needs_solution
def test_run_shows_the_lives_and_compares():
    done = grade("run", "ex01", "--solution", "--kill-after", 14, "--kill-after", 18)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--- life") == 3


@pytest.mark.needs_solution
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_grade_leaves_no_process(number):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen([sys.executable, "-m", "grader", "ex01", "--solution"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)
    line = running.stdout.readline()  # "ex01 ...": it has begun
    mark = f"grader={running.pid}-"
    while len(processes(mark)) < 2 and running.poll() is None:  # the server, and a life
        time.sleep(0.02)
    running.send_signal(number)
    _, errors = running.communicate(timeout=60)
    assert line and running.returncode != 0
    assert "Traceback" not in errors
    assert not none_left(mark)
