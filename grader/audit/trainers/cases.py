"""The trainers that are audited: cases.toml, read and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from grader.audit.lives import OUT
from grader.course.catalog import ROOT, read_toml
from grader.errors import UsageError

HERE = Path(__file__).resolve().parent
LIST = HERE / "cases.toml"
SCRIPTS = HERE / "scripts"
COMMIT = re.compile(r"[0-9a-f]{40}")
PINNED = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+")


@dataclass(frozen=True)
class Environment:
    """A virtual environment below the folder. It sees the packages that the grader runs with."""

    name: str
    packages: tuple[str, ...]  # each with its exact version
    disk: int  # MB


@dataclass(frozen=True)
class Case:
    """One trainer, resumed as its documentation says.

    In its commands, {scripts} is this package's folder of scripts, {root} the course's.
    """

    name: str
    title: str
    train: str
    page: str  # address of the documentation; of the course's own, as a link from docs/
    promises: str  # what that page says of a resume
    resume: str = ""  # the same command if empty
    prepare: str = ""  # runs once, in the folder of the case
    repository: str = ""
    commit: str = ""
    folder: str = ""  # where the commands run, within the repository
    environment: str = ""  # the grader's own if empty
    budget: int = 240  # s
    reports: tuple[str, ...] = ()  # packages whose versions the page names
    checked: str = ""  # what is behind its worst finding, found by hand
    uses: str = ""  # which way of saving and resuming is audited

    def words(self, command: str) -> str:
        return command.replace("{scripts}", str(SCRIPTS)).replace("{root}", str(ROOT))


@dataclass(frozen=True)
class Absent:
    """A trainer that isn't audited, and why."""

    title: str
    why: str


@dataclass(frozen=True)
class Trainers:
    cases: dict[str, Case]
    environments: dict[str, Environment]
    absent: tuple[Absent, ...]


def read(path: Path = LIST) -> Trainers:
    data = read_toml(path)
    environments = {
        name: _of(Environment, {"name": name, **values})
        for name, values in data.get("environment", {}).items()
    }
    cases = [_of(Case, values) for values in data["case"]]
    absent = tuple(_of(Absent, values) for values in data.get("absent", []))
    found = Trainers({case.name: case for case in cases}, environments, absent)
    if len(found.cases) < len(cases):
        raise UsageError(f"{path.name}: two cases have the same name")
    for environment in environments.values():
        _check_environment(environment)
    for case in cases:
        _check(case, environments)
    return found


def _of(kind: type[Any], values: dict[str, Any]) -> Any:
    known = {field.name for field in fields(kind)}
    if unknown := values.keys() - known:
        raise UsageError(f"{LIST.name}: no such key: {', '.join(sorted(unknown))}")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return kind(**plain)
    except TypeError as e:
        raise UsageError(f"{LIST.name}: {values.get('name', '?')}: {e}") from e


def _check_environment(environment: Environment) -> None:
    for package in environment.packages:
        if not PINNED.fullmatch(package):
            raise UsageError(f"{LIST.name}: {package!r} has no exact version (name==version)")


def _check(case: Case, environments: dict[str, Environment]) -> None:
    def wrong(what: str) -> UsageError:
        return UsageError(f"{LIST.name}: {case.name}: {what}")

    if not re.fullmatch(r"[a-z0-9-]+", case.name):
        raise wrong("a name has only a-z, 0-9 and -")
    if OUT not in case.train or (case.resume and OUT not in case.resume):
        raise wrong(f"a command doesn't say {OUT}")
    if not case.page.startswith(("https://", "../")):
        raise wrong("page has no https:// address")
    if bool(case.repository) != bool(case.commit):
        raise wrong("a repository needs a commit, and a commit a repository")
    if case.commit and not COMMIT.fullmatch(case.commit):
        raise wrong("commit isn't 40 hexadecimal digits")
    if case.environment and case.environment not in environments:
        raise wrong(f"no environment {case.environment!r}")
