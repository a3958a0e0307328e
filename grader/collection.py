"""Finds an exercise's checks: the functions of its test file, parametrized as pytest does it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType

from grader.course import selection
from grader.course.catalog import Exercise


@dataclass(frozen=True)
class Check:
    """One test function with one set of its parameters."""

    function: Callable
    task: str
    case: str  # "[2]", as pytest writes it; empty without parameters
    params: dict = field(hash=False)

    @property
    def name(self) -> str:
        return self.function.__name__ + self.case

    @property
    def slug(self) -> str:
        """Its name on the command line: "signals-harm-no-save", "a-torn-file:event2"."""
        words = self.function.__name__.removeprefix("test_").replace("_", "-")
        return words + (f":{self.case[1:-1]}" if self.case else "")

    @property
    def title(self) -> str:
        """The first line of its docstring, as part of a sentence."""
        title = (inspect.getdoc(self.function) or self.name).splitlines()[0]
        return title[0].lower() + title[1:]


def collect(exercise: Exercise) -> list[Check]:
    """The exercise's checks in the order of its file, parametrized as pytest does it."""
    found = []
    for function in vars(_test_module(exercise)).values():
        if (
            inspect.isfunction(function)
            and function.__name__.startswith("test_")
            and hasattr(function, "task")
        ):
            for case, params in _cases(function):
                found.append(Check(function, function.task, case, params))
    return found


def select(chosen: selection.Selection) -> list[Check]:
    """The checks that were chosen, in their order. Raises UsageError for a name of none."""
    tasks = None if chosen.tasks is None else {task.id for task in chosen.tasks}
    checks = [c for c in collect(chosen.exercise) if tasks is None or c.task in tasks]
    return selection.choose(checks, chosen.checks) if chosen.checks else checks


def at_once(exercise: Exercise) -> int:
    """How many of the exercise's checks may run at a time, whatever the cores; 0: no preference.

    Checks that wait for a cluster need no core.
    """
    return getattr(_test_module(exercise), "AT_ONCE", 0)


def _test_module(exercise: Exercise) -> ModuleType:
    return importlib.import_module(f"grader.checks.{exercise.id}.test_{exercise.id}")


def _cases(function: Callable) -> Iterable[tuple[str, dict]]:
    """The parameter sets of a function with at most one one-name @pytest.mark.parametrize."""
    marks = [m for m in getattr(function, "pytestmark", []) if m.name == "parametrize"]
    if not marks:
        return [("", {})]
    (mark,) = marks
    name, values = mark.args
    ids = mark.kwargs.get("ids") or [str(v) for v in values]
    return [(f"[{i}]", {name: v}) for i, v in zip(ids, values, strict=False)]
