"""A load that reads what the saves wrote into another directory: there is no verdict."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

from grader.crash import crashtest
from grader.crash.recorder import Incomplete
from grader.tests.crash.traced import traced


def durable(path: str, text: str) -> None:
    with open(path, "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def link(elsewhere: str, directory: str, state: str) -> None:
    path = f"{elsewhere}/{state}"
    Path(path).write_text(state)
    os.symlink(path, f"{directory}/new")
    os.replace(f"{directory}/new", f"{directory}/latest")
    sync(directory)


def path_in_a_file(elsewhere: str, directory: str, state: str) -> None:
    Path(elsewhere, "new").write_text(state)
    os.replace(f"{elsewhere}/new", f"{elsewhere}/{state}")
    durable(f"{directory}/latest.new", json.dumps(f"{elsewhere}/{state}"))
    os.replace(f"{directory}/latest.new", f"{directory}/latest")
    sync(directory)


def moved_in(elsewhere: str, directory: str, state: str) -> None:
    """Also keeps a log outside, which its load doesn't read."""
    with open(f"{elsewhere}/log", "a") as f:
        f.write(state)
    durable(f"{elsewhere}/new", state)
    os.replace(f"{elsewhere}/new", f"{directory}/latest")
    sync(directory)


def load(directory: str) -> str | None:
    path = Path(directory, "latest")
    if not os.path.lexists(path):
        return None
    text = path.read_text()
    return Path(json.loads(text)).read_text() if text.startswith('"') else text


def crashtest_of(save, elsewhere: Path) -> crashtest.Report:
    elsewhere.mkdir()
    saves = crashtest.saves(partial(save, str(elsewhere)), lambda n: f"state {n}", str, 2)
    return crashtest.test(crashtest.Program({"": saves}, load), errors=False, flips=False)


@traced
@pytest.mark.parametrize("save", [link, path_in_a_file])
def test_what_lies_outside_and_is_read_is_no_verdict(tmp_path, save):
    with pytest.raises(Incomplete, match=r"load reads .*/elsewhere/state 2, which the saves wrote"):
        crashtest_of(save, tmp_path / "elsewhere")


@traced
def test_what_is_moved_into_the_directory_is_recorded(tmp_path):
    assert crashtest_of(moved_in, tmp_path / "elsewhere").passed
