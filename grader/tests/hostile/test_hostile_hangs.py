"""Solutions with one function that hangs: the grader says so soon, and where. And some that try to
hide it.
"""

from __future__ import annotations

import pytest

from grader import engine
from grader.course import catalog, submissions
from grader.harness.launcher import Limits
from grader.verdicts import FAIL, TaskResult

pytestmark = pytest.mark.needs_solution

HANGING = """

import os, time
import torch.distributed as dist
real = {function}

def {function}(*args):
    if {when}:
        {hangs}
    return real(*args)
"""
ON_RANK_1 = "dist.is_initialized() and dist.get_rank() == 1"
# name -> (task, function, when it hangs, how)
HANGS = {
    "a save sleeps": ("ex01.1", "save_checkpoint", "True", "time.sleep(1000)"),
    "a save waits for what a killed one left": (
        "ex01.3",
        "_commit",
        "os.path.exists(args[1] + '.tmp')",
        "while os.path.exists(args[1] + '.tmp'): time.sleep(0.01)",
    ),
    "a rank spins, and another one waits for it in a collective": (
        "ex02.2",
        "save_job",
        ON_RANK_1,
        "while True: pass",
    ),
    "a rank waits for a file that never comes": (
        "ex02.5",
        "resume",
        ON_RANK_1,
        "while not os.path.exists('/nowhere/flag'): time.sleep(0.01)",
    ),
    "a DataLoader's worker hangs": ("ex03.3", "worker_init", "True", "time.sleep(1000)"),
    "a function reads a pipe that nobody writes": (
        "ex04.1",
        "newest_intact",
        "True",
        "os.mkfifo('pipe'); open('pipe').read()",
    ),
}
# the same, from code that hides it
HIDDEN = {
    "it reports all the time": (
        "from grader.harness.inside import telemetry\n"
        "        while True: telemetry.emit('step'); time.sleep(0.01)"
    ),
    "it prints all the time": "while True: print('step', flush=True); time.sleep(0.01)",
    "it catches every signal": (
        "import signal\n"
        "        [signal.signal(n, print) for n in set(signal.valid_signals()) - {9, 19, 32, 33}]\n"
        "        time.sleep(1000)"
    ),
    "it says that it stands elsewhere": (
        "from grader.harness.inside import telemetry\n"
        "        forged = '  File \"/x-code/code/../../../../etc/passwd\", line 1 in root\\n'\n"
        "        os.write(telemetry.stack, b'Current thread 0x1\\n' + forged.encode())\n"
        "        time.sleep(1000)"
    ),
}


def graded(launcher, task: str, code: str, **limits: float) -> TaskResult:
    exercise = catalog.find(task.partition(".")[0])
    files = submissions.submission(exercise, None, solution=True).files
    files = files | {exercise.module: files[exercise.module] + code.encode()}
    work = submissions.Submission(exercise.solution, exercise.module, files)
    work.key = f"hanging {code}"
    number = exercise.task(task).number
    limited = Limits(**{"quiet": 2.0} | limits)
    (result,) = engine.grade(exercise, work, launcher, seed=1, tasks=[number], limits=limited).tasks
    return result


@pytest.mark.parametrize("name", HANGS)
def test_a_hang_is_told_with_the_students_line(launcher, name):
    task, function, when, hangs = HANGS[name]
    result = graded(launcher, task, HANGING.format(function=function, when=when, hangs=hangs))
    assert result.verdict == FAIL and result.evidence["code"] == "limit"
    shown = " ".join(result.message.split())
    assert f"in {function}: {hangs}"[:60] in shown and "stood at" in shown
    assert "SIGKILL" not in shown.partition("stood at")[2]


@pytest.mark.parametrize("name", HIDDEN)
def test_code_that_hides_its_hang_gets_no_points(launcher, name):
    code = HANGING.format(function="save_checkpoint", when="True", hangs=HIDDEN[name])
    result = graded(launcher, "ex01.1", code, wall=6.0)
    assert result.verdict == FAIL and result.score == 0
    assert result.evidence["code"] == "limit" and "root:" not in result.message
