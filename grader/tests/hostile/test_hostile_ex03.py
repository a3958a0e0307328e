"""Submissions of exercise 3 that answer in the driver's name, keep signals away or stop the clock:
no points.
"""

from __future__ import annotations

import pytest

from grader import engine
from grader.course import catalog, derive, submissions
from grader.verdicts import PASS

pytestmark = pytest.mark.needs_solution

ANSWERS = """
from grader.harness.inside import telemetry
for question in telemetry.given("questions", []):
    here = [{}, {}]
    telemetry.emit("answer", id=question["id"], values={
        "log": [], "files": [], "outcomes": [], "moments": 0, "read": [], "sent": 9,
        "imported": here, "received": 15, "at": 0.0, "before": 0.0, "after": 0.0,
    })
    telemetry.emit("ended", point=question["id"], part="question", status=0, late=False)
"""

ONE_DIGEST = """
from grader.harness.inside import digest, telemetry
from grader.workload.ex03 import preempt_job
digest.digest = preempt_job.digest = lambda value, key="": "0" * 16
telemetry.state_digests = lambda job, batch: {"weights": "0" * 16}
"""

NO_SIGNALS = """
from grader.harness.inside import telemetry
from grader.workload.ex03 import node_daemon
came = []
node_daemon.Daemon.send = lambda self, number, *a, **k: came.append(number)
"""

STOPPED_CLOCK = """
from grader.workload.ex03 import virtual_clock
virtual_clock.Scheduler.passes = lambda self, seconds, during: None
"""

# a worker leaves on the signal, and a look of the job's own doesn't see that it is gone
UNSEEN = """
import multiprocessing.connection
from grader.workload.ex03 import virtual_clock
real = multiprocessing.connection.wait
virtual_clock.wait = multiprocessing.connection.wait = lambda sentinels, seconds=None: (
    [] if seconds == 0 else real(sentinels, seconds))
"""

FORGED = """
from grader.harness.inside import telemetry
from grader.workload.ex03 import node_daemon
came = []
def send(self, number, pid=None, group=False):
    came.append(number)
    telemetry.emit("sent", n=len(came), signal=int(number), job=True, group=group, proof="0" * 64)
node_daemon.Daemon.send = send
"""

NEVER_TRAINS = """
def main(make_job, directory, clock, grace):
    import glob, sys
    from grader.harness.inside import telemetry
    job = make_job()
    again = job.resume()
    for step in range(1, 11):
        telemetry.emit("step", step=step, indices=[], samples=[], state={})
        telemetry.emit("loss", step=step, loss="0x0p+0")
        telemetry.emit("trained", step=step, clock=2.0 + step, tensors={}, says=None)
    job.step, job.epoch = 10, job.epochs
    job.save()
    write_status(directory, "done", 10)
    return 0
"""

OF_THE_STARTER = {
    "answers for the driver": (1, ANSWERS),
    "one digest for all": (2, ONE_DIGEST),
    "never trains": (2, NEVER_TRAINS),
}

DEAF = (
    (
        "        return stop_together(stop.received is not None or",
        "        return stop_together(bool(came) or",
    ),
    (
        "        self.before = "
        "{number: signal.signal(number, self._note) for number in self.signals}",
        "        self.before = {}",
    ),
)
TIMELESS = (
    (
        "        return self.remaining() > self.MARGIN",
        "        return True or self.remaining() > self.MARGIN",
    ),
)

DEADLY = (
    (
        "    for number in (signal.SIGTERM, signal.SIGUSR1):\n"
        "        signal.signal(number, signal.SIG_IGN)",
        "    for number in (signal.SIGTERM, signal.SIGUSR1):\n"
        "        signal.signal(number, lambda *_: os._exit(0))",
    ),
)
UNTRACED = (  # with a handler that a second signal hangs, and that no line-by-line signal meets
    (
        "        if self.received is None:\n"
        "            self.received, self.at = number, self.clock()",
        "        import sys, threading\n"
        "        tracing = sys.gettrace()\n"
        "        sys.settrace(None)\n"
        "        StopSignal.lock = getattr(StopSignal, 'lock', None) or threading.Lock()\n"
        "        with StopSignal.lock:\n"
        "            if self.received is None:\n"
        "                self.received, self.at = number, self.clock()\n"
        "        sys.settrace(tracing)",
    ),
)

OF_THE_SOLUTION = {  # without the part that the task asks for
    "no signal arrives": (2, NO_SIGNALS, DEAF),
    "the clock stands still": (5, STOPPED_CLOCK, TIMELESS),
    "a forged signal": (2, FORGED, DEAF),
    "workers die unseen": (3, UNSEEN, DEADLY),
    "tracing is switched off": (1, "", UNTRACED),
}


def graded(launcher, name: str, task: int, text: str):
    exercise = catalog.find("ex03")
    work = submissions.Submission(
        exercise.starter, exercise.module, {exercise.module: text.encode()}
    )
    work.key = f"hostile {name}"
    return engine.grade(exercise, work, launcher, seed=1, tasks=[task]).tasks[0]


@pytest.mark.parametrize("name", OF_THE_STARTER)
def test_a_starter_that_forges_gets_nothing(launcher, name):
    task, code = OF_THE_STARTER[name]
    exercise = catalog.find("ex03")
    starter = derive.starter_files(exercise)[exercise.module].decode()
    result = graded(launcher, name, task, f"{starter}\n{code}")
    assert result.verdict != PASS and result.score == 0, result.message


@pytest.mark.parametrize("name", OF_THE_SOLUTION)
def test_a_solution_without_its_point_gets_nothing_for_it(launcher, name):
    task, code, edits = OF_THE_SOLUTION[name]
    exercise = catalog.find("ex03")
    text = (exercise.solution / exercise.module).read_text()
    for find, replace in edits:
        assert text.count(find) == 1
        text = text.replace(find, replace)
    result = graded(launcher, name, task, f"{text}\n{code}")
    assert result.verdict != PASS and result.score == 0, result.message
