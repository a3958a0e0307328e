"""A right solution in another style: torch.save straight to a path (its C++ writer), a digest in a
sidecar that commits the checkpoint, pathlib, and a resumable batch sampler with a generator for
each epoch.
"""

import hashlib
import random
import re
from os import O_RDONLY, close, fsync
from os import open as os_open
from pathlib import Path

import numpy
import torch
from torch.utils.data import DataLoader


def _hash(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _durable(path):
    fd = os_open(path, O_RDONLY)
    try:
        fsync(fd)
    finally:
        close(fd)


def _commit(state, folder, step):
    """The sidecar comes last, and says by its digest which file it vouches for: one step may have
    two.
    """
    fresh = folder / f"{step}.unfinished"
    torch.save(state, str(fresh))
    _durable(fresh)
    digest = _hash(fresh)
    side = folder / f"{step}.sha1.unfinished"
    side.write_text(digest)
    _durable(side)
    fresh.replace(_data(folder, step, digest))
    _durable(folder)  # the sidecar vouches for it
    side.replace(folder / f"{step}.sha1")
    _durable(folder)
    _forget_orphans(folder)


def _data(folder, step, digest):
    return folder / f"{step}.{digest}.pt"


def _forget_orphans(folder):
    """Files that no sidecar vouches for: an interrupted save's, or an older version of a step."""
    for path in folder.iterdir():
        match = re.fullmatch(r"(\d+)\.([0-9a-f]{40})\.pt", path.name)
        if match and _vouched(folder, match[1]) not in (match[2], None):
            path.unlink()


def _vouched(folder, step):
    """The digest in a sidecar; None if there is none that could be one."""
    try:
        text = (folder / f"{step}.sha1").read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch(r"[0-9a-f]{40}", text) else None


def save_checkpoint(model, optimizer, scheduler, epoch, path):
    scheduler_state = None if scheduler is None else scheduler.state_dict()
    new = Path(str(path) + ".unfinished")
    torch.save((epoch, model.state_dict(), optimizer.state_dict(), scheduler_state), new)
    new.replace(path)


def load_checkpoint(model, optimizer, scheduler, path):
    epoch, weights, moments, schedule = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(weights, strict=True)
    optimizer.load_state_dict(moments)
    if scheduler is not None:
        scheduler.load_state_dict(schedule)
    return epoch


def get_rng_state():
    state = numpy.random.get_state(legacy=False)
    return {
        "random": random.getstate(),
        "numpy": {
            "key": torch.from_numpy(state["state"]["key"].astype("int64")),
            "pos": int(state["state"]["pos"]),
            "has_gauss": int(state["has_gauss"]),
            "gauss": float(state["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
    }


def set_rng_state(state):
    random.setstate(state["random"])
    np = state["numpy"]
    key = np["key"].numpy().astype("uint32")
    numpy.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": key, "pos": np["pos"]},
            "has_gauss": np["has_gauss"],
            "gauss": np["gauss"],
        }
    )
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        for device, s in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(s, device)


def write_checkpoint(state, directory, step):
    folder = Path(directory)
    folder.mkdir(exist_ok=True, parents=True)
    _commit(state, folder, step)


def _steps(directory):
    """Steps with a sidecar, newest first: without one, the save never finished."""
    folder = Path(directory)
    names = [p.name for p in folder.iterdir()] if folder.exists() else []
    return sorted((int(m[1]) for n in names if (m := re.match(r"(\d+)\.sha1$", n))), reverse=True)


def _intact(folder, step):
    """The file of this step, if it is whole."""
    digest = _vouched(folder, step)
    path = digest and _data(folder, step, digest)
    return path if path and path.exists() and _hash(path) == digest else None


def read_latest(directory):
    steps = _steps(directory)
    for step in steps:
        if path := _intact(Path(directory), step):
            return torch.load(path, map_location="cpu", weights_only=True)
    if steps:
        raise ValueError(f"{directory}: {len(steps)} checkpoints, all damaged")
    return None


def capture(job):
    return {
        "weights": job.model.state_dict(),
        "moments": job.optimizer.state_dict(),
        "schedule": job.scheduler and job.scheduler.state_dict(),
        "where": {"epoch": job.epoch, "batch": job.batch, "step": job.step},
        "best": job.best,
        "rng": get_rng_state(),
    }


def restore(job, state):
    job.model.load_state_dict(state["weights"])
    job.optimizer.load_state_dict(state["moments"])
    if job.scheduler:
        job.scheduler.load_state_dict(state["schedule"])
    for name, value in state["where"].items():
        setattr(job, name, value)
    job.best = state["best"]
    set_rng_state(state["rng"])


class Rest:
    """The batches of an epoch that are left, and a fresh seed for the workers at each of them."""

    def __init__(self, job):
        generator = torch.Generator().manual_seed(1000 + job.epoch)
        order = torch.randperm(len(job.loader.dataset), generator=generator).tolist()
        size = job.loader.batch_size
        self.batches = [order[i : i + size] for i in range(size * job.batch, len(order), size)]

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


class Seeded(torch.utils.data.Dataset):
    """Fetches whole batches; in a worker each is seeded by where in the run it stands."""

    def __init__(self, dataset, epoch, in_workers):
        self.dataset, self.epoch, self.in_workers = dataset, epoch, in_workers

    def __len__(self):
        return len(self.dataset)

    def __getitems__(self, indices):
        if self.in_workers:
            seed = self.epoch * 1_000_003 + indices[0]
            random.seed(seed)
            numpy.random.seed(seed)
            torch.manual_seed(seed)
        return [self.dataset[i] for i in indices]


def batches(job):
    workers = job.loader.num_workers
    data = Seeded(job.loader.dataset, job.epoch, in_workers=workers > 0)
    context = job.loader.multiprocessing_context
    yield from DataLoader(
        data,
        batch_sampler=Rest(job),
        num_workers=workers,
        generator=torch.Generator(),
        multiprocessing_context=context,
    )


def should_save(step, epoch, end_of_epoch, every_steps=None, every_epochs=None):
    if end_of_epoch:
        return every_epochs is not None and not epoch % every_epochs
    return every_steps is not None and not step % every_steps


def keep_best(state, val_loss, best, directory):
    if val_loss == val_loss and val_loss < best:
        folder = Path(directory) / "best"
        folder.mkdir(parents=True, exist_ok=True)
        _durable(folder.parent)
        # a new name each time: of one name, the new file and the old sidecar might meet
        number = max(_steps(folder), default=0) + 1
        write_checkpoint(state, folder, number)
        prune(folder, 1)
        return val_loss
    return best


def read_best(directory):
    return read_latest(Path(directory) / "best")


def prune(directory, keep):
    folder = Path(directory)
    for place in (folder / "best", folder):
        for path in place.iterdir() if place.is_dir() else []:
            if re.fullmatch(r"\d+(\.sha1)?\.unfinished", path.name):
                path.unlink()
    steps = _steps(directory)
    good = [s for s in steps if _intact(folder, s)]
    if not good:
        return
    for step in steps:
        if step not in good[:keep]:
            (folder / f"{step}.sha1").unlink()
    for path in folder.iterdir():
        match = re.fullmatch(r"(\d+)\.[0-9a-f]{40}\.pt", path.name)
        if match and int(match[1]) not in good[:keep]:
            path.unlink()
    _forget_orphans(folder)
