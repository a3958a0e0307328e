"""The boundary: a driver reports what happened; only a check, in the grader's own process, knows
what should have happened.

Everything that runs in or alongside the student's process is untrusted. This module checks the
imports there, and that there is no message text: a driver without words can't judge.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from grader.course.catalog import Exercise
from grader.harness.trajectory import COMPONENTS

JUDGING = ("checks", "course", "engine", "mutants", "report", "tests", "verdicts", "yardstick")
WORDS = 4  # a string of this many words is a message


def problems(root: Path, exercises: list[Exercise]) -> Iterator[str]:
    for path in untrusted(root):
        where = path.relative_to(root)
        tree = ast.parse(path.read_text())
        judging = sorted(name for name in imported(tree) if name.split(".")[0] in JUDGING)
        if judging:
            yield (
                f"{where}: runs alongside student code and imports {', '.join(judging)}; report an "
                "observation and let a check judge it"
            )
        for line, text in messages(tree):
            yield (
                f"{where}: runs alongside student code and says {text!r} in line {line}; report a "
                "value and let a check put it into words"
            )


def untrusted(root: Path) -> list[Path]:
    grader = root / "grader"
    return sorted([*grader.glob("workload/**/*.py"), *grader.glob("harness/inside/*.py")])


def imported(tree: ast.AST) -> set[str]:
    """The modules below `grader` that this code imports, at its top or in a function:
    "checks.trajectories".
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
    silent = _silent(tree)
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


PRINTS = ("print", "say")  # what the training script prints for a person who runs it by hand


def _silent(tree: ast.AST) -> set[int]:
    """The ids of the nodes whose text isn't part of a report."""
    silent: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            silent.add(id(body[0].value))
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
            shown = list(node.args) if called in PRINTS else []
            shown += [k.value for k in node.keywords if k.arg in ("help", "description")]
            silent |= {id(part) for value in shown for part in ast.walk(value)}
        if isinstance(node, ast.Raise):
            silent |= {id(part) for part in ast.walk(node)}
        if isinstance(node, ast.JoinedStr) and id(node) not in silent:
            silent |= {id(part) for part in node.values}
    return silent
