"""Exercise 1 without the work: submissions that report what they didn't earn. None gets a point for
it."""

from __future__ import annotations

import pytest

from grader import engine, mutants
from grader.course import derive, submissions
from grader.harness.launcher import Limits
from grader.verdicts import FAIL, PASS

pytestmark = pytest.mark.needs_solution

LIMITS = Limits(wall=30, cpu=10)

CONSTANT = """
import grader.harness.inside.digest as reported
reported.digest = lambda value, key="": "0" * 16
reported.rng_digests = lambda key="": {}
reported.optimizer_digests = lambda optimizer, key="": {}
"""

ANSWERS = """
from grader.harness.inside import telemetry


def _answer(*_, **__):
    for question in telemetry.given("questions", []):
        names = ("weights", "buffers", "scheduler", "optimizer settings")
        values = {"parts": dict.fromkeys(names, "0" * 16), "returned": "7"}
        values |= {"lost": [], "drew": [], "generators": {}}
        telemetry.emit("answer", id=question["id"], values=values)
        telemetry.emit("ended", point=question["id"], part="question", status=0, late=False)


save_checkpoint = load_checkpoint = get_rng_state = set_rng_state = capture = restore = _answer
"""

EVENTS = """
import os

from grader.harness.inside import telemetry

telemetry.emit("life", step=0, epoch=0)
for n in range(1, 19):
    telemetry.emit("step", step=n, indices=[n], samples=["0"], state={"weights": "0"})
    telemetry.emit("loss", step=n, loss="0x0p+0")
    telemetry.emit("saved", step=n, events=["rename a"])
telemetry.emit("digests", of={"0": "0" * 16})
empty = {name: [] for name in ("ops", "links", "before", "contents", "names")}
telemetry.emit("record", of=empty | {"ended": [[0, False]], "directories": [0]})
telemetry.emit("outcomes", of={})
telemetry.emit("end", step=18, state={})
os._exit(0)
"""

FROM_THE_SEED = '''
import gc

from grader.workload.ex01.sample_states import made_state


def read_latest(directory):
    """The state that was saved, made again from whatever looks like its seed."""
    seeds = [x["payload"] for x in gc.get_objects() if isinstance(x, dict) and "payload" in x]
    return made_state(seeds[0], 101) if seeds else None


read_best = read_latest
'''


def starter_and(exercise, code: str) -> submissions.Submission:
    starter = derive.starter_files(exercise)[exercise.module].decode()
    work = submissions.Submission(
        exercise.starter, exercise.module, {exercise.module: f"{starter}\n{code}".encode()}
    )
    work.key = f"hostile {code[:60]}"
    return work


@pytest.mark.parametrize(
    "code",
    [CONSTANT, ANSWERS, EVENTS, FROM_THE_SEED],
    ids=["constant", "answers", "events", "seed"],
)
def test_a_starter_that_reports_what_it_did_not_do_gets_nothing(launcher, ex01, code):
    result = engine.grade(ex01, starter_and(ex01, code), launcher, seed=1, limits=LIMITS)
    assert result.score == 0, [t.verdict for t in result.tasks]


DIES_UNDER_A_FAULT = '''

_write = write_checkpoint


def write_checkpoint(state, directory, step):
    """In place; and where a fault is to come, it is told of and met before anything is touched."""
    import signal
    import sys

    from grader.harness.inside import telemetry

    frame = sys._getframe(1)
    while frame:
        if (frame.f_locals.get("fault") or {}).get("kind") in ("kill", "tear"):
            telemetry.emit("fault", step=step)
            os.kill(os.getpid(), signal.SIGKILL)
        frame = frame.f_back
    _write(state, directory, step)
'''


def test_a_save_that_knows_its_faults_is_seen_through(launcher, ex01):
    in_place = next(m for m in mutants.load(ex01) if m.name == "same-step-removed-first")
    files = mutants.submission(ex01, in_place).files
    work = submissions.Submission(
        ex01.solution, ex01.module, {ex01.module: files[ex01.module] + DIES_UNDER_A_FAULT.encode()}
    )
    work.key = "hostile knows its faults"
    result = engine.grade(ex01, work, launcher, seed=1, tasks=[3], limits=LIMITS)
    assert result.tasks[0].verdict != PASS


LITTERS = """

import ctypes

_lib, _saves = ctypes.CDLL(None), write_checkpoint


def write_checkpoint(state, directory, step):
    _saves(state, directory, step)
    {litter}
"""

LITTER = {
    "a file that is a hole": (
        "path = os.path.join(directory, f'hole-{step}').encode()\n"
        "    _lib.close(_lib.creat(path, 0o644))\n"
        "    _lib.truncate(path, ctypes.c_long(200 << 20))"
    ),
    "folders that no walk survives": (
        "here = os.getcwd().encode()\n"
        "    _lib.chdir(directory.encode())\n"
        "    for _ in range(1200): _lib.mkdir(b'd', 0o755), _lib.chdir(b'd')\n"
        "    _lib.chdir(here)"
    ),
}


@pytest.mark.parametrize("name", LITTER)
def test_what_checks_cant_copy_is_the_submissions_failure(launcher, ex01, name):
    """Else dozens of copies fill the grader's disk, or a check breaks on its way through it."""
    code = LITTERS.format(litter=LITTER[name])
    solution = (ex01.solution / ex01.module).read_text()
    work = submissions.Submission(
        ex01.solution, ex01.module, {ex01.module: f"{solution}{code}".encode()}
    )
    work.key = f"hostile {name}"
    (result,) = engine.grade(ex01, work, launcher, seed=1, tasks=[3], limits=LIMITS).tasks
    assert result.verdict == FAIL and result.evidence["code"] == "limit", result.message
