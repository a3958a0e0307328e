"""What tests of clusters share: a short directory, `grade cluster`, whether Slurm is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from grader.course.catalog import ROOT
from grader.slurm import ClusterError, installation, preload
from grader.tests.conftest import IN_CI


def missing() -> str:
    try:
        installation.find()
    except ClusterError as e:
        return str(e)
    return ""


# in CI nothing may be missing: what would be skipped elsewhere, fails there
needs_slurm = pytest.mark.skipif(bool(missing()) and not IN_CI, reason=missing() or "there")
needs_cc = pytest.mark.skipif(preload.compiler() is None and not IN_CI, reason="no C compiler here")


@pytest.fixture(scope="module")
def place():
    """A directory whose name is short enough for Unix sockets below it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="s") as folder:
        yield Path(folder)


def grade_cluster(
    place: Path | str, *args, env: dict | None = None, **options
) -> subprocess.CompletedProcess:
    """`grade cluster ...` where clusters are kept in `place`."""
    env = {**os.environ, "GRADE_CLUSTERS": str(place), "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "grader", "cluster", *map(str, args)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
