"""A driver reports what happened; only a check, in the grader's own process, knows what should have
happened.

Everything that runs in or beside the student's process is untrusted. Held here by imports, and by
the absence of message text: a driver that has nothing to say can't judge.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from grader.harness.sandbox import GRADER, INSIDE
from grader.harness.trajectory import COMPONENTS

UNTRUSTED = sorted([*GRADER.glob("workload/**/*.py"), *GRADER.glob("harness/inside/*.py")])
JUDGING = ("checks", "course", "engine", "mutants", "report", "tests", "verdicts", "yardstick")
WORDS = 4  # a string of so many words is a message


def imported(tree: ast.AST) -> set[str]:
    """The modules below `grader` that this code imports, at its top or in a function:
    "checks.run_assertions".
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("grader.") for name in found if name.startswith("grader.")}


def messages(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, text) of strings that say something: not docstrings, help of options, output of a job,
    or our own errors.
    """
    silent: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            silent.add(id(body[0].value))
        if isinstance(node, ast.Call):
            said = node.args if isinstance(node.func, ast.Name) and node.func.id == "print" else []
            said = [
                *said,
                *(
                    keyword.value
                    for keyword in node.keywords
                    if keyword.arg in ("help", "description")
                ),
            ]
            silent |= {id(part) for value in said for part in ast.walk(value)}
        if isinstance(node, ast.Raise):
            silent |= {id(part) for part in ast.walk(node)}
        if isinstance(node, ast.JoinedStr) and id(node) not in silent:
            silent |= {id(part) for part in node.values}
    found = []
    for node in ast.walk(tree):
        if id(node) in silent or (isinstance(node, ast.Constant) and node.value in COMPONENTS):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values
            )
        else:
            continue
        if len([word for word in text.split() if any(c.isalpha() for c in word)]) >= WORDS:
            found.append((node.lineno, text))
    return found


@pytest.mark.parametrize("path", UNTRUSTED, ids=lambda path: str(path.relative_to(GRADER)))
def test_untrusted_code_neither_judges_nor_says_anything(path: Path):
    tree = ast.parse(path.read_text())
    judging = sorted(name for name in imported(tree) if name.split(".")[0] in JUDGING)
    assert not judging, f"{path.name} runs beside student code and imports {', '.join(judging)}"
    assert not messages(tree), f"{path.name} runs beside student code and holds message text"


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
