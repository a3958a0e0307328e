"""What a lost piece of state means for training, and the question that leads on."""

from __future__ import annotations

MEANINGS = {
    "steps that were never trained": (
        "the resumed run skips work: it ended with steps missing",
        "what is left of an epoch when the job dies in the middle of it, or at its very end?",
    ),
    "steps beyond the end of training": (
        "the resumed run trains more than the undisturbed one: part of an epoch is done twice",
        "after a resume at the very end of an epoch, which batches are still to come?",
    ),
    "global step": (
        "the step counter is off: schedules, logs and the next checkpoint's name go by it",
        "which number says how many steps are done, and is it saved and put back?",
    ),
    "epoch": (
        "the resumed run believes that it is in another epoch",
        "which epoch was in progress when the checkpoint was saved?",
    ),
    "position in the epoch": (
        "the resumed run doesn't know how far into the epoch it was",
        "how many batches of this epoch are done, and where is that number kept?",
    ),
    "weights": (
        "training continues from other weights than those that were saved",
        "what holds the weights, and does all of it come back, bit for bit?",
    ),
    "buffers": (
        "a running statistic of the model starts again: every normalised activation is off",
        "what of a model is in its state_dict() and not among its parameters()?",
    ),
    "optimizer": (
        "the optimizer starts cold: its running averages are gone, and the next steps go "
        "astray. The loss shows a small bump, nothing more",
        "AdamW remembers two tensors for every weight. Where are they after your load?",
    ),
    "scheduler": (
        "the learning-rate schedule isn't where it was: the resumed run takes its steps with "
        "other learning rates",
        "how does the scheduler know at which step it is?",
    ),
    "learning rate": (
        "the next step is taken with another learning rate",
        "who sets the learning rate, and when was that saved: before or after the scheduler's "
        "step?",
    ),
    "batch indices": (
        "the resumed run trains on samples that it has already seen in this epoch, and never "
        "sees others",
        "what decides which batch comes next, and is it in your checkpoint?",
    ),
    "Python RNG": (
        "augmentation that draws from Python's random sees other numbers than in the "
        "undisturbed run, or the same ones again",
        "the training script uses several random generators. Which of them are in your "
        "checkpoint, and who draws from them after they are back?",
    ),
    "NumPy RNG": (
        "augmentation that draws from numpy.random sees other numbers than in the undisturbed "
        "run, or the same ones again",
        "the training script uses several random generators. Which of them are in your "
        "checkpoint, and who draws from them after they are back?",
    ),
    "torch RNG": (
        "dropout masks and shuffles repeat old draws: the resumed run sees other noise than the "
        "undisturbed one",
        "where does dropout get its random numbers from, and where was that generator when you "
        "saved? Who else draws from it before training goes on?",
    ),
    "augmented inputs": (
        "the same samples come, but augmented with other random numbers than in the undisturbed "
        "run",
        "who draws the numbers for augmentation: this process, or the loader's workers? What is "
        "their state after a resume?",
    ),
    "best metric": (
        "the best validation loss is forgotten: after a resume a worse model replaces the best one",
        "what is compared when a new best is decided, and does it survive a restart?",
    ),
    "loss": (
        "everything that the step depends on is equal, and yet its loss isn't",
        "what does the forward pass use that isn't in the state: a mode, a buffer, a cache?",
    ),
}


# the order and the generator that it is drawn from are both off: one cause
DRAWN_FROM_ELSEWHERE = (
    "the epoch's order is drawn from torch's generator, and that isn't where it was: the run "
    "sees samples again that it has seen, and never sees others",
    "where did torch's generator stand when the undisturbed run drew this order, and where does "
    "yours stand when iter(loader) draws it again?",
)


def meaning(different: list[str]) -> tuple[str, str]:
    """(means, think) of the first cause among the components that differ."""
    if different[0] == "batch indices" and "torch RNG" in different:
        return DRAWN_FROM_ELSEWHERE
    for component in different:
        name = "learning rate" if component == "optimizer settings" else component
        name = "optimizer" if name.startswith("optimizer") else name
        if name in MEANINGS:
            return MEANINGS[name]
    return (
        "the resumed run isn't the run that was interrupted",
        "what did the step depend on that wasn't saved?",
    )
