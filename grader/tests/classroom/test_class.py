"""`grade class` as an instructor runs it: killed, run again, with hostile work, on a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from grader.bench.classroom import without_times
from grader.classroom import grading
from grader.classroom.records import Results, Settings, course_version
from grader.classroom.worker import Unit
from grader.course import catalog
from grader.slurm import backend
from grader.slurm.cluster import Cluster
from grader.tests.conftest import IN_CI
from grader.verdicts import INCONCLUSIVE

LONG = 300.0  # s that a command may take on a busy machine


def command(*arguments):
    return [sys.executable, "-m", "grader", "class", *map(str, arguments)]


def run(*arguments, **options):
    options = {"cwd": catalog.ROOT, "timeout": LONG} | options
    return subprocess.run(command(*arguments), capture_output=True, text=True, **options)


@pytest.fixture
def broken(tmp_path):
    """A class whose work is graded in seconds: none of it can be imported."""
    for who in ("alice", "bob", "carol"):
        folder = tmp_path / "class" / who
        folder.mkdir(parents=True)
        (folder / "checkpoint.py").write_text(f"def save(:  # {who}\n")
    return tmp_path / "class"


def records(results):
    return {p.parent.parent.name: p for p in results.glob("students/*/graded/ex01.json")}


def processes_of(results):
    return [
        p
        for p in psutil.process_iter(["cmdline"])
        if any(str(results) in word for word in p.info["cmdline"] or ())
    ]


def test_killed_at_any_moment_it_continues_and_grades_nothing_twice(broken, tmp_path):
    results = tmp_path / "results"
    arguments = (broken, "--out", results, "--sandbox", "auto", "--jobs", 1)
    first = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, text=True, cwd=catalog.ROOT
    )
    assert first.stdout
    for line in first.stdout:  # until one is graded
        if line.startswith("[1/3]"):
            break
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    _, still = psutil.wait_procs(processes_of(results), timeout=30)
    assert not still
    done = {who: path.stat().st_mtime_ns for who, path in records(results).items()}
    assert "alice" in done and len(done) < 3
    assert not (results / "index.html").exists()

    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    assert "1 are graded already" in again.stdout or "2 are graded already" in again.stdout
    after = {who: path.stat().st_mtime_ns for who, path in records(results).items()}
    assert len(after) == 3 and all(after[who] == when for who, when in done.items())
    assert "import" in (results / "index.html").read_text()

    (broken / "bob" / "checkpoint.py").write_text("def save(:  # bob, again\n")
    changed = run(*arguments)
    assert changed.returncode == 0, changed.stderr
    last = {who: path.stat().st_mtime_ns for who, path in records(results).items()}
    assert [who for who in last if last[who] != after[who]] == ["bob"]


def test_what_was_graded_before_stays_when_another_exercise_or_batch_comes(broken, tmp_path):
    results, late = tmp_path / "results", tmp_path / "late"
    first = ("--out", results, "--sandbox", "auto", "--seed", 2)
    assert run(broken, *first, "--exercise", "ex01").returncode == 0
    (late / "alice").mkdir(parents=True)
    (late / "alice" / "distributed.py").write_text("def save(:\n")
    (late / "[bold]dan").mkdir()
    (late / "[bold]dan" / "checkpoint.py").write_text("def save(:  # dan\n")
    done = run(late, *first)
    assert done.returncode == 0 and "[2/2]" in done.stdout and "[bold]dan" in done.stdout
    kept = json.loads((results / "students" / "alice" / "result.json").read_text())
    assert [e["id"] for e in kept["exercises"]] == ["ex01", "ex02"]
    assert len(records(results)) == 4 and "carol" in (results / "results.csv").read_text()


def test_equal_work_is_graded_once_and_counts_for_both(broken, tmp_path):
    (broken / "dan").mkdir()
    (broken / "dan" / "checkpoint.py").write_bytes((broken / "alice/checkpoint.py").read_bytes())
    results = tmp_path / "results"
    done = run(broken, "--out", results, "--sandbox", "auto")
    assert done.returncode == 0, done.stderr
    alice, dan = (records(results)[who].read_text() for who in ("alice", "dan"))
    assert alice == dan
    assert (results / "students" / "dan" / "report.html").exists()


def test_a_message_names_no_path_of_the_instructor(broken, tmp_path):
    results = tmp_path / "results"
    (broken / "alice" / "checkpoint.py").write_text("raise RuntimeError(__file__)\n")
    assert run(broken, "--out", results, "--sandbox", "auto").returncode == 0
    for name in ("result.json", "report.html", "log.txt"):
        text = (results / "students" / "alice" / name).read_text()
        assert str(tmp_path) not in text and "ex01-basic-checkpoint/starter/checkpoint.py" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing"], "no such folder of submissions"),
        (["class", "--out", "class/inside"], "is inside"),
        (["class", "--exercise", "ex09"], "no exercise 'ex09'"),
        (["class", "--partition", "p"], "go with --slurm"),
        (["class", "--slurm", "--jobs", "3"], "--array limits the jobs"),
    ],
)
def test_wrong_usage_is_one_line(broken, tmp_path, arguments, says):
    words = [str(tmp_path / a) if a.startswith(("class", "missing")) else a for a in arguments]
    elsewhere = os.environ | {"PYTHONPATH": str(catalog.ROOT)}
    done = run(*words, cwd=tmp_path, env=elsewhere)
    assert done.returncode == 2 and not list(tmp_path.glob("*-results"))
    assert says in done.stderr and len(done.stderr.splitlines()) == 1


def test_another_seed_or_another_course_asks_before_it_grades_all_again(broken, tmp_path):
    results = tmp_path / "results"
    assert run(broken, "--out", results, "--sandbox", "auto", "--seed", 4).returncode == 0
    other = run(broken, "--out", results, "--sandbox", "auto", "--seed", 5)
    assert other.returncode == 2 and "seed 4" in other.stderr and "--regrade" in other.stderr
    Settings(4, ("ex01",), "an older one").write(results)
    older = run(broken, "--out", results, "--sandbox", "auto")
    assert older.returncode == 2 and "another version" in older.stderr
    again = run(broken, "--out", results, "--sandbox", "auto", "--seed", 5, "--regrade")
    assert again.returncode == 0 and "[3/3]" in again.stdout
    assert Settings.of(results) == Settings(5, ("ex01",), course_version())


def test_two_commands_dont_share_a_results_folder(broken, tmp_path):
    with grading.alone(tmp_path / "results"):
        done = run(broken, "--out", tmp_path / "results")
    assert done.returncode == 2 and "another `grade class`" in done.stderr


# --- a grading that goes wrong --------------------------------------------------------------------


class Told:
    def __init__(self):
        self.graded = {}

    def done(self, work, graded):
        self.graded[work.twins[0].id] = graded


@pytest.fixture
def works(broken, tmp_path):
    """Works for the class, as `grade class` would make them."""
    from grader.classroom import contents, handed_in

    results = Results(tmp_path / "results")
    settings = Settings(1, ("ex01",), course_version())
    settings.write(results.folder)
    exercises = [catalog.find("ex01")]
    students = [
        results.take(one, contents.read(one, exercises, tmp_path), exercises)
        for one in handed_in.find(broken, tmp_path)
    ]

    def unit(student, exercise):
        return Unit(str(results.folder), student.id, exercise, 1, 30.0, "auto")

    return grading.open_work(results, settings, students, unit)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "exit status -9"),
        ("print('x' * 10**7, flush=True); raise SystemExit(1)", "exit status 1"),
        ("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(999)", "its limit"),
    ],
)
def test_a_grading_that_ends_without_a_result_is_inconclusive_and_costs_only_itself(
    works, monkeypatch, code, says
):
    real = Unit.command.fget
    monkeypatch.setattr(grading, "PATIENCE", 30.0 if "limit" not in says else -29.5)
    monkeypatch.setattr(grading, "ENDING", 0.5)

    def command(unit):
        return [sys.executable, "-c", code] if unit.student == "bob" else real(unit)

    monkeypatch.setattr(Unit, "command", property(command))
    if "limit" in says:
        works = [work for work in works if work.twins[0].id == "bob"]
    told = Told()
    for work in works:  # an older result isn't taken for this grading's
        old = grading.failed("ex01", "older", work.twins[0], work.unit)
        grading.Graded(work.key, old).write(work.twins[0].record("ex01"))
    grading.grade_here(works, told, at_once=3)
    verdicts = {t.verdict for t in told.graded["bob"].result.tasks}
    assert verdicts == {INCONCLUSIVE}
    assert says in (works[0].twins[0].folder.parent / "bob/logs/ex01-grader.log").read_text()
    for who in told.graded.keys() - {"bob"}:
        assert INCONCLUSIVE not in {t.verdict for t in told.graded[who].result.tasks}


# --- on a cluster ---------------------------------------------------------------------------------


def read(results: Path):
    return {
        path.parent.name: without_times(json.loads(path.read_text()))
        for path in results.glob("students/*/result.json")
    }


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.skipif(not IN_CI and backend.missing() is not None, reason="Slurm isn't installed")
def test_on_two_nodes_a_preempted_grading_is_run_again_with_the_same_results(
    broken, tmp_path, short_path
):
    """One node's grading is slow enough to be preempted: the untouched starter's."""
    starter = catalog.find("ex01").starter / "checkpoint.py"
    (broken / "bob" / "checkpoint.py").write_bytes(starter.read_bytes())
    here, there = tmp_path / "here", tmp_path / "there"
    assert run(broken, "--out", here, "--sandbox", "auto", "--seed", 3).returncode == 0
    with Cluster(short_path / "c", grace=0) as cluster:
        child = subprocess.Popen(
            command(broken, "--out", there, "--sandbox", "auto", "--seed", 3, "--slurm"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=cluster.env,
            cwd=catalog.ROOT,
        )
        running = ["squeue", "-h", "--array", "-t", "RUNNING", "-o", "%i"]
        deadline = time.monotonic() + LONG
        while not (jobs := cluster.run(running).stdout.split()):
            assert time.monotonic() < deadline and child.poll() is None, child.communicate()
        high = cluster.submit(
            "-p", "high", "--exclusive", "-N2", "-o", "/dev/null", "--wrap", "true"
        )
        cluster.wait_for(high, "COMPLETED", seconds=120)
        said, _ = child.communicate(timeout=LONG)
        assert child.returncode == 0, said
        restarts = [cluster.job(job).get("Restarts", "0") for job in jobs]
        assert any(int(number) for number in restarts), (jobs, restarts, said)
    assert read(there) == read(here)
    assert (there / "results.csv").read_text() == (here / "results.csv").read_text()
