"""A directory of checkpoints for task 4.1, and what newest_intact must return for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

RAISES = "NothingIntact"
ERROR = "an error"  # of any type


@dataclass
class Scene:
    """One directory, and what newest_intact must return for it."""

    what: str  # as a message describes it
    want: str | None  # a folder's name, None, RAISES or ERROR
    build: Callable[[Path, Random], None]
    called: str = "checkpoints"
    relative: bool = False  # its path is given from the working directory
    missing: bool = False
    slash: bool = False
    finished: str = ""  # a checkpoint that is finished between two calls; the second one is judged
    spoiled: str = ""  # a file that is emptied between two calls; the second one is judged
    unlisted: str = ""  # listing it gives this error
    unopened: tuple[str, str] = ("", "")  # opening this file gives this error
