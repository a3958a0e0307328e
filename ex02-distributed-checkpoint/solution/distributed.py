"""Exercise 2: DDP and FSDP checkpoints.

Every rank runs a training script (../../grader/workload/ex02/train_ddp.py or train_sharded.py),
which calls the functions below. README.md tells the story, and when each function is called.
`grade show ex02` lists the tasks.
"""

import os
import random
import re
import shutil

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

    ### BEGIN SOLUTION
    def write():
        if rank == 0:
            # .module: a single process without DDP can load it, too
            state = {
                "epoch": epoch,
                "model": model.module.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            write_file(state, path)

    together(write)
    ### END SOLUTION
    #| # TODO: who can load this? What do the other ranks do meanwhile, and what if this raises?
    #| if rank == 0:
    #|     torch.save({"epoch": epoch, "model": model.state_dict()}, path)
    #|     dist.barrier()


def load_checkpoint_ddp(model, optimizer, path):
    """Load what `save_checkpoint_ddp` saved in `path` into the given objects.

    Called by every rank, or by a single process without a process group, whose model isn't wrapped.

    model, optimizer  freshly built, to be changed in place; model is DistributedDataParallel or the
                      bare network
    Returns    int: the number of finished epochs that was saved.
    The file may have been written on a device that this machine doesn't have, or that another rank
    uses.
    """
    ### BEGIN SOLUTION
    state = torch.load(path, map_location="cpu", weights_only=True)
    bare(model).load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"]
    ### END SOLUTION
    #| # TODO: where do the tensors land when rank 3 loads what rank 0 saved from its GPU?
    #| state = torch.load(path)
    #| model.load_state_dict(state["model"], strict=False)
    #| return state["epoch"]


### BEGIN SOLUTION
def bare(model):
    """The network inside of DistributedDataParallel."""
    return model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model


def together(work):
    """Run `work` on every rank. No rank leaves before all are done; one's error is everyone's."""
    error = None
    try:
        work()
    except Exception as e:
        # kept until the others know: if this rank left now, they would wait forever
        error = e
    errors = [None] * dist.get_world_size()
    dist.all_gather_object(errors, error and f"{type(error).__name__}: {error}")
    failed = [f"rank {rank}: {text}" for rank, text in enumerate(errors) if text]
    if failed:
        raise CheckpointError("; ".join(failed)) from error


### END SOLUTION
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

    ### BEGIN SOLUTION
    def write():
        if job.rank == 0:  # what is the same on all ranks is written once
            shared = {
                "model": job.model.module.state_dict(),
                "optimizer": job.optimizer.state_dict(),
                "scheduler": job.scheduler.state_dict(),
                "progress": [job.step, job.epoch, job.batch, job.best],
            }
            write_file(shared, os.path.join(folder, "shared.pt"))
        write_file(get_rng_state(), os.path.join(folder, f"rank-{job.rank}.pt"))

    together(write)
    ### END SOLUTION
    #| # TODO: each rank has its own state. Which part of it is lost here?
    #| if job.rank == 0:
    #|     state = {"model": job.model.module.state_dict(), "epoch": job.epoch}
    #|     torch.save(state, os.path.join(folder, "job.pt"))


def load_job(job, folder):
    """Restore a freshly built `job` to the state that `save_job` found. Returns None.

    Called by every rank; there are as many as when it was saved. Assume nothing about the job's
    weights or RNG states: whatever you don't restore is wrong.
    """
    ### BEGIN SOLUTION
    shared = torch.load(os.path.join(folder, "shared.pt"), map_location="cpu", weights_only=True)
    rng = torch.load(
        os.path.join(folder, f"rank-{job.rank}.pt"), map_location="cpu", weights_only=True
    )
    job.model.module.load_state_dict(shared["model"])
    job.optimizer.load_state_dict(shared["optimizer"])
    job.scheduler.load_state_dict(shared["scheduler"])
    job.step, job.epoch, job.batch, job.best = shared["progress"]
    set_rng_state(rng)  # last: nothing may draw after it
    ### END SOLUTION
    #| # TODO
    #| state = torch.load(os.path.join(folder, "job.pt"), weights_only=True)
    #| job.model.module.load_state_dict(state["model"])
    #| job.epoch = state["epoch"]


def batches(job):
    """Yield this rank's remaining batches of epoch `job.epoch`, in order.

    Called once per epoch, and once after a resume; job.batch batches of the epoch are trained
    already. In an undisturbed epoch, all ranks together see every sample once, in that epoch's own
    order. After a resume, the rest of it follows, augmented with the same random numbers. Take the
    batches from job.loader. Its sampler, job.sampler (a DistributedSampler), makes the order from
    its seed and the epoch that you set.
    """
    ### BEGIN SOLUTION
    job.sampler.set_epoch(job.epoch)
    now = get_rng_state()
    iterator = iter(job.loader)
    for _ in range(job.batch):
        next(iterator)  # fetched again, not trained again
    if job.batch:
        set_rng_state(now)  # fetching drew random numbers for augmentation a second time
    yield from iterator
    ### END SOLUTION
    #| # TODO: in which order does every epoch come? And which batches come first after a resume?
    #| yield from job.loader


# ---------------------------------------------------------------- 2.3  sharded with FSDP2


def save_sharded(model, optimizer, folder):
    """Save a sharded (FSDP2) model and its optimizer into `folder`.

    Called by every rank. Each rank writes what it holds; no rank ever holds the whole model.

    model      a module on which fully_shard was called: its parameters are DTensors
    optimizer  torch.optim.Optimizer over them; it has made steps
    folder     str: doesn't exist yet; all ranks see it. The whole checkpoint is in it
    Returns    None on every rank; no rank returns before every rank's part is complete.
    """
    ### BEGIN SOLUTION
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)
    ### END SOLUTION
    #| # TODO: how much memory does this take on rank 0 when the model has 70 billion parameters?
    #| # And the optimizer?
    #| state = {name: p.full_tensor() for name, p in model.state_dict().items()}
    #| if dist.get_rank() == 0:
    #|     os.makedirs(folder)
    #|     torch.save(state, os.path.join(folder, "model.pt"))
    #| dist.barrier()


def load_sharded(model, optimizer, folder):
    """Load what `save_sharded` saved in `folder` into a fresh sharded model and its optimizer.

    Called by every rank. There may be more or fewer ranks than saved it (task 2.4). The optimizer
    has made no step yet. Again, no rank ever holds the whole model. Returns None.
    """
    ### BEGIN SOLUTION
    # the fresh job's state dicts say which part of each tensor this rank needs; load fills them in
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(state, checkpoint_id=folder)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    ### END SOLUTION
    #| # TODO
    #| state = torch.load(os.path.join(folder, "model.pt"), weights_only=True)
    #| for name, p in model.state_dict().items():
    #|     whole = state[name]
    #|     p.copy_(torch.distributed.tensor.distribute_tensor(whole, p.device_mesh, p.placements))


# ------------------------------------------------------- 2.4  another number of ranks, and one file


def export_model(folder, model, path):
    """Export the model that `save_sharded` saved in `folder` to one plain file for inference.

    Called by a single process, without a process group.

    model      the same network, freshly built, on the CPU and not sharded: load it, too
    path       str: the file to write. torch.load(path, weights_only=True) must give the model's
               state_dict.
    Returns    None.
    """
    ### BEGIN SOLUTION
    # load reads only what is asked for: no optimizer
    state = {"model": model.state_dict()}
    dcp.load(state, checkpoint_id=folder)
    model.load_state_dict(state["model"])
    write_file(model.state_dict(), path)
    ### END SOLUTION
    #| # TODO
    #| torch.save(model.state_dict(), path)


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
    ### BEGIN SOLUTION
    final = os.path.join(directory, f"step-{job.step:010d}")
    temporary = final + ".tmp"

    def begin():
        if job.rank == 0:
            for name in os.listdir(directory):
                if re.fullmatch(r"step-\d+\.tmp", name):  # ours only
                    shutil.rmtree(os.path.join(directory, name))
            # one that nobody could load, or this step wouldn't have been trained again
            if os.path.exists(final):
                os.rename(final, temporary)
                shutil.rmtree(temporary)
            os.mkdir(temporary)

    def publish():
        if job.rank == 0:
            os.rename(temporary, final)  # the one moment at which it begins to exist, for all ranks
            sync_folder(directory)

    together(begin)
    save_job(job, temporary)
    together(publish)
    ### END SOLUTION
    #| # TODO: what does a relaunched job find here after rank 1 died in mid-save?
    #| folder = os.path.join(directory, f"step-{job.step:010d}")
    #| if job.rank == 0:
    #|     os.mkdir(folder)
    #| dist.barrier()
    #| save_job(job, folder)


def resume(job, directory):
    """Restore a freshly built `job`, on every rank, from the newest complete checkpoint.

    Newest means the highest step. A checkpoint is complete if every rank can load its part of it.
    All ranks skip incomplete ones, however many, and resume from the same one. Ranks on different
    nodes may see a new name in `directory` at different times, but a rank that knows the name can
    open it. What rank 0 sees counts; what only others see may count, too.
    Returns    True on every rank; False on every rank if no save has ever finished here.
    Raises     CheckpointError on every rank if checkpoints exist but none is complete.
    """
    ### BEGIN SOLUTION
    # rank 0 decides: another rank's view of the directory may be older
    names = [
        sorted((n for n in os.listdir(directory) if re.fullmatch(r"step-\d+", n)), reverse=True)
    ]
    dist.broadcast_object_list(names, src=0)
    for name in names[0]:
        try:
            together(lambda name=name: load_job(job, os.path.join(directory, name)))
            return True
        except CheckpointError as e:
            if job.rank == 0:
                print(f"warning: {name} isn't complete, trying the one before it ({e})")
    if names[0]:
        raise CheckpointError(f"none of the {len(names[0])} checkpoints in {directory} is complete")
    return False
    ### END SOLUTION
    #| # TODO: do all ranks take the same one? Is it complete?
    #| names = sorted(os.listdir(directory))
    #| if not names:
    #|     return False
    #| load_job(job, os.path.join(directory, names[-1]))
    #| return True
