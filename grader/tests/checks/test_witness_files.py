"""A job on another machine reports through files that both sides see: no port is opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from grader.checks.ex04.witness import Witness
from grader.harness.lab import WORKLOAD

STEPS = 12


def train(folder: Path, witness: Witness) -> int:
    command = [
        sys.executable,
        "-I",
        str(WORKLOAD / "ex04/train.py"),
        "--directory",
        str(folder / "checkpoints"),
    ]
    witness.command = [*command, "--witness", witness.address, "--steps", str(STEPS)]
    return subprocess.run(witness.command, timeout=60).returncode


def test_a_killed_job_goes_on_through_files(tmp_path):
    with Witness(
        tmp_path, tmp_path / "checkpoints", [{"step": 7, "do": "kill"}], STEPS, None, None
    ) as witness:
        assert witness.address.startswith("files:")
        assert [train(tmp_path, witness) for _ in range(2)] == [-9, 0]
        events = list(witness.events)
    assert [e["step"] for e in events if e["event"] == "resumed"] == [0, 5]
    course = {e["step"]: e["digest"] for e in events if e["event"] == "step"}
    assert course == witness.undisturbed
