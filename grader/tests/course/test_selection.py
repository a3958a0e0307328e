"""Names of exercises, tasks and checks on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from grader import collection
from grader.course import catalog, selection
from grader.errors import UsageError


def short(selections):
    return [(s.exercise.id, s.numbers, s.checks) for s in selections]


@pytest.mark.parametrize(
    "names,options,found",
    [
        (["ex01"], {}, [("ex01", None, ())]),
        (["ex01.3"], {}, [("ex01", [3], ())]),
        (["ex01.3", "ex02", "ex01.1"], {}, [("ex01", [3, 1], ()), ("ex02", None, ())]),
        (["ex01.3", "ex01"], {}, [("ex01", None, ())]),
        (["ex01.3/torn"], {}, [("ex01", [3], ("torn",))]),
        (["ex01-basic-checkpoint"], {"tasks": ["3", "ex01.2"]}, [("ex01", [3, 2], ())]),
        (["ex01.3"], {"checks": ["torn"]}, [("ex01", [3], ("torn",))]),
    ],
)
def test_names(names, options, found):
    assert short(selection.parse(names, **options)) == found


@pytest.mark.parametrize(
    "names,options,why",
    [
        (["ex07"], {}, "no exercise 'ex07'"),
        (["ex01.9"], {}, "ex01 has no task"),
        (["ex01", "ex02"], {"tasks": ["1"]}, "--task 1 goes with one exercise"),
        (["ex01", "ex02"], {"checks": ["x"]}, "--check x goes with one exercise"),
    ],
)
def test_names_that_mean_nothing(names, options, why):
    with pytest.raises(UsageError, match=why):
        selection.parse(names, **options)


@dataclass(frozen=True)
class Check:
    slug: str

    @property
    def name(self) -> str:
        return f"test_{self.slug}"


def test_a_part_of_a_name_is_enough_if_only_one_check_has_it():
    checks = [Check("torn"), Check("torn-twice"), Check("lost")]
    assert selection.choose(checks, ["torn"]) == checks[:1]  # a whole name comes first
    assert selection.choose(checks, ["lost", "twice"]) == checks[1:]
    assert selection.choose(checks, ["test_lost"]) == checks[2:]
    cases = [Check("kept:one"), Check("kept:two")]
    assert (
        selection.choose(cases, ["kept"]) == cases and selection.choose(cases, ["two"]) == cases[1:]
    )
    for part, why in (("to", "several checks have"), ("gone", "no check has")):
        with pytest.raises(UsageError, match=f"{why} '{part}'"):
            selection.choose(checks, [part])


@pytest.mark.parametrize("exercise", catalog.exercises().values(), ids=lambda e: e.id)
def test_every_check_has_a_name_of_its_own(exercise):
    checks = collection.collect(exercise)
    assert len({check.slug for check in checks}) == len(checks)
    # a shell takes it as it is
    assert all(
        set(check.slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-:_.") for check in checks
    )


@pytest.mark.parametrize("exercise", ["ex01", "ex02", "ex03", "ex04"])
def test_a_check_has_the_name_that_its_title_says(exercise):
    """A message shows the title; `replay`, `debug` and `grade show` show the name."""
    for check in collection.collect(catalog.find(exercise)):
        words = re.sub(r"[^a-z0-9]+", "-", check.title.lower().replace("'", "")).strip("-")
        assert check.slug.partition(":")[0] == words
