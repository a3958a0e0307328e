"""The outcome of a call of the student's function, in words."""

from __future__ import annotations

from grader.checks.crashes import slipped_at


def outcome(said: dict) -> str:
    """The outcome of a call, in words."""
    if "raised" in said:
        error = said["raised"]
        return f"raised {error['type']}: {error['message'][:200]}{slipped_at(error)}"
    if "died" in said:
        return f"died ({said['died']})"
    value = said.get("returned")
    return (
        f"returned an object of type {value.get('type')}"
        if isinstance(value, dict)
        else f"returned {value!r}"
    )
