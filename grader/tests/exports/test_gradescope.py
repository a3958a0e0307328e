"""Gradescope: its results.json, and an autograder in a tree like its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from grader.course import catalog
from grader.course.catalog import ROOT
from grader.course.release import writing
from grader.exports import gradescope, gradescope_autograder, result_file
from grader.tests.exports.samples import BLOCKED, FAILED, OPEN, PASSED, grade, result, written

# --- results.json ---------------------------------------------------------------------------------


def test_each_verdict_becomes_a_test(tmp_path):
    file = written(tmp_path / "r.json", result(PASSED, FAILED, BLOCKED, OPEN))
    found = gradescope.results(result_file.read(file))
    assert (found["score"], found["execution_time"]) == (4, 13)
    assert [
        (t["number"], t["name"], t.get("score"), t.get("max_score"), t.get("status"))
        for t in found["tests"]
    ] == [
        ("1.1", "title 1", 4, 4, "passed"),
        ("1.2", "title 2", 0, 5, "failed"),
        ("1.3", "title 3", 0, 6, "failed"),
        ("1.4", "title 4 (inconclusive, 7 points open)", None, None, None),
    ]
    outputs = [t["output"] for t in found["tests"]]
    assert outputs[:2] == [
        "Passed.",
        # a student has no /autograder, and no log of that machine
        "check      a run rejoins\nreplay     grade ex01.2/a-run --seed 7",
    ]
    assert outputs[2].startswith("Blocked: ") and outputs[2].endswith("get that to pass first")
    assert "neither passed nor failed" in outputs[3] and "too slow" in outputs[3]
    assert found["output"].startswith("ex01: 4 of 22 points\n\nInconclusive: ex01.4. Nothing was")
    assert found["extra_data"]["sandbox"] == {"ex01": "landlock"}
    assert {t["visibility"] for t in found["tests"]} == {"visible"}


def test_the_command_reads_a_file_or_standard_input(tmp_path):
    file = written(tmp_path / "r.json", result(PASSED))
    done = grade(
        "export", "gradescope", file, "-o", tmp_path / "out.json", "--visibility", "hidden"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["visibility"] == found["tests"][0]["visibility"] == "hidden"
    piped = grade("export", "gradescope", "-", input=file.read_text())
    assert json.loads(piped.stdout)["score"] == 4


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "can't read"),
        ("{", "isn't JSON"),
        ([], "the schema is None, and should be 'grade/v1'"),
        ({"schema": "grade/v2"}, "the schema is 'grade/v2', and should be 'grade/v1'"),
        ({"schema": "grade/v1"}, "the result has no proper 'exercises'"),
        ({"schema": "grade/v1", "exercises": []}, "it holds no exercise"),
        ({"schema": "grade/v1", "exercises": [1]}, "exercise 1 isn't an object"),
        (result({**PASSED, "score": 4.5}), "exercise 1, task 1 has no proper 'score'"),
        (result({**PASSED, "verdict": "maybe"}), "has the unknown verdict 'maybe'"),
    ],
)
def test_what_isnt_a_result_is_one_clear_line(tmp_path, content, says):
    file = tmp_path / "r.json"
    if content is not None:
        written(file, content)
    done = grade("export", "gradescope", file)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("grade: ") and str(file) in line and says in line


# --- the autograder -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    chosen = [catalog.find("ex01")]
    files = gradescope_autograder.files(ROOT, chosen, 30, "auto", "visible")
    target = tmp_path_factory.mktemp("autograder") / "autograder.zip"
    writing.write(target, files)
    return target


@pytest.fixture
def root(archive, tmp_path):
    """A tree like /autograder, with the packages of this interpreter."""
    source = tmp_path / "source"
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = info.external_attr >> 16
            Path(file.extract(info, source)).chmod(mode & 0o777)
    shutil.copy(source / "run_autograder", tmp_path / "run_autograder")
    (tmp_path / "submission").mkdir()
    (tmp_path / "venv").symlink_to(sys.prefix)
    settings(tmp_path, exercises=["ex01.1"])  # one task is enough here
    return tmp_path


def settings(root: Path, **changes: object) -> None:
    file = root / "source" / "settings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def autograde(root: Path, **env: str) -> tuple[dict, str]:
    """results.json, and standard output; the root is given as an argument or by a variable."""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [root / "run_autograder", *([] if env else [root])],
        cwd=root,
        env={**clean, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (root / "results").iterdir()] == ["results.json"]
    return json.loads((root / "results" / "results.json").read_text()), done.stdout


def test_the_zip_file_is_as_gradescope_wants_it(archive):
    with zipfile.ZipFile(archive) as file:
        modes = {info.filename: info.external_attr >> 16 & 0o777 for info in file.infolist()}
        readme = file.read("README.md").decode()
        setup = file.read("setup.sh").decode()
    assert (modes["setup.sh"], modes["run_autograder"]) == (0o755, 0o755)
    assert "course/grader/engine.py" in modes
    unwanted = ("solution", "tests/", "mutants/ex", "starter/", ".ipynb")
    assert [n for n in modes if any(part in n for part in unwanted)] == []
    assert "timeout | 30 minutes" in readme and "Points: 20" in readme and "@" not in readme
    assert '"torch==' in setup


def test_it_grades_a_submission(root):
    starter = catalog.find("ex01").handed_out / "checkpoint.py"
    shutil.copy(starter, root / "submission")
    found, printed = autograde(root, AUTOGRADER_ROOT=str(root))
    assert [(t["number"], t["status"], t["score"]) for t in found["tests"]] == [
        ("1.1", "failed", 0)
    ]
    assert found["score"] == 0 and "not_graded" not in found["extra_data"]
    assert str(root) not in json.dumps(found)
    assert "sandbox" in printed


@pytest.mark.needs_solution
def test_it_gives_a_right_submission_its_points_in_whatever_folder(root):
    inside = root / "submission" / "my work" / "ex01-basic-checkpoint" / "starter"
    inside.mkdir(parents=True)
    shutil.copy(catalog.find("ex01").solution / "checkpoint.py", inside)
    found, _ = autograde(root)
    assert (found["score"], found["tests"][0]["status"]) == (4, "passed")


def test_a_grader_that_crashes_is_no_silent_zero(root):
    (root / "source" / "course" / "grader" / "engine.py").write_text("raise OSError('no disk')\n")
    found, printed = autograde(root)
    (test,) = found["tests"]
    assert test["status"] == "failed" and "max_score" not in test
    assert test["visibility"] == found["visibility"] == "visible"
    assert found["output"].startswith("NOT GRADED. The grader failed.\n\nThe score 0 is a placeh")
    assert "Tell your instructor" in found["output"] and "no disk" not in found["output"]
    assert "no disk" in printed  # for the instructor


def test_a_grading_that_takes_too_long_is_said_to(root):
    shutil.copy(catalog.find("ex01").handed_out / "checkpoint.py", root / "submission")
    settings(root, exercises=["ex01"], minutes=1)  # less than what is kept for all but the grading
    found, _ = autograde(root)
    assert found["output"].startswith("NOT GRADED. The grading took too long.")


def test_a_submission_that_cant_be_read_is_told_why(root):
    (root / "submission" / "ex01").symlink_to(root)
    found, _ = autograde(root)
    assert found["output"].startswith("NOT GRADED. The submission can't be graded: ")
    assert "is a symbolic link" in found["output"] and "submit again" in found["output"]


def test_a_broken_installation_is_said_to(root):
    (root / "venv").unlink()
    found, printed = autograde(root)
    assert found["output"].startswith("NOT GRADED. The autograder failed.")
    assert "FileNotFoundError" in printed


def test_there_is_a_result_before_the_grading_ends(root, monkeypatch):
    """Gradescope may end the container at any moment."""
    spec = importlib.util.spec_from_file_location(
        "run_autograder", gradescope_autograder.PARTS / "run_autograder.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "grade", killed)
    with pytest.raises(KeyboardInterrupt):
        script.main(root)
    found = json.loads((root / "results" / "results.json").read_text())
    assert found["output"].startswith("NOT GRADED. The grading didn't end.")


def test_setup_installs_into_the_root(root, tmp_path_factory):
    """The real script, with apt-get and python3 that only say how they were called."""
    tools = tmp_path_factory.mktemp("tools")
    log = tools / "log"
    (root / "venv").unlink()
    (root / "venv" / "bin").mkdir(parents=True)
    for tool in (tools / "apt-get", tools / "python3", root / "venv" / "bin" / "python"):
        tool.write_text(f'#!/bin/sh\necho "{tool.name} $*" >>{log}\n')
        tool.chmod(0o755)
    env = {"PATH": f"{tools}:/usr/bin:/bin"}
    subprocess.run([root / "source" / "setup.sh", root], env=env, check=True, timeout=60)
    lines = log.read_text().splitlines()
    assert lines[0] == "apt-get update" and lines[3] == f"python3 -m venv {root}/venv"
    assert lines[-1] == f"python -m pip install --no-cache-dir -e {root}/source/course"
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, root / "source" / "setup.sh"], check=True, timeout=60)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "a.zip").write_text("mine")
    done = grade("export", "gradescope-autograder", tmp_path / "a.zip", "--exercise", "ex01")
    assert done.returncode == 2 and "exists already" in done.stderr
    done = grade("export", "gradescope-autograder", tmp_path / "b.zip", "--exercise", "ex09")
    assert done.returncode == 2 and "no exercise 'ex09'" in done.stderr
