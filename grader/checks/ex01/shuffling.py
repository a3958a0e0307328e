"""Is all of the data shuffled, and differently in every epoch? A run without randomness is easy to
resume.
"""

from __future__ import annotations

from itertools import combinations

from grader.harness.run import Run
from grader.verdicts import Finding


def every_epoch_is_a_fresh_shuffle(run: Run, steps_per_epoch: int) -> None:
    """Each epoch shows every sample once, in its own order and with its own augmentation."""
    steps = [s for _, s in sorted(run.trajectory.steps.items())]
    epochs = [steps[i : i + steps_per_epoch] for i in range(0, len(steps), steps_per_epoch)]
    orders = [[i for s in epoch for i in s["indices"]] for epoch in epochs]
    want = steps_per_epoch * 8
    for number, order in enumerate(orders):
        if sorted(order) != list(range(want)):
            twice = len(order) - len(set(order))
            seen = (
                f"{number}, undisturbed: {len(order)} samples drawn, {twice} of them repeated, "
                f"of {want}"
            )
            raise Finding(
                "not-a-permutation",
                [("epoch", seen)],
                means="part of the data is never trained on",
                think="how often must an epoch show each sample?",
            )
    if any(order == sorted(order) for order in orders):
        raise Finding(
            "no-shuffle",
            [("order", "in an undisturbed run, the samples come in file order")],
            means="a run without shuffling is easy to resume, and trains worse",
            think="how can the order be random and yet the same after a resume?",
        )
    if len({tuple(order) for order in orders}) < len(orders):
        raise Finding(
            "same-order",
            [("order", "two epochs of an undisturbed run show the samples in the same order")],
            means="the model sees the same batches again and again",
            think="the order of an epoch must depend on the epoch. What does yours depend on?",
        )
    _augmentation_is_fresh(epochs)
    _noise_is_fresh(steps, epochs)


def _augmentation_is_fresh(epochs: list[list[dict]]) -> None:
    """The same sample looks different in another epoch (by chance, one in thousands looks the
    same).
    """
    looks = [
        {i: look for s in epoch for i, look in zip(s["indices"], s["samples"], strict=False)}
        for epoch in epochs
    ]
    for one, other in combinations(looks, 2):
        same = sum(one[i] == other[i] for i in one)
        if same > len(one) / 4:
            rows = [
                (
                    "augmented",
                    f"{same} of {len(one)} samples look the same in two epochs of an "
                    "undisturbed run",
                ),
            ]
            raise Finding(
                "same-augmentation",
                rows,
                means="augmentation that repeats adds nothing: the model memorizes the noise",
                think="does every epoch draw its own numbers for every sample?",
            )


def _noise_is_fresh(steps: list[dict], epochs: list[list[dict]]) -> None:
    """torch's generator is never in the same state twice: dropout draws new masks at every step."""
    before = [s["state"]["torch RNG"] for s in steps]
    if len(set(before)) == len(before):
        return
    starts = {epoch[0]["state"]["torch RNG"] for epoch in epochs}
    when = "two epochs begin" if len(starts) < len(epochs) else "two steps begin"
    rows = [
        ("noise", f"{when} with torch's generator in the same state, in an undisturbed run"),
    ]
    raise Finding(
        "same-noise",
        rows,
        means="dropout uses the same masks again, or none at all",
        think=(
            "is a generator restored without a resume, a seed set, or the model no longer in "
            "training mode?"
        ),
    )
