"""What students are graded by. A check is a pytest test that gets a `lab` and reads like a
sentence.
"""

from __future__ import annotations


def task(task_id: str):
    """Marks a check as one of the task's: `@task("ex01.4")`."""

    def mark(check):
        check.task = task_id
        return check

    return mark
