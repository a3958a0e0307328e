"""Power loss as a check: where processes can't be traced nothing is said, and nothing else waits
for it.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from grader import engine
from grader.course import catalog, submissions
from grader.course.catalog import ROOT
from grader.verdicts import FAIL, INCONCLUSIVE, PASS

PTRACE = {"x86_64": 101, "aarch64": 117}.get(platform.machine())
# as strict containers do it: a filter that answers ptrace with EPERM, and then the command
REFUSED = f"""
import ctypes, os, struct, sys
program = b"".join(struct.pack("HBBI", *one) for one in (
    (0x20, 0, 0, 0), (0x15, 0, 1, {PTRACE}), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)))
lines = ctypes.create_string_buffer(program, len(program))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_void_p)]
made, prctl = Filter(4, ctypes.addressof(lines)), ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.byref(made), 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.needs_solution
@pytest.mark.skipif(
    not sys.platform.startswith("linux") or PTRACE is None,
    reason="the filter is Linux's, for x86_64 and aarch64",
)
def test_where_nothing_can_be_seen_the_task_is_inconclusive_and_the_others_dont_wait_for_it():
    command = [
        sys.executable,
        "-c",
        REFUSED,
        "-m",
        "grader",
        "ex01",
        "--solution",
        "--seed",
        "3",
        "--json",
        "-",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    (exercise,) = json.loads(done.stdout)["exercises"]
    assert [t["verdict"] for t in exercise["tasks"]] == [
        PASS,
        PASS,
        INCONCLUSIVE,
        PASS,
        INCONCLUSIVE,
    ], done.stdout + done.stderr
    assert [t["score"] for t in exercise["tasks"]] == [4, 4, 0, 5, 0] and done.returncode == 3


@pytest.mark.needs_solution
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="calls are recorded on Linux only")
@pytest.mark.parametrize("mistake", [False, True], ids=["right", "marker_before_names"])
def test_a_marker_that_is_durable_before_the_names_it_stands_for_is_found_whatever_the_seed(
    launcher, mistake
):
    exercise = catalog.find("ex02")
    text = (ROOT / "grader/tests/alternatives/ex02/manifest_last.py").read_text()
    synced = "            names_durable(where)  # the parts' own, of all ranks\n"
    assert synced in text
    work = submissions.Submission(
        exercise.solution,
        exercise.module,
        {exercise.module: text.replace(synced, "" if mistake else synced).encode()},
    )
    work.key = f"marker {mistake}"
    grading = engine.Grading(exercise, work, launcher, tasks=[5])
    grading.checks = [
        check for check in grading.checks if "power_loss_leaves_of_the_saves" in check.name
    ]
    grading.start()
    try:
        (outcome,) = [grading.outcome(check.name) for check in grading.checks]
        assert outcome.verdict == (FAIL if mistake else PASS), outcome.finding
    finally:
        grading.close()
