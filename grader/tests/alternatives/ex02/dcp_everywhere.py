"""A right solution in another style: DCP writes what all ranks have, under DDP as well, and raises
its CheckpointException, which is no Exception; ranks agree through the store, in no collective; a
checkpoint is a folder that was renamed."""

import io
import os
import random
import shutil
from datetime import timedelta

import numpy
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

meetings = 0


def agree(work):
    """Everybody works, then hears how the others fared."""
    global meetings
    meetings += 1
    number = meetings  # the work may hold meetings of its own
    store, problem = dist.distributed_c10d._get_default_store(), ""
    try:
        work()
    except (Exception, CheckpointException) as e:
        problem = f"{type(e).__name__}: {e}"[:500] or "?"
    keys = [f"meeting {number} rank {rank}" for rank in range(dist.get_world_size())]
    store.set(keys[dist.get_rank()], problem)
    store.wait(keys, timedelta(minutes=30))
    problems = {rank: store.get(key).decode() for rank, key in enumerate(keys)}
    if any(problems.values()):
        raise RuntimeError(f"{ {rank: text for rank, text in problems.items() if text} }")


def synced(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# 2.1


def save_checkpoint_ddp(model, optimizer, epoch, rank, path):
    def write():
        if rank == 0:
            state = {"e": epoch, "m": model.module.state_dict(), "o": optimizer.state_dict()}
            with open(f"{path}.part", "wb") as f:
                torch.save(state, f)
                f.flush()
                os.fsync(f.fileno())
            os.replace(f"{path}.part", path)

    agree(write)


def load_checkpoint_ddp(model, optimizer, path):
    state = torch.load(path, map_location="cpu", weights_only=True)
    getattr(model, "module", model).load_state_dict(state["m"])
    optimizer.load_state_dict(state["o"])
    return state["e"]


# 2.2


def packed(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def unpacked(tensor):
    return torch.load(io.BytesIO(tensor.numpy().tobytes()), map_location="cpu", weights_only=True)


def save_job(job, folder):
    kind, keys, *rest = numpy.random.get_state()
    mine = [
        random.getstate(),
        [kind, torch.from_numpy(keys.astype("int64")), *rest],
        torch.get_rng_state(),
    ]
    counters = [job.step, job.epoch, job.batch, job.best]
    state = {f"rank {job.rank}": packed(mine)}
    if job.rank == 0:  # the others' buffers aren't those that DDP gives to all
        parts = [part.state_dict() for part in (job.model.module, job.optimizer, job.scheduler)]
        state["common"] = packed([*parts, counters])
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, sync_files=True))


def load_job(job, folder):
    reader, mine = dcp.FileSystemReader(folder), f"rank {job.rank}"
    metadata = {}  # outside DCP's collectives: one rank alone may be unable to read it
    agree(lambda: metadata.update(reader.read_metadata().state_dict_metadata))
    state = {name: torch.empty(metadata[name].size, dtype=torch.uint8) for name in ("common", mine)}
    dcp.load(state, storage_reader=reader)
    *parts, (job.step, job.epoch, job.batch, job.best) = unpacked(state["common"])
    for part, saved in zip((job.model.module, job.optimizer, job.scheduler), parts, strict=False):
        part.load_state_dict(saved)
    python, (kind, keys, *rest), torch_ = unpacked(state[mine])
    random.setstate(python)
    numpy.random.set_state((kind, keys.numpy().astype("uint32"), *rest))
    torch.set_rng_state(torch_)


def batches(job):
    job.sampler.set_epoch(job.epoch)
    if not job.batch:
        yield from job.loader
        return
    order = list(job.sampler)[job.batch * job.loader.batch_size :]
    for at in range(0, len(order), job.loader.batch_size):
        chosen = order[at : at + job.loader.batch_size]
        yield torch.utils.data.default_collate([job.loader.dataset[i] for i in chosen])


# 2.3, 2.4: the state is copied before it is written, as for a save in the background


def save_sharded(model, optimizer, folder):
    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=False))
    copy = torch.utils._pytree.tree_map(lambda t: t.clone() if torch.is_tensor(t) else t, state)
    dcp.save(copy, checkpoint_id=folder)


def load_sharded(model, optimizer, folder):
    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=False))
    dcp.load(state, checkpoint_id=folder)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )


def export_model(folder, model, path):
    state = {"model": model.state_dict()}
    dcp.load(state, checkpoint_id=folder)
    torch.save(state["model"], path)


# 2.5


def name_of(step):
    return f"checkpoint-of-{step}"


def save_step(job, directory):
    final, growing = (
        os.path.join(directory, kind + name_of(job.step)) for kind in ("", "growing-")
    )

    def begin():
        if job.rank == 0:
            shutil.rmtree(growing, ignore_errors=True)
            os.mkdir(growing)

    def publish():
        if job.rank == 0:
            for name in os.listdir(growing):  # DCP leaves its metadata to the kernel
                synced(os.path.join(growing, name))
            synced(growing)
            if os.path.isdir(final):
                os.rename(final, f"{growing}-old")
                shutil.rmtree(f"{growing}-old")
            os.rename(growing, final)
            synced(directory)

    agree(begin)
    agree(lambda: save_job(job, growing))
    agree(publish)


def resume(job, directory):
    names = [None]
    if job.rank == 0:
        steps = [name.removeprefix("checkpoint-of-") for name in os.listdir(directory)]
        names = [
            sorted(
                (
                    int(s)
                    for s in steps
                    if s.isdecimal() and os.path.isdir(os.path.join(directory, name_of(s)))
                ),
                reverse=True,
            )
        ]
    dist.broadcast_object_list(names, src=0)
    for step in names[0]:
        try:
            agree(lambda step=step: load_job(job, os.path.join(directory, name_of(step))))
            return True
        except RuntimeError:
            continue
    if names[0]:
        raise RuntimeError("nothing is complete")
    return False
