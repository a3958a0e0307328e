"""Loads the student's module, and nothing else from its folder."""

from __future__ import annotations

import importlib.util
import sys

from grader.harness.inside import fsevents, telemetry


def load(path: str, quiet: bool = False):
    """The module at `path`. Its folder is searched last: a random.py there shadows nothing."""
    folder, _, name = path.rpartition("/")
    fsevents.install()
    if not quiet:
        telemetry.emit("importing", file=name)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    public = sorted(
        n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")
    )
    if not quiet:
        telemetry.emit("imported", functions=public)
    return module
