"""What a submission reaches for is noticed, whoever refuses it, and right work reaches for none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from grader import engine
from grader.course import submissions
from grader.course.catalog import ROOT

pytestmark = [
    pytest.mark.needs_solution,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a sandbox is Linux's"),
]

REACHES = f"""

import ctypes, gc, os, socket, sys

_save = save_checkpoint


def _try(*what):
    for one in what:
        try:
            one()
        except BaseException:
            pass


def _open_reports():
    for number in os.listdir("/proc/self/fd"):
        path = os.readlink(f"/proc/self/fd/{{number}}")
        if path.endswith("/events"):
            open(path, "a").close()


def save_checkpoint(*arguments, **named):
    _try(
        _open_reports,
        lambda: socket.create_connection(("203.0.113.9", 80), timeout=0.1),
        lambda: open("{ROOT}/ex01-basic-checkpoint/solution/checkpoint.py"),
        lambda: open("/root/.ssh/id_rsa"),
        lambda: open("/etc/cron.d/mine", "w"),
        lambda: os.rename("/usr/bin/env", "/usr/bin/mine"),
        lambda: os.kill(1, 15),
        lambda: ctypes.CDLL(None),
        lambda: gc.get_objects(),
        # all this is a job's own business
        lambda: open("/proc/self/status").read(),
        lambda: os.kill(os.getpid(), 0),
        lambda: socket.create_connection(("127.0.0.1", 1), timeout=0.1),
        lambda: open(os.path.join(os.environ["TMPDIR"], "mine"), "w").close(),
        lambda: __import__("sqlite3"),
    )
    return _save(*arguments, **named)
"""


def test_each_attempt_is_reported_once_with_the_line_that_made_it(ex01, launcher):
    code = (ex01.solution / ex01.module).read_bytes() + REACHES.encode()
    work = submissions.Submission(Path("tries"), ex01.module, {ex01.module: code})
    result = engine.grade(
        ex01, work, launcher, seed=1, tasks=[1], only=["saving-changes-nothing-in-the-run"]
    )
    lines = code.decode().splitlines()
    told = {(a.kind, a.what if a.kind != "reports" else "events") for a in result.attempts}
    assert told == {
        ("network", "203.0.113.9:80"),
        ("read", f"{ROOT}/ex01-basic-checkpoint/solution/checkpoint.py"),
        ("read", "/root/.ssh/id_rsa"),
        ("write", "/etc/cron.d/mine"),
        ("write", "/usr/bin/env"),
        ("signal", "15 to 1"),
        ("reports", "events"),
        ("interpreter", "ctypes libc"),
        ("interpreter", "gc.get_objects"),
    }
    for attempt in result.attempts:
        file, _, number = attempt.where.partition(":")
        line = lines[int(number) - 1]
        assert file == ex01.module and ("lambda" in line or "open(path" in line)
    assert len(result.attempts) == len(told)
