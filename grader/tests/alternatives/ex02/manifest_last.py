"""A right solution in another style: files go where they stay, each rank beside the others, and a
checkpoint exists when rank 0 has written a manifest with everybody's digests, last. Ranks agree by
all_reduce.
"""

import functools
import hashlib
import json
import os
import pathlib
import pickle
import random
import re
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, load, save
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict


class NotComplete(Exception):
    pass


def agree(error):
    """An error anywhere is an error everywhere."""
    bad = torch.tensor([int(error is not None)])
    dist.all_reduce(bad, op=dist.ReduceOp.MAX)
    if bad.item():
        raise error or NotComplete("another rank failed")


def attempt(function, *args):
    try:
        return function(*args), None
    except Exception as e:
        return None, e


def durable(path, write):
    with open(path, "wb") as f:
        write(f)
        f.flush()
        os.fsync(f.fileno())


def names_durable(folder):
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def dump(state, path):
    durable(path, lambda f: torch.save(state, f))


def fetch(path):
    return torch.load(path, map_location=lambda storage, _: storage, weights_only=True)


# 2.1


def save_checkpoint_ddp(model, optimizer, epoch, rank, path):
    weights = {k.removeprefix("module."): v for k, v in model.state_dict().items()}
    state = {"epoch": epoch, "weights": weights, "optimizer": optimizer.state_dict()}
    error = attempt(dump, state, path)[1] if rank == 0 else None
    agree(error)


def load_checkpoint_ddp(model, optimizer, path):
    state = fetch(path)
    wrapped = isinstance(model, torch.nn.parallel.DistributedDataParallel)
    model.load_state_dict(
        {("module." if wrapped else "") + k: v for k, v in state["weights"].items()}
    )
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"]


# 2.2: every rank saves everything, which costs disk and nothing else


def of_this_rank(job):
    state = {name: getattr(job, name).state_dict() for name in ("model", "optimizer", "scheduler")}
    state |= {name: getattr(job, name) for name in ("step", "epoch", "batch", "best")}
    np_state = np.random.get_state()
    np_rng = [np_state[0], torch.tensor(np_state[1].astype("int64")), *np_state[2:]]
    return state | {"rng": [random.getstate(), np_rng, torch.get_rng_state()]}


def into_this_rank(job, state):
    for name in ("model", "optimizer", "scheduler"):
        getattr(job, name).load_state_dict(state[name])
    for name in ("step", "epoch", "batch", "best"):
        setattr(job, name, state[name])
    py, (kind, keys, *rest), th = state["rng"]
    random.setstate(py)
    np.random.set_state((kind, keys.numpy().astype("uint32"), *rest))
    torch.set_rng_state(th)


def save_job(job, folder):
    agree(attempt(dump, of_this_rank(job), os.path.join(folder, f"{job.rank:05d}"))[1])


def load_job(job, folder):
    into_this_rank(job, fetch(os.path.join(folder, f"{job.rank:05d}")))


def batches(job):
    job.sampler.set_epoch(job.epoch)
    if not job.batch:
        yield from job.loader
        return
    order = list(job.sampler)[job.batch * job.loader.batch_size :]
    # a loader over the rest alone: nothing is fetched twice
    rest = torch.utils.data.Subset(job.loader.dataset, order)
    yield from torch.utils.data.DataLoader(rest, job.loader.batch_size, generator=torch.Generator())


# 2.3, 2.4


def save_sharded(model, optimizer, folder):
    state = dict(zip("mo", get_state_dict(model, optimizer), strict=False))
    save(state, storage_writer=FileSystemWriter(folder, thread_count=2))
    dist.barrier()


def load_sharded(model, optimizer, folder):
    state = dict(zip("mo", get_state_dict(model, optimizer), strict=False))
    load(state, storage_reader=FileSystemReader(folder))
    set_state_dict(model, optimizer, model_state_dict=state["m"], optim_state_dict=state["o"])


def export_model(folder, model, path):
    load({"m": model.state_dict()}, storage_reader=FileSystemReader(folder))  # in place
    torch.save(model.state_dict(), path)


# 2.5


@functools.cache
def group_of_saves():
    """One for all saves: it holds connections to all ranks."""
    return dist.new_group(backend="gloo", timeout=timedelta(minutes=30))


def save_step(job, directory):
    group = group_of_saves()
    where = pathlib.Path(directory)
    names = [f"{job.step}-part-{rank}" for rank in range(job.world)]
    manifest = where / f"{job.step}-manifest.json"

    def forget():  # parts that change under a manifest would be a checkpoint that isn't one
        if job.rank == 0:
            manifest.unlink(missing_ok=True)

    agree(attempt(forget)[1])
    agree(attempt(dump, of_this_rank(job), where / names[job.rank])[1])

    def seal():
        if job.rank == 0:
            digests = {n: hashlib.sha256((where / n).read_bytes()).hexdigest() for n in names}
            durable(f"{manifest}.new", lambda f: f.write(json.dumps(digests).encode()))
            names_durable(where)  # the parts' own, of all ranks
            os.replace(f"{manifest}.new", manifest)
            names_durable(where)

    agree(attempt(seal)[1])
    dist.barrier(group=group)


def resume(job, directory):
    where = pathlib.Path(directory)
    names = (re.fullmatch(r"(\d+)-manifest\.json", p.name) for p in where.iterdir())
    steps = sorted((int(name[1]) for name in names if name), reverse=True)
    payload = torch.tensor([len(steps) if job.rank == 0 else 0])
    dist.broadcast(payload, 0)
    chosen = torch.tensor(steps if job.rank == 0 else [0] * payload.item(), dtype=torch.int64)
    if payload.item():
        dist.broadcast(chosen, 0)
    for step in chosen.tolist():

        def mine(step=step):
            digests = json.loads((where / f"{step}-manifest.json").read_text())
            name = f"{step}-part-{job.rank}"
            if hashlib.sha256((where / name).read_bytes()).hexdigest() != digests[name]:
                raise NotComplete(name)
            return fetch(where / name)

        state, error = attempt(mine)
        try:
            agree(error)
        except (NotComplete, OSError, ValueError, RuntimeError, pickle.UnpicklingError):
            continue
        into_this_rank(job, state)
        return True
    if payload.item():
        raise NotComplete(f"nothing in {directory} is complete")
    return False
