"""A right solution in another style: torch's own archive, verified by the CRC that a zip file keeps
of each of its parts (a bit flipped between them does no harm), and a symbolic link to the newest,
which is for people.
"""

import io
import os
import random
import re
import zipfile

import numpy
import torch


def save_checkpoint(model, optimizer, scheduler, epoch, path):
    state = {
        "epoch": epoch,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict() if scheduler else None,
    }
    _commit(_packed(state), path)


def load_checkpoint(model, optimizer, scheduler, path):
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


def get_rng_state():
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


def set_rng_state(state):
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        for device, rng in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(rng.cpu(), device)


class CheckpointError(Exception):
    """A checkpoint is damaged or holds too little; of several, none is intact."""


def write_checkpoint(state, directory, step):
    os.makedirs(directory, exist_ok=True)
    _commit(_packed(state), os.path.join(directory, f"step-{step:010d}.ckpt"))
    link = os.path.join(directory, "latest.tmp")
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(f"step-{step:010d}.ckpt", link)
    os.replace(link, os.path.join(directory, "latest"))


def read_latest(directory):
    paths = _checkpoints(directory)
    for path in paths:
        state = _unpacked(path)
        if state is not None:
            return state
        print(f"warning: {path} is damaged, trying the one before it")
    if paths:
        raise CheckpointError(f"none of the {len(paths)} checkpoints in {directory} is intact")
    return None


def _packed(state):
    """Bytes of a checkpoint: what torch.save writes, and its digest (torch.load verifies
    nothing).
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _unpacked(path):
    """The state in `path`, or None if a single bit of it is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return None


def _commit(data, path):
    """Write `data` to `path` so that at every moment the file is the old one or the new one,
    whole.
    """
    temporary = path + ".tmp"
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(
                f.fileno()
            )  # the bytes before the name: a power loss keeps no promise that we didn't ask for
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


def capture(job):
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


def restore(job, state):
    job.model.load_state_dict(state["model"])
    job.optimizer.load_state_dict(state["optimizer"])
    if job.scheduler:
        job.scheduler.load_state_dict(state["scheduler"])
    job.step, job.epoch, job.batch = state["step"], state["epoch"], state["batch"]
    job.best = state["best"]
    job.memo["epoch_rng"] = state["epoch_rng"]
    set_rng_state(state["rng"])


def batches(job):
    now = get_rng_state()
    if job.batch == 0:
        job.memo["epoch_rng"] = now
    # an iterator draws the order and its workers' seeds when it begins: let it begin from the same
    # state
    set_rng_state(job.memo["epoch_rng"])
    iterator = iter(job.loader)
    for _ in range(job.batch):
        # fetched again, not trained again: this also brings the workers' generators along
        next(iterator)
    if job.batch:
        set_rng_state(now)
    yield from iterator


def should_save(step, epoch, end_of_epoch, every_steps=None, every_epochs=None):
    if end_of_epoch:
        return bool(every_epochs) and epoch % every_epochs == 0
    return bool(every_steps) and step % every_steps == 0


def keep_best(state, val_loss, best, directory):
    if not val_loss < best:
        return best
    os.makedirs(directory, exist_ok=True)
    _commit(_packed(state), os.path.join(directory, "best.ckpt"))
    return val_loss


def read_best(directory):
    """The state that keep_best saved last. Returns dict, or None if there is none; raises if it is
    damaged.
    """
    path = os.path.join(directory, "best.ckpt")
    if not os.path.exists(path):
        return None
    state = _unpacked(path)
    if state is None:
        raise CheckpointError(f"{path} is damaged")
    return state


def prune(directory, keep):
    paths = _checkpoints(directory)
    intact = [path for path in paths if _unpacked(path) is not None]
    if not intact:
        return
    for path in paths:
        if path not in intact[:keep]:
            os.remove(path)
    for name in os.listdir(directory):
        if re.fullmatch(r"(step-\d+\.ckpt|best\.ckpt|latest)\.tmp", name):
            os.remove(os.path.join(directory, name))
