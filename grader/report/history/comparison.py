"""A run compared with the undisturbed one: each component at each step, and the samples of each
epoch."""

from __future__ import annotations

from collections import Counter
from typing import Any

from grader.harness.trajectory import Trajectory
from grader.report.history.lanes import ProcessEvents
from grader.report.history.limits import NAMES, SAMPLES
from grader.report.history.safe_text import Budget


def compare(lives: list[list[ProcessEvents]], known: Any, budget: Budget) -> dict[str, Any]:
    """Per rank, each component at each step; per epoch, the samples."""
    undisturbed = [ProcessEvents.of(one) for one in known.lives[0].processes]
    ranks = len(undisturbed)
    if any(len(processes) != ranks for processes in lives):
        return {}  # another number of ranks: they can't be compared rank by rank
    strips, pairs = [], []
    for rank in range(ranks):
        trained = Trajectory()
        for processes in lives:
            trained = trained.join(Trajectory.of(processes[rank]))
        expected = Trajectory.of(undisturbed[rank])
        pairs.append((trained, expected))
        strip = _strip(trained, expected, budget)
        if strip["rows"]:
            strips.append({"who": f"rank {rank}" if ranks > 1 else "", **strip})
    last = max([0, *(n for _, expected in pairs for n in expected.steps)])
    reached = max([0, *(n for trained, _ in pairs for n in trained.steps)])
    return {"strips": strips, "compared_to": max(last, reached), "epochs": _epochs(pairs)}


def _strip(trained: Trajectory, expected: Trajectory, budget: Budget) -> dict[str, Any]:
    rows = []
    for name, steps in list(trained.by_component(expected).items())[:NAMES]:
        different = [n for n, same in steps.items() if not same]
        same = [n for n, same in steps.items() if same]
        rows.append({"name": budget.text(name, 60), "same": same, "different": different})
    both = trained.steps.keys() & expected.steps.keys()
    return {
        "rows": rows,
        "resumes": list(trained.resumes),
        "missing": sorted(expected.steps.keys() - both),
        "beyond": sorted(trained.steps.keys() - both),
    }


def _epochs(pairs: list[tuple[Trajectory, Trajectory]]) -> list[dict[str, Any]]:
    """Of each epoch, how often its samples were trained.

    The undisturbed run says which steps an epoch has. Steps that the run didn't reach count in
    neither run.
    """
    steps_of: dict[str, list[int]] = {}  # digest of the epoch -> its steps
    for n, record in sorted(pairs[0][1].steps.items()):
        steps_of.setdefault(record["state"].get("epoch", ""), []).append(n)
    reached = max([0, *(n for trained, _ in pairs for n in trained.steps)])
    out = []
    for number, all_steps in enumerate(steps_of.values(), 1):
        steps = [n for n in all_steps if n <= reached]
        wanted = Counter(i for _, expected in pairs for i in _samples(expected, steps))
        got = Counter(i for trained, _ in pairs for i in _samples(trained, steps))
        if wanted:
            out.append(
                {
                    "number": number,
                    "steps": [steps[0], steps[-1]],
                    "whole": steps == all_steps,
                    "samples": sorted(wanted.keys() | got.keys())[:SAMPLES],
                    "missed": sorted((wanted - got).keys()),
                    "more": sorted((got - wanted).keys()),
                }
            )
    return out


def _samples(trajectory: Trajectory, steps: list[int]) -> list[int]:
    return [i for n in steps for i in trajectory.steps.get(n, {}).get("indices", [])]
