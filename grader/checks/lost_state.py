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
        "the step counter is wrong: schedules, logs and checkpoint names depend on it",
        "which number says how many steps are done, and is it saved and restored?",
    ),
    "epoch": (
        "the resumed run continues in the wrong epoch",
        "which epoch was in progress when the checkpoint was saved?",
    ),
    "position in the epoch": (
        "the resumed run doesn't know how far into the epoch it was",
        "how many batches of this epoch are done, and where is that number kept?",
    ),
    "weights": (
        "training doesn't continue from the weights that were saved",
        "what holds the weights, and does all of it come back, bit for bit?",
    ),
    "buffers": (
        "a running statistic of the model restarts: every normalized activation is wrong",
        "what does a model's state_dict() hold that its parameters() don't?",
    ),
    "optimizer": (
        "the optimizer starts cold: its running averages are gone, and the next steps are "
        "wrong. The loss shows only a small bump",
        "AdamW remembers two tensors for every weight. Where are they after your load?",
    ),
    "scheduler": (
        "the learning-rate schedule is at the wrong step: the resumed run uses other learning "
        "rates",
        "how does the scheduler know at which step it is?",
    ),
    "learning rate": (
        "the next step uses another learning rate",
        "who sets the learning rate, and was it saved before or after the scheduler's step?",
    ),
    "batch indices": (
        "the resumed run repeats samples of this epoch, and never sees others",
        "what decides which batch comes next, and is it in your checkpoint?",
    ),
    "Python RNG": (
        "augmentation draws other numbers from Python's random than in the undisturbed run, or "
        "repeats old ones",
        "the training script uses several random generators. Which of them are in your "
        "checkpoint, and who draws from them after they are restored?",
    ),
    "NumPy RNG": (
        "augmentation draws other numbers from numpy.random than in the undisturbed run, or "
        "repeats old ones",
        "the training script uses several random generators. Which of them are in your "
        "checkpoint, and who draws from them after they are restored?",
    ),
    "torch RNG": (
        "dropout masks and shuffles repeat old draws: the resumed run sees different noise from "
        "the undisturbed one",
        "where does dropout get its random numbers, and what state was that generator in when "
        "you saved? Who else draws from it before training continues?",
    ),
    "augmented inputs": (
        "the samples are the same, but augmented with different random numbers than in the "
        "undisturbed run",
        "who draws the numbers for augmentation: this process, or the loader's workers? What is "
        "their state after a resume?",
    ),
    "best metric": (
        "the best validation loss is forgotten: after a resume a worse model replaces the best one",
        "what is compared when a new best is decided, and does it survive a restart?",
    ),
    "loss": (
        "everything that the step depends on is equal, but its loss isn't",
        "what does the forward pass use that isn't in the state: a mode, a buffer, a cache?",
    ),
}


# the order and the generator that draws it are both wrong: one cause
DRAWN_FROM_ELSEWHERE = (
    "torch's generator is in the wrong state, so the epoch is shuffled differently: the run "
    "repeats samples, and never sees others",
    "what state was torch's generator in when the undisturbed run drew this order, and what "
    "state is yours in when iter(loader) draws it again?",
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
