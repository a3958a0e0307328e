"""Exercise 1: PyTorch model checkpointing.

The training script is ../../grader/workload/ex01/train.py (tasks 1.1 to 1.3: train_epochs.py); it
calls the functions below. README.md tells the story and when each is called; `grade show ex01`
lists the tasks.
"""

import os

import torch

# ---------------------------------------------------------------- 1.1  round trip


def save_checkpoint(model, optimizer, scheduler, epoch, path):
    """Save what training needs to continue after `epoch` finished epochs into the file `path`.

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
    """Load into the given objects what `save_checkpoint` saved in `path`.

    model, optimizer, scheduler  as in save_checkpoint: freshly built, to be changed in place
    Returns    int: the number of finished epochs that was saved.
    Raises     an error if the file doesn't fit the model (a key is missing, or one too many), if
               there is a scheduler and the file holds none, and if it holds anything but data.
               Loading must never run code from the file. (scheduler=None is fine whatever the file
               holds.)
    The file may have been written on a device that this machine doesn't have.
    """
    # TODO: what if this file comes from a GPU node, from another model, or from someone you
    # don't trust?
    checkpoint = torch.load(path, weights_only=False)
    model.load_state_dict(checkpoint["model_state_dict"], strict=False)
    return checkpoint["epoch"]


# ---------------------------------------------------------------- 1.2  randomness


def get_rng_state():
    """The state of every random generator that training draws from; draws from none of them.

    Returns    dict of Python's, NumPy's and torch's generators: torch's CPU generator and the one
               of *every* CUDA device that there is. It must survive torch.save and
               torch.load(weights_only=True): plain numbers, strings, lists, tuples, dicts and
               tensors.
    """
    # TODO: which generators does the training script draw from?
    return {}


def set_rng_state(state):
    """Put every generator back to where `get_rng_state` found it.

    state      what get_rng_state returned, after a trip through a file. It may come from a machine
               with more GPUs than this one, or fewer: what has a counterpart here is restored.
    Returns    None.
    """
    # TODO
    return


# ----------------------------------------------------------- 1.3  an interrupted save costs nothing


class CheckpointError(Exception):
    """A checkpoint is damaged or holds too little; of several, none is intact."""


def write_checkpoint(state, directory, step):
    """Save `state` as the checkpoint of `step` in `directory`, beside the earlier ones.

    state      dict of tensors, numbers, strings, None, and lists, tuples and dicts of them
    directory  str: may not exist yet, may have any name, and may hold files of others, which stay
               as they are; layout and file names are yours to choose, temporary files lie in it,
               too
    step       int: grows from save to save; the same step may be saved again
    Returns    None, once the checkpoint is complete, and a power loss can't take it any more.
    Raises     if it can't be written (the disk is full, say); the next save may work again.
               Whatever happens in here, and whenever the process dies, the checkpoints written
               before stay loadable.
    """
    # TODO: what is left of the last checkpoint when the process dies in the middle of this line?
    os.makedirs(directory, exist_ok=True)
    torch.save(state, os.path.join(directory, "checkpoint.pt"))


def read_latest(directory):
    """The state of the newest intact checkpoint in `directory`.

    Newest is the highest step, whatever the files' dates say. A checkpoint that is torn, truncated
    or has a flipped bit isn't intact: the one before it is used. Reading changes nothing on the
    disk.
    Returns    dict, equal to what was written; None if no save has ever finished here
               (no directory, nothing in it, or only what an interrupted first save left).
    Raises     CheckpointError if checkpoints exist and none is intact. Starting again from step 0
               would throw the run away without a word.
    """
    # TODO: what does a damaged file do here? And a run that finds nothing but damaged files?
    try:
        return torch.load(os.path.join(directory, "checkpoint.pt"), weights_only=True)
    except Exception:
        return None


# ------------------------------------------------------------ 1.4  resume in the middle of an epoch


def capture(job):
    """Everything that `job` (grader/workload/job.py) needs to continue from here, as a dict.

    Called after any step, and after an epoch's validation. What it returns must satisfy
    write_checkpoint. It only looks: it changes nothing in the job, and draws no random number.
    job.scheduler may be None.
    """
    # TODO
    return {"model": job.model.state_dict(), "epoch": job.epoch}


def restore(job, state):
    """Bring a freshly built `job` to where `capture` found it. Returns None.

    The job's weights and the generators stand anywhere: nothing is as it was, unless you put it
    back.
    """
    # TODO
    job.model.load_state_dict(state["model"])
    job.epoch = state["epoch"]


def batches(job):
    """Yield the batches of epoch `job.epoch` that are still to be trained, in their order.

    Called once an epoch, and once after a resume, with job.batch of its steps already done. An
    undisturbed epoch shows every sample once, in an order of its own; after a resume the rest of
    the epoch follows in the very same order, augmented with the very same random numbers. The
    training script counts job.batch and job.step while it consumes what you yield. The batches are
    those of job.loader, or of a loader of your own over the same dataset, batch size and number of
    workers.
    """
    # TODO: which batches come first after a resume in the middle of an epoch?
    yield from job.loader


# -------------------------------------------------------------- 1.5  when to save, and what to keep


def should_save(step, epoch, end_of_epoch, every_steps=None, every_epochs=None):
    """Is a checkpoint due? Asked after every step, and again after every epoch's validation.

    step          int: finished steps of the run
    epoch         int: finished epochs of the run
    end_of_epoch  bool: False when asked after a step, True when asked after an epoch's validation
    every_steps   int: a checkpoint is due after each so many steps; None: steps don't count
    every_epochs  int: a checkpoint is due after each so many epochs; None: epochs don't count
    Returns       bool: True or False.
    """
    # TODO
    return end_of_epoch


def keep_best(state, val_loss, best, directory):
    """Save `state` apart as the best so far if `val_loss` is lower than `best`.

    state      dict, as in write_checkpoint
    val_loss   float: may be NaN, which is never the best
    best       float: the lowest validation loss until now
    Returns    float: the lowest validation loss now.
    The best is no candidate for read_latest, survives every prune, and is replaced as safely as
    write_checkpoint saves.
    """
    # TODO
    return best


def read_best(directory):
    """The state that keep_best saved last. Returns dict, or None if there is none; raises if it is
    damaged.
    """
    # TODO
    return None


def prune(directory, keep):
    """Delete old checkpoints: the newest `keep` *intact* ones stay, and so does the best.

    keep       int, at least 1
    Returns    None.
    What interrupted saves (keep_best's, too) left behind goes as well. A damaged checkpoint doesn't
    count as one of the `keep` and goes; only if none is intact, none is deleted. Files of others
    stay as they are. No directory, nothing to do. Dying in the middle of it does no harm.
    """
    # TODO
    return
