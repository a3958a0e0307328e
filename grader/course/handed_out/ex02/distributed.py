"""Exercise 2: DDP and FSDP checkpoints.

Every rank runs a training script (../../grader/workload/ex02/train_ddp.py or train_sharded.py),
which calls the functions below. README.md tells the story, and when each function is called.
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
    """A checkpoint couldn't be written, or checkpoints exist but none is complete."""


def get_rng_state():
    """The state of every random generator of this process; a safe load accepts it."""
    name, keys, *rest = numpy.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(numpy.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state):
    """Restore every generator of this process to the state that `get_rng_state` found."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for device, rng in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(rng, device)


def write_file(state, path):
    """Write `state` to `path` atomically: at every moment, the file is the old or the new one."""
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
    """Save into the file `path` what DDP training needs to continue after `epoch` finished epochs.

    Called by every rank at the same point, with the same arguments except `rank`.

    model      DistributedDataParallel
    optimizer  torch.optim.Optimizer
    epoch      int: how many epochs are finished
    rank       int: this process's rank; only rank 0 writes
    path       str: the file; its directory exists, and all ranks see it
    Returns    None on every rank; no rank returns before the checkpoint is complete.
    Raises     on *every* rank if rank 0 couldn't write it.
    """

    # TODO: who can load this? What do the other ranks do meanwhile, and what if this raises?
    if rank == 0:
        torch.save({"epoch": epoch, "model": model.state_dict()}, path)
        dist.barrier()


def load_checkpoint_ddp(model, optimizer, path):
    """Load what `save_checkpoint_ddp` saved in `path` into the given objects.

    Called by every rank, or by a single process without a process group, whose model isn't wrapped.

    model, optimizer  freshly built, to be changed in place; model is DistributedDataParallel or the
                      bare network
    Returns    int: the number of finished epochs that was saved.
    The file may have been written on a device that this machine doesn't have, or that another rank
    uses.
    """
    # TODO: where do the tensors land when rank 3 loads what rank 0 saved from its GPU?
    state = torch.load(path)
    model.load_state_dict(state["model"], strict=False)
    return state["epoch"]


# ----------------------------------------------------------------------- 2.2  each rank's own state


def save_job(job, folder):
    """Save into `folder` everything that `job` needs to continue from here.

    Called by every rank after the same step, in the middle of an epoch.

    job        RankJob (grader/workload/rank_job.py): this rank's part of the job
    folder     str: exists, is empty, and all ranks see it; you choose the file names. The whole
               checkpoint is in it: a copy of the folder loads, too
    Returns    None on every rank; no rank returns before every rank's part is complete.
    Raises     on *every* rank if any rank couldn't write its part.
    Don't change the job, and draw no random number.
    """

    # TODO: each rank has its own state. Which part of it is lost here?
    if job.rank == 0:
        state = {"model": job.model.module.state_dict(), "epoch": job.epoch}
        torch.save(state, os.path.join(folder, "job.pt"))


def load_job(job, folder):
    """Restore a freshly built `job` to the state that `save_job` found. Returns None.

    Called by every rank; there are as many as when it was saved. Assume nothing about the job's
    weights or RNG states: whatever you don't restore is wrong.
    """
    # TODO
    state = torch.load(os.path.join(folder, "job.pt"), weights_only=True)
    job.model.module.load_state_dict(state["model"])
    job.epoch = state["epoch"]


def batches(job):
    """Yield this rank's remaining batches of epoch `job.epoch`, in order.

    Called once per epoch, and once after a resume; job.batch batches of the epoch are trained
    already. In an undisturbed epoch, all ranks together see every sample once, in that epoch's own
    order. After a resume, the rest of it follows, augmented with the same random numbers. Take the
    batches from job.loader. Its sampler, job.sampler (a DistributedSampler), makes the order from
    its seed and the epoch that you set.
    """
    # TODO: in which order does every epoch come? And which batches come first after a resume?
    yield from job.loader


# ---------------------------------------------------------------- 2.3  sharded with FSDP2


def save_sharded(model, optimizer, folder):
    """Save a sharded (FSDP2) model and its optimizer into `folder`.

    Called by every rank. Each rank writes what it holds; no rank ever holds the whole model.

    model      a module on which fully_shard was called: its parameters are DTensors
    optimizer  torch.optim.Optimizer over them; it has made steps
    folder     str: doesn't exist yet; all ranks see it. The whole checkpoint is in it
    Returns    None on every rank; no rank returns before every rank's part is complete.
    """
    # TODO: how much memory does this take on rank 0 when the model has 70 billion parameters?
    # And the optimizer?
    state = {name: p.full_tensor() for name, p in model.state_dict().items()}
    if dist.get_rank() == 0:
        os.makedirs(folder)
        torch.save(state, os.path.join(folder, "model.pt"))
    dist.barrier()


def load_sharded(model, optimizer, folder):
    """Load what `save_sharded` saved in `folder` into a fresh sharded model and its optimizer.

    Called by every rank. There may be more or fewer ranks than saved it (task 2.4). The optimizer
    has made no step yet. Again, no rank ever holds the whole model. Returns None.
    """
    # TODO
    state = torch.load(os.path.join(folder, "model.pt"), weights_only=True)
    for name, p in model.state_dict().items():
        whole = state[name]
        p.copy_(torch.distributed.tensor.distribute_tensor(whole, p.device_mesh, p.placements))


# ------------------------------------------------------- 2.4  another number of ranks, and one file


def export_model(folder, model, path):
    """Export the model that `save_sharded` saved in `folder` to one plain file for inference.

    Called by a single process, without a process group.

    model      the same network, freshly built, on the CPU and not sharded: load it, too
    path       str: the file to write. torch.load(path, weights_only=True) must give the model's
               state_dict.
    Returns    None.
    """
    # TODO
    torch.save(model.state_dict(), path)


# ---------------------------------------------------------------- 2.5  all or nothing


def save_step(job, directory):
    """Save `job` as the checkpoint of step job.step in `directory`, next to the earlier ones.

    Called by every rank after the same step, as save_job is.

    directory  str: exists, and all ranks see it; you choose the names in it. Leftovers of an
               interrupted save, or a damaged checkpoint (even of this step), must not block the
               save. Leave files alone that aren't yours
    Returns    None on every rank; no rank returns before the checkpoint is complete and safe from a
               power loss.
    Raises     on *every* rank if any rank couldn't write its part; the next save may work again.
               Checkpoints of earlier steps, however many, stay loadable, whatever fails here and
               whichever rank dies when: delete none. One of this step is replaced, and may be gone
               before the new one is complete.
    """
    # TODO: what does a relaunched job find here after rank 1 died in mid-save?
    folder = os.path.join(directory, f"step-{job.step:010d}")
    if job.rank == 0:
        os.mkdir(folder)
    dist.barrier()
    save_job(job, folder)


def resume(job, directory):
    """Restore a freshly built `job`, on every rank, from the newest complete checkpoint.

    Newest means the highest step. A checkpoint is complete if every rank can load its part of it.
    All ranks skip incomplete ones, however many, and resume from the same one. Ranks on different
    nodes may see a new name in `directory` at different times, but a rank that knows the name can
    open it. What rank 0 sees counts; what only others see may count, too.
    Returns    True on every rank; False on every rank if no save has ever finished here.
    Raises     CheckpointError on every rank if checkpoints exist but none is complete.
    """
    # TODO: do all ranks take the same one? Is it complete?
    names = sorted(os.listdir(directory))
    if not names:
        return False
    load_job(job, os.path.join(directory, names[-1]))
    return True
