"""Job scripts that are none, or that misbehave: one clear message, whatever they do. On the
stand-in.
"""

from __future__ import annotations

import random

import pytest

from grader import engine
from grader.checks.ex04 import resubmission_runs
from grader.course import catalog, submissions
from grader.slurm.target import Where
from grader.verdicts import FAIL

pytestmark = pytest.mark.needs_solution


def graded(launcher, task: int, **files: str | None):
    """The task's result for the solution with these files instead of its own (None: without it)."""
    exercise = catalog.find("ex04")
    own = submissions.submission(exercise, None, solution=True).files
    changed = {
        name.replace("_sbatch", ".sbatch"): text and text.encode() for name, text in files.items()
    }
    work = submissions.Submission(
        exercise.solution,
        exercise.module,
        {n: d for n, d in (own | changed).items() if d is not None},
    )
    work.key = f"job scripts {files}"
    return engine.grade(
        exercise, work, launcher, seed=3, tasks=[task], cluster=Where("stand-in")
    ).tasks[0]


def test_a_script_that_is_missing_fails_its_task(launcher):
    result = graded(launcher, 4, chain_sbatch=None)
    assert result.verdict == FAIL and result.evidence["cause"] == "script"


@pytest.mark.parametrize(
    "text",
    ["echo no shebang\n", "#!/bin/bash\n#SBATCH --time=soon\nsrun $TRAIN\n"],
    ids=["no shebang", "an option that is none"],
)
def test_a_script_that_sbatch_refuses_fails_its_task(launcher, text):
    result = graded(launcher, 2, auto_resume_sbatch=text)
    assert result.verdict == FAIL and result.evidence["cause"] == "sbatch"


def test_a_script_that_does_nothing_fails_its_task(launcher):
    result = graded(launcher, 2, auto_resume_sbatch="#!/bin/bash\nexit 0\n")
    assert result.verdict == FAIL and "never began" in result.message


def test_a_script_that_only_requeues_itself_is_ended(launcher):
    text = (
        "#!/bin/bash\n#SBATCH --requeue\n#SBATCH --output=train.log\nsrun $TRAIN "
        "--no-such-flag\nscontrol requeue $SLURM_JOB_ID\n"
    )
    result = graded(launcher, 2, auto_resume_sbatch=text)
    assert result.verdict == FAIL and result.evidence["code"] == "endless"


def test_a_script_that_never_comes_to_the_training_is_ended(launcher):
    text = (
        "#!/bin/bash\n#SBATCH --requeue\n#SBATCH --output=train.log\nno-such-command\n"
        "scontrol requeue $SLURM_JOB_ID\n"
    )
    result = graded(launcher, 2, auto_resume_sbatch=text)
    assert result.verdict == FAIL and result.evidence["code"] == "endless"


def test_the_newest_checkpoint_is_torn_only_where_there_is_another():
    """The first ones are written at steps 5 and 10."""
    for seed in range(2000):
        plan = resubmission_runs.chaos_plan(random.Random(seed))
        assert sorted(fault["do"] for fault in plan) == ["kill", "limit", "preempt", "torn"]
        assert next(fault["step"] for fault in plan if fault["do"] == "torn") > 10
        assert [fault["step"] for fault in plan] == sorted({fault["step"] for fault in plan})
