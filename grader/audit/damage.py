"""Damages the newest checkpoint of a job that was killed, as a disk does."""

from __future__ import annotations

import os
from pathlib import Path

from grader.audit.faults import FLIP, MISSING, TRUNCATE, Fault
from grader.audit.history import File, Life
from grader.audit.judge_files import numberless, of_newest_save


def listing(out: Path, to_clock: float) -> list[File]:
    """The files below `out`. `to_clock`: s, from the files' clock to that of processes."""
    files = []
    for folder, _, names in os.walk(out):
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() or not path.is_file():
                continue
            st = path.stat()
            written = st.st_mtime_ns / 1e9 + to_clock
            files.append(File(str(path.relative_to(out)), st.st_size, written))
    return sorted(files, key=lambda f: f.name)


def do(fault: Fault, struck: Life, out: Path) -> str:
    """Damage what this life has left in `out`; return why that isn't possible, or an empty text."""
    files = of_newest_save(struck)
    if not files:
        return "there was no checkpoint to damage"
    # the last one is as large as its save made it; the newest may be still at work
    path = out / files[0].name
    if fault.kind == TRUNCATE:
        os.truncate(path, path.stat().st_size // 2)
    elif fault.kind == FLIP:
        flip(path, fault.place)
    elif fault.kind == MISSING:
        named = [f for f in struck.left if numberless(f.name) == fault.file]
        if not named:
            return "no checkpoint has such a file"
        (out / max(named, key=lambda f: f.written).name).unlink()
    return ""


def flip(path: Path, place: float) -> None:
    with open(path, "r+b") as f:
        f.seek(int(place * (path.stat().st_size - 1)))
        (byte,) = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 0x10]))
