"""A run in which student code chooses the batches, compared with the same batches trained without
it.
"""

from __future__ import annotations

from itertools import combinations

from grader.checks.endings import finished
from grader.checks.trajectories import divergence_rows
from grader.harness.lab import Lab
from grader.harness.run import Run
from grader.verdicts import Finding, Inconclusive

ALIKE = 5  # mistyped characters that two batches of eight samples may share by chance


def yardstick(lab: Lab, script: str, *argv: object, given: dict | None = None) -> Run:
    """A run without student code. Where it doesn't end well, nothing can be decided."""
    run = lab.trusted(script, *argv, given=given)
    if not run.finished:
        ended = run.last.process.ended or f"exit status {run.last.process.status}"
        raise Inconclusive(
            "machine",
            [("machine", f"a run without your code doesn't finish on this machine ({ended})")],
        )
    return run


def replayed(lab: Lab, run: Run, seed: int, epochs: int, steps_per_epoch: int) -> Run:
    """The batches that an undisturbed run reported, trained again; the run must equal that."""
    finished(lab, run)
    batches, end = run.last.all("batch"), run.last.first("generators")
    if len(batches) != epochs * steps_per_epoch or end is None:
        rows = [
            ("reported", f"{len(batches)} batches"),
            ("expected", f"{epochs * steps_per_epoch}: {epochs} epochs of {steps_per_epoch}"),
        ]
        raise Finding("not-a-permutation", rows, think="how often must an epoch show each sample?")
    names = ("step", "indices", "inputs", "targets", "rng")
    given = {
        "batches": [{name: batch[name] for name in names} for batch in batches],
        "end": end["rng"],
    }
    flags = ("--seed", seed, "--epochs", epochs, "--steps-per-epoch", steps_per_epoch)
    again = yardstick(lab, "../yardstick/replay.py", *flags, given=given)
    if found := run.trajectory.diverges_from(again.trajectory):
        compared = "your undisturbed run, and the same batches trained without your code"
        raise Finding(
            "training-changed",
            [*divergence_rows(run, found), ("compared", compared)],
            about=found.cause,
            means="something other than the choice of batches changes training",
            think="which of your functions changes weights, a mode or a setting?",
        )
    return again


def augmented_afresh(again: Run) -> None:
    """Every sample is the dataset's, and no two batches were augmented with the same random
    numbers."""
    steps = again.last.all("draws")
    for step in steps:
        for number, sample in enumerate(step["samples"]):
            if sample["shift"] is None or len(sample["mistyped"]) > 1:
                seen = (
                    f"of step {step['step']}: sample {number + 1} isn't the dataset's sample for "
                    "its index"
                )
                raise Finding(
                    "other-data",
                    [("batch", seen)],
                    means="the run trains on data that isn't in its dataset",
                    think=(
                        "what do you do to the batches between the loader and the training script?"
                    ),
                )
    for one, other in combinations(steps, 2):
        if name := _alike(one["samples"], other["samples"]):
            seen = f"steps {one['step']} and {other['step']} with the same numbers from {name}"
            raise Finding(
                "same-augmentation",
                [("augmented", seen)],
                means="augmentation that repeats adds nothing: the model memorizes the noise",
                think="does every worker of the loader, in every epoch, get its own seed?",
            )


def _alike(one: list[dict], other: list[dict]) -> str | None:
    """The generator that both batches got the same numbers from."""
    pairs = list(zip(one, other, strict=False))
    if all(a["shift"] == b["shift"] for a, b in pairs):
        return "Python's random"
    if any(a["hidden"] for a, _ in pairs) and all(a["hidden"] == b["hidden"] for a, b in pairs):
        return "NumPy's generator"
    if sum(bool(a["mistyped"]) and a["mistyped"] == b["mistyped"] for a, b in pairs) > ALIKE:
        return "torch's generator"
    return None
