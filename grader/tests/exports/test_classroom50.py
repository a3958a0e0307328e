"""Classroom 50: its result.json, and the workflow that publishes one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import pytest

from grader.errors import UsageError
from grader.exports import classroom50, result_file
from grader.tests.exports.samples import BLOCKED, FAILED, OPEN, PASSED, grade, result, written

RUNNER = {
    "CLASSROOM": "systems",
    "ASSIGNMENT": "week-1",
    "ASSIGNMENT_TYPE": "individual",
    "OWNER": "alice",
    "SUBMISSION_TAG": "submit/2026-06-01T14-32-05Z-a1b2c3d",
    "COMMIT_URL": "https://github.com/o/r/commit/a1b2c3d",
    "RELEASE_URL": "https://github.com/o/r/releases/tag/submit%2Fx",
    "REVIEW_URL": "https://github.com/o/r/compare/1...2",
}
NO_RUNNER = {k: v for k, v in os.environ.items() if k not in RUNNER}
DATE = "2026-06-01T16:32:05+02:00"


@pytest.fixture
def checkout(tmp_path):
    """A student's repository with one commit."""
    folder = tmp_path / "submission"
    written(folder / ".classroom50.yaml", "classroom: systems\nassignment: 'week-1'\nsecret: x\n")
    identity = ["-c", "user.name=Alice", "-c", "user.email=a@example.org"]
    env = {**os.environ, "GIT_COMMITTER_DATE": DATE, "GIT_AUTHOR_DATE": DATE}
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "done"]):
        subprocess.run(["git", *command], cwd=folder, check=True, env=env)
    return folder


def sha(checkout):
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.check_output(command, cwd=checkout, text=True).strip()


def test_a_result_is_as_the_contract_says(tmp_path):
    read = result_file.read(written(tmp_path / "r.json", result(PASSED, FAILED, BLOCKED)))
    found = classroom50.result_json(read, classroom50.identify({**RUNNER, "REVIEW_URL": ""}))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found.pop("datetime"))
    assert found == {
        "schema": "classroom50/result/v1",
        "classroom": "systems",
        "assignment": "week-1",
        "assignment_type": "individual",
        "owner": "alice",
        "submission": RUNNER["SUBMISSION_TAG"],
        "commit": RUNNER["COMMIT_URL"],
        "release": RUNNER["RELEASE_URL"],
        "review": RUNNER["COMMIT_URL"],
        "score": 4,
        "max-score": 15,
        "tests": [
            {
                "test-name": f"ex01.{n} title {n}",
                "passed": verdict == "pass",
                "score": score,
                "max-score": most,
                "verdict": verdict,
            }
            for n, verdict, score, most in (
                (1, "pass", 4, 4),
                (2, "fail", 0, 5),
                (3, "blocked", 0, 6),
            )
        ],
    }


def test_a_checkout_tells_what_the_runner_would(checkout):
    github = {
        "GITHUB_REPOSITORY": "org/systems-week-1-Alice",
        "GITHUB_REF": "refs/heads/main",
        "GITHUB_ACTOR": "bob",
    }
    found = classroom50.identify(github, checkout)
    commit = sha(checkout)
    tag = f"submit/2026-06-01T14-32-05Z-{commit[:7]}"
    assert (found.classroom, found.assignment, found.owner) == ("systems", "week-1", "Alice")
    assert (found.submission, found.datetime) == (tag, "2026-06-01T14:32:05Z")
    assert found.commit == f"https://github.com/org/systems-week-1-Alice/commit/{commit}"
    assert found.release.endswith(f"/releases/tag/submit%2F2026-06-01T14-32-05Z-{commit[:7]}")
    pushed = {**github, "GITHUB_REF": "refs/tags/submit/mine", "GITHUB_REPOSITORY": "org/other"}
    found = classroom50.identify(pushed, checkout)
    assert (found.submission, found.owner) == ("submit/mine", "bob")
    assert classroom50.identify({**github, **RUNNER}, checkout).owner == "alice"


@pytest.mark.parametrize(
    "text", ["classroom: systems\n", "classroom: a b\nassignment: x1\n", "classroom: ../x\n"]
)
def test_a_checkouts_names_may_hold_anything(checkout, text):
    (checkout / ".classroom50.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"\.classroom50\.yaml has no proper '\w+'$"):
        classroom50.identify({}, checkout)


def test_the_command_writes_a_result(checkout, tmp_path):
    file = written(tmp_path / "r.json", result(PASSED))
    env = {**NO_RUNNER, "GITHUB_REPOSITORY": "org/systems-week-1-alice"}
    arguments = ["export", "classroom50", file, "--checkout", checkout]
    done = grade(*arguments, "-o", tmp_path / "result.json", env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "result.json").read_text())["owner"] == "alice"


@pytest.mark.parametrize(
    "missing, says",
    [
        ({"OWNER": ""}, "OWNER is unknown"),
        ({"CLASSROOM": ""}, "CLASSROOM is unknown"),
        ({"SUBMISSION_TAG": "v1"}, "SUBMISSION_TAG is 'v1', and should be submit/..."),
        ({"ASSIGNMENT_TYPE": "solo"}, "ASSIGNMENT_TYPE is 'solo'"),
    ],
)
def test_what_nothing_tells_is_one_clear_line(tmp_path, missing, says):
    file = written(tmp_path / "r.json", result(PASSED))
    done = grade("export", "classroom50", file, env={**NO_RUNNER, **RUNNER, **missing})
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert says in line


def test_an_inconclusive_result_is_a_failure_of_the_machine(tmp_path):
    file, out = written(tmp_path / "r.json", result(PASSED, OPEN)), tmp_path / "result.json"
    done = grade("export", "classroom50", file, "-o", out, env={**NO_RUNNER, **RUNNER})
    assert done.returncode == 3 and not out.exists()
    assert done.stderr.startswith("grade: ex01.4: inconclusive, and Classroom 50 knows only")


# --- the workflow ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workflow():
    return classroom50.workflow("org/course@v1.2", ["ex01", "ex02"], "torch==2.13.0")


def steps(workflow: str) -> dict[str, dict]:
    yaml = pytest.importorskip("yaml")
    (job,) = yaml.safe_load(workflow)["jobs"].values()
    return {step["name"]: step for step in job["steps"]}


def test_the_workflow_grades_with_another_repositorys_grader(workflow):
    assert "@REF@" not in workflow and "@EXERCISES@" not in workflow
    found = steps(workflow)
    grader = found["Check out the grader"]["with"]
    assert (grader["repository"], grader["ref"]) == ("org/course", "v1.2")
    assert "grade ex01 ex02 --submission submission --sandbox require" in found["Grade"]["run"]
    # no step that runs student code has a token
    assert {name for name, step in found.items() if "GH_TOKEN" in step.get("env", {})} == {
        "Publish",
        "Post the status",
    }


@pytest.mark.parametrize("status, ends", [(0, 0), (1, 0), (3, 0), (2, 1)])
def test_a_graded_submission_is_no_failed_step(workflow, tmp_path, status, ends):
    tool = tmp_path / "grade"
    tool.write_text(f"#!/bin/sh\nexit {status}\n")
    tool.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    script = steps(workflow)["Grade"]["run"]
    assert subprocess.run(["bash", "-e", "-c", script], env=env, timeout=60).returncode == ends


@pytest.mark.skipif(not shutil.which("jq"), reason="no jq here, which GitHub's machines have")
def test_the_result_is_published_as_a_release(workflow, tmp_path):
    read = result_file.read(written(tmp_path / "r.json", result(PASSED, FAILED)))
    text = classroom50.result_text(read, classroom50.identify(RUNNER))
    written(tmp_path / "result.json", text)
    tool = tmp_path / "gh"
    tool.write_text('#!/bin/sh\necho "$*" >>log\n[ "$2" != view ]\n')
    tool.chmod(0o755)
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_SHA": "1",
    }
    for name in ("Publish", "Post the status"):
        script = steps(workflow)[name]["run"]
        subprocess.run(["bash", "-e", "-c", script], env=env, cwd=tmp_path, check=True, timeout=60)
    _, create, upload, status = (tmp_path / "log").read_text().splitlines()
    assert create.startswith(f"release create {RUNNER['SUBMISSION_TAG']} --repo o/r --target 1")
    assert upload.startswith(f"release upload {RUNNER['SUBMISSION_TAG']} result.json page.html")
    assert "state=failure" in status and "description=4 of 9 points" in status
    assert (tmp_path / "notes.md").read_text().splitlines() == [
        "4 of 9 points",
        "",
        "- ex01.1 title 1: pass, 4 of 4",
        "- ex01.2 title 2: fail, 0 of 5",
    ]


def test_the_workflow_needs_a_version_of_the_grader():
    done = grade("export", "classroom50-workflow", "--course", "org/course")
    assert done.returncode == 2
    assert "'org/course' isn't a repository with a version; write OWNER/NAME@REF" in done.stderr
    done = grade("export", "classroom50-workflow", "--course", "o/c@main", "--exercise", "ex02")
    assert done.returncode == 0 and "grade ex02 --submission" in done.stdout
