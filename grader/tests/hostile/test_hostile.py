"""Submissions that attack the grader, knowingly or not: a clear verdict, no points, nothing left
behind.
"""

from __future__ import annotations

import sys
import time

import psutil
import pytest

from grader import engine
from grader.course import derive, submissions
from grader.harness import launch
from grader.harness.launcher import ForkServer, Limits, choose
from grader.harness.sandbox import NAMESPACES
from grader.verdicts import FAIL, INCONCLUSIVE, PASS

pytestmark = pytest.mark.needs_solution

LIMITS = Limits(wall=6, cpu=2, memory=1 << 30, output=4 << 20)

AT_IMPORT = {
    "infinite loop": "while True: pass",
    "endless sleep": "import time\ntime.sleep(100_000)",
    "os._exit": "import os\nos._exit(0)",
    "sys.exit": "import sys\nsys.exit(0)",
    "100 MB of output": "print('x' * 100_000_000)",
    "memory": "hog = []\nwhile True: hog.append(bytearray(b'x' * (1 << 26)))",
    "swallows every signal": (
        "import signal\nfor n in signal.valid_signals():\n"
        "    try: signal.signal(n, lambda *_: None)\n    except (OSError, ValueError): pass\n"
        "while True:\n    try: sum(range(1000))\n    except BaseException: pass"
    ),
    "raises": "raise RuntimeError('\\x1b[31mred\\x00 <&> \\u2028')",
    "not Python": "def save_checkpoint(:",
    "no functions": "x = 1",
    "empty": "",
}


def processes(mark: str) -> set[int]:
    """Processes of the launcher with this mark, their orphans included (a fork keeps its command
    line).
    """
    found = set()
    for p in psutil.process_iter(["pid", "cmdline", "status"]):
        marked = any(word.startswith(mark) for word in p.info["cmdline"] or [])
        if marked and p.info["status"] != psutil.STATUS_ZOMBIE:
            found.add(p.pid)
    return found


def none_left(mark: str) -> set[int]:
    """What is still there after the time that init may take to reap."""
    deadline = time.monotonic() + 20
    while (left := processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def starter_with(exercise, code: str, **files: str) -> submissions.Submission:
    """A submission: the untouched starter, and something nasty in front."""
    everything = {name: text.encode() for name, text in files.items()}
    everything[exercise.module] = code.encode()
    work = submissions.Submission(exercise.starter, exercise.module, everything)
    work.key = f"hostile {code[:40]}"
    return work


@pytest.fixture
def own_launcher():
    launcher = choose()
    yield launcher
    launcher.close()
    assert not none_left(launcher.mark)


@pytest.mark.parametrize("name", AT_IMPORT)
def test_what_fails_at_import_is_said_once_and_scores_nothing(launcher, ex01, name):
    starter = derive.starter_files(ex01)[ex01.module].decode()
    body = AT_IMPORT[name] + ("\n" + starter if name in ("100 MB of output",) else "")
    result = engine.grade(ex01, starter_with(ex01, body), launcher, seed=1, limits=LIMITS)
    assert [t.verdict for t in result.tasks if t.verdict != "blocked"] == [FAIL] * 3
    assert result.score == 0
    first, *others = [t for t in result.tasks if t.verdict == FAIL]
    assert first.message and "Traceback" not in first.message
    assert all("ex01.1" in t.message for t in others)
    assert result.lives <= 2


def test_a_missing_file_is_said_once(launcher, ex01, tmp_path):
    result = engine.grade(ex01, submissions.Submission(tmp_path, ex01.module), launcher, seed=1)
    assert result.score == 0 and result.lives == 0
    assert ex01.module in result.tasks[0].message


IN_A_FUNCTION = {
    "loops in capture": ("ex01.4", "def capture(job):\n    while True: pass\n"),
    "exits in restore": ("ex01.4", "def restore(job, state):\n    os._exit(0)\n"),
    "exits in write": (
        "ex01.3",
        "def write_checkpoint(state, directory, step):\n    os._exit(0)\n",
    ),
    "sys.exit in read": ("ex01.3", "def read_latest(directory):\n    raise SystemExit(0)\n"),
    "deletes everything in write": (
        "ex01.3",
        "def write_checkpoint(state, directory, step):\n    import shutil\n"
        "    for folder in (os.getcwd(), os.path.dirname(__file__), directory): "
        "shutil.rmtree(folder, ignore_errors=True)\n",
    ),
    "writes nothing": ("ex01.3", "def write_checkpoint(state, directory, step):\n    pass\n"),
}


@pytest.mark.parametrize("name", IN_A_FUNCTION)
def test_a_function_that_misbehaves_fails_its_task(launcher, ex01, name):
    task, code = IN_A_FUNCTION[name]
    solution = (ex01.solution / ex01.module).read_text()
    number = int(task[-1])
    result = engine.grade(
        ex01,
        starter_with(ex01, f"{solution}\n\n{code}"),
        launcher,
        seed=1,
        tasks=[number],
        limits=LIMITS,
    )
    assert [t.verdict for t in result.tasks] == [FAIL], result.tasks[0].message
    assert (ex01.solution / ex01.module).read_text() == solution


def test_planted_files_are_never_loaded(own_launcher, ex01, tmp_path):
    flag = tmp_path / "loaded"
    plant = f"open({str(flag)!r}, 'a').write(__file__)\n"
    starter = derive.starter_files(ex01)[ex01.module].decode()
    planted = dict.fromkeys(
        ("conftest.py", "sitecustomize.py", "usercustomize.py", "torch.py", "random.py", "json.py"),
        plant,
    )
    planted |= {
        "grader/__init__.py": plant,
        "grader/workload/ex01/train.py": plant,
        "pytest.ini": "[pytest]\naddopts=-k nothing\n",
    }
    result = engine.grade(ex01, starter_with(ex01, starter, **planted), own_launcher, seed=1)
    assert result.score == 0
    assert not flag.exists(), flag.read_text()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux lets a guardian adopt orphans"
)
def test_a_fork_that_outlives_its_parent_is_killed(own_launcher, ex01):
    daemon = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n    "
        "    os.setsid()\n        time.sleep(1000)\n    os._exit(0)\n"
    )
    starter = derive.starter_files(ex01)[ex01.module].decode()
    result = engine.grade(ex01, starter_with(ex01, daemon + starter), own_launcher, seed=1)
    assert result.score == 0
    assert len(processes(own_launcher.mark)) == len(own_launcher.servers)  # they are still up


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fork server is Linux's")
def test_killing_the_guardian_gains_nothing(own_launcher, ex01):
    starter = derive.starter_files(ex01)[ex01.module].decode()
    result = engine.grade(
        ex01,
        starter_with(ex01, "import os\nos.kill(os.getppid(), 9)\n" + starter),
        own_launcher,
        seed=1,
    )
    assert result.score == 0
    assert PASS not in [t.verdict for t in result.tasks]
    # the first process of a process table can't be killed from inside
    assert (INCONCLUSIVE in [t.verdict for t in result.tasks]) == (result.sandbox != NAMESPACES)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fork server is Linux's")
@pytest.mark.parametrize("victim", ["guardian", "server"])
def test_stopping_what_watches_gains_nothing_and_ends(ex01, monkeypatch, victim):
    monkeypatch.setattr(launch, "PATIENCE", 2)
    pid = (
        "os.getppid()"
        if victim == "guardian"
        else "int(open(f'/proc/{os.getppid()}/stat').read().split()[3])"
    )
    starter = derive.starter_files(ex01)[ex01.module].decode()
    code = f"import os\nos.kill({pid}, 19)\n" + starter
    launcher = choose()
    try:
        result = engine.grade(ex01, starter_with(ex01, code), launcher, seed=1, limits=LIMITS)
    finally:
        launcher.close()
    assert result.score == 0 and PASS not in [t.verdict for t in result.tasks]
    assert not none_left(launcher.mark)


def test_a_dead_fork_server_is_replaced(ex01):
    if not sys.platform.startswith("linux"):
        pytest.skip("the fork server is Linux's")
    launcher = ForkServer()
    try:
        work = submissions.submission(ex01, None, solution=True)
        engine.grade(ex01, work, launcher, seed=1, tasks=[2])
        for server in launcher.servers.values():
            server._process.kill()
            server._process.wait()  # its listener may not have noticed yet
        assert engine.grade(ex01, work, launcher, seed=1, tasks=[2]).score == 4
    finally:
        launcher.close()
