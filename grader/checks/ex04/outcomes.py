"""The outcome of a call of the student's function, in words."""

from __future__ import annotations


def outcome(said: dict) -> str:
    """The outcome of a call, in words."""
    if "raised" in said:
        return f"raised {said['raised']['type']}: {said['raised']['message'][:200]}"
    if "died" in said:
        return f"died ({said['died']})"
    value = said.get("returned")
    return (
        f"returned an object of type {value.get('type')}"
        if isinstance(value, dict)
        else f"returned {value!r}"
    )
