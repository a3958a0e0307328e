"""What each problem of an audit means, what fixes it, and where the course shows how."""

from __future__ import annotations

from dataclasses import dataclass

from grader.audit.problems import DURING_A_SAVE
from grader.checks.lost_state import MEANINGS


@dataclass(frozen=True)
class Words:
    title: str
    means: str
    fix: str
    task: str = ""  # of an exercise
    shows: str = ""  # what in templates/checkpoint_utils.py shows how


RESUME = "CheckpointManager.resume"
STEP_BY_STEP = (
    "save the weights, the count of steps, and the position in the epoch at the same moment: after "
    "the optimizer's step, when it has been counted"
)
OLDER = "keep an older checkpoint, verify checksums, and fall back to one that is intact"
SAFE_WRITE = "write to a temporary file, sync it, rename it, sync the folder"

BY_CODE = {
    "starts-over": Words(
        "starts over from step 0 without an error",
        "all work before the fault is lost, and no error says so",
        "load the newest checkpoint at every start; if there are some and none can be read, raise "
        "an error",
        "ex01.3",
        RESUME,
    ),
    DURING_A_SAVE: Words(
        "starts over from step 0 without an error",
        "a save destroys the last checkpoint, or what points to it, before the new one is "
        "complete: all work is lost, and no error says so",
        "write the new checkpoint next to the old one, and delete the old one only afterwards; if "
        "there are checkpoints and none can be read, raise an error",
        "ex01.3",
        "CheckpointDirectory.commit",
    ),
    "ends-early": Words(
        "exits with status 0 after a restart, without training the rest",
        "the scheduler thinks that the job is done, and the model isn't fully trained",
        "exit with status 0 only if the number of finished steps has reached the goal; after an "
        "error, exit with another status",
        "ex04.3",
        "CheckpointManager.exit_status",
    ),
    "unknown-weights": Words(
        "continues from weights that the undisturbed run never had",
        "the checkpoint holds other weights, or not all of them are restored",
        "restore all of the model's state",
        "ex01.1",
        RESUME,
    ),
    "not-trained": Words(
        "trains nothing after a resume",
        "the optimizer still holds the parameters of a model that was replaced: the steps don't "
        "change the model",
        "build the optimizer from the model that you train, and load the checkpoint into it",
        "ex01.1",
        RESUME,
    ),
    "damage-unnoticed": Words(
        "loads a damaged checkpoint without an error",
        "training continues from a state that never existed, and nothing says so",
        OLDER,
        "ex04.1",
        "read_file",
    ),
    "flip-unnoticed": Words(
        "doesn't notice a flipped bit in a checkpoint",
        "torch.load verifies no checksum: if a disk or a network flips a bit, the weights change",
        "save a checksum with each file, and verify it before you load the file",
        "ex04.1",
        "read_file",
    ),
    "power-loss-silent": Words(
        "a power loss during a save loses more than that save, without an error",
        "after a power failure the job continues from the wrong state, and the log looks normal",
        SAFE_WRITE,
        "ex01.3",
        "write_file",
    ),
    "steps-missing": Words(
        "skips steps and exits with status 0",
        "some data is never trained on, or the schedule ends too early",
        STEP_BY_STEP,
        "ex01.4",
        "ResumableSampler",
    ),
    "steps-repeated": Words(
        "trains more steps than the undisturbed run",
        "some work is done twice, because a counter isn't restored, or is behind the weights",
        STEP_BY_STEP,
        "ex01.4",
        "ResumableSampler",
    ),
    "saved-state-lost": Words(
        "doesn't restore what it saves: {component}",
        "the resumed run trains the same weights, but saves a different {component}, which may be "
        "what you evaluate or deploy",
        "save all that {component} depends on, and restore it when you resume",
        "ex01.1",
        RESUME,
    ),
    "saved-value-lost": Words(
        "a value in its checkpoints differs after a resume: {component}",
        "it doesn't change the weights in this run, but logs and decisions may depend on it",
        "save all that {component} depends on, and restore it when you resume",
        "ex01.1",
        RESUME,
    ),
    "no-restart": Words(
        "can't restart",
        "somebody has to find the cause and repair it by hand, at any time of day",
        "fix the error that the relaunch prints; if a file is incomplete or missing: write to a "
        "temporary file, sync it, rename it, only then write what points to it, and keep an older "
        "checkpoint to fall back to",
        "ex01.3",
        "write_file",
    ),
    "stops-again": Words(
        "resumes, and then stops with an error",
        "each relaunch stops again, until somebody finds the cause",
        "fix the error that the relaunch prints; what an interrupted or damaged save has left must "
        "not block the next save",
        "ex01.3",
        "CheckpointDirectory.clear_leftovers",
    ),
    "damaged-newest": Words(
        "can't restart when its newest checkpoint is damaged",
        "there is an older checkpoint, but the job uses it only if somebody deletes the newest one",
        OLDER,
        "ex04.1",
        RESUME,
    ),
    "only-checkpoint": Words(
        "keeps only one checkpoint",
        "if it is damaged, all work is lost",
        OLDER,
        "ex01.5",
        "CheckpointDirectory.prune",
    ),
    "power-loss-stops": Words(
        "can't restart after a power loss during a save",
        "the file had its name before its contents were on the disk, so a power failure leaves it "
        "empty or incomplete",
        SAFE_WRITE,
        "ex01.3",
        "write_file",
    ),
    "hangs": Words(
        "hangs after a restart",
        "it holds its machines and does nothing until its time limit",
        "if one rank can't load, let all ranks know, so that all of them stop",
        "ex02.5",
        RESUME,
    ),
    "hangs-at-exit": Words(
        "hangs after its last step",
        "training is done, but the job holds its machines until its time limit",
        "end all threads and the data loader's workers; free the DDP model and the optimizer "
        "(del, gc.collect()), and then call destroy_process_group()",
        "ex02.5",
        "CheckpointManager.__exit__",
    ),
    "fails-at-exit": Words(
        "fails after its last step",
        "training is done, but the scheduler thinks that the job failed, and may run it again",
        "fix the error that it prints; if that is only 'terminate called', free the DDP model and "
        "the optimizer (del, gc.collect()), and then call destroy_process_group()",
        "ex02.5",
        "CheckpointManager.__exit__",
    ),
    "rank-loss-hangs": Words(
        "hangs when one rank dies",
        "the other ranks wait for the dead one and hold their machines until the time limit",
        "start the ranks with torchrun, which stops all of them, or give collectives a timeout",
        "ex02.5",
        "_Ranks.together",
    ),
    "never-saves": Words(
        "saves nothing while it trains",
        "each fault costs the whole run so far",
        "save every few minutes, and load the newest checkpoint at every start; if a longer run "
        "does save, audit one with three or four saves",
        "ex01.3",
        "CheckpointManager.save",
    ),
    "loses-more": Words(
        "continues from an older checkpoint than the newest complete one",
        "a fault costs more than the time since the last save",
        "write the new checkpoint next to the old one, and delete the old one only afterwards",
        "ex01.3",
        "CheckpointDirectory.commit",
    ),
    "power-loss-older": Words(
        "a power loss takes a checkpoint that was complete",
        "the file had its name before its contents were on the disk, so the job has to use an "
        "older checkpoint",
        SAFE_WRITE,
        "ex01.3",
        "write_file",
    ),
    "ignores-signal": Words(
        "ignores the signal that tells it to stop",
        "the grace period is wasted, and the work since the last save is lost",
        "set a flag in a signal handler, and check it after each step",
        "ex03.1",
        "StopSignal",
    ),
    "exit-status": Words(
        "exits with status 0 when it isn't done",
        "a scheduler that looks at the exit status doesn't run the job again",
        "exit with status 75 after a preemption, and with 1 after an error",
        "ex03.2",
        "CheckpointManager.exit_status",
    ),
    "no-save-at-signal": Words(
        "doesn't save when a signal tells it to stop",
        "each preemption costs the work since the last save",
        "on SIGTERM or SIGUSR1, finish the step, save, and exit",
        "ex03.2",
        "StopSignal",
    ),
    "leftovers": Words(
        "leaves files of interrupted saves behind",
        "each crash during a save costs disk space, until the disk is full",
        "at the start, delete the temporary files of earlier runs",
        "ex01.3",
        "CheckpointDirectory.clear_leftovers",
    ),
    "disk-grows": Words(
        "keeps every checkpoint",
        "a long run fills the disk, and then every save fails",
        "after each save, delete all but the newest two or three",
        "ex01.5",
        "CheckpointDirectory.prune",
    ),
}

MOVED = "batch of another step"
RATE_MOVED = "learning rate of another step"
SETTINGS = "optimizer settings"
NO_BATCH = "gradients without a batch"
# of "state-lost", by component; what it means is in grader/checks/lost_state.py where it isn't here
LOST = {
    "weights": Words("", "", "restore all of the model's state", "ex01.1", RESUME),
    "buffers": Words("", "", "save the model's whole state_dict()", "ex01.1", RESUME),
    "optimizer": Words("", "", "save and load optimizer.state_dict()", "ex01.1", RESUME),
    SETTINGS: Words(
        "",
        "the optimizer has other settings than before, such as weight decay, momentum, or betas",
        "load optimizer.state_dict(), and don't change the groups' settings afterwards",
        "ex01.1",
        RESUME,
    ),
    "learning rate": Words(
        "",
        "the resumed run uses other learning rates: the schedule is at the wrong step, or the rate "
        "of a parameter group was set again",
        "save scheduler.state_dict() after the scheduler's step, load it when you resume, and set "
        "no rate afterwards",
        "ex01.1",
        RESUME,
    ),
    RATE_MOVED: Words(
        "",
        "the learning-rate schedule is at the wrong step: the resumed run uses other rates",
        "save scheduler.state_dict() after the scheduler's step, and load it when you resume",
        "ex01.1",
        RESUME,
    ),
    "gradient scaler": Words(
        "",
        "mixed precision restarts with its initial scale: steps overflow and are skipped, or small "
        "gradients vanish",
        "save and load scaler.state_dict()",
        "ex01.1",
        RESUME,
    ),
    "averaged weights": Words(
        "",
        "the average of the weights restarts: the model that you evaluate or deploy has forgotten "
        "most of the run",
        "save and load the averaged model's state_dict(), including its count of updates",
        "ex01.1",
        RESUME,
    ),
    "accumulated gradients": Words(
        "",
        "the gradients of the batches before the save are lost: the first step after the resume "
        "uses only some of its batches",
        "save only right after an optimizer step, or save the gradients, too",
        "ex01.1",
        RESUME,
    ),
    "targets": Words(
        "",
        "the loss compares the model's output with something else than in the undisturbed run",
        "save what the targets depend on: labels that are noisy or mixed, or a model that computes "
        "them, such as a teacher or a target network",
        "ex01.1",
        RESUME,
    ),
    "gradients": Words(
        "",
        "weights, optimizer, and batch are the same, and the gradients differ: the loss depends on "
        "something else",
        "save all that the loss depends on, such as a target network or a teacher, hidden states, "
        "or a weight of the loss that changes",
        "ex01.1",
        RESUME,
    ),
    NO_BATCH: Words(
        "",
        "weights and optimizer are the same, and the gradients differ: the batch does (no module "
        "was given one, so it wasn't seen), or something else that the loss depends on",
        "save the order of the samples, the position in it, the generators that draw them, and all "
        "else that the loss depends on",
        "ex01.4",
        "ResumableSampler",
    ),
    "batch": Words(
        "",
        "the resumed run trains on other samples, or augments them otherwise",
        "save all that decides the next samples: their order and the position in it, buffers, and "
        "the states of generators and workers that draw or augment them; or seed these for each "
        "epoch or sample",
        "ex01.4",
        "ResumableSampler",
    ),
    MOVED: Words(
        "",
        "the resumed run trains on other samples: it repeats some and never sees others",
        "save the order of the samples and the position in it",
        "ex01.4",
        "ResumableSampler",
    ),
}
GENERATOR = Words("", "", "save and restore this generator's state", "ex01.2", "set_rng_state")
OTHERWISE = Words("", "", "find what this step depends on, and save it", "ex01.1", RESUME)


def steps(number: int) -> str:
    return f"{number} step{'s' * (number != 1)}"


def of(code: str, component: str, case: str = "") -> Words:
    """The words of a problem, with the component that it is about in its place.

    case  one that more is known of, such as MOVED or DURING_A_SAVE
    """
    if code == "state-lost":
        if component.endswith("RNG"):
            words = GENERATOR
        else:
            words = LOST.get(case or component, OTHERWISE)
        usual = ("the resumed run isn't the run that was interrupted", "")
        means = words.means or MEANINGS.get(component, usual)[0]
        return Words(f"loses state: {component}", means, words.fix, words.task, words.shows)
    words = BY_CODE[case or code]
    title, means, fix = (
        text.replace("{component}", component) for text in (words.title, words.means, words.fix)
    )
    return Words(title, means, fix, words.task, words.shows)
