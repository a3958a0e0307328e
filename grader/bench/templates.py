"""templates/checkpoint_utils.py against other savers and against the machine's limits."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from grader.bench.savers import (
    ASYNC,
    COPY,
    DCP_ASYNC,
    OVERLAP,
    RAW,
    SYNC,
    TORCH,
    training_state,
)
from grader.bench.show import out, table
from grader.course import catalog


def run(sizes: list[int], rounds: int, folder: Path | None, plot: Path | None) -> None:
    """Measure every size (MiB); print the tables and the figures for the goals."""
    found = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix="bench-") as top:
        for size in sizes:
            # the state, what each saver keeps of it, and what one loads
            if psutil.virtual_memory().available < 10 * (size << 20):
                out.print(f"{size} MiB: left out: this machine has too little free memory")
                continue
            found[size] = _measure(size, Path(top), rounds)
            _show(size, found[size])
        overhead = _overhead(Path(top), rounds)
    _goals(found, overhead)
    if plot and found:
        from grader.bench.plot import draw

        draw(found, plot)
        out.print(f"drew {plot}")


def _measure(size: int, folder: Path, rounds: int) -> dict[str, dict]:
    command = [sys.executable, "-m", "grader.bench.savers", str(size), str(folder), str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=3600)
    return {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])}


def _show(size: int, rows: dict[str, dict]) -> None:
    shown = table(
        f"{size} MiB of model and AdamW state (seconds, median; MiB)",
        "", "stall", "/ copy", "durable", "/ raw", "load", "/ raw", "memory",
    )  # fmt: skip
    copy, raw = rows[COPY], rows[RAW]
    for row in rows.values():
        load = (
            [f"{row['load']:.3f}", f"{row['load'] / raw['load']:.2f}"] if row["load"] else ["", ""]
        )
        shown.add_row(
            row["name"],
            f"{row['stall']:.4f}", f"{row['stall'] / copy['stall']:.2f}",
            f"{row['durable']:.3f}", f"{row['durable'] / raw['durable']:.2f}",
            *load, f"{row['memory'] / (1 << 20):.0f}",
        )  # fmt: skip
    out.print(shown)


def _overhead(folder: Path, rounds: int) -> dict[str, float]:
    """Extra training time of a compute-bound model with a checkpoint every 10 steps, as a share."""
    from checkpoint_utils import CheckpointManager

    model, optimizer = training_state(16 << 20)
    x = torch.randn(2048, 1024)

    def steps(after) -> float:
        began = time.perf_counter()
        for _ in range(10):
            model(x).backward()
            optimizer.step()
            optimizer.zero_grad()
            after()
        return time.perf_counter() - began

    while steps(lambda: None) < 1:  # until a step takes 0.1 s, the least of a real model
        x = torch.cat([x, x])
    kinds = {}
    options: dict[str, dict[str, Any]] = {
        "synchronous": {},
        "asynchronous": {"asynchronous": True},
        "asynchronous, overlap": {"asynchronous": True, "overlap": True},
    }
    for name, how in options.items():
        ckpt = CheckpointManager(
            folder / name,
            {"model": model, "optimizer": optimizer},
            every_steps=10,
            keep=2,
            signals=(),
            **how,
        )
        kinds[name] = ckpt.step
    times: dict[str, list[float]] = {name: [] for name in ("none", *kinds)}
    for n in range(2 * rounds + 1):
        for name in times:
            seconds = steps(kinds.get(name, lambda: None))
            if n:
                times[name].append(seconds)
    found = {
        name: statistics.median(times[name]) / statistics.median(times["none"]) - 1
        for name in kinds
    }
    return found | _ravex(folder, len(x), rounds)


def _ravex(folder: Path, rows: int, rounds: int) -> dict[str, float]:
    if importlib.util.find_spec("ravex") is None:
        out.print("ravex isn't installed: pip install -e '.[savers]'")
        return {}
    command = [sys.executable, "-m", "grader.bench.ravex_overhead", str(rows), str(rounds)]
    # it saves into the current directory
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=3600,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(catalog.ROOT)},
    )
    return {"ravex": json.loads(done.stdout.splitlines()[-1])}


def _goals(found: dict[int, dict], overhead: dict[str, float]) -> None:
    shown = table("Goals", "", *(f"{size} MiB" for size in found))

    def row(text: str, figure) -> None:
        shown.add_row(text, *(figure(rows) for rows in found.values()))

    def over(saver: str, other: str, what: str):
        return lambda r: f"{r[saver][what] / r[other][what]:.2f}" if other in r else ""

    row("asynchronous stall with overlap / bare copy: at most 0.3", over(OVERLAP, COPY, "stall"))
    row("asynchronous stall / bare copy", over(ASYNC, COPY, "stall"))
    row("... / DCP's async_save: below 1", over(ASYNC, DCP_ASYNC, "stall"))
    row("durable throughput / raw write + fsync: at least 0.9", over(RAW, SYNC, "durable"))
    row("verified load / raw read, as throughput", over(RAW, SYNC, "load"))
    row("... / torch.load without a check: at least 1", over(TORCH, SYNC, "load"))
    row(
        "extra memory of a synchronous save, MiB: at most 64",
        lambda r: f"{r[SYNC]['memory'] / (1 << 20):.0f}",
    )
    row(
        "extra memory of an asynchronous save / state: at most 1",
        lambda r: f"{max(r[s]['memory'] / r[s]['bytes'] for s in (ASYNC, OVERLAP)):.2f}",
    )
    out.print(shown)
    for name, share in overhead.items():
        out.print(
            f"a checkpoint (16 MiB) every 10 steps of a compute-bound model, {name}: "
            f"{share:+.1%} (goal: at most +2%)"
        )
