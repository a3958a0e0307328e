"""Savers of a checkpoint of three files, for test_crash.py: one that is right, and mistakes of
which each is one.

A checkpoint is a folder step-N: two files and a manifest with their digests, written under another
name, synced, renamed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile

import torch

KEEP = 2


def state(n: int) -> dict:
    draw = torch.Generator().manual_seed(n)
    return {
        "model": torch.randn(500, generator=draw),
        "optimizer": torch.randn(900, generator=draw),
        "step": n,
    }


def _bytes(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _put(path: str, data: bytes, sync: bool | str) -> None:
    with open(path, "wb") as f:
        if sync == "early":
            f.write(data[:-8])
            f.flush()
            f.write(data[-8:])
        else:
            f.write(data)
            f.flush()
        if sync:
            os.fsync(f.fileno())


def _steps(directory: str) -> list[str]:
    return sorted((n for n in os.listdir(directory) if n.startswith("step-")), reverse=True)


def save(directory: str, state: dict, mistake: str = "") -> None:
    final = os.path.join(directory, f"step-{state['step']:06d}")
    work = os.path.join(directory, f"tmp-{state['step']:06d}")
    if mistake == "in place":
        work = final
    if mistake == "retention first":
        for old in _steps(directory)[KEEP - 1 :]:
            shutil.rmtree(os.path.join(directory, old))
        if len(_steps(directory)) >= KEEP - 1:
            shutil.rmtree(os.path.join(directory, _steps(directory)[0]))
    shutil.rmtree(work, ignore_errors=True)
    os.mkdir(work)
    parts = {
        "model.pt": _bytes(state["model"]),
        "rest.pt": _bytes([state["optimizer"], state["step"]]),
    }
    manifest = json.dumps(
        {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
    ).encode()
    sync: bool | str = mistake not in (
        "no file fsync",
        "fsync after rename",
        "fsync of another descriptor",
    )
    if mistake == "fsync before flush":
        sync = "early"
    for name, data in parts.items():
        _put(os.path.join(work, name), data, sync)
    _put(os.path.join(work, "manifest.json"), manifest, sync)
    if mistake == "fsync of another descriptor":
        with tempfile.TemporaryFile(dir=directory) as f:
            os.fsync(f.fileno())
    if mistake not in ("no folder fsync", "no fsync at all"):
        _sync(work)
    if mistake == "across file systems":
        shutil.copytree(work, final)  # what shutil.move does there: in place, and nothing is synced
        shutil.rmtree(work)
    elif mistake != "in place":
        os.rename(work, final)
    if mistake == "fsync after rename":
        for name in [*parts, "manifest.json"]:
            _sync(os.path.join(final, name))
    if mistake == "retention before durable":
        _retain(directory, 1)  # the new one's name isn't durable yet
    if mistake not in ("no directory fsync",):
        _sync(directory)
    _retain(directory)


def _retain(directory: str, keep: int = KEEP) -> None:
    for old in _steps(directory)[keep:]:
        shutil.rmtree(os.path.join(directory, old))


def load(directory: str, verify: bool = True) -> dict | None:
    """The newest whole checkpoint; None if none was ever begun; raises if there are some and none
    is whole.
    """
    steps = _steps(directory)
    for step in steps:
        try:
            with open(os.path.join(directory, step, "manifest.json"), "rb") as f:
                manifest = json.loads(f.read())
            parts = {}
            for name, digest in manifest.items():
                with open(os.path.join(directory, step, name), "rb") as f:
                    parts[name] = f.read()
                if verify and hashlib.sha256(parts[name]).hexdigest() != digest:
                    raise ValueError(f"{name} is damaged")
            model = torch.load(io.BytesIO(parts["model.pt"]), weights_only=True)
            optimizer, number = torch.load(io.BytesIO(parts["rest.pt"]), weights_only=True)
            return {"model": model, "optimizer": optimizer, "step": number}
        except (OSError, ValueError, KeyError, RuntimeError):
            continue
    if steps:
        raise RuntimeError("none of the checkpoints is whole")
    return None


def load_newest(directory: str) -> dict | None:
    """The newest, whatever it is: no falling back, nothing verified."""
    steps = _steps(directory)
    if not steps:
        return None
    model = torch.load(os.path.join(directory, steps[0], "model.pt"), weights_only=True)
    optimizer, number = torch.load(os.path.join(directory, steps[0], "rest.pt"), weights_only=True)
    return {"model": model, "optimizer": optimizer, "step": number}


def digest_first(directory: str, state: dict) -> None:
    """One file in place and its digest beside it, which is on the disk before the data is."""
    data = _bytes(state)
    with open(os.path.join(directory, f"step-{state['step']}.sha"), "w") as f:
        f.write(hashlib.sha256(data).hexdigest())
        f.flush()
        os.fsync(f.fileno())
    _sync(directory)
    _put(os.path.join(directory, f"step-{state['step']}.pt"), data, False)


def load_by_digest(directory: str) -> dict | None:
    """Trusts the newest digest."""
    names = sorted(n for n in os.listdir(directory) if n.endswith(".sha"))
    if not names:
        return None
    with open(os.path.join(directory, names[-1])) as f:
        digest = f.read()
    with open(os.path.join(directory, names[-1].replace(".sha", ".pt")), "rb") as f:
        data = f.read()
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("damaged")
    return torch.load(io.BytesIO(data), weights_only=True)
