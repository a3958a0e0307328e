"""Whether student code runs yet, seen from outside."""

from __future__ import annotations

import glob
from pathlib import Path


def has_begun(temporary: Path) -> bool:
    """Has a life of a grading with this TMPDIR made its file `begun`?

    Folders come and go meanwhile: Path.glob raises then, and glob.glob doesn't.
    """
    return bool(glob.glob(f"{temporary}/g-*/*/t/begun"))
