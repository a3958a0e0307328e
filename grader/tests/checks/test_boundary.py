"""The boundary is held by grader/authoring/boundary.py; here it is tried out."""

from __future__ import annotations

import ast

import pytest

from grader.authoring.boundary import JUDGING, messages, problems, untrusted
from grader.course.catalog import ROOT
from grader.harness.readable_paths import INSIDE


def test_untrusted_code_neither_judges_nor_says_anything():
    assert len(untrusted(ROOT)) > 20
    assert list(problems(ROOT, [])) == []


@pytest.mark.parametrize(
    "code,found",
    [
        ('rows = [("found", "it chose the wrong one")]', 1),
        ('what = f"the newest of {n} checkpoints is gone"', 1),
        (
            '"""What this module is for, in words."""\ndef f():\n    "And this function, in '
            'words."',
            0,
        ),
        ('p.add_argument("--x", help="where the checkpoints go to")', 0),
        (
            'print(f"starting at step {step}, epoch {epoch} of all")\nraise ValueError("this '
            'driver was called wrongly")',
            0,
        ),
        ('emit("answer", kind="late-save", value=3)', 0),
    ],
)
def test_the_rule_finds_what_it_should(code, found):
    assert len(messages(ast.parse(code))) == found


def test_a_life_with_student_code_sees_no_module_that_judges():
    assert not {piece.removesuffix(".py") for piece in INSIDE} & set(JUDGING)
