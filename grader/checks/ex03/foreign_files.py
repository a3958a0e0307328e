"""Other people's files next to the checkpoints: they must not be read, changed or removed."""

from __future__ import annotations

import random
from pathlib import Path

from grader.harness import scratch
from grader.verdicts import Finding, Found

DONE = b'{"outcome": "done", "step": 999999}'


def plant(directory: Path, draw: random.Random) -> dict[str, bytes]:
    """Name -> content of files that only look like a job's own."""
    number = draw.randrange(10_000, 99_999)
    files = {
        "status.json.bak": DONE,
        f"status.json.{number}.old": DONE[: draw.randrange(1, 20)],
        "status (copy).json": b"",
        f"results-{number}.tmp": DONE,
        ".DS_Store": bytes(draw.randrange(256) for _ in range(40)),
        f".nfs{draw.getrandbits(64):016x}": b"\x80\x04",
        "step-000099.pt.bak": b"no checkpoint",
        "notes/status.json": DONE,
        "R\u00e9sultats 2024.txt": "\u2713 done".encode(),
    }
    chosen = dict(draw.sample(sorted(files.items()), len(files)))
    for name, content in chosen.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return chosen


def untouched(directory: Path, planted: dict[str, bytes]) -> None:
    for name, content in planted.items():
        try:
            found = scratch.read(directory / name, 1 << 12)
        except OSError:
            found = None
        if found != content:
            rows = [
                ("beside", f"the checkpoints: {name}, which isn't the job's"),
                Found("it is gone" if found is None else "it was changed"),
            ]
            raise Finding(
                "foreign-files", rows, think="how does your code know which files are its own?"
            )
