"""Exercise 1: PyTorch model checkpointing.

The training script calls the functions below: ../../grader/workload/ex01/train.py, or in tasks 1.1
to 1.3 train_epochs.py next to it. README.md tells the story, and when each function is called.
`grade show ex01` lists the tasks.
"""

import os

import torch

# ---------------------------------------------------------------- 1.1  round trip


def save_checkpoint(model, optimizer, scheduler, epoch, path):
    """Save into the file `path` what training needs to continue after `epoch` finished epochs.

    model      torch.nn.Module
    optimizer  torch.optim.Optimizer
    scheduler  torch.optim.lr_scheduler.LRScheduler, or None
    epoch      int: how many epochs are finished
    path       str: the file; its directory exists
    Returns    None. Raises OSError or RuntimeError if the file can't be written.
    """
    # TODO: this keeps the weights and drops the rest. What else decides the next step?
    torch.save({"epoch": epoch, "model_state_dict": model.state_dict()}, path)


def load_checkpoint(model, optimizer, scheduler, path):
    """Load what `save_checkpoint` saved in `path` into the given objects.

    model, optimizer, scheduler  as in save_checkpoint: freshly built, to be changed in place
    Returns    int: the number of finished epochs that was saved.
    Raises     an error if the file doesn't fit the model (a key is missing or unexpected, a shape
               differs), if there is a scheduler but the file holds none, or if the file holds
               anything but data. Loading must never run code from the file. scheduler=None is fine
               with any file.
    The file may have been written on a device that this machine doesn't have.
    """
    # TODO: what if this file comes from a GPU node, from another model, or from someone you
    # don't trust?
    checkpoint = torch.load(path, weights_only=False)
    model.load_state_dict(checkpoint["model_state_dict"], strict=False)
    return checkpoint["epoch"]


# ---------------------------------------------------------------- 1.2  randomness


def get_rng_state():
    """The state of every random generator that training draws from. Draws no random number.

    Returns    dict: the states of Python's, NumPy's and torch's generators. Torch has one for the
               CPU and one for *every* CUDA device. The dict must survive torch.save and
               torch.load(weights_only=True), so it holds only plain numbers, strings, lists,
               tuples, dicts and tensors.
    """
    # TODO: which generators does the training script draw from?
    return {}


def set_rng_state(state):
    """Restore every generator to the state that `get_rng_state` found.

    state      what get_rng_state returned, after a trip through a file. It may come from a machine
               with more or fewer GPUs: restore the generators that both machines have.
    Returns    None.
    """
    # TODO
    return


# ----------------------------------------------------------- 1.3  an interrupted save costs nothing


class CheckpointError(Exception):
    """A checkpoint is damaged or incomplete, or none of several is intact."""


def write_checkpoint(state, directory, step):
    """Save `state` as the checkpoint of `step` in `directory`, next to the earlier ones.

    state      dict of tensors, numbers, strings, None, and lists, tuples and dicts of them; stays
               as it is
    directory  str: may not exist yet (nor its parent folder), may have any name, and may
               hold files that aren't yours: leave those alone. You choose layout and file names;
               put temporary files here, too
    step       int: grows from save to save; the same step may be saved again
    Returns    None, once the checkpoint is complete and a power loss can't destroy it.
    Raises     if it can't be written or synced (the disk is full, say); the next save may work.
               Earlier checkpoints stay loadable, whatever fails here and whenever the process dies.
    """
    # TODO: what is left of the last checkpoint when the process dies in the middle of this line?
    os.makedirs(directory, exist_ok=True)
    torch.save(state, os.path.join(directory, "checkpoint.pt"))


def read_latest(directory):
    """The state of the newest intact checkpoint in `directory`.

    Newest means the highest step, whatever the files' dates say. A checkpoint that is torn,
    truncated or has a flipped bit isn't intact: use the one before it. Change nothing on the disk.
    Returns    dict, equal to what was written; None if no save has ever finished here
               (no directory, nothing in it, or only what an interrupted first save left).
    Raises     CheckpointError if checkpoints exist but none is intact. Starting again from step 0
               would silently throw the run away.
    """
    # TODO: what happens here if the file is damaged? And if all files are?
    try:
        return torch.load(os.path.join(directory, "checkpoint.pt"), weights_only=True)
    except Exception:
        return None


# ------------------------------------------------------------ 1.4  resume in the middle of an epoch


def capture(job):
    """Everything that `job` (grader/workload/job.py) needs to continue from here, as a dict.

    Called after any step, and after an epoch's validation. write_checkpoint must be able to save
    the dict. Don't change the job, and draw no random number. job.scheduler may be None.
    """
    # TODO
    return {"model": job.model.state_dict(), "epoch": job.epoch}


def restore(job, state):
    """Restore a freshly built `job` to the state that `capture` found. Returns None.

    Assume nothing about its weights or RNG states: whatever you don't restore is wrong. Change
    nothing else: what was frozen stays frozen.
    """
    # TODO
    job.model.load_state_dict(state["model"])
    job.epoch = state["epoch"]


def batches(job):
    """Yield the remaining batches of epoch `job.epoch`, in order.

    Called once per epoch, and once after a resume; job.batch batches of the epoch are trained
    already. An undisturbed epoch shows every sample once, in its own order. After a resume, the
    rest of the epoch comes in the same order, augmented with the same random numbers. The training
    script counts job.batch and job.step as it consumes your batches. Take them from job.loader, or
    from a loader of your own with the same dataset, batch size and number of workers.
    """
    # TODO: which batches come first after a resume in the middle of an epoch?
    yield from job.loader


# -------------------------------------------------------------- 1.5  when to save, and what to keep


def should_save(step, epoch, end_of_epoch, every_steps=None, every_epochs=None):
    """Is a checkpoint due? Asked after every step, and again after every epoch's validation.

    step          int: finished steps of the run
    epoch         int: finished epochs of the run
    end_of_epoch  bool: False when asked after a step, True when asked after an epoch's validation
    every_steps   int: a checkpoint is due every `every_steps` steps; None: steps don't count
    every_epochs  int: a checkpoint is due every `every_epochs` epochs; None: epochs don't count
    Returns       bool: True or False.
    """
    # TODO
    return end_of_epoch


def keep_best(state, val_loss, best, directory):
    """Save `state` separately as the best so far if `val_loss` is lower than `best`.

    state      dict, as in write_checkpoint
    val_loss   float: may be NaN, which is never the best
    best       float: the lowest validation loss so far
    Returns    float: the lowest validation loss now.
    read_latest ignores the best, and prune keeps it. Replacing it is as safe as write_checkpoint.
    """
    # TODO
    return best


def read_best(directory):
    """The state that keep_best saved last. Returns dict, or None if none; raises if damaged."""
    # TODO
    return None


def prune(directory, keep):
    """Delete old checkpoints, except the newest `keep` *intact* ones and the best.

    keep       int, at least 1
    Returns    None.
    Also delete the leftovers of interrupted saves (keep_best's, too) and damaged checkpoints, which
    don't count as one of the `keep`. If none is intact, delete no checkpoint. Leave files alone
    that aren't yours. A missing directory is fine. Dying in the middle of it does no harm.
    """
    # TODO
    return
