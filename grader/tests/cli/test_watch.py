"""`grade watch`, at a terminal and without one. Tests wait for what is shown."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from grader.course import selection
from grader.course.progress import Progress
from grader.harness.sandbox import Sandbox
from grader.tests.has_begun import has_begun
from grader.tests.hostile.test_hostile import none_left
from grader.verdicts import FAIL, PASS, TaskResult
from grader.watch import changes, session
from grader.watch.changes import Changes

LIMIT = 120  # s, to wait for anything on a busy machine
BROKEN = "def (\n"


class Watch:
    """`grade watch` in a process of its own, at a pseudo-terminal or a pipe."""

    def __init__(self, root: Path, *args, terminal: bool):
        self.ours, theirs = pty.openpty() if terminal else os.pipe()
        self.before = termios.tcgetattr(theirs) if terminal else None
        self.text, self.at = "", 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "grader", "watch", *map(str, args)],
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.STDOUT,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=_own_terminal if terminal else None,
        )
        self.terminal = theirs  # kept open: its settings are read when the process has ended
        if not terminal:
            os.close(theirs)

    def await_text(self, *wanted: str) -> str:
        """What is shown up to `wanted`, each after the one before."""
        began = self.at
        for text in wanted:
            while (found := self.text.find(text, self.at)) < 0:
                assert select.select([self.ours], [], [], LIMIT)[0], f"no {text!r}: {self.text}"
                try:
                    data = os.read(self.ours, 1 << 16)
                except OSError:  # nobody has the terminal open
                    data = b""
                assert data, f"ended before {text!r}: {self.text}"
                self.text += data.decode(errors="replace")
            self.at = found + len(text)
        return self.text[began : self.at]

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def ended(self) -> int:
        return self.process.wait(LIMIT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        if self.before:
            os.close(self.terminal)


def _own_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which tests may run, ignores it
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "checkpoint.py").write_text(BROKEN)
    return folder


@pytest.fixture
def watch(work, checkout):
    started = []

    def start(*args, terminal=False):
        started.append(
            Watch(checkout, *(args or ["ex01"]), "--submission", work, terminal=terminal)
        )
        return started[-1]

    yield start
    for each in started:
        each.close()


def save(folder: Path, text: str) -> None:
    """As most editors save: another file takes the name."""
    new = folder / ".checkpoint.py.new"
    new.write_text(text)
    os.replace(new, folder / "checkpoint.py")


# --- at a terminal --------------------------------------------------------------------------------


def test_keys_are_read_without_enter_and_the_terminal_is_restored(watch, work):
    at = watch(terminal=True)
    at.await_text("FAIL", "ex01.1", "[import]", "h hint")
    assert not termios.tcgetattr(at.terminal)[3] & (termios.ICANON | termios.ECHO)
    at.press("h")
    at.await_text("hint 1 of")
    at.press("?")
    at.await_text("grade all tasks")
    at.press("n")
    assert "ex01.1" not in at.await_text("FAIL", "ex01.2", "h hint")
    at.press("a")
    at.await_text("ex01.1", "ex01.5", "h hint")
    at.press("r")
    at.await_text("ex01.1", "ex01.5", "h hint")
    save(work, BROKEN * 2)
    at.await_text("ex01.2", "h hint")
    at.press("q")
    assert at.ended() == 0
    assert termios.tcgetattr(at.terminal) == at.before
    assert "Traceback" not in at.text
    assert not none_left(f"grader={at.process.pid}-")


@pytest.mark.parametrize("how", ["key", "signal", "hang up"])
def test_the_terminal_is_restored_however_it_ends(watch, work, short_path, monkeypatch, how):
    monkeypatch.setenv("TMPDIR", str(short_path))
    (work / "checkpoint.py").write_text("open('begun', 'w').close()\nwhile True: pass\n")
    at = watch(terminal=True)
    while not has_begun(short_path):  # student code runs
        assert at.process.poll() is None
        time.sleep(0.02)
    if how == "key":
        at.press("\x03")
    else:
        at.process.send_signal(signal.SIGTERM if how == "signal" else signal.SIGHUP)
    assert at.ended() == {"key": 130, "signal": 143, "hang up": 129}[how]
    assert termios.tcgetattr(at.terminal) == at.before
    assert not none_left(f"grader={at.process.pid}-")
    assert not list(short_path.glob("g-*"))


def test_another_size_of_the_window_is_no_end(watch, work):
    at = watch(terminal=True)
    at.await_text("h hint")
    size = struct.pack("HHHH", 10, 40, 0, 0)
    fcntl.ioctl(at.terminal, termios.TIOCSWINSZ, size)  # the kernel sends SIGWINCH
    at.press("r")
    at.await_text("[import]", "h hint")


# --- without one ----------------------------------------------------------------------------------


def test_without_a_terminal_there_are_lines_and_no_keys(watch, work):
    at = watch()
    shown = at.await_text("watching")
    assert "\x1b" not in shown and "h hint" not in shown
    (work / "checkpoint.py").unlink()
    at.await_text("waiting", "there is no checkpoint.py", "watching")
    save(work, BROKEN)
    at.await_text("[import]", "watching")
    shutil.rmtree(work)
    at.await_text("waiting", "watching")
    work.mkdir()
    save(work, BROKEN)
    at.await_text("[import]", "watching")
    at.process.send_signal(signal.SIGINT)
    assert at.ended() == 130 and "Traceback" not in at.text


def test_a_save_ends_the_grading_that_runs(watch, work, short_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(short_path))
    save(work, "open('begun', 'w').close()\nwhile True: pass\n")
    at = watch("ex01.1")
    while not has_begun(short_path):  # student code runs
        assert at.process.poll() is None
        time.sleep(0.02)
    save(work, "while True: pass\n")
    save(work, "x = 1\n")
    save(work, BROKEN)
    shown = at.await_text("[import]", "watching")
    assert "inconclusive" not in shown.lower() and "took longer" not in shown
    at.process.send_signal(signal.SIGTERM)
    assert at.ended() == 143
    assert not none_left(f"grader={at.process.pid}-")


# --- changes --------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["events", "poll"])
def saved(work, request):
    seen = threading.Semaphore(0)
    with Changes(work, seen.release, request.param):
        yield seen


def test_every_way_to_save_is_seen(work, saved):
    file = work / "checkpoint.py"
    file.write_text("in place\n")
    assert saved.acquire(timeout=LIMIT)
    save(work, "another file\n")
    assert saved.acquire(timeout=LIMIT)
    file.unlink()
    assert saved.acquire(timeout=LIMIT)
    file.write_text("again\n")
    assert saved.acquire(timeout=LIMIT)
    (work / "inner").mkdir()
    (work / "inner" / "more.py").write_text("x = 1\n")
    assert saved.acquire(timeout=LIMIT)


def test_a_folder_that_another_replaces_is_watched_on(work, saved):
    work.rename(work.with_name("kept"))
    assert saved.acquire(timeout=LIMIT)
    work.mkdir()
    assert saved.acquire(timeout=LIMIT)
    save(work, "new\n")
    assert saved.acquire(timeout=LIMIT)
    save(work, "newer\n")
    assert saved.acquire(timeout=LIMIT)


def test_what_isnt_part_of_a_submission_is_no_change(work):
    before = changes.state(work)
    (work / ".swp").write_text("x")
    (work / "__pycache__").mkdir()
    (work / "__pycache__" / "x.pyc").write_text("x")
    assert changes.state(work) == before
    assert changes.state(work / "nowhere") is None


def test_a_network_file_system_is_known(work, monkeypatch):
    mounts = [("/", "ext4"), (str(work.parent), "nfs4"), (f"{work}-too", "ext4")]
    monkeypatch.setattr(
        changes.psutil,
        "disk_partitions",
        lambda all: [SimpleNamespace(mountpoint=m, fstype=kind) for m, kind in mounts],
    )
    assert changes.network(work) == "nfs4"
    assert changes.network(work.with_name("work-too")) == ""
    assert changes.network(Path("/")) == ""


# --- what is graded next --------------------------------------------------------------------------


@pytest.fixture
def watching(work, tmp_path, monkeypatch, capsys):
    """A session whose turns grade nothing: tasks in `failing` fail. `plans`: what was graded."""
    plans, failing = [], set()

    class Fake:
        def __init__(self, exercise, work, plan, launcher, *, on_task, on_end, **how):
            self.work, self.plan, self.seed, self.results = work, plan, 7, []
            plans.append(list(plan.tasks or ()))
            for task in exercise.tasks:
                if not plan.tasks or task.number in plan.tasks:
                    verdict = FAIL if task.number in failing else PASS
                    self.results.append(TaskResult(task.id, "title", verdict, 0, 4, 1.0))
                    on_task(self, self.results[-1])
            on_end(self, None)

        def cancel(self):
            pass

        def wait(self):
            pass

    monkeypatch.setattr(session, "Turn", Fake)
    made = session.Session(
        selection.parse(["ex01"])[0],
        work,
        Progress(tmp_path / "progress.json"),
        folder=tmp_path,
        sandbox=Sandbox("none"),
        launcher="plain",
    )

    def run(*pressed):
        keys = iter((*pressed, "q"))

        def press_one():  # then the next one, when what came of this one is shown
            made._press(next(keys))
            made._post(press_one)

        made._post(lambda: made._post(press_one))
        made.run()
        return capsys.readouterr().out

    return SimpleNamespace(run=run, plans=plans, failing=failing, session=made)


def test_a_failed_task_comes_first_and_those_before_it_last(watching):
    watching.failing.add(3)
    made, began = watching.session, []

    def ended(turn, error, real=made._ended):
        real(turn, error)
        began.append(turn)
        if len(began) == 1:
            watching.failing.clear()
            made._saved()
        elif made.turn not in made.turns:
            made._quitting = True

    made._ended = ended
    made.run()
    assert watching.plans == [[1, 2, 3, 4, 5], [3, 4, 5], [1, 2]]


def test_an_exercise_that_is_passed_names_the_next_one(watching):
    out = watching.run()
    assert "ex01: every task is passed, 20 of 20 points. Next: ex02" in " ".join(out.split())


def test_the_keys_choose_what_is_graded(watching):
    watching.failing.update({1, 2, 4})
    out = watching.run("n", "n", "a", "r", "h", "n", "n")
    whole = []
    assert watching.plans[1:] == [
        [2, 3, 4, 5],
        [3, 4, 5],
        *(whole, whole),
        *([5], [1, 2, 3, 4]),  # 5 passes: those before it, with the same files
        [2, 3, 4, 5],
    ]
    assert "ex01.4  resume in the middle of an epoch   hint 1 of" in out  # 3 passed


def test_after_the_last_task_comes_the_next_exercise(watching):
    watching.failing.update({1, 2, 3, 4, 5})
    out = watching.run("n", "n", "n", "n", "n")
    assert "ex01.5 is the last task. Next: ex02" in " ".join(out.split())


# --- in a browser ---------------------------------------------------------------------------------


def test_the_newest_results_are_served(watch, work):
    at = watch("ex01.1", "--serve")
    at.await_text("[import]", "results in a browser: ")
    address = at.await_text("\n").strip()
    with urllib.request.urlopen(address, timeout=LIMIT) as answer:
        page = answer.read().decode()
    assert "0 of 4 points" in page and "SyntaxError" in page and f"watching {work}" in page
    at.process.send_signal(signal.SIGINT)
    assert at.ended() == 130 and "Traceback" not in at.text
