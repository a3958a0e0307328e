"""What a command line asks for: exercises, tasks and checks, by their names.

ex01                       an exercise
ex01.3                     a task of it
ex01.3/a-torn-newest-one   a check of the task: its whole name, or a part that only one has
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from grader.course import catalog
from grader.course.catalog import Exercise, Task
from grader.errors import UsageError


class Named(Protocol):
    """A check (collection.Check)."""

    @property
    def slug(self) -> str: ...

    @property
    def name(self) -> str: ...


SHOWN = 4  # names in a message
AnyCheck = TypeVar("AnyCheck", bound=Named)


@dataclass(frozen=True)
class Selection:
    """What to grade of one exercise.

    tasks   None: all
    checks  names or parts of names, all in the one task; empty: all checks
    """

    exercise: Exercise
    tasks: tuple[Task, ...] | None = None
    checks: tuple[str, ...] = ()

    @property
    def numbers(self) -> list[int] | None:
        return None if self.tasks is None else [task.number for task in self.tasks]


def parse(
    names: Sequence[str], tasks: Sequence[str] = (), checks: Sequence[str] = ()
) -> list[Selection]:
    """Selections in the order in which exercises are first named; one for each exercise.

    tasks, checks  what --task and --check give; they go with one exercise
    """
    found: dict[str, tuple[Exercise, list[Task] | None, list[str]]] = {}
    for name in names:
        target, _, check = name.partition("/")
        if check or "." in target:
            exercise, task = catalog.find_task(target)
        else:
            exercise, task = catalog.find(name), None
        _, chosen, parts = found.setdefault(exercise.id, (exercise, [], []))
        if task is None or chosen is None:
            found[exercise.id] = (exercise, None, parts)
        elif task not in chosen:
            chosen.append(task)
        if check:
            parts.append(check)
    selections = [
        Selection(exercise, None if chosen is None else tuple(chosen), tuple(parts))
        for exercise, chosen, parts in found.values()
    ]
    if not tasks and not checks:
        return selections
    if len(selections) != 1:
        option = f"--task {tasks[0]}" if tasks else f"--check {checks[0]}"
        raise UsageError(f"{option} goes with one exercise: grade ex01 {option}")
    (only,) = selections
    more = tuple(only.exercise.task(number) for number in tasks)
    return [Selection(only.exercise, ((only.tasks or ()) + more) or None, (*only.checks, *checks))]


def choose(checks: Sequence[AnyCheck], parts: Iterable[str]) -> list[AnyCheck]:
    """Those of `checks` that the names or parts of names match, in their order.

    Checks that differ in their case alone (":two_workers") may share a name.

    Raises UsageError for a part that no check has, or several.
    """
    chosen = []
    for part in parts:
        same = [check for check in checks if part in (check.slug, check.name)]
        found = same or [check for check in checks if part in check.slug]
        if len({check.slug.partition(":")[0] for check in found}) != 1:
            if found:
                close = ", ".join(check.slug for check in found[:SHOWN])
                more = ", ..." if len(found) > SHOWN else ""
                raise UsageError(f"several checks have '{part}' in the name: {close}{more}")
            raise UsageError(f"no check has '{part}' in the name; `grade show TASK` lists them")
        chosen += found
    return [check for check in checks if check in chosen]
