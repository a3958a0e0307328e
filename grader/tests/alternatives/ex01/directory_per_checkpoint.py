"""A right solution in another style: a directory per checkpoint with a manifest, and randomness
without state in the loader (each sample's numbers depend on its epoch and index alone).
"""

import hashlib
import json
import math
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


def _write(path: Path, data: bytes):
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _sync(folder: Path):
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def save_checkpoint(model, optimizer, scheduler, epoch, path):
    parts = {"model": model, "optimizer": optimizer} | (
        {"scheduler": scheduler} if scheduler else {}
    )
    state = {name: part.state_dict() for name, part in parts.items()} | {"epoch": epoch}
    with open(path + ".new", "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.rename(path + ".new", path)


def load_checkpoint(model, optimizer, scheduler, path):
    state = torch.load(path, map_location=torch.device("cpu"), weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if scheduler is not None:
        scheduler.load_state_dict(state["scheduler"])
    return state["epoch"]


def get_rng_state():
    kind, keys, *rest = np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    return {
        "py": random.getstate(),
        "np": (kind, keys.tolist(), *(float(x) if isinstance(x, float) else int(x) for x in rest)),
        "cpu": torch.random.get_rng_state(),
        "gpu": {i: torch.cuda.get_rng_state(i) for i in gpus},
    }


def set_rng_state(state):
    version, internal, gauss = state["py"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["np"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.random.set_rng_state(state["cpu"])
    for i, gpu in state["gpu"].items():
        if torch.cuda.is_available() and i < torch.cuda.device_count():
            torch.cuda.set_rng_state(gpu, i)


class NothingIntact(RuntimeError):
    pass


def write_checkpoint(state, directory, step):
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    building = folder / f".building-{step}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    manifest = {}
    for number, (key, value) in enumerate(state.items()):
        name = f"{number:02d}.bin"
        with open(building / name, "wb") as f:
            torch.save(value, f)
            f.flush()
            os.fsync(f.fileno())
        manifest[name] = [key, hashlib.md5((building / name).read_bytes()).hexdigest()]
    text = json.dumps(manifest)
    _write(building / "manifest", (hashlib.md5(text.encode()).hexdigest() + text).encode())
    _sync(building)
    older = [p for p in _found(folder) if _number(p)[0] == step]
    os.replace(building, folder / f"at_{step}.{_number(older[0])[1] + 1 if older else 0}")
    _sync(folder)
    for before in older:  # the step is saved again: only now may its first version go
        _remove(before)


def _number(path):
    """(step, how often it was saved before), or None for what isn't ours."""
    match = re.fullmatch(r"at_(\d+)\.(\d+)", path.name)
    return match and (int(match[1]), int(match[2]))


def _found(directory):
    folder = Path(directory)
    if not folder.is_dir():
        return []
    return sorted(
        (p for p in folder.iterdir() if _number(p) and p.is_dir()), key=_number, reverse=True
    )


def _remove(path: Path):
    # no longer a checkpoint, before it loses files
    doomed = path.with_name(f".building-{path.name}")
    os.replace(path, doomed)
    shutil.rmtree(doomed)


def _load(folder: Path):
    try:
        raw = (folder / "manifest").read_bytes().decode()
        if hashlib.md5(raw[32:].encode()).hexdigest() != raw[:32]:
            return None
        state = {}
        for name, (key, digest) in json.loads(raw[32:]).items():
            data = (folder / name).read_bytes()
            if hashlib.md5(data).hexdigest() != digest:
                return None
            state[key] = torch.load(folder / name, map_location="cpu", weights_only=True)
        return state
    except (OSError, ValueError):
        return None


def read_latest(directory):
    found = _found(directory)
    for folder in found:
        if (state := _load(folder)) is not None:
            return state
    if found:
        raise NothingIntact(directory)
    return None


def capture(job):
    names = ("step", "epoch", "batch", "best")
    parts = {"model": job.model, "optimizer": job.optimizer, "scheduler": job.scheduler}
    return (
        {k: v.state_dict() for k, v in parts.items() if v}
        | {n: getattr(job, n) for n in names}
        | {"rng": get_rng_state()}
    )


def restore(job, state):
    for name in state.keys() & {"model", "optimizer", "scheduler"}:
        getattr(job, name).load_state_dict(state[name])
    for name in ("step", "epoch", "batch", "best"):
        setattr(job, name, state[name])
    set_rng_state(state["rng"])


class Reseeded(Dataset):
    """Each sample's augmentation is drawn from a seed of its own: no generator to bring along."""

    def __init__(self, samples, epoch):
        self.samples, self.epoch = samples, epoch

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        seed = self.epoch * 100_003 + index
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        try:
            return self.samples[index]
        finally:
            (
                random.setstate(before[0]),
                np.random.set_state(before[1]),
                torch.set_rng_state(before[2]),
            )


def batches(job):
    plain = job.loader
    order = torch.randperm(
        len(plain.dataset), generator=torch.Generator().manual_seed(7 + job.epoch)
    ).tolist()
    chunks = [order[i : i + plain.batch_size] for i in range(0, len(order), plain.batch_size)]
    yield from DataLoader(
        Reseeded(plain.dataset, job.epoch),
        batch_sampler=chunks[job.batch :],
        num_workers=plain.num_workers,
        generator=torch.Generator(),
        multiprocessing_context=plain.multiprocessing_context,
    )


def should_save(step, epoch, end_of_epoch, every_steps=None, every_epochs=None):
    count, every = (epoch, every_epochs) if end_of_epoch else (step, every_steps)
    return every is not None and count % every == 0


def keep_best(state, val_loss, best, directory):
    if math.isnan(val_loss) or val_loss >= best:
        return best
    place = Path(directory) / "best_so_far"
    write_checkpoint(state, place, 1 + max((_number(p)[0] for p in _found(place)), default=0))
    _sync(Path(directory))  # the folder's own name
    for old in _found(Path(directory) / "best_so_far")[1:]:
        shutil.rmtree(old)
    return val_loss


def read_best(directory):
    return read_latest(Path(directory) / "best_so_far")


def prune(directory, keep):
    good = [f for f in _found(directory) if _load(f) is not None][:keep]
    if not good:
        return
    for folder in _found(directory):
        if folder not in good:
            _remove(folder)
    for folder in (Path(directory), Path(directory) / "best_so_far"):
        for rest in folder.iterdir() if folder.is_dir() else []:
            if re.fullmatch(r"\.building-(\d+|at_\d+\.\d+)", rest.name):
                shutil.rmtree(rest)
