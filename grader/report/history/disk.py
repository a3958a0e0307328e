"""A disk state that breaks the promise of a save."""

from __future__ import annotations

from typing import Any

from grader.report.history.limits import EVENTS, FILES
from grader.report.history.safe_text import Budget


def disk_state(state: object, budget: Budget) -> dict[str, Any] | None:
    """A disk state that breaks the promise of a save (crash/description.py, story)."""
    if not isinstance(state, dict):
        return None
    events = _texts(state.get("events"), budget)
    return {
        "events": events[-EVENTS:],
        "earlier": max(0, len(events) - EVENTS),
        "crash": budget.text(state.get("crash", "")),
        "on": _texts(state.get("on"), budget),
        "lost": _texts(state.get("lost"), budget)[:EVENTS],
        "load": budget.text(state.get("load", "")),
        "promised": budget.text(state.get("promised", "")),
        "files": _files(state.get("files"), budget),
    }


def _files(files: object, budget: Budget) -> list[dict[str, Any]]:
    """Each path: what was there when the last save had returned, when the job crashed, and after
    that.

    `same`: the crash and what went before it left it as that save had.
    """
    if not isinstance(files, dict):
        return []
    returned = _contents(files.get("returned"))
    before, after = _contents(files.get("as_called")), _contents(files.get("on_disk"))
    out = []
    for path in sorted(returned.keys() | before.keys() | after.keys())[:FILES]:
        saved, old, new = returned.get(path), before.get(path), after.get(path)
        out.append(
            {
                "path": budget.text(path),
                "returned": budget.text(saved[0]) if saved else "",
                "before": budget.text(old[0]) if old else "",
                "after": budget.text(new[0]) if new else "",
                "same": saved == old == new,
                "lost": old != new,
            }
        )
    return out


def _contents(listed: object) -> dict[str, tuple[str, str]]:
    """path -> (what is there, digest)."""
    rows = listed if isinstance(listed, list) else []
    return {
        row[0]: (row[1], row[2])
        for row in rows
        if isinstance(row, list) and len(row) == 3 and all(isinstance(cell, str) for cell in row)
    }


def _texts(values: object, budget: Budget) -> list[str]:
    return [budget.text(value) for value in values] if isinstance(values, list) else []
