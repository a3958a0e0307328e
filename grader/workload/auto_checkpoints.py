"""The checkpoints of exercise 4: folders with a manifest. No torch: a job on the cluster starts in milliseconds.

    step-40/state.json        the job's state
    step-40/manifest.json     {"step": 40, "files": {"state.json": {"bytes": 1234, "sha256": "..."}}}

A folder is written as step-40.tmp, and renamed when all of it is there: so it is whole, unless a disk or a
hand did something to it later. Which one is intact isn't said here: it is task 4.1.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

MANIFEST = "manifest.json"


def write(directory: str | Path, step: int, state: dict) -> Path:
    """Write the checkpoint of `step`, all of it or nothing."""
    final = Path(directory, f"step-{step}")
    temporary = final.with_name(final.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    _write(temporary / "state.json", json.dumps(state).encode())
    seal(temporary, step)
    shutil.rmtree(final, ignore_errors=True)  # the same step, saved by an earlier life
    os.rename(temporary, final)
    return final


def seal(folder: Path, step: int) -> None:
    """Write the manifest of what lies in `folder`."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            data = path.read_bytes()
            files[path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _write(folder / MANIFEST, json.dumps({"step": step, "files": files}).encode())


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def read(folder: str | Path) -> dict:
    return json.loads(Path(folder, "state.json").read_text())
