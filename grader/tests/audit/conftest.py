"""One warm process and one folder for all audits of these tests."""

from __future__ import annotations

import pytest

from grader.harness import scratch
from grader.tests.audit.warm import Warm


@pytest.fixture(scope="session")
def warm():
    launcher = Warm()
    yield launcher
    launcher.end()


@pytest.fixture(scope="session")
def audit_folder():
    made = scratch.make()
    yield made
    scratch.remove(made)
