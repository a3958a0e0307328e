"""Starters come from solutions, and the committed ones are what the solutions say."""

from __future__ import annotations

import ast

import pytest

from grader.course import catalog, derive
from grader.errors import UsageError
from grader.tests.conftest import IN_CI

SOLUTION = """\
import os
import hashlib

def f(x):
    '''Contract.'''
    ### BEGIN SOLUTION
    return hashlib.md5(x)
    ### END SOLUTION
    #| # TODO: what is x?
    #| return os.path.join(x)
    #|

### BEGIN SOLUTION
def helper(): pass
### END SOLUTION
"""


def test_a_starter_has_what_stands_in_the_comment_block_instead():
    text = derive.starter_text(SOLUTION)
    assert text.splitlines() == [
        "import os",
        "",
        "def f(x):",
        "    '''Contract.'''",
        "    # TODO: what is x?",
        "    return os.path.join(x)",
        "",
        "",
    ]


@pytest.mark.parametrize(
    "text,line",
    [
        ("### BEGIN SOLUTION\n", 1),
        ("x\n### END SOLUTION\n", 2),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", 2),
    ],
)
def test_markers_that_do_not_pair_up_are_named_by_line(text, line):
    with pytest.raises(UsageError, match=f"line {line}"):
        derive.starter_text(text)


@pytest.mark.needs_solution
def test_the_pristine_starter_is_whole_and_gives_nothing_away(ex01):
    solution = (ex01.solution / ex01.module).read_text()
    starter = derive.starter_files(ex01)[ex01.module].decode()
    assert "SOLUTION" not in starter and "#|" not in starter
    functions = [
        n
        for tree in (ast.parse(solution), ast.parse(starter))
        for n in [
            {
                f.name: ast.get_docstring(f)
                for f in tree.body
                if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")
            }
        ]
    ]
    assert functions[0] == functions[1]  # the same functions with the same contracts
    named = {name for task in ex01.tasks for name in task.functions}
    assert named <= set(functions[1])


@pytest.mark.needs_solution
@pytest.mark.parametrize("exercise", catalog.exercises().values(), ids=lambda e: e.id)
def test_the_committed_starter_is_the_solutions_derivation(exercise):
    drifted = [
        n
        for n, data in derive.starter_files(exercise).items()
        if not _same(exercise.starter / n, data)
    ]
    if drifted and not IN_CI:
        pytest.skip(
            f"{exercise.id}'s starter is edited ({', '.join(drifted)}): somebody's own work"
        )
    assert not drifted, "derive it anew: grade dev derive"


def _same(path, data: bytes) -> bool:
    return path.exists() and path.read_bytes() == data
