"""The harness on real processes: faults fire where they say, and both launchers tell the same."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from grader import engine, mutants
from grader.course import catalog, submissions
from grader.harness import guardian, launch, scratch
from grader.harness.faults import Kill, KillInSave, Tear
from grader.harness.inside import child
from grader.harness.lab import Lab
from grader.harness.launcher import ForkServer, Limits, Lost, Plain
from grader.harness.sandbox import NONE, Sandbox
from grader.harness.workbench import Bench, Cancelled, course_paths
from grader.verdicts import INCONCLUSIVE

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the fork server is Linux's"
)


@pytest.fixture
def lab(launcher, ex01):
    """A lab of the solution."""
    bench = Bench(submissions.submission(ex01, None, solution=True), launcher, seed=0, jobs=2)
    yield Lab(bench, "harness")
    bench.close()


pytestmark = pytest.mark.needs_solution


def test_two_undisturbed_runs_are_equal_bit_for_bit(lab):
    first, second = (
        lab.launch("ex01/train.py", "--save-every", 5, "--workers", 2) for _ in range(2)
    )
    assert first.finished and second.finished
    assert first.trajectory == second.trajectory
    assert len(first.trajectory.steps) == 30


def test_another_seed_is_another_run(lab):
    runs = [lab.launch("ex01/train_epochs.py", "--bare", "--seed", seed) for seed in (1, 2)]
    assert runs[0].trajectory != runs[1].trajectory


def test_a_kill_after_a_step_ends_the_life_there(lab):
    run = lab.launch("ex01/train.py", "--save-every", 5, faults=(Kill(12),))
    killed, resumed = run.lives
    assert killed.died_of_fault and killed.process.status == -signal.SIGKILL
    assert killed.steps[-1]["step"] == 12
    assert resumed.resumed_at == 10 and run.steps_lost == [2] and run.finished


@pytest.mark.parametrize("fault", [KillInSave(10, 0), KillInSave(10, 3), Tear(10, 1000)])
def test_a_fault_in_a_save_falls_into_that_save(lab, fault):
    run = lab.launch("ex01/train.py", "--save-every", 5, faults=(fault,))
    killed, resumed = run.lives
    assert killed.died_of_fault
    assert [e["step"] for e in killed.all("saving")] == [5, 10]
    assert [e["step"] for e in killed.all("saved")] == [5]
    assert resumed.resumed_at == 5 and run.finished


def test_a_save_is_seen_event_by_event(lab):
    run = lab.launch("ex01/train.py", "--save-every", 5)
    names = [e.split()[0] for e in run.last.first("saved")["events"]]
    assert names == ["mkdir", "open", "fsync", "rename", "fsync"]


def test_a_fault_that_never_fires_ends_no_life(lab):
    run = lab.launch("ex01/train.py", "--save-every", 5, faults=(Kill(500),))
    assert len(run.lives) == 1 and run.last.finished and not run.last.process.fault_fired
    assert not run.finished


def test_the_life_leaves_what_it_held_and_no_process(lab):
    run = lab.launch("ex01/train.py", "--save-every", 5, "--workers", 2, faults=(Kill(7),))
    killed, resumed = (life.process.result["left_behind"] for life in run.lives)
    assert killed >= 2  # the loader's workers, which the guardian ended
    assert resumed == 0


def test_a_limit_ends_a_life_and_is_named(launcher, ex01):
    work = submissions.Submission(
        ex01.solution, ex01.module, {ex01.module: b"import time\ntime.sleep(1000)"}
    )
    bench = Bench(work, launcher, seed=0, jobs=1, limits=Limits(wall=1))
    try:
        run = Lab(bench, "limit").launch("ex01/train.py")
        assert run.last.process.ended == "wall" and not run.finished
    finally:
        bench.close()


def bench_of(ex01, launcher, code: str, **limits) -> Bench:
    """A bench for a submission that is this code. What reaches for files of ours can do so without
    a sandbox alone.
    """
    sandbox = Sandbox(NONE) if "here" in code else None
    work = submissions.Submission(ex01.solution, ex01.module, {ex01.module: code.encode()})
    return Bench(
        work, launcher, seed=0, jobs=1, limits=Limits(**{"wall": 20} | limits), sandbox=sandbox
    )


# --- what a life writes ---------------------------------------------------------------------------

IN_LIFE = "import os, sys, time\n"
HERE = IN_LIFE + "here = os.path.dirname(os.getcwd())\n"
FOREVER = "while True: time.sleep(0.05)\n"


@pytest.mark.parametrize(
    "code,limits",
    [
        (
            "open(os.path.join(sys.argv[sys.argv.index('--directory') + 1], 'big'), "
            "'wb').write(bytes(32 << 20))\n",
            {"disk": 8 << 20},
        ),
        (
            "open(os.path.join(os.path.dirname(__file__), 'big'), 'wb').write(bytes(32 << 20))\n",
            {"disk": 8 << 20},
        ),
        (
            "from grader.harness.inside import telemetry\n"
            "os.write(telemetry._events, bytes(32 << 20))\n",
            {"events": 8 << 20},
        ),
    ],
    ids=["checkpoints", "beside its code", "events"],
)
def test_a_life_that_fills_the_disk_is_ended(launcher, ex01, code, limits):
    bench = bench_of(ex01, launcher, IN_LIFE + code + FOREVER, **limits)
    try:
        assert Lab(bench, "disk").launch("ex01/train.py").last.process.ended == "disk"
    finally:
        bench.close()


def test_too_many_files_are_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(guardian, "MOST_FILES", 10)
    (tmp_path / "deep").mkdir()
    for n in range(9):
        (tmp_path / "deep" / str(n)).write_bytes(b"x")
    assert guardian._written([str(tmp_path)]) < 1 << 20
    (tmp_path / "deep" / "more").write_bytes(b"x")
    assert guardian._written([str(tmp_path)]) > 1 << 60


# --- odd ends -------------------------------------------------------------------------------------

KILL_GUARDIAN = "os.kill(os.getppid(), 9)\n" + FOREVER


@pytest.mark.parametrize(
    "code",
    [
        "os.mkdir(os.path.join(here, 'result'))\n",
        "import shutil\nshutil.rmtree(here)\n",
        "open(os.path.join(here, 'result'), 'w').write('{')\n" + KILL_GUARDIAN,
        "open(os.path.join(here, 'result'), 'w').write('[' * 100_000)\n" + KILL_GUARDIAN,
        "open(os.path.join(here, 'result'), 'w').write('{}')\n" + KILL_GUARDIAN,
        "os.mkfifo(os.path.join(here, 'result'))\n" + KILL_GUARDIAN,
        "os.symlink('/dev/zero', os.path.join(here, 'result'))\n" + KILL_GUARDIAN,
    ],
    ids=["a directory", "a vanished folder", "torn", "nested", "incomplete", "a pipe", "endless"],
)
@linux
def test_a_life_without_a_readable_result_is_lost(launcher, ex01, code):
    bench = bench_of(ex01, launcher, HERE + code)
    try:
        with pytest.raises(Lost):
            Lab(bench, "odd").launch("ex01/train.py")
    finally:
        bench.close()


@pytest.mark.parametrize(
    "code",
    ["os.mkfifo('events')", "os.mkdir('events')", "open('events', 'w').write('[' * 100_000)"],
)
def test_events_that_are_none_end_no_grading(launcher, ex01, code):
    bench = bench_of(
        ex01, launcher, HERE + f"os.chdir(here)\nos.unlink('events')\n{code}\nos._exit(0)"
    )
    try:
        run = Lab(bench, "odd").launch("ex01/train.py")
        assert run.last.events == [] and not run.finished
    finally:
        bench.close()


def test_what_stands_in_the_way_of_a_relaunch_is_no_traceback(launcher, ex01):
    """A life may make files beside its own folder: the next life's folder has a name that it can't
    know.
    """
    solution = (ex01.solution / ex01.module).read_text()
    code = HERE + (
        "top = os.path.dirname(here)\nfor n in range(9):\n    open(os.path.join(top, "
        "f'life-{n}'), 'w'); open(here + f'-{n}', 'w')\n"
    )
    bench = bench_of(ex01, launcher, solution + code)
    try:
        assert (
            Lab(bench, "x").launch("ex01/train.py", "--save-every", 5, faults=(Kill(12),)).finished
        )
    finally:
        bench.close()


def no_space(*args, **more):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "where", [(launch, "prepare"), (submissions.Submission, "copy_to")], ids=["job", "copy"]
)
def test_a_full_disk_is_nobodys_fault_and_is_said(launcher, ex01, monkeypatch, where):
    monkeypatch.setattr(*where, no_space)
    result = engine.grade(ex01, submissions.submission(ex01, None, solution=True), launcher, seed=1)
    assert {t.verdict for t in result.tasks if not t.evidence.get("blocked_by")} == {INCONCLUSIVE}
    assert "disk is full" in result.tasks[0].message


def test_a_life_that_fails_on_a_full_disk_proves_nothing(launcher, ex01, monkeypatch):
    monkeypatch.setattr(launch, "MIN_FREE", 1 << 60)
    bench = bench_of(ex01, launcher, "raise OSError(28, 'No space left on device')")
    try:
        with pytest.raises(launch.DiskFull):
            Lab(bench, "full").launch("ex01/train.py")
    finally:
        bench.close()


def test_a_preflight_that_breaks_is_inconclusive(launcher, ex01, monkeypatch):
    monkeypatch.setattr("grader.checks.endings.imports_cleanly", lambda run, names: 1 / 0)
    result = engine.grade(ex01, submissions.submission(ex01, None, solution=True), launcher, seed=1)
    assert {t.verdict for t in result.tasks if not t.evidence.get("blocked_by")} == {INCONCLUSIVE}


class Meta(type):
    @property
    def __name__(cls):
        raise RuntimeError


class BadName(Exception, metaclass=Meta):
    pass


class Raises(Exception):
    def __str__(self):
        raise KeyboardInterrupt


class NoText(Exception):
    def __str__(self):
        return 7


class Text(str):
    def __getitem__(self, item):
        return object()


class OddText(Exception):
    def __str__(self):
        return Text("x" * 10_000_000)


ODD_LINE = SyntaxError("x", ("file", [], 0, b"text"))


@pytest.mark.parametrize(
    "error",
    [
        BadName(),
        Raises(),
        NoText(),
        OddText(),
        ODD_LINE,
        type("x" * 10_000_000, (Exception,), {})(),
    ],
    ids=range(6),
)
def test_any_exception_can_be_described(error):
    told = child.describe(error)
    assert type(told["type"]) is type(told["message"]) is str
    assert len(told["type"]) + len(told["message"]) <= 100 + child.MESSAGE


# --- where lives work -----------------------------------------------------------------------------


def test_a_long_tmpdir_is_no_students_fault(launcher, ex01, tmp_path, monkeypatch):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    bench = Bench(submissions.submission(ex01, None, solution=True), launcher, seed=0, jobs=1)
    try:
        run = Lab(bench, "long").launch("ex01/train.py", "--save-every", 5, "--workers", 2)
        assert run.finished
        assert len(str(run.last.process.folder / "t")) <= 60
    finally:
        bench.close()


def test_a_short_tmpdir_is_used(ex01, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("TMPDIR", short)
        made = scratch.make()
        assert made.parent == Path(short).resolve()
        monkeypatch.setattr(scratch, "LONGEST", 3)
        with pytest.raises(catalog.UsageError):
            scratch.make()


def test_names_of_folders_tell_nothing_and_paths_are_translated(lab):
    run = lab.launch("ex01/train.py", "--save-every", 5, faults=(Kill(12),))
    killed, resumed = (life.process.folder.relative_to(lab.bench.scratch) for life in run.lives)
    assert killed != resumed and not any(
        c in f"{killed}{resumed}{run.directory}" for c in ("harness", "train", "kill", "life")
    )
    code = lab.submitted()
    text = f"{code}/checkpoint.py {run.directory}/x {run.last.process.folder}/t/y"
    assert (
        course_paths(text, lab.bench)
        == f"{lab.bench.submission.folder}/checkpoint.py CHECKPOINTS/x TMPDIR/y"
    )


def as_nobody(act) -> None:
    """Run `act` as a user to whom modes matter."""
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            act()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_scratch_is_removed_locked_or_deep():
    def act():
        folder = Path(tempfile.mkdtemp(dir="/tmp"))
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b" / "file").write_text("x")
        os.chdir(folder)
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
        os.chdir("/")
        for locked in (folder / "a" / "b", folder / "a", folder):
            locked.chmod(0)
        scratch.remove(folder)
        assert not folder.exists()

    as_nobody(act)


@linux
@pytest.mark.parametrize("make", [ForkServer, Plain])
def test_cancelling_ends_what_runs_at_once(ex01, tmp_path, make):
    begun, ended = tmp_path / "begun", []
    # outside of its sandbox, so that it's seen at once
    code = f"here = open({str(begun)!r}, 'w')\nwhile True: pass"
    bench = bench_of(ex01, make(), code, wall=120, cpu=120)

    def launch():
        try:
            Lab(bench, "endless").launch("ex01/train.py")
        except Cancelled as e:
            ended.append(e)

    thread = threading.Thread(target=launch)
    thread.start()
    while not begun.exists():
        time.sleep(0.01)
    began = time.monotonic()
    bench.cancel()
    thread.join()
    bench.close()
    assert ended and time.monotonic() - began < Limits().wall - 10
    assert not bench.scratch.exists()


# --- both launchers, the same verdicts ------------------------------------------------------------


def verdicts(exercise, work, launcher, tasks=None):
    result = engine.grade(exercise, work, launcher, seed=3, tasks=tasks)
    return [(t.id, t.verdict, t.message) for t in result.tasks]


@linux
def test_both_launchers_give_the_solution_full_marks_with_equal_trajectories(ex01):
    work = submissions.submission(ex01, None, solution=True)
    trajectories = []
    for launcher in (ForkServer(), Plain()):
        bench = Bench(work, launcher, seed=0, jobs=2)
        try:
            trajectories.append(
                Lab(bench, "x")
                .launch("ex01/train.py", "--save-every", 5, faults=(Kill(12),))
                .trajectory
            )
        finally:
            bench.close()
            launcher.close()
    assert trajectories[0] == trajectories[1]


@linux
@pytest.mark.parametrize("name,task", [("in-place", 3), ("unsafe-load", 1)])
def test_both_launchers_give_the_same_verdict_and_message(launcher, ex01, name, task):
    mutant = next(m for m in mutants.load(ex01) if m.name == name)
    work = mutants.submission(ex01, mutant)
    assert verdicts(ex01, work, launcher, [task]) == verdicts(ex01, work, Plain(), [task])


@linux
def test_plain_processes_give_the_solution_full_marks(ex01):
    # 1.4's runs are most of a grading, and a test above compares one of them in both ways; 1.2 and
    # 1.5 ask nothing new
    result = engine.grade(
        ex01, submissions.submission(ex01, None, solution=True), Plain(), seed=6, tasks=[1, 3]
    )
    assert [t.verdict for t in result.tasks] == ["pass"] * 2, [t.message for t in result.tasks]
    assert all(0 < t.seconds <= result.seconds for t in result.tasks)
