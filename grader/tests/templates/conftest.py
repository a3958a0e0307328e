"""The templates say what they do on stderr where no logger has a handler; pytest installs some."""

import logging

import pytest


@pytest.fixture(autouse=True)
def no_handlers(monkeypatch):
    for name in ("checkpoint_utils", "exact_resume"):
        monkeypatch.setattr(logging.getLogger(name), "hasHandlers", lambda: False)
