"""Exercise 1: PyTorch model checkpointing.

The training script calls the functions below: ../../grader/workload/ex01/train.py, or in tasks 1.1
to 1.3 train_epochs.py next to it. README.md tells the story, and when each function is called.
`grade show ex01` lists the tasks.
"""

import hashlib
import io
import os
import random
import re

import numpy
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
    ### BEGIN SOLUTION
    state = {
        "epoch": epoch,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict() if scheduler else None,
    }
    _commit(_packed(state), path)
    ### END SOLUTION
    #| # TODO: this keeps the weights and drops the rest. What else decides the next step?
    #| torch.save({"epoch": epoch, "model_state_dict": model.state_dict()}, path)


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
    ### BEGIN SOLUTION
    state = _unpacked(path)
    if state is None:
        raise CheckpointError(f"{path} is damaged")
    model.load_state_dict(state["model_state_dict"])
    optimizer.load_state_dict(state["optimizer_state_dict"])
    if scheduler:
        if state["scheduler_state_dict"] is None:
            raise CheckpointError(f"{path} holds no scheduler: yours would warm up again")
        scheduler.load_state_dict(state["scheduler_state_dict"])
    return state["epoch"]
    ### END SOLUTION
    #| # TODO: what if this file comes from a GPU node, from another model, or from someone you
    #| # don't trust?
    #| checkpoint = torch.load(path, weights_only=False)
    #| model.load_state_dict(checkpoint["model_state_dict"], strict=False)
    #| return checkpoint["epoch"]


# ---------------------------------------------------------------- 1.2  randomness


def get_rng_state():
    """The state of every random generator that training draws from. Draws no random number.

    Returns    dict: the states of Python's, NumPy's and torch's generators. Torch has one for the
               CPU and one for *every* CUDA device. The dict must survive torch.save and
               torch.load(weights_only=True), so it holds only plain numbers, strings, lists,
               tuples, dicts and tensors.
    """
    ### BEGIN SOLUTION
    name, keys, position, has_gauss, cached = numpy.random.get_state()
    return {
        "python": random.getstate(),
        # the array becomes a tensor: a safe load rejects NumPy objects
        "numpy": [
            name,
            torch.from_numpy(keys.astype(numpy.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    ### END SOLUTION
    #| # TODO: which generators does the training script draw from?
    #| return {}


def set_rng_state(state):
    """Restore every generator to the state that `get_rng_state` found.

    state      what get_rng_state returned, after a trip through a file. It may come from a machine
               with more or fewer GPUs: restore the generators that both machines have.
    Returns    None.
    """
    ### BEGIN SOLUTION
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        for device, rng in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(rng.cpu(), device)
    ### END SOLUTION
    #| # TODO
    #| return


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
    ### BEGIN SOLUTION
    os.makedirs(directory, exist_ok=True)
    _commit(_packed(state), os.path.join(directory, f"step-{step:010d}.ckpt"))
    ### END SOLUTION
    #| # TODO: what is left of the last checkpoint when the process dies in the middle of this line?
    #| os.makedirs(directory, exist_ok=True)
    #| torch.save(state, os.path.join(directory, "checkpoint.pt"))


def read_latest(directory):
    """The state of the newest intact checkpoint in `directory`.

    Newest means the highest step, whatever the files' dates say. A checkpoint that is torn,
    truncated or has a flipped bit isn't intact: use the one before it. Change nothing on the disk.
    Returns    dict, equal to what was written; None if no save has ever finished here
               (no directory, nothing in it, or only what an interrupted first save left).
    Raises     CheckpointError if checkpoints exist but none is intact. Starting again from step 0
               would silently throw the run away.
    """
    ### BEGIN SOLUTION
    paths = _checkpoints(directory)
    for path in paths:
        state = _unpacked(path)
        if state is not None:
            return state
        print(f"warning: {path} is damaged, trying the one before it")
    if paths:
        raise CheckpointError(f"none of the {len(paths)} checkpoints in {directory} is intact")
    return None
    ### END SOLUTION
    #| # TODO: what happens here if the file is damaged? And if all files are?
    #| try:
    #|     return torch.load(os.path.join(directory, "checkpoint.pt"), weights_only=True)
    #| except Exception:
    #|     return None


### BEGIN SOLUTION
def _packed(state):
    """Bytes of a checkpoint: torch.save's, then their digest, as torch.load verifies nothing."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue() + hashlib.sha256(buffer.getbuffer()).digest()


def _unpacked(path):
    """The state in `path`, or None if a single bit of it is wrong."""
    with open(path, "rb") as f:
        data = f.read()
    body, digest = data[:-32], data[-32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)


def _commit(data, path):
    """Write `data` to `path` atomically: at every moment, the file is the old or the new one."""
    temporary = path + ".tmp"
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            # the bytes before the name: after a power loss, only what was synced is certain
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)  # and then the name
    finally:
        os.close(folder)


def _checkpoints(directory):
    """Paths of the finished checkpoints, newest first."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    steps = sorted((int(m[1]), n) for n in names if (m := re.fullmatch(r"step-(\d+)\.ckpt", n)))
    return [os.path.join(directory, name) for _, name in reversed(steps)]


### END SOLUTION
# ------------------------------------------------------------ 1.4  resume in the middle of an epoch


def capture(job):
    """Everything that `job` (grader/workload/job.py) needs to continue from here, as a dict.

    Called after any step, and after an epoch's validation. write_checkpoint must be able to save
    the dict. Don't change the job, and draw no random number. job.scheduler may be None.
    """
    ### BEGIN SOLUTION
    return {
        "model": job.model.state_dict(),
        "optimizer": job.optimizer.state_dict(),
        "scheduler": job.scheduler.state_dict() if job.scheduler else None,
        "step": job.step,
        "epoch": job.epoch,
        "batch": job.batch,
        "best": job.best,
        "rng": get_rng_state(),
        "epoch_rng": job.memo["epoch_rng"],
    }
    ### END SOLUTION
    #| # TODO
    #| return {"model": job.model.state_dict(), "epoch": job.epoch}


def restore(job, state):
    """Restore a freshly built `job` to the state that `capture` found. Returns None.

    Assume nothing about its weights or RNG states: whatever you don't restore is wrong. Change
    nothing else: what was frozen stays frozen.
    """
    ### BEGIN SOLUTION
    job.model.load_state_dict(state["model"])
    job.optimizer.load_state_dict(state["optimizer"])
    if job.scheduler:
        job.scheduler.load_state_dict(state["scheduler"])
    job.step, job.epoch, job.batch = state["step"], state["epoch"], state["batch"]
    job.best = state["best"]
    job.memo["epoch_rng"] = state["epoch_rng"]
    set_rng_state(state["rng"])
    ### END SOLUTION
    #| # TODO
    #| job.model.load_state_dict(state["model"])
    #| job.epoch = state["epoch"]


def batches(job):
    """Yield the remaining batches of epoch `job.epoch`, in order.

    Called once per epoch, and once after a resume; job.batch batches of the epoch are trained
    already. An undisturbed epoch shows every sample once, in its own order. After a resume, the
    rest of the epoch comes in the same order, augmented with the same random numbers. The training
    script counts job.batch and job.step as it consumes your batches. Take them from job.loader, or
    from a loader of your own with the same dataset, batch size and number of workers.
    """
    ### BEGIN SOLUTION
    now = get_rng_state()
    if job.batch == 0:
        job.memo["epoch_rng"] = now
    # a new iterator draws the order and its workers' seeds: start it from the same state
    set_rng_state(job.memo["epoch_rng"])
    iterator = iter(job.loader)
    for _ in range(job.batch):
        # fetched, not trained again: this also advances the workers' generators
        next(iterator)
    if job.batch:
        set_rng_state(now)
    yield from iterator
    ### END SOLUTION
    #| # TODO: which batches come first after a resume in the middle of an epoch?
    #| yield from job.loader


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
    ### BEGIN SOLUTION
    if end_of_epoch:
        return bool(every_epochs) and epoch % every_epochs == 0
    return bool(every_steps) and step % every_steps == 0
    ### END SOLUTION
    #| # TODO
    #| return end_of_epoch


def keep_best(state, val_loss, best, directory):
    """Save `state` separately as the best so far if `val_loss` is lower than `best`.

    state      dict, as in write_checkpoint
    val_loss   float: may be NaN, which is never the best
    best       float: the lowest validation loss so far
    Returns    float: the lowest validation loss now.
    read_latest ignores the best, and prune keeps it. Replacing it is as safe as write_checkpoint.
    """
    ### BEGIN SOLUTION
    if not val_loss < best:
        return best
    os.makedirs(directory, exist_ok=True)
    _commit(_packed(state), os.path.join(directory, "best.ckpt"))
    return val_loss
    ### END SOLUTION
    #| # TODO
    #| return best


def read_best(directory):
    """The state that keep_best saved last. Returns dict, or None if none; raises if damaged."""
    ### BEGIN SOLUTION
    path = os.path.join(directory, "best.ckpt")
    if not os.path.exists(path):
        return None
    state = _unpacked(path)
    if state is None:
        raise CheckpointError(f"{path} is damaged")
    return state
    ### END SOLUTION
    #| # TODO
    #| return None


def prune(directory, keep):
    """Delete old checkpoints, except the newest `keep` *intact* ones and the best.

    keep       int, at least 1
    Returns    None.
    Also delete the leftovers of interrupted saves (keep_best's, too) and damaged checkpoints, which
    don't count as one of the `keep`. If none is intact, delete no checkpoint. Leave files alone
    that aren't yours. A missing directory is fine. Dying in the middle of it does no harm.
    """
    ### BEGIN SOLUTION
    paths = _checkpoints(directory)
    intact = [path for path in paths if _unpacked(path) is not None]
    if not intact:
        return
    for path in paths:
        if path not in intact[:keep]:
            os.remove(path)
    for name in os.listdir(directory):
        # ours only: others may leave .tmp files, too
        if re.fullmatch(r"(step-\d+|best)\.ckpt\.tmp", name):
            os.remove(os.path.join(directory, name))
    ### END SOLUTION
    #| # TODO
    #| return
