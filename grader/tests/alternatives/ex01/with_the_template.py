"""Right, on top of templates/checkpoint_utils.py: what people take home passes what it teaches."""

import os
import tempfile

from checkpoint_utils import (
    CheckpointDirectory,
    CheckpointError,
    _load_into,
    _state_of,
    read_file,
    rng_state,
    set_rng_state,
    write_file,
)


def _replace(path, state):
    folder = os.path.dirname(path) or "."
    with tempfile.TemporaryDirectory(dir=folder, prefix="tmp-") as tmp:
        new = os.path.join(tmp, "new")
        write_file(new, state)
        os.replace(new, path)
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def save_checkpoint(model, optimizer, scheduler, epoch, path):
    _replace(path, {"epoch": epoch, "parts": [_state_of(p) for p in (model, optimizer, scheduler)]})


def load_checkpoint(model, optimizer, scheduler, path):
    state = read_file(path)
    for name, part, saved in zip(
        ("model", "optimizer", "scheduler"),
        (model, optimizer, scheduler),
        state["parts"],
        strict=False,
    ):
        if name != "scheduler" or part is not None:
            _load_into(part, saved, name)
    return state["epoch"]


def get_rng_state():
    return rng_state()


def write_checkpoint(state, directory, step):
    where = CheckpointDirectory(directory)
    tmp = where.begin("step", step)
    where.commit(tmp, {"state.ckpt": write_file(tmp / "state.ckpt", state)})


def _newest(directory, kind):
    where = CheckpointDirectory(directory)
    names = where.names(kind)
    for name in names:
        try:
            return where.read(name, "state.ckpt")
        except CheckpointError as e:
            print(f"passed over: {e}")
    if names:
        raise CheckpointError(f"none of {names} is intact")
    return None


def read_latest(directory):
    return _newest(directory, "step")


def capture(job):
    parts = {name: _state_of(getattr(job, name)) for name in ("model", "optimizer", "scheduler")}
    numbers = {name: getattr(job, name) for name in ("step", "epoch", "batch", "best")}
    return {
        "parts": parts,
        "numbers": numbers,
        "rng": rng_state(),
        "epoch_rng": job.memo["epoch_rng"],
    }


def restore(job, state):
    for name, saved in state["parts"].items():
        _load_into(getattr(job, name), saved, name)
    for name, number in state["numbers"].items():
        setattr(job, name, number)
    job.memo["epoch_rng"] = state["epoch_rng"]
    set_rng_state(state["rng"])


def batches(job):
    now = rng_state()
    if job.batch == 0:
        job.memo["epoch_rng"] = now
    set_rng_state(job.memo["epoch_rng"])
    iterator = iter(job.loader)
    for _ in range(job.batch):
        next(iterator)
    if job.batch:
        set_rng_state(now)
    yield from iterator


def should_save(step, epoch, end_of_epoch, every_steps=None, every_epochs=None):
    number, every = (epoch, every_epochs) if end_of_epoch else (step, every_steps)
    return bool(every) and number % every == 0


def keep_best(state, val_loss, best, directory):
    if not val_loss < best:
        return best
    where = CheckpointDirectory(directory)
    again = max([int(n.split("-")[1]) for n in where.names("best")], default=0) + 1
    tmp = where.begin("best", again)
    where.commit(tmp, {"state.ckpt": write_file(tmp / "state.ckpt", state)})
    where.prune(1, "best")
    return val_loss


def read_best(directory):
    return _newest(directory, "best")


def prune(directory, keep):
    CheckpointDirectory(directory).prune(keep, trust=False)
