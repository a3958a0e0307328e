"""What crash testing costs: a save's disk states, their growth with its operations, recording."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from grader.bench.show import out, table
from grader.crash import crashtest, recorder
from grader.crash.recorder import mark
from grader.engine import default_jobs

BYTES = 4000  # of each file
CALLS = 20_000


def run(rounds: int) -> None:
    _saves(rounds)
    _growth()
    _calls(rounds)


# --- a checkpoint of several files: a folder, written under another name, synced, renamed ---------


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def _files(n: int, number: int) -> dict[str, bytes]:
    return {f"part-{k}": bytes([n, k]) * (BYTES // 2) for k in range(number)}


def _save(directory: str, n: int, number: int, synced: bool) -> None:
    final, work = f"{directory}/step-{n}", f"{directory}/new"
    shutil.rmtree(work, ignore_errors=True)
    os.mkdir(work)
    for name, data in _files(n, number).items():
        with open(f"{work}/{name}", "wb") as f:
            f.write(data)
            f.flush()
            if synced:
                os.fsync(f.fileno())
    _sync(work)
    os.rename(work, final)
    _sync(directory)


def _load(number: int) -> Callable[[str], str | None]:
    def load(directory: str) -> str | None:
        for n in (2, 1):
            names = _files(n, number)
            if all(Path(directory, f"step-{n}", name).exists() for name in names):
                if all(
                    Path(directory, f"step-{n}", name).read_bytes() == data
                    for name, data in names.items()
                ):
                    return str(n)
        return None

    return load


def _program(saves: int, number: int, synced: bool = True) -> crashtest.Program:
    def run(directory: str) -> None:
        for n in range(1, saves + 1):
            mark("began", n, str(n))
            _save(directory, n, number, synced)
            mark("returned", n)

    return crashtest.Program({"": run}, _load(number))


def _saves(rounds: int) -> None:
    """Measure with torch loaded, as in a checkpoint test: a fork copies its page tables."""
    import torch  # noqa: F401

    jobs = default_jobs()
    shown = table(
        f"All disk states after a crash while saving 3 files (median of {rounds}, {jobs} "
        "at a time)",
        "saves",
        "operations",
        "directories",
        "errors",
        "bits",
        "record s",
        "judge s",
        "all s",
        "states/s",
    )
    for saves in (1, 2, 3):
        reports, whole = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            reports.append(crashtest.test(_program(saves, 3), workers=jobs))
            whole.append(time.perf_counter() - began)
        r = reports[-1]
        record, judge = (
            statistics.median(x.seconds[part] for x in reports) for part in ("record", "judge")
        )
        asked = len(r.space.trees) + r.flips + r.errors
        shown.add_row(
            str(saves),
            str(len(r.record.ops)),
            str(len(r.space.trees)),
            str(r.errors),
            str(r.flips),
            f"{record:.2f}",
            f"{judge:.2f}",
            f"{statistics.median(whole):.2f}",
            f"{asked / statistics.median(whole):.0f}",
        )
    out.print(shown)


def _growth() -> None:
    jobs = default_jobs()
    shown = table(
        "Two saves by their number of files; only power loss and killed process",
        "files",
        "synced",
        "operations",
        "states",
        "directories",
        "left out",
        "all s",
        "ms a directory",
    )
    for synced in (True, False):
        for number in (1, 2, 4, 8, 16):
            began = time.perf_counter()
            r = crashtest.test(_program(2, number, synced), errors=False, flips=False, workers=jobs)
            whole = time.perf_counter() - began
            trees = len(r.space.trees)
            shown.add_row(
                str(number),
                "yes" if synced else "no",
                str(len(r.record.ops)),
                str(len(r.space.states)),
                str(trees),
                str(r.left_out),
                f"{whole:.2f}",
                f"{1000 * whole / trees:.1f}",
            )
    out.print(shown)


# --- the record of a call -------------------------------------------------------------------------


def _calls(rounds: int) -> None:
    """A program that writes byte after byte to a file, recorded and unrecorded."""

    def write(directory: str) -> None:
        fd = os.open(f"{directory}/file", os.O_WRONLY | os.O_CREAT)
        for _ in range(CALLS):
            os.write(fd, b"x")
        os.close(fd)

    def look(directory: str) -> None:
        for _ in range(CALLS):
            os.getppid()

    def alone(do: Callable[[str], None], directory: str) -> float:
        began = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            try:
                do(directory)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        return time.perf_counter() - began

    def recorded(do: Callable[[str], None], directory: str) -> float:
        began = time.perf_counter()
        recorder.record(Path(directory), {"": lambda: do(directory)}, 300)
        return time.perf_counter() - began

    shown = table(
        f"A system call, recorded and unrecorded (median of {rounds}, {CALLS} calls)",
        "call",
        "alone µs",
        "recorded µs",
        "times",
    )
    for name, do in (
        ("write of a byte to a watched file", write),
        ("a call that changes no file", look),
    ):
        times: dict[Callable, list[float]] = {alone: [], recorded: []}
        for _ in range(rounds):
            for way, values in times.items():
                with tempfile.TemporaryDirectory() as directory:
                    values.append(way(do, directory))
        a, b = (statistics.median(values) / CALLS * 1e6 for values in times.values())
        shown.add_row(name, f"{a:.2f}", f"{b:.2f}", f"{b / a:.1f}")
    out.print(shown)
