"""The `grade` command, as its users call it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from grader.course import catalog, starters, submissions
from grader.report import output
from grader.tests.has_begun import has_begun
from grader.tests.hostile.test_hostile import none_left

ROOT = catalog.ROOT
SCHEMA = {"schema", "score", "max_score", "seconds", "exercises"}
TASK = {"id", "title", "verdict", "score", "max_score", "seconds", "message", "evidence"}


def grade(*args, root: Path = ROOT, **options):
    """`python -m grader ...` of the checkout at `root`."""
    env = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "grader", *map(str, args)],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
        **({"cwd": root} | options),
    )


@pytest.fixture
def zip_hand_out(checkout):
    """The course as students may get it: no git, and nothing that gives the answers away."""
    for exercise in catalog.exercises(checkout).values():
        shutil.rmtree(exercise.solution, ignore_errors=True)
        shutil.rmtree(checkout / "grader" / "mutants" / exercise.id, ignore_errors=True)
        shutil.copytree(exercise.handed_out, exercise.starter, dirs_exist_ok=True)
    shutil.rmtree(checkout / "grader" / "tests")
    return checkout


@pytest.mark.needs_solution
def test_full_marks_exit_0_and_both_reports(tmp_path):
    done = grade(
        "ex01",
        "--solution",
        "--task",
        2,
        "--task",
        "ex01.1",
        "--seed",
        7,
        "--json",
        tmp_path / "r.json",
        "--junit",
        tmp_path / "r.xml",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout  # no colors: not a terminal
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
    solution = (catalog.find("ex01").solution / "checkpoint.py").read_text()
    (work / "checkpoint.py").write_text(
        solution.replace('    random.setstate(state["python"])\n', "")
    )
    first = grade("ex01", "--submission", work, "--task", 2, "--json", "-")
    assert first.returncode == 1
    (task,) = json.loads(first.stdout)["exercises"][0]["tasks"]
    replay = task["evidence"]["replay"].split()
    assert replay[0] == "grade" and "--fault" in replay
    again = grade(*replay[1:], "--submission", work, "--json", "-")
    (same,) = json.loads(again.stdout)["exercises"][0]["tasks"]
    assert again.returncode == 1
    assert same["evidence"]["rows"][:6] == task["evidence"]["rows"][:6]
    assert same["evidence"]["cause"] == "state-lost:Python RNG"


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
        ["ex01", "--json", "."],
        ["ex01", "--junit", "/dev/full"],
        ["ex01", "--junit", "/proc/r.xml"],
        ["ex01", "--json", "x" * 300],
        ["ex01", "--json", ""],
        ["ex01", "--submission", ""],
        ["ex01", "--submission", "/"],
        ["ex01.1/no-such-check"],
        ["ex01", "--task", "ex02.1"],
        ["ex01", "--task", "ex01.3.4"],
        ["ex01", "--solution", "--submission", "."],
        ["ex01", "--unknown"],
        ["hint", "ex01.9"],
        ["hint", "ex09"],
        ["show", "ex01", "--submission", "/nowhere"],
        ["show", "nothing"],
        ["reset", "ex77"],
        ["run", "ex01", "--submission", "grader"],
        ["run", "ex01", "--submission", "grader", "--solution"],
        ["run", "ex01", "--kill-after", "0"],
        ["run", "ex01", "--kill-after", "31"],
    ],
    ids=lambda args: " ".join(args)[:60],
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
        done = grade("ex01", "--submission", folder.parent, "--json", "-")
        assert done.returncode == 1, done.stderr
        assert json.loads(done.stdout)["exercises"][0]["id"] == "ex01"


@pytest.mark.parametrize("kind", ["symbolic link", "directory", "larger", "no"])
def test_a_module_that_cant_be_graded_is_called_what_it_is(tmp_path, kind):
    path = tmp_path / "checkpoint.py"
    if kind == "symbolic link":
        path.symlink_to(__file__)
    elif kind == "directory":
        path.mkdir()
    elif kind == "larger":
        path.write_bytes(b"#" * (5 << 20))
    assert kind in submissions.Submission(tmp_path, "checkpoint.py").problem


def test_a_walk_through_a_submission_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "MAX_ENTRIES", 50)
    (tmp_path / "checkpoint.py").write_text("x = 1\n")
    for n in range(40):
        (tmp_path / f".{n}").mkdir()  # not read, but walked over
    assert submissions.Submission(tmp_path, "checkpoint.py").problem == ""
    for n in range(20):
        (tmp_path / f"empty{n}").mkdir()
    with pytest.raises(catalog.UsageError):
        submissions.Submission(tmp_path, "checkpoint.py")


def test_a_submission_isnt_followed_down_for_ever(tmp_path):
    (tmp_path / "/".join(["d"] * (submissions.MAX_DEPTH + 2)) / "e").mkdir(parents=True)
    with pytest.raises(catalog.UsageError):
        submissions.Submission(tmp_path, "checkpoint.py")


# --- results --------------------------------------------------------------------------------------


def test_results_replace_a_file_only_when_they_are_there(tmp_path):
    file, link = tmp_path / "r.json", tmp_path / "link.json"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    target = output.Target(link)
    assert file.read_text() == "old"
    target.write("new")
    target.close()
    assert link.is_symlink() and file.read_text() == "new" and file.stat().st_mode & 0o777 == 0o640
    output.Target(link).close()  # a grading that was interrupted
    assert file.read_text() == "new" and sorted(p.name for p in tmp_path.iterdir()) == [
        "link.json",
        "r.json",
    ]


def test_results_go_into_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    target = output.Target(pipe)
    target.write("{}")
    target.close()
    assert os.read(reader, 100) == b"{}" and pipe.is_fifo()
    os.close(reader)


def test_the_page_of_a_submission_that_does_not_import_goes_to_a_file_or_to_standard_output(
    tmp_path,
):
    work = tmp_path / "work"
    work.mkdir()
    (work / "checkpoint.py").write_text("print('<b>bold</b>')\ndef (")
    page = tmp_path / "page.html"
    done = grade("ex01", "--submission", work, "--html", page)
    assert done.returncode == 1
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>") and 'id="ex01.1"' in text and "<b>" not in text
    assert "SyntaxError" in text
    out = grade("ex01", "--task", 1, "--submission", work, "--html", "-").stdout
    assert out.startswith("<!DOCTYPE html>") and out.rstrip().endswith("</html>")


@pytest.mark.parametrize("file", ["--json", "--junit", "--html"])
def test_results_that_cant_be_written_are_one_line_and_exit_3(file, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "checkpoint.py").write_text("def (")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "grader", "ex01", "--submission", work, file, "-"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 3 and len(done.stderr.strip().splitlines()) == 1


# --- logs -----------------------------------------------------------------------------------------


def test_the_log_of_a_crash_is_kept_until_the_next_grading(checkout):
    mine = checkout / "ex01-basic-checkpoint" / "starter" / "checkpoint.py"
    mine.write_text(
        mine.read_text()
        + (
            "\n\ndef read_latest(directory):\n    print('on the way')\n    raise "
            "KeyError(directory)\n"
        )
    )
    shown = grade("ex01", "--task", 4, "--json", "r.json", root=checkout)
    (task,) = json.loads((checkout / "r.json").read_text())["exercises"][0]["tasks"]
    assert (
        task["evidence"]["log"] == ".grade/logs/starter/ex01.4.log"
        and ".grade/logs/starter/ex01.4.log" in shown.stdout
    )
    assert task["evidence"]["rows"][-1][0] == "log"
    log = (checkout / ".grade" / "logs" / "starter" / "ex01.4.log").read_text()
    assert "on the way" in log and "KeyError" in log and str(mine) in log
    assert [p.name for p in (checkout / ".grade" / "logs" / "starter").iterdir()] == ["ex01.4.log"]
    mine.write_text("def (")
    again = grade("ex01", "--task", 4, "--json", "r.json", root=checkout)
    assert again.returncode == 1 and not list((checkout / ".grade" / "logs" / "starter").iterdir())


def test_a_course_that_cant_be_written_to_is_graded_without_logs(checkout):
    (checkout / ".grade").write_text("in the way")
    mine = checkout / "ex01-basic-checkpoint" / "starter" / "checkpoint.py"
    mine.write_text(
        mine.read_text()
        + (
            "\n\ndef batches(job):\n    raise KeyError\n\n\ndef read_latest(directory):\n    "
            "return None\n"
        )
    )
    done = grade("ex01", "--task", 4, "--json", "-", root=checkout)
    (task,) = json.loads(done.stdout)["exercises"][0]["tasks"]
    assert task["verdict"] == "fail" and "log" not in task["evidence"]


# --- hints and reset ------------------------------------------------------------------------------


def test_hints_come_one_rung_at_a_time(checkout):
    task = catalog.find("ex01").task(3)
    shown = [grade("hint", "ex01.3", root=checkout).stdout for _ in range(len(task.hints) + 1)]
    flat = [" ".join(s.split()) for s in shown]
    for n, text in enumerate(task.hints):
        assert text[:40] in flat[n]
        assert all(
            text[:40] not in other
            for i, other in enumerate(flat)
            if i != n and n < len(task.hints) - 1
        )
    assert task.hints[-1][:40] in flat[-1]  # the last one stays
    assert task.hints[0][:40] in " ".join(
        grade("hint", "ex01.3", "--again", root=checkout).stdout.split()
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '"x"',
        '{"ex01.3": "x"}',
        '{"ex01.3": -7}',
        '{"ex01.3": true}',
        '{"ex01.3": [1]}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_hints_survive_what_became_of_their_file(checkout, text):
    (checkout / ".grade").mkdir()
    (checkout / ".grade" / "hints.json").write_text(text, encoding="latin-1")
    for rung in ("hint 1 of", "hint 2 of"):
        done = grade("hint", "ex01.3", root=checkout)
        assert done.returncode == 0 and rung in done.stdout


@pytest.mark.parametrize("way", [".grade", ".grade/hints.json/x"])
def test_a_hint_that_cant_be_remembered_is_shown_and_said(checkout, way):
    (checkout / way).parent.mkdir(parents=True, exist_ok=True)
    (checkout / way).write_text("in the way")
    done = grade("hint", "ex01.3", root=checkout)
    assert done.returncode == 2 and "hint 1 of" in done.stdout
    assert len(done.stderr.strip().splitlines()) == 1


def test_reset_of_an_untouched_starter_changes_nothing(checkout):
    exercise = checkout / "ex01-basic-checkpoint"
    before = sorted(exercise.iterdir())
    assert grade("reset", "ex01", root=checkout).returncode == 0
    assert sorted(exercise.iterdir()) == before
    (exercise / "starter" / "notes.txt").write_text("mine")  # a file more is a version to keep
    assert grade("reset", "ex01", root=checkout).returncode == 0
    (kept,) = exercise.glob("starter.kept-*")
    assert (kept / "notes.txt").exists() and not (exercise / "starter" / "notes.txt").exists()


@pytest.mark.parametrize("refused", ["mkdir", "write_bytes", "rename"])
def test_a_reset_that_fails_is_one_line_and_loses_nothing(tmp_path, monkeypatch, refused):
    exercise = dataclasses.replace(catalog.find("ex01"), folder=tmp_path / "ex01")
    shutil.copytree(catalog.find("ex01").handed_out, exercise.handed_out)
    exercise.starter.mkdir(parents=True)
    (exercise.starter / "checkpoint.py").write_text("mine")
    real = getattr(Path, refused)

    def refuse(self, *args, **kwargs):
        if tmp_path in self.parents:
            raise OSError(30, "Read-only file system", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, refused, refuse)
    with pytest.raises(catalog.UsageError):
        starters.reset(exercise)
    assert (exercise.starter / "checkpoint.py").read_text() == "mine"
    assert [p.name for p in exercise.folder.iterdir()] == ["starter"]


def test_reset_keeps_the_students_version_aside(checkout):
    starter = checkout / "ex01-basic-checkpoint" / "starter" / "checkpoint.py"
    for mine in ("# my first work\n", "# my second work\n"):
        starter.write_text(mine)
        assert grade("reset", "ex01", root=checkout).returncode == 0
    kept = sorted(p.read_text() for p in starter.parent.parent.glob("starter.kept-*/checkpoint.py"))
    assert kept == ["# my first work\n", "# my second work\n"]
    assert starter.read_bytes() == starters.handed_out(catalog.find("ex01"))["checkpoint.py"]


@pytest.mark.needs_solution
def test_progress_is_shown_and_leads_to_the_next_hint(checkout):
    exercise = catalog.find("ex02")
    mine = checkout / exercise.folder.name / "starter"
    shutil.copy(exercise.solution / exercise.module, mine / exercise.module)
    assert "hint 1 of" in grade("hint", root=checkout).stdout  # nothing graded: ex01.1
    assert grade("ex02.1", "--seed", 5, root=checkout).returncode == 0
    (progress,) = json.loads((checkout / ".grade" / "progress.json").read_text()).items()
    assert progress[0] == f"{exercise.folder.name}/starter"
    assert progress[1]["ex02.1"]["passed_seed"] == 5
    shown = grade("show", "ex02", root=checkout).stdout
    assert "passed just now\n" in shown and "changed since" not in shown
    assert "ex02.2" in grade("hint", "ex02", root=checkout).stdout
    assert "ex02.2" in grade("hint", root=checkout).stdout
    (mine / exercise.module).write_text("def (\n")
    assert "passed just now; your files changed since" in grade("show", root=checkout).stdout
    assert grade("ex02.1", root=checkout).returncode == 1
    assert "failed just now: import; last passed just now" in grade("show", root=checkout).stdout


@pytest.mark.needs_solution
def test_only_a_students_whole_tasks_are_remembered(checkout):
    grade("ex01.1", "--solution", root=checkout)
    grade("ex01.1/comes-back", "--submission", checkout / "ex01-basic-checkpoint", root=checkout)
    grade("ex01.1", "--fault", "kill@3", root=checkout)
    assert not (checkout / ".grade" / "progress.json").exists()


def test_a_zip_hand_out_needs_neither_git_nor_solutions(zip_hand_out):
    starter = zip_hand_out / "ex01-basic-checkpoint" / "starter" / "checkpoint.py"
    text = starter.read_text()
    shown = grade("show", root=zip_hand_out)
    assert shown.returncode == 0 and "ex04.5" in shown.stdout
    assert "hint 1 of" in grade("hint", "ex01.3", root=zip_hand_out).stdout
    assert grade("explain", "state-lost", root=zip_hand_out).returncode == 0
    graded = grade("ex01", "--task", 1, root=zip_hand_out)
    assert graded.returncode == 1, graded.stderr
    assert "This is the untouched starter of ex01. Begin with ex01.1" in graded.stdout
    assert "This checkout has no solutions".lower() in (
        grade("ex01", "--solution", root=zip_hand_out).stderr
    )
    starter.write_text("# mine\n")
    assert grade("reset", "ex01", root=zip_hand_out).returncode == 0
    assert starter.read_text() == text
    (kept,) = starter.parent.parent.glob("starter.kept-*")
    assert (kept / "checkpoint.py").read_text() == "# mine\n"


def test_every_starter_resets_in_a_zip_hand_out(zip_hand_out):
    for exercise in catalog.exercises(zip_hand_out).values():
        before = {p.name: p.read_bytes() for p in exercise.starter.iterdir() if p.is_file()}
        shutil.rmtree(exercise.starter)
        assert grade("reset", exercise.id, root=zip_hand_out).returncode == 0
        assert {p.name: p.read_bytes() for p in exercise.starter.iterdir()} == before


def test_show_names_every_task_and_its_points():
    text = grade("show").stdout
    for task in catalog.find("ex01").tasks:
        assert f"{task.id}  {task.title}  ({task.points})" in text


@pytest.mark.needs_solution
def test_run_shows_the_lives_and_compares():
    done = grade("run", "ex01", "--solution", "--kill-after", 14, "--kill-after", 18)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--- life") == 3


# --- ends -----------------------------------------------------------------------------------------


@pytest.fixture
def scratch():
    """An empty TMPDIR, short enough to be used."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "number,status,how",
    [
        (signal.SIGINT, 130, "fork"),
        (signal.SIGTERM, 143, "fork"),
        (signal.SIGHUP, 129, "fork"),
        (signal.SIGKILL, -9, "fork"),
        (signal.SIGINT, 130, "plain"),
        (signal.SIGKILL, -9, "plain"),
    ],
)
def test_an_interrupted_grade_ends_at_once_and_leaves_nothing(
    tmp_path, scratch, number, status, how
):
    if how == "fork" and not sys.platform.startswith("linux"):
        pytest.skip("the fork server is Linux's")
    if number != signal.SIGKILL and signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("ignored here, and so in what is started from here")
    results, work = tmp_path / "results", tmp_path / "work"
    results.mkdir()
    work.mkdir()
    (results / "r.json").write_text("old")
    (work / "checkpoint.py").write_text("open('begun', 'w').close()\nwhile True: pass\n")
    running = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "grader",
            "ex01",
            "--submission",
            work,
            "--json",
            results / "r.json",
            "--launcher",
            how,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)},
    )
    while not has_begun(scratch) and running.poll() is None:
        time.sleep(0.02)
    began = time.monotonic()
    running.send_signal(number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == status and "Traceback" not in errors
    assert time.monotonic() - began < 25  # 30 s of CPU time, or 60 of any, would end the life
    assert not none_left(f"grader={running.pid}-")
    if number != signal.SIGKILL:
        assert not list(scratch.glob("g-*"))
        assert {p.name: p.read_text() for p in results.iterdir()} == {"r.json": "old"}


@pytest.mark.parametrize("solution", ["", "1"])
@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_make_grade_fails_where_grading_did(tmp_path, status, solution):
    if shutil.which("make") is None:
        pytest.skip("no make here")
    (tmp_path / "grade").write_text(f"#!/bin/sh\nexit {status}\n")
    (tmp_path / "grade").chmod(0o755)
    (tmp_path / ".ready").touch()
    done = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "grade",
            f"BIN={tmp_path}",
            f"READY={tmp_path}/.ready",
            f"SOLUTION={solution}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))},
    )
    works = status == 0 or (status == 1 and not solution)
    assert (done.returncode == 0) == works
    assert not works or done.stdout + done.stderr == ""
