"""What each problem of an audit means, what mends it, and where the course shows how."""

from __future__ import annotations

from dataclasses import dataclass

from grader.checks.lost_state import MEANINGS


@dataclass(frozen=True)
class Words:
    title: str
    means: str
    mend: str
    task: str = ""  # of an exercise
    shows: str = ""  # what in templates/checkpoint_utils.py shows how


RESUME = "CheckpointManager.resume"
STEP_BY_STEP = "save the position in the epoch with the weights"
OLDER = "keep an older checkpoint, check each one by a checksum, and fall back to an intact one"
SAFE_WRITE = "write to a temporary file, sync it, rename it, sync the folder"

BY_CODE = {
    "starts-over": Words(
        "starts over from step 0, without an error",
        "all work before the fault is lost, and the log looks like a normal start",
        "load the newest checkpoint at every start, and raise an error if there are some and none "
        "can be read",
        "ex01.3",
        RESUME,
    ),
    "ends-early": Words(
        "ends without training the rest, with exit status 0",
        "a scheduler takes the job for finished; the model isn't trained to its end",
        "save the number of steps done, and compare it with the goal",
        "ex04.3",
        RESUME,
    ),
    "unknown-weights": Words(
        "continues from weights that the undisturbed run never had",
        "the checkpoint holds other weights, or not all of them are restored",
        "restore all of the model's state",
        "ex01.1",
        RESUME,
    ),
    "damage-unnoticed": Words(
        "loads a damaged checkpoint without an error",
        "training continues from a state that no step ever had, and nobody knows",
        OLDER,
        "ex04.1",
        "read_file",
    ),
    "flip-unnoticed": Words(
        "doesn't notice a flipped bit in a checkpoint",
        "torch.load verifies no checksum: a disk or a network that flips a bit changes the weights",
        "save a checksum with each file, and compare it before you load",
        "ex04.1",
        "read_file",
    ),
    "power-loss-silent": Words(
        "a power loss in a save loses more than the save, without an error",
        "after a power failure the job continues from the wrong state, and the log looks normal",
        SAFE_WRITE,
        "ex01.3",
        "write_file",
    ),
    "steps-missing": Words(
        "skips steps, and ends with exit status 0",
        "part of the data is never trained on, or the schedule ends too early",
        STEP_BY_STEP,
        "ex01.4",
        "ResumableSampler",
    ),
    "steps-repeated": Words(
        "trains more steps than the undisturbed run",
        "part of the work is done twice: a counter isn't restored",
        STEP_BY_STEP,
        "ex01.4",
        "ResumableSampler",
    ),
    "saved-state-lost": Words(
        "loses what it saves: {component}",
        "the resumed run trains the same weights, and its checkpoints hold another {component}: "
        "what you evaluate or deploy may be that",
        "restore {component} from the checkpoint when you resume",
        "ex01.1",
        RESUME,
    ),
    "saved-value-lost": Words(
        "a value in its checkpoints differs after a resume: {component}",
        "it changes no weights within this run; logs and decisions may depend on it",
        "restore {component} from the checkpoint when you resume",
        "ex01.1",
        RESUME,
    ),
    "no-restart": Words(
        "can't be started again",
        "somebody has to find out why and repair it by hand, at any time of day",
        "write to a temporary file, sync it, rename it; keep an older checkpoint and fall back "
        "to it",
        "ex01.3",
        "write_file",
    ),
    "damaged-newest": Words(
        "can't be started again when its newest checkpoint is damaged",
        "an older checkpoint is there, and the job uses it only if somebody deletes the newest",
        OLDER,
        "ex04.1",
        RESUME,
    ),
    "only-checkpoint": Words(
        "keeps a single checkpoint",
        "when this file is damaged, all work is lost",
        OLDER,
        "ex01.5",
        "CheckpointDirectory.prune",
    ),
    "power-loss-stops": Words(
        "can't be started again after a power loss in a save",
        "the file had its name before its bytes were on the disk: after a power failure it is "
        "empty or torn",
        SAFE_WRITE,
        "ex01.3",
        "write_file",
    ),
    "hangs": Words(
        "hangs when it is started again",
        "it holds its machines and does nothing, until its time limit",
        "let every rank know if one of them can't load",
        "ex02.5",
        RESUME,
    ),
    "rank-loss-hangs": Words(
        "hangs when one rank dies",
        "the other ranks wait for the dead one and hold their machines, until the time limit",
        "start the ranks with torchrun, which ends all of them, or give collectives a timeout",
        "ex02.5",
        "_Ranks.together",
    ),
    "loses-more": Words(
        "continues from an older checkpoint than the newest complete one",
        "a fault costs more than the time since the last save",
        "write the new checkpoint beside the old one, and delete the old one afterwards",
        "ex01.3",
        "CheckpointDirectory.commit",
    ),
    "ignores-signal": Words(
        "ignores the signal that announces its end",
        "the grace is wasted, and the work since the last save is lost",
        "let a handler set a flag, and check it after each step",
        "ex03.1",
        "StopSignal",
    ),
    "exit-status": Words(
        "says that it is done when it isn't",
        "a scheduler that goes by the exit status doesn't run the job again",
        "exit with 75 after a preemption, and with 1 after an error",
        "ex03.2",
        "CheckpointManager.exit_status",
    ),
    "no-save-at-signal": Words(
        "doesn't save when its end is announced",
        "each preemption costs the work since the last save",
        "finish the step, save and exit when SIGTERM or SIGUSR1 comes",
        "ex03.2",
        "StopSignal",
    ),
    "leftovers": Words(
        "leaves files of interrupted saves behind",
        "each crash in a save costs disk space, until the disk is full",
        "delete the temporary files of earlier lives at the start",
        "ex01.3",
        "CheckpointDirectory.clear_leftovers",
    ),
    "disk-grows": Words(
        "keeps every checkpoint",
        "a long run fills the disk, and then no save works",
        "keep the newest two or three, and delete the others after a save",
        "ex01.5",
        "CheckpointDirectory.prune",
    ),
}

# of "state-lost", by component; what it means is in grader/checks/lost_state.py where it isn't here
LOST = {
    "weights": Words("", "", "restore all of the model's state", "ex01.1", RESUME),
    "buffers": Words("", "", "save the model's whole state_dict()", "ex01.1", RESUME),
    "optimizer": Words("", "", "save and load optimizer.state_dict()", "ex01.1", RESUME),
    "learning rate": Words(
        "",
        "the learning-rate schedule is at the wrong step: the resumed run uses other rates",
        "save and load scheduler.state_dict()",
        "ex01.1",
        RESUME,
    ),
    "gradient scaler": Words(
        "",
        "mixed precision starts again with its first scale: steps overflow and are skipped, or "
        "small gradients vanish",
        "save and load scaler.state_dict()",
        "ex01.1",
        RESUME,
    ),
    "averaged weights": Words(
        "",
        "the average of the weights starts again: what you evaluate or deploy forgets most of "
        "the run",
        "save and load the averaged model's state_dict(), with its count of updates",
        "ex01.1",
        RESUME,
    ),
    "batch": Words(
        "",
        "the resumed run trains on other samples: it repeats some, and never sees others",
        "save the sampler's order and position",
        "ex01.4",
        "ResumableSampler",
    ),
}
GENERATOR = Words("", "", "save and restore this generator's state", "ex01.2", "set_rng_state")
OTHERWISE = Words("", "", "find what this step depends on, and save it", "ex01.1", RESUME)


def of(code: str, component: str) -> Words:
    """The words of a problem, with the component that it is about in its place."""
    if code == "state-lost":
        if component.endswith("RNG"):
            words = GENERATOR
        else:
            words = LOST.get(component, OTHERWISE)
        usual = ("the resumed run isn't the run that was interrupted", "")
        means = words.means or MEANINGS.get(component, usual)[0]
        return Words(f"loses state: {component}", means, words.mend, words.task, words.shows)
    words = BY_CODE[code]
    title, means, mend = (
        text.replace("{component}", component) for text in (words.title, words.means, words.mend)
    )
    return Words(title, means, mend, words.task, words.shows)
