"""Is the data really shuffled, whole, and anew in every epoch? A run without chance resumes easily."""

from __future__ import annotations

from grader.harness.run import Run
from grader.verdicts import Finding


def every_epoch_is_a_fresh_shuffle(run: Run, steps_per_epoch: int) -> None:
    """Each epoch shows every sample once, in another order than the others, augmented anew."""
    steps = [s for _, s in sorted(run.trajectory.steps.items())]
    epochs = [steps[i : i + steps_per_epoch] for i in range(0, len(steps), steps_per_epoch)]
    orders = [[i for s in epoch for i in s["indices"]] for epoch in epochs]
    for number, order in enumerate(orders):
        want = steps_per_epoch * 8
        if sorted(order) != list(range(want)):
            twice = len(order) - len(set(order))
            rows = [
                (
                    "epoch",
                    f"{number}, undisturbed: {len(order)} samples drawn, {twice} of them again, of {want}",
                ),
                ("means", "part of the data is never trained on"),
                ("think", "what does an epoch owe to every sample?"),
            ]
            raise Finding("not a permutation", rows)
    if any(order == sorted(order) for order in orders):
        raise Finding(
            "no shuffle",
            [
                ("order", "the samples come in their order in the file, undisturbed"),
                ("means", "a run without shuffling is easy to resume, and trains worse"),
                ("think", "how can the order be random and yet the same after a resume?"),
            ],
        )
    if len({tuple(order) for order in orders}) < len(orders):
        raise Finding(
            "same order",
            [
                ("order", "two epochs of an undisturbed run show the samples in the same order"),
                ("means", "the model sees the same batches again and again"),
                ("think", "the order of an epoch must depend on the epoch. What makes yours?"),
            ],
        )
    inputs = [s["state"]["augmented inputs"] for s in steps]
    if len(set(inputs)) < len(inputs):
        raise Finding(
            "same augmentation", [("inputs", "two steps of an undisturbed run trained on identical inputs")]
        )
    _noise_is_fresh(epochs)


def _noise_is_fresh(epochs: list[list[dict]]) -> None:
    """The generators are in another state at the start of every epoch."""
    for rng in ("Python RNG", "NumPy RNG", "torch RNG"):
        starts = [epoch[0]["state"][rng] for epoch in epochs]
        # Python's and NumPy's stand still in the main process when workers augment
        if rng == "torch RNG" and len(set(starts)) < len(starts):
            raise Finding(
                "same noise",
                [
                    ("noise", f"two epochs of an undisturbed run begin with the same {rng}"),
                    ("means", "every epoch sees the same dropout masks and the same augmentation"),
                    (
                        "think",
                        "is a generator put back to a state where it has been before, without a resume?",
                    ),
                ],
            )
