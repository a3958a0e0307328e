"""Submissions that want the points of exercise 4 without the work. They do no harm."""

from __future__ import annotations

import re

import pytest

from grader import engine
from grader.course import catalog, derive, submissions
from grader.slurm.target import Where
from grader.verdicts import PASS

pytestmark = pytest.mark.needs_solution

HEAD = """#!/bin/bash
#SBATCH --output=train.log --open-mode=append
#SBATCH --requeue --signal=B:USR1@120
"""


def graded(launcher, task: int, solved: bool = True, python: str = "", **scripts: str):
    """The task's result for the solution (or starter) with these scripts, and this code."""
    exercise = catalog.find("ex04")
    own = (
        submissions.submission(exercise, None, solution=True).files
        if solved
        else derive.starter_files(exercise)
    )
    files = own | {
        name.replace("_sbatch", ".sbatch"): text.encode() for name, text in scripts.items()
    }
    files[exercise.module] += python.encode()
    work = submissions.Submission(exercise.starter, exercise.module, files)
    work.key = f"hostile ex04 {task} {python} {scripts}"
    return engine.grade(
        exercise, work, launcher, seed=3, tasks=[task], cluster=Where("stand-in")
    ).tasks[0]


# the training's history, as a run without faults would write it
HISTORY = """
python3 - <<'E'
import json, time
events = [{"event": "life"}, {"event": "resumed", "step": 0}]
events += [{"event": "step", "step": n, "digest": "0" * 16} for n in range(1, 41)]
events += [{"event": "saved", "step": 40}, {"event": "left", "status": 0}]
for name in ("events", "../events", "checkpoints/events"):
    try:
        with open(name, "a") as f:
            for e in events:
                e = {"t": time.time(), "pid": 7, "job": "1000", "restart": 0, **e}
                f.write(json.dumps(e) + "\\n")
    except OSError:
        pass
E
echo "life of job $SLURM_JOB_ID"; echo "life of job $SLURM_JOB_ID"
"""

# speaks to the witness in the training's name, at once and without being disturbed
FORGER = """
address=$(tr ' ' '\\n' < "${TRAIN#sh }" | sed -n 's/^unix://p')
cat > forger.py <<'E'
import json, os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
answers = s.makefile()
def say(event, answer=True, **fields):
    s.sendall(json.dumps({"event": event, **fields}).encode() + b"\\n")
    return json.loads(answers.readline() or "{}") if answer else None
say("hello", False, token="")
say("life")
said = say("resumed", step=0)
for n in range(1, 41):
    say("step", step=n, digest="0" * 64)
    if n % 5 == 0:
        say("saving", step=n)
        os.makedirs(f"checkpoints/step-{n}", exist_ok=True)
        open(f"checkpoints/step-{n}/state.json", "w").write("{}")
        say("saved", step=n)
    said = say("ready", step=n)
    if said.get("do") == "wait":
        say("signal", False, signal="SIGTERM")
        say("saving", step=n)
        say("saved", step=n)
        say("left", status=75)
        sys.exit(75)
say("left", status=0)
E
"""

SCRIPTS = {
    "writes the history itself": HEAD + HISTORY + "exit 0\n",
    "writes the history, and trains": HEAD + HISTORY + "srun $TRAIN\n" + HISTORY,
    "speaks to the witness itself": HEAD
    + FORGER
    + 'srun python3 forger.py "$address" || scontrol requeue $SLURM_JOB_ID\n',
    "speaks to the witness from outside": HEAD
    + FORGER
    + 'setsid -f python3 forger.py "$address"\nsleep 2\nexit 0\n',
    "gives the training code of its own": HEAD
    + "echo 'import signal; signal.signal = lambda *_: None' > own.py\n"
    + "srun $TRAIN --code own.py --uses lock\nexit 0\n",
    "leaves its job": HEAD + "setsid -f $TRAIN\nsleep 3\nexit 0\n",
    "cancels what preempts it": HEAD
    + "( for n in $(seq 50); do scancel --partition=high --state=PENDING; sleep 0.2\n"
    + "scancel --signal=USR1 $SLURM_JOB_ID.0; done ) &\n"
    + "srun $TRAIN\n[ $? = 0 ] && exit 0\nscontrol requeue $SLURM_JOB_ID\n",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_gets_nothing_for_what_it_makes_up(launcher, name):
    result = graded(launcher, 2, auto_resume_sbatch=SCRIPTS[name])
    assert result.verdict != PASS and result.score == 0


def test_a_chain_gets_nothing_for_what_it_makes_up(launcher):
    result = graded(
        launcher, 4, chain_sbatch=HEAD.replace("--requeue", "--no-requeue") + HISTORY + "exit 0\n"
    )
    assert result.verdict != PASS


EMITS = """

from grader.harness.inside import telemetry


def tell(answer):
    for question in telemetry.given("questions", []):
        telemetry.emit("answer", id=question["id"], values=answer)
        telemetry.emit("ended", point=question["id"], part="question", status=0, late=False)
"""

PYTHON = {
    "says None to all": (1, EMITS + 'tell({"returned": None, "cwd": "/"})\n'),
    "says the newest name to all": (1, EMITS + 'tell({"returned": "step-10", "cwd": "/"})\n'),
    "says the grader's own answer": (
        1,
        "\n\nfrom grader.checks.ex04.checkpoints_on_disk import newest_intact\n",
    ),
    "says that all went well": (
        3,
        EMITS + 'tell({"lives": [{"returned": True}] * 20, "states": []})\n',
    ),
    "says that all were refused": (
        4,
        EMITS + 'tell({"said": [{"inside": 1, "slept": 0}] * 20, "rounds": []})\n',
    ),
    "no process is ever new": (4, "\n\nos.fork = lambda: 1\n"),
}


@pytest.mark.parametrize("name", PYTHON)
def test_a_starter_gets_nothing_for_answers_that_it_reports_itself(launcher, name):
    task, code = PYTHON[name]
    result = graded(launcher, task, solved=False, python=code)
    assert result.verdict != PASS and result.score == 0


def test_the_grader_tells_a_life_neither_its_own_answer_nor_the_plan():
    workload = catalog.ROOT / "grader" / "workload"
    texts = {
        name: (workload / name).read_text()
        for name in ("ex04/function_cases.py", "ex04/train.py", "ex04/job_lives.py")
    }
    for name, text in texts.items():
        assert not re.search(
            r"def (intact|newest_intact|undisturbed)\b|--plan\b|grader\.checks", text
        ), name
