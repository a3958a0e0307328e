"""A right solution in another style: the safetensors format, the digest in the file's name, and an
order of samples that the job draws itself and keeps in the checkpoint.
"""

import hashlib
import json
import os
import random
import re
import tempfile

import numpy as np
import torch
from safetensors.torch import load, save


def _pack(value):
    """Nested values as one safetensors file: tensors by number, the structure as JSON in the
    header.
    """
    tensors = {}

    def flat(v):
        if isinstance(v, torch.Tensor):
            tensors[str(len(tensors))] = v.detach().cpu().clone().contiguous()
            return {"t": len(tensors) - 1}
        if isinstance(v, dict):
            return {"d": [[flat(k), flat(x)] for k, x in v.items()]}
        if isinstance(v, (list, tuple)):
            return {"l" if isinstance(v, list) else "u": [flat(x) for x in v]}
        if isinstance(v, float):
            return {"f": v.hex()}
        return {"v": v}

    structure = json.dumps(flat(value))
    return save(tensors, metadata={"structure": structure})


def _unpack(data):
    tensors = load(data)
    size = int.from_bytes(data[:8], "little")
    structure = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["structure"])

    def deep(v):
        ((kind, x),) = v.items()
        if kind == "t":
            return tensors[str(x)]
        if kind == "d":
            return {deep(k): deep(y) for k, y in x}
        if kind in "lu":
            items = [deep(y) for y in x]
            return items if kind == "l" else tuple(items)
        return float.fromhex(x) if kind == "f" else x

    return deep(structure)


def _put(data, path):
    fd, name = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix="partial-")
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise


def save_checkpoint(model, optimizer, scheduler, epoch, path):
    _put(
        _pack(
            [
                epoch,
                model.state_dict(),
                optimizer.state_dict(),
                scheduler and scheduler.state_dict(),
            ]
        ),
        path,
    )


def load_checkpoint(model, optimizer, scheduler, path):
    with open(path, "rb") as f:
        epoch, weights, moments, schedule = _unpack(f.read())
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    if scheduler:
        scheduler.load_state_dict(schedule)
    return epoch


def get_rng_state():
    kind, keys, pos, has, cached = np.random.get_state()
    return {
        "python": list(random.getstate()[1]),
        "gauss": random.getstate()[2],
        "numpy": [kind, [int(k) for k in keys], int(pos), int(has), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": [
            torch.cuda.get_rng_state(i)
            for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        ],
    }


def set_rng_state(state):
    random.setstate((3, tuple(state["python"]), state["gauss"]))
    kind, keys, pos, has, cached = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, "uint32"), pos, has, cached))
    torch.set_rng_state(state["torch"])
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for i, s in enumerate(state["cuda"][:here]):
        torch.cuda.set_rng_state(s, i)


def _name(directory, label, data):
    return os.path.join(
        directory, f"{label}.{hashlib.blake2b(data, digest_size=12).hexdigest()}.safetensors"
    )


def _candidates(directory):
    names = os.listdir(directory) if os.path.isdir(directory) else []
    matches = [m for n in names if (m := re.fullmatch(r"(\d+)\.[0-9a-f]{24}\.safetensors", n))]
    return [
        os.path.join(directory, m[0])
        for m in sorted(matches, key=lambda m: int(m[1]), reverse=True)
    ]


def _checked(path):
    with open(path, "rb") as f:
        data = f.read()
    return (
        data if hashlib.blake2b(data, digest_size=12).hexdigest() == path.split(".")[-2] else None
    )


def _sync(directory):
    fd = os.open(directory, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def write_checkpoint(state, directory, step):
    os.makedirs(directory, exist_ok=True)
    data = _pack(state)
    name = _name(directory, step, data)
    _put(data, name)
    _sync(directory)
    for path in _candidates(directory):  # the step's older version, if it is saved again
        if os.path.basename(path).startswith(f"{step}.") and path != name:
            os.unlink(path)
    _sync(directory)


def read_latest(directory):
    candidates = _candidates(directory)
    for path in candidates:
        data = _checked(path)
        if data is not None:
            return _unpack(data)
    if candidates:
        raise OSError(f"no intact checkpoint among {len(candidates)} in {directory}")
    return None


def capture(job):
    return {
        "objects": [o and o.state_dict() for o in (job.model, job.optimizer, job.scheduler)],
        "counters": [job.step, job.epoch, job.batch, job.best],
        "now": get_rng_state(),
        "at_epoch_start": job.memo["at_epoch_start"],
    }


def restore(job, state):
    for o, s in zip((job.model, job.optimizer, job.scheduler), state["objects"], strict=False):
        if o:
            o.load_state_dict(s)
    job.step, job.epoch, job.batch, job.best = state["counters"]
    job.memo.update(at_epoch_start=state["at_epoch_start"], continue_from=state["now"])


def batches(job):
    continue_from = job.memo.pop("continue_from", None)
    if continue_from is None or job.batch == 0:
        if continue_from:
            set_rng_state(continue_from)
        job.memo["at_epoch_start"] = get_rng_state()
        yield from job.loader
        return
    done = job.batch
    set_rng_state(job.memo["at_epoch_start"])
    for number, batch in enumerate(job.loader):
        if number == done - 1:
            set_rng_state(continue_from)
        if number >= done:
            yield batch
    if done == len(job.loader):
        set_rng_state(continue_from)


def should_save(step, epoch, end_of_epoch, every_steps=None, every_epochs=None):
    if end_of_epoch:
        return every_epochs is not None and epoch % every_epochs == 0
    return every_steps is not None and step % every_steps == 0


def keep_best(state, val_loss, best, directory):
    if val_loss < best:
        os.makedirs(directory, exist_ok=True)
        data = _pack(state)
        _put(hashlib.sha256(data).digest() + data, os.path.join(directory, "best"))
        _sync(directory)
        return val_loss
    return best


def read_best(directory):
    try:
        with open(os.path.join(directory, "best"), "rb") as f:
            raw = f.read()
    except FileNotFoundError:
        return None
    if hashlib.sha256(raw[32:]).digest() != raw[:32]:
        raise OSError("the best is damaged")
    return _unpack(raw[32:])


def prune(directory, keep):
    candidates = _candidates(directory)
    good = [p for p in candidates if _checked(p) is not None]
    if good:
        for p in candidates:
            if p not in good[:keep]:
                os.unlink(p)
        for n in os.listdir(directory):
            if re.fullmatch(r"partial-\w{8}", n):
                os.unlink(os.path.join(directory, n))
