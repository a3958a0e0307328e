"""A right solution in another style: rank 0 gathers what the others have and writes one file; DCP
with its own writer and a group of its own; a checkpoint is a file whose last line is its digest;
ranks learn by broadcast.
"""

import contextlib
import glob
import hashlib
import io
import os
import random

import numpy
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)


class Failed(RuntimeError):
    pass


def told_by_rank_0(work):
    """Rank 0 works; everybody gets its result, or its error."""
    box = [None, None]
    if dist.get_rank() == 0:
        try:
            box[0] = work()
        except Exception as e:
            box[1] = repr(e)
    dist.broadcast_object_list(box, src=0)
    if box[1]:
        raise Failed(box[1])
    return box[0]


def network(model):
    return model.module if hasattr(model, "module") else model


def packed(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest()


def put(data, path):
    try:
        with open(path + "~", "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(path + "~")
        raise
    os.rename(path + "~", path)
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def taken(path):
    with open(path, "rb") as f:
        data = f.read()
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise Failed(f"{path} is damaged")
    return torch.load(io.BytesIO(data[:-32]), map_location="cpu", weights_only=True)


# 2.1


def save_checkpoint_ddp(model, optimizer, epoch, rank, path):
    told_by_rank_0(
        lambda: put(packed([epoch, model.module.state_dict(), optimizer.state_dict()]), path)
    )


def load_checkpoint_ddp(model, optimizer, path):
    epoch, weights, moments = taken(path)
    network(model).load_state_dict(weights)
    optimizer.load_state_dict(moments)
    return epoch


# 2.2


def generators():
    kind, keys, position, gauss, cached = numpy.random.get_state()
    return [
        random.getstate(),
        [kind, keys.tolist(), position, gauss, cached],
        torch.get_rng_state(),
    ]


def set_generators(state):
    random.setstate(state[0])
    kind, keys, *rest = state[1]
    numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), *rest))
    torch.set_rng_state(state[2])


def snapshot(job):
    """On rank 0: everything of everybody."""
    everybody = [None] * job.world if job.rank == 0 else None
    dist.gather_object(generators(), everybody)
    parts = (job.model.module, job.optimizer, job.scheduler)
    return [[p.state_dict() for p in parts], (job.step, job.epoch, job.batch, job.best), everybody]


def bring_back(job, state):
    parts, counters, everybody = state
    for part, saved in zip((job.model.module, job.optimizer, job.scheduler), parts, strict=False):
        part.load_state_dict(saved)
    job.step, job.epoch, job.batch, job.best = counters
    set_generators(everybody[job.rank])


def save_job(job, folder):
    state = snapshot(job)
    told_by_rank_0(lambda: put(packed(state), os.path.join(folder, "everything")))


def load_job(job, folder):
    bring_back(job, taken(os.path.join(folder, "everything")))


def batches(job):
    job.sampler.set_epoch(job.epoch)
    done = job.batch
    if not done:
        yield from job.loader
        return
    # by hand, from the order that the sampler gives: nothing is fetched twice
    indices, size = list(job.sampler), job.loader.batch_size
    for at in range(done * size, len(indices), size):
        yield torch.utils.data.default_collate(
            [job.loader.dataset[i] for i in indices[at : at + size]]
        )


# 2.3, 2.4


def parts_of(model, optimizer):
    return {"net": get_model_state_dict(model), "opt": get_optimizer_state_dict(model, optimizer)}


def save_sharded(model, optimizer, folder):
    group = dist.new_group(backend="gloo")
    writer = dcp.FileSystemWriter(folder, single_file_per_rank=False, sync_files=True)
    dcp.save(parts_of(model, optimizer), storage_writer=writer, process_group=group)


def load_sharded(model, optimizer, folder):
    state = parts_of(model, optimizer)
    dcp.load(state, storage_reader=dcp.FileSystemReader(folder))
    set_model_state_dict(model, state["net"])
    set_optimizer_state_dict(model, optimizer, state["opt"])


def export_model(folder, model, path):
    state = {"net": {k: torch.empty_like(v) for k, v in model.state_dict().items()}}
    dcp.load(state, storage_reader=dcp.FileSystemReader(folder))
    model.load_state_dict(state["net"])
    torch.save(state["net"], path)


# 2.5


def save_step(job, directory):
    state = snapshot(job)
    told_by_rank_0(lambda: put(packed(state), os.path.join(directory, f"{job.step}.everything")))


def resume(job, directory):
    def newest():
        paths = glob.glob(os.path.join(glob.escape(directory), "*.everything"))
        paths = [path for path in paths if os.path.basename(path).split(".")[0].isdecimal()]
        for path in sorted(paths, key=lambda p: -int(os.path.basename(p).split(".")[0])):
            try:
                return taken(path)
            except (Failed, OSError):
                continue
        if paths:
            raise Failed("nothing intact")
        return None

    state = told_by_rank_0(newest)
    if state is not None:
        bring_back(job, state)
    return state is not None
