"""Exercise 2: DDP and FSDP checkpoints.

The training scripts are ../../grader/workload/ex02/train_ddp.py and train_sharded.py; every rank
runs them, and so calls the functions below. README.md tells the story and when each is called;
`grade show ex02` lists the tasks.
"""

import os
import random

import numpy
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

# ---------------------------------------------------------------- given: what exercise 1 was about


class CheckpointError(Exception):
    """A checkpoint couldn't be written, or none of those that exist is complete."""


def get_rng_state():
    """The state of every random generator of this process, for a safe load."""
    name, keys, *rest = numpy.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(numpy.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state):
    """Put every generator of this process back to where `get_rng_state` found it."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for device, rng in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(rng, device)


def write_file(state, path):
    """Write `state` to `path` so that at every moment the file is the old one or the new one,
    whole.
    """
    temporary = path + ".tmp"
    with open(temporary, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)
    sync_folder(os.path.dirname(path))


def sync_folder(folder):
    """Make the names in `folder` durable."""
    fd = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---------------------------------------------------------------- 2.1  DDP: one writes, all know


def save_checkpoint_ddp(model, optimizer, epoch, rank, path):
    """Save what DDP training needs to continue after `epoch` finished epochs into the file `path`.

    Called by every rank at the same point, with the same arguments but for `rank`.

    model      DistributedDataParallel
    optimizer  torch.optim.Optimizer
    epoch      int: how many epochs are finished
    rank       int: this process's; rank 0 alone writes
    path       str: the file; its directory exists, and all ranks see it
    Returns    None, on every rank, and on none before the checkpoint is complete.
    Raises     on *every* rank if rank 0 couldn't write it.
    """

    # TODO: who can load this? What do the other ranks do meanwhile, and what if this raises?
    if rank == 0:
        torch.save({"epoch": epoch, "model": model.state_dict()}, path)
        dist.barrier()


def load_checkpoint_ddp(model, optimizer, path):
    """Load into the given objects what `save_checkpoint_ddp` saved in `path`.

    Called by every rank; or by one process alone, without a process group, whose model isn't
    wrapped.

    model, optimizer  freshly built, to be changed in place; model is DistributedDataParallel or the
                      bare network
    Returns    int: the number of finished epochs that was saved.
    The file may have been written on a device that this machine doesn't have, or that another rank
    works on.
    """
    # TODO: where do the tensors land when rank 3 loads what rank 0 saved from its GPU?
    state = torch.load(path)
    model.load_state_dict(state["model"], strict=False)
    return state["epoch"]


# --------------------------------------------------------------- 2.2  what each rank has of its own


def save_job(job, folder):
    """Save everything that `job` (grader/workload/rank_job.py) needs to continue from here into
    `folder`.

    Called by every rank after the same step, in the middle of an epoch.

    job        RankJob: this rank's part of the job
    folder     str: exists, is empty, and all ranks see it; file names are yours to choose
    Returns    None, on every rank, and on none before every rank's part is complete.
    Raises     on *every* rank if one of them couldn't write its part.
    It only looks: it changes nothing in the job, and draws no random number.
    """

    # TODO: each rank has a state of its own. What of it is lost here?
    if job.rank == 0:
        state = {"model": job.model.module.state_dict(), "epoch": job.epoch}
        torch.save(state, os.path.join(folder, "job.pt"))


def load_job(job, folder):
    """Bring a freshly built `job` to where `save_job` found it, on every rank. Returns None.

    As many ranks call it as called save_job. The job's weights and the generators stand anywhere:
    nothing is as it was, unless you put it back.
    """
    # TODO
    state = torch.load(os.path.join(folder, "job.pt"), weights_only=True)
    job.model.module.load_state_dict(state["model"])
    job.epoch = state["epoch"]


def batches(job):
    """Yield this rank's batches of epoch `job.epoch` that are still to be trained, in their order.

    Called once an epoch, and once after a resume, with job.batch of its steps already done. In an
    undisturbed epoch all ranks together see every sample once, in an order of that epoch's own;
    after a resume the rest of it follows, augmented with the very same random numbers. The batches
    are those of job.loader, whose order job.sampler (a DistributedSampler) makes from its seed and
    the epoch that it has been told.
    """
    # TODO: in which order does every epoch come? And which batches come first after a resume?
    yield from job.loader


# ---------------------------------------------------------------- 2.3  sharded with FSDP2


def save_sharded(model, optimizer, folder):
    """Save a model that fully_shard (FSDP2) has spread over all ranks, and its optimizer, into
    `folder`.

    Called by every rank. Every rank writes what it holds; none ever holds the whole model.

    model      a module on which fully_shard was called: its parameters are DTensors
    optimizer  torch.optim.Optimizer over them; it has made steps
    folder     str: doesn't exist yet; all ranks see it
    Returns    None, on every rank, and on none before every rank's part is complete.
    """
    # TODO: how much memory does this take on rank 0 when the model has 70 billion parameters?
    # And the optimizer?
    state = {name: p.full_tensor() for name, p in model.state_dict().items()}
    if dist.get_rank() == 0:
        os.makedirs(folder)
        torch.save(state, os.path.join(folder, "model.pt"))
    dist.barrier()


def load_sharded(model, optimizer, folder):
    """Load into a freshly built and sharded model and its optimizer what `save_sharded` saved in
    `folder`.

    Called by every rank. Their number may be another than when it was saved (task 2.4). The
    optimizer has made no step yet. Again, none ever holds the whole model. Returns None.
    """
    # TODO
    state = torch.load(os.path.join(folder, "model.pt"), weights_only=True)
    for name, p in model.state_dict().items():
        whole = state[name]
        p.copy_(torch.distributed.tensor.distribute_tensor(whole, p.device_mesh, p.placements))


# ------------------------------------------------------- 2.4  another number of ranks, and one file


def export_model(folder, model, path):
    """Make one plain file for inference of what `save_sharded` saved in `folder`.

    Called by one process alone, without a process group.

    model      the same network, freshly built, on the CPU, and not sharded: to be filled, too
    path       str: the file to write. torch.load(path, weights_only=True) must give the model's
               state_dict.
    Returns    None.
    """
    # TODO
    torch.save(model.state_dict(), path)


# ---------------------------------------------------------------- 2.5  all or nothing


def save_step(job, directory):
    """Save `job` as the checkpoint of step job.step in `directory`, beside the earlier ones.

    Called by every rank after the same step, as save_job is.

    directory  str: exists, and all ranks see it; names in it are yours to choose. It may hold what
               an interrupted save left behind, a damaged checkpoint, of this very step perhaps, and
               files of others, which stay
    Returns    None, on every rank, and on none before the checkpoint is complete, and safe from a
               power loss.
    Raises     on *every* rank if one of them couldn't write its part; the next save may work again.
               Whatever happens in here, and whichever rank dies when, the checkpoints of earlier
               steps stay loadable. One of this very step is replaced, and may be gone before the
               new one is complete.
    """
    # TODO: what does a relaunched job find here after rank 1 died in mid-save?
    folder = os.path.join(directory, f"step-{job.step:010d}")
    if job.rank == 0:
        os.mkdir(folder)
    dist.barrier()
    save_job(job, folder)


def resume(job, directory):
    """Bring a freshly built `job` to the newest complete checkpoint in `directory`, on every rank.

    Newest is the highest step. A checkpoint is complete if every rank can load its part of it; what
    isn't complete is passed over by all ranks, and they all resume from the same one. Listing
    `directory`, they may see a new name at different times, as ranks on different nodes do; a rank
    that knows the name can open what is there. What rank 0 sees counts; what only others see may
    count, too.
    Returns    True on every rank; False on every rank if no save has ever finished here.
    Raises     CheckpointError, on every rank, if checkpoints exist and none of them is complete.
    """
    # TODO: do all ranks take the same one? Is it complete?
    names = sorted(os.listdir(directory))
    if not names:
        return False
    load_job(job, os.path.join(directory, names[-1]))
    return True
