"""Gradescope's results.json from a result of `grade --json`.

Fields and their meaning: https://gradescope-autograders.readthedocs.io/en/latest/specs/ (source:
gradescope/autograder_samples, docs/specs.md). A test's `status` is `passed` or `failed`; without
it, Gradescope compares score and max_score. The total is `score`, whatever the tests say.

An inconclusive task has neither status nor points there, so that it shows as neither.
"""

from __future__ import annotations

import json
import re
from typing import Any

from grader.exports.result_file import Result, Task
from grader.verdicts import BLOCKED, INCONCLUSIVE, PASS

VISIBILITIES = ("visible", "after_due_date", "after_published", "hidden")


def results_text(result: Result, visibility: str = "visible") -> str:
    return json.dumps(results(result, visibility), indent=2) + "\n"


def results(result: Result, visibility: str = "visible") -> dict[str, Any]:
    """visibility   when students see the tests, and with them their score"""
    return {
        "score": result.score,
        "execution_time": round(result.seconds),
        "output": _summary(result),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": visibility,
        "stdout_visibility": "hidden",  # what student code printed may be anything
        "tests": [_test(task, visibility) for task in result.tasks],
        "extra_data": {
            "inconclusive": result.inconclusive,
            "seeds": {exercise.id: exercise.seed for exercise in result.exercises},
            "sandbox": {exercise.id: exercise.sandbox for exercise in result.exercises},
        },
    }


def _summary(result: Result) -> str:
    lines = [f"{e.id}: {e.score} of {e.max_score} points" for e in result.exercises]
    if result.inconclusive:
        lines += [
            "",
            f"Inconclusive: {', '.join(result.inconclusive)}. Nothing was proved there, which is "
            "never your mistake, and the score above leaves it out. Ask your instructor to run "
            "the autograder again.",
        ]
    return "\n".join(lines)


def _test(task: Task, visibility: str) -> dict[str, Any]:
    shared = {
        "number": re.sub(r"^ex0*", "", task.id),
        "output": _output(task),
        "output_format": "text",
        "tags": [task.id.partition(".")[0], task.verdict],
        "visibility": visibility,
        "extra_data": {"verdict": task.verdict, "code": task.code},
    }
    if task.verdict == INCONCLUSIVE:
        return {"name": f"{task.title} (inconclusive, {task.max_score} points open)", **shared}
    return {
        "name": task.title,
        "score": task.score,
        "max_score": task.max_score,
        "status": "passed" if task.verdict == PASS else "failed",
        **shared,
    }


def _output(task: Task) -> str:
    said = {
        PASS: "Passed.",
        BLOCKED: "Blocked: a task that this one builds on isn't passed yet.",
        INCONCLUSIVE: (
            "Inconclusive: nothing was proved, so this is neither passed nor failed. It isn't your "
            "mistake. Ask your instructor to run the autograder again."
        ),
    }
    return "\n".join(part for part in (said.get(task.verdict, ""), _for_home(task.message)) if part)


def _for_home(message: str) -> str:
    """The message for somebody who has another copy of the submission, and no logs."""
    lines = [line for line in message.splitlines() if not line.startswith("log ")]
    return "\n".join(
        re.sub(r" --submission \S+", "", line) if line.startswith(("replay", "debug")) else line
        for line in lines
    )
