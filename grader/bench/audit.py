"""What `grade audit` costs: its probe in each step, and an audit of the template's script."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from grader.audit.lives import Commands, Runner
from grader.audit.session import Audit, sampling
from grader.bench.show import out, table
from grader.course.catalog import ROOT
from grader.harness import scratch

SIZES = {"1 M": (256, 15, 1024), "30 M": (1600, 12, 64)}  # parameters: (width, layers, batch)
STEPS = 60  # the first ones are recorded in full, and don't count
ROUNDS = 3
SECONDS = 1800
BUDGET = 120  # s for the audit
# Tell glibc to keep freed memory. Otherwise some runs, with the probe or without, return it to the
# system in each step, by chance, and take 1.6 times as long (their page faults show it).
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"} | KEEPING
# a step of some size, as people write it: what it takes without the probe is measured as well
JOB = """
import sys, time, torch
width, layers, batch, steps = map(int, sys.argv[2:])
model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))
optimizer = torch.optim.AdamW(model.parameters())
x = torch.randn(batch, width)
times = []
for step in range(steps):
    began = time.perf_counter()
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    times.append(time.perf_counter() - began)
print(sum(times[3:]) / len(times[3:]))
"""


def run() -> None:
    folder = scratch.make()
    try:
        _overhead(folder)
        _template(folder)
    finally:
        scratch.remove(folder)


def _overhead(folder: Path) -> None:
    """Runs without the probe and with it take turns: a machine's clock changes in between."""
    shown = table(
        f"the probe of grade audit in {STEPS} steps (the median of {ROUNDS} runs' means, ms)",
        *("parameters", "batch", "step", "probe", "sampled", "step with the probe", "more"),
    )
    script = folder / "job.py"
    script.write_text(JOB)
    for name, (width, layers, batch) in SIZES.items():
        args = [str(script), "{out}", *map(str, (width, layers, batch, STEPS))]
        words = [sys.executable, *args]
        runner = Runner(
            Commands.of(words, None, None), folder / f"{width}", environment=ENVIRONMENT
        )
        first = runner.start(runner.new_run(SECONDS), SECONDS)
        runner.every = sampling(first)
        plain, probed = [], []
        for _ in range(ROUNDS):
            plain.append(_mean_step(words, folder))
            life = runner.start(runner.new_run(SECONDS), SECONDS)
            probed.append(float(life.tail[-1]))
        runner.close()
        times = (median(plain), first.first.cost, median(probed))
        step, cost, then = (f"{1000 * value:.1f}" for value in times)
        sampled = "no" if runner.every == 1 else f"1 in {runner.every}"
        more = f"{100 * (median(probed) / median(plain) - 1):+.0f} %"
        shown.add_row(name, str(batch), step, cost, sampled, then, more)
    out.print(shown)


def _mean_step(words: list[str], folder: Path) -> float:
    """s; of a run without the probe."""
    done = subprocess.run(
        [word.replace("{out}", str(folder)) for word in words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def _template(folder: Path) -> None:
    script = str(ROOT / "templates" / "train_with_checkpoint.py")
    words = [sys.executable, script, "--directory", "{out}", "--epochs", "2", "--samples", "256"]
    words += ["--workers", "0", "--save-every-steps", "5"]
    runner = Runner(Commands.of(words, None, None), folder / "template", environment=ENVIRONMENT)
    audit = Audit(runner, BUDGET, seed=1, say=lambda line: None)
    began = time.perf_counter()
    audit.run()
    seconds = time.perf_counter() - began
    runner.close()
    tried = len(audit.outcomes)
    out.print(
        f"templates/train_with_checkpoint.py, {len(audit.base.first.steps)} steps: "
        f"{tried} of {tried + len(audit.untried)} faults in {seconds:.0f} s, "
        f"{seconds / audit.base.seconds:.0f} times an undisturbed run; "
        f"{len(audit.findings)} findings, "
        f"median of the steps lost: {median(o.lost or 0 for o in audit.outcomes):.0f}"
    )
