"""What the package says: through `logging` where the job has set it up, else on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

_log = logging.getLogger(__name__.partition(".")[0])


def _say(line: str, level: int = logging.WARNING) -> None:
    """A record of the package's logger; a line on stderr if no logger has a handler."""
    if _log.hasHandlers():
        _log.log(level, line)
    else:
        print(line, file=sys.stderr, flush=True)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "nothing"


def _few(names: Iterable[str]) -> str:
    names = sorted(names)
    return _quoted(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
