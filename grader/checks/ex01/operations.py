"""The operations that a plan's points are made of: saves, files of others, damage."""

from __future__ import annotations


def label_of(op: dict) -> str:
    return f"step {op['step']}{op.get('version', '')}"


def number_of(op: dict) -> int:
    return op.get("of", op["step"])


def write(step: int, **more) -> dict:
    return {"op": "write", "step": step} | more


AGAIN = 1_000_000  # added to a step's number: the state that is saved when the step is saved again


def again(step: int, **more) -> dict:
    """The same step saved once more, with another state; found() calls it 'step 20 again'."""
    return write(step, of=step + AGAIN, version=" again", **more)


def put(files: dict[str, str]) -> dict:
    """Somebody else's files."""
    return {"op": "put", "files": files}


READ = {"op": "read"}  # in the process that saves
READ_BEST = {"op": "read best"}
SPOIL = {"op": "spoil"}  # what the last save wrote is cut short, and the process goes on
FOREIGN = put({"notes.txt": "learning rate 3e-4 was too high\n", "logs/events.out": "\0\1"})
STRANGERS = {"op": "strangers"}  # files of others, with names like the submission's own


def cut(*calls: int | str, to: float = 0.5) -> dict:
    """The files that were last written by the saves of these steps (or by the calls of this kind),
    cut short; without any, all files."""
    return {"op": "harm", "how": "truncate", "to": to, "of": list(calls) or None}


def flip(step: int) -> dict:
    """One bit flipped in the middle of each of these files."""
    return {"op": "harm", "how": "flip", "to": 0.5, "of": [step]}


def steps_of_a_run(draw, n: int) -> list[int]:
    """Steps as a run has them: growing, and not of equal length (9 before 10, 99 before 100)."""
    start = draw.choice([9, 98, 99])
    return [start + i for i in range(n)]
