"""Looking at checkpoints: ls, verify, diff."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .directory import CheckpointDirectory
from .interfaces import CheckpointError
from .lives import _Lives
from .optional import numpy


def ls(path: str) -> int:
    """Print one line for each checkpoint, newest first, and one about the last life."""
    where, names = _checkpoints(path)
    if not names:
        print(f"{where.path} holds no checkpoint")
    for name in names:
        folder = where.path / name
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / (1 << 20)
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(folder.stat().st_mtime))
        try:
            about = where.manifest(name)
        except CheckpointError as e:
            print(e)
            continue
        ranks = about.get("world_size", 1)
        ranks_text = f"{ranks} rank" + ("s" if ranks > 1 else "")
        print(f"{name}  step {about.get('step', '?')}  {ranks_text}  {size:.1f} MiB  {date}")
    if last := _Lives(where.path).last:
        reason = f" ({last['reason']})" if last.get("reason") else ""
        print(f"last life: {last.get('outcome')} at step {last.get('steps')}{reason}")
    return 0


def verify(path: str) -> int:
    """Read every byte of one checkpoint, or of all in a directory; print each damaged file."""
    where, names = _checkpoints(path)
    if not names:
        raise CheckpointError(f"{where.path} holds no checkpoint")
    damaged = 0
    for name in names:
        problems = list(where.problems(name))
        damaged += bool(problems)
        print(f"{name}: {'damaged' if problems else 'intact'}")
        for problem in problems:
            print(f"  {problem}")
    return 1 if damaged else 0


def diff(one: str, other: str, rng: bool) -> int:
    """Print what differs between two checkpoints, a line for each value."""
    left, right = (dict(_leaves(_everything(*_checkpoint(p), rng), ())) for p in (one, other))
    lines = 0
    for path in [*left, *(p for p in right if p not in left)]:
        text = _difference(left, right, path)
        if text:
            print(f"{'.'.join(map(str, path))}: {text}")
            lines += 1
    print(f"{lines} of {len(left.keys() | right.keys())} values differ")
    return 1 if lines else 0


def _checkpoints(path: str) -> tuple[CheckpointDirectory, list[str]]:
    """One checkpoint by its path, or all of a directory, newest first."""
    whole = Path(path).expanduser().absolute()
    if _is_checkpoint(whole):
        return _directory(whole.parent), [whole.name]
    where = _directory(path)
    return where, [*where.names(), *where.names("best")]


def _is_checkpoint(path: Path) -> bool:
    """By its manifest, or by its name if that is lost."""
    return (path / "manifest.json").exists() or (
        path.is_dir() and re.fullmatch(r"(step|best)-\d+-\d+", path.name) is not None
    )


def _directory(path: str | Path) -> CheckpointDirectory:
    where = CheckpointDirectory(path)
    if not where.path.is_dir():
        raise CheckpointError(f"{where.path} isn't a directory")
    return where


def _checkpoint(path: str) -> tuple[CheckpointDirectory, str]:
    """A checkpoint by its path; of a directory of checkpoints, the newest."""
    whole = Path(path).expanduser().absolute()
    if _is_checkpoint(whole):
        return _directory(whole.parent), whole.name
    where = _directory(whole)
    names = where.names() or where.names("best")
    if not names:
        raise CheckpointError(f"{whole} holds no checkpoint, and isn't one")
    return where, names[0]


def _everything(where: CheckpointDirectory, name: str, rng: bool = False) -> dict[str, Any]:
    """The state of all ranks, verified; what is in shards is put together."""
    files = sorted(where.manifest(name)["files"])
    state: dict[str, Any] = {}
    for file in files:
        stem, _, kind = file.rpartition(".")
        if kind not in ("json", "ckpt"):
            continue
        found = where.read(name, file)
        if stem.startswith("rank-"):
            found = {k: v for k, v in found.items() if rng or k != "rng"}
            state |= {stem: found} if found else {}
        else:
            state |= {k: v for k, v in found.items() if k != "about"}
    if any(file.startswith("shards/") for file in files):
        where.verify(name)
        state |= _read_dcp(where.path / name / "shards")
    return state


def _read_dcp(path: Path) -> dict[str, Any]:
    """A checkpoint of torch.distributed.checkpoint, in whole tensors. It is read with pickle."""
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    if not (path / ".metadata").is_file():
        raise CheckpointError(f"{path} isn't a DCP checkpoint: it has no file .metadata")
    state: dict[str, Any] = {}
    reader, planner = FileSystemReader(path), _EmptyStateDictLoadPlanner()
    try:
        reader.read_metadata()  # torch logs a traceback if this fails later
        _load_state_dict(state, storage_reader=reader, planner=planner, no_dist=True)
    except BaseException as e:  # torch's CheckpointException isn't an Exception
        if isinstance(e, (KeyboardInterrupt, SystemExit)):
            raise
        first = next(iter(getattr(e, "failures", {0: (e,)}).values()))[0]
        told = (str(first).splitlines() or [type(first).__name__])[0][:200]
        raise CheckpointError(f"{path} can't be read as a DCP checkpoint: {told}") from e
    return state


_Keys = tuple[Any, ...]


def _leaves(value: Any, path: _Keys) -> Iterator[tuple[_Keys, Any]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    if not items:
        yield path, value
    for key, inner in items:
        yield from _leaves(inner, (*path, key))


def _difference(left: dict[_Keys, Any], right: dict[_Keys, Any], path: _Keys) -> str:
    """How they differ; '' if they don't."""
    if path not in left or path not in right:
        return f"only in the {'second' if path not in left else 'first'}"
    a, b = left[path], right[path]
    if numpy is not None and isinstance(a, numpy.ndarray) and isinstance(b, numpy.ndarray):
        a, b = torch.from_numpy(a), torch.from_numpy(b)
    if type(a) is not type(b):
        return f"a {type(a).__name__} and a {type(b).__name__}"
    if not isinstance(a, torch.Tensor):
        return "" if a == b or (a != a and b != b) else f"{_short(a)} and {_short(b)}"
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
    size = a.element_size()
    bytes_a, bytes_b = (t.contiguous().flatten().view(torch.uint8).view(-1, size) for t in (a, b))
    different = int((bytes_a != bytes_b).any(1).sum())
    if not different:
        return ""
    wide = torch.complex128 if a.is_complex() else torch.float64
    most = (a.to(wide) - b.to(wide)).abs().max().item()
    return f"{different} of {a.numel()} numbers differ, by at most {most:.3g}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
