"""The course's grader. A PYTHONPATH may shadow the standard library: here, it is searched last."""

import os
import sys

_theirs = {
    os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path
}
sys.path.sort(key=lambda path: os.path.abspath(path) in _theirs)
