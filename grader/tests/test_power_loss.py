"""Power loss as a check: of a submission that can't be watched nothing is said, and nothing else waits for it."""

from __future__ import annotations

import pytest

from grader import course
from grader.verdicts import INCONCLUSIVE, PASS

UNSEEN = """

from grader.crash import recorder


def unseen(*_, **__):
    raise recorder.Unavailable("this machine doesn't let a process be traced")


recorder.record = unseen
"""


@pytest.mark.needs_solution
def test_where_nothing_can_be_seen_the_task_is_inconclusive_and_the_others_dont_wait_for_it(grade, ex01):
    work = course.submission(ex01, None, solution=True)
    work.files = {name: data + (UNSEEN.encode() if name == ex01.module else b"") for name, data in work.files.items()}
    work.key = "unseen"
    result = grade(ex01, work, seed=3)
    assert [t.verdict for t in result.tasks] == [PASS, PASS, INCONCLUSIVE, PASS, PASS]
    assert result.tasks[2].score == 0
