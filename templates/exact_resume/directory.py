"""A directory of checkpoints: names, commits, retention."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from .digest import digest_of
from .durable import _fsync_ancestors, _fsync_path, _write_all
from .interfaces import AnyPath, CheckpointError
from .reporting import _say
from .statefile import _read
from .stateparts import _read_state
from .writing import _Syncs


class CheckpointDirectory:
    """A directory of checkpoints step-STEP-N and best-STEP-N; N counts the saves of that step.

    A checkpoint is a directory: its files, and manifest.json with the digest of each file and of
    itself. Unfinished ones are called tmp-...
    """

    def __init__(self, path: AnyPath):
        if re.match(r"[a-z][a-z0-9+.-]+:/", os.fspath(path), re.I):
            raise ValueError(f"{os.fspath(path)} is a URL: give a directory (a mounted one)")
        self.path = Path(path).expanduser().absolute()  # the job may change its directory
        self.trusted: set[str] = set()  # names that this process has written or verified
        self.told: set[str] = set()  # names that can't be read or removed
        self.anchored = False  # the folders on the way to it are durable

    def names(self, kind: str = "step") -> list[str]:
        """Names of the finished checkpoints, newest first: by step, never by date."""
        entries = os.listdir(self.path) if self.path.is_dir() else []
        found = [
            (int(m[1]), int(m[2]), n)
            for n in entries
            if (m := re.fullmatch(kind + r"-(\d+)-(\d+)", n))
        ]
        return [name for *_, name in sorted(found, reverse=True)]

    def begin(self, kind: str, step: int) -> Path:
        """Delete leftovers of interrupted saves; make a temporary directory to write into."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.clear_leftovers()
        again = [
            int(n.rpartition("-")[2]) for n in self.names(kind) if int(n.split("-")[1]) == step
        ]
        tmp = self.path / f"tmp-{kind}-{step:012d}-{max(again, default=0) + 1}"
        tmp.mkdir()
        return tmp

    def clear_leftovers(self) -> None:
        for name in os.listdir(self.path) if self.path.is_dir() else ():
            if re.fullmatch(r"tmp-(gone-)?(step|best)-\d+-\d+", name):
                shutil.rmtree(self.path / name, ignore_errors=True)

    def commit(self, tmp: Path, digests: dict[str, str], **more: Any) -> str:
        """Turn `tmp`, whose files are durable, into a checkpoint and return its name."""
        with _Syncs() as syncs:
            self.seal(tmp, digests, syncs, **more)
            syncs.wait()
        return self.publish(tmp)

    def seal(self, tmp: Path, digests: dict[str, str], syncs: _Syncs, **more: Any) -> None:
        """Write the manifest; start the syncs of it and of the names in `tmp`."""
        body = json.dumps({"files": digests, **more}, sort_keys=True)
        f = syncs.open(tmp / "manifest.json")
        _write_all(f, f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n".encode())
        syncs.start(f)
        syncs.start_folder(tmp)

    def publish(self, tmp: Path) -> str:
        """Turn `tmp`, in which everything is durable, into a checkpoint and return its name.

        The order makes it durable: rename it once, then sync its name.
        """
        name = tmp.name.removeprefix("tmp-")
        os.rename(tmp, self.path / name)
        _fsync_path(self.path)
        if not self.anchored:
            _fsync_ancestors(self.path)
            self.anchored = True
        self.trusted.add(name)
        return name

    def set_aside(self, kind: str, step: int) -> None:
        """Rename checkpoints of later steps, which an earlier run left, to abandoned-..."""
        for name in self.names(kind):
            if int(name.split("-")[1]) > step:
                gone = f"abandoned-{time.time_ns()}-{name}"
                os.rename(self.path / name, self.path / gone)
                _say(
                    f"{name} belongs to an earlier run with later steps; moved to {gone}",
                    logging.INFO,
                )

    def manifest(self, name: str) -> dict[str, Any]:
        try:
            body, own, *_ = (self.path / name / "manifest.json").read_bytes().split(b"\n")
            if hashlib.sha256(body).hexdigest().encode() != own:
                raise ValueError("its digest doesn't match")
            found: dict[str, Any] = json.loads(body)
            if not (isinstance(found, dict) and isinstance(found.get("files"), dict)):
                raise ValueError("it lists no files")
            return found
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{name} is damaged: manifest.json: {e}") from e

    def read(self, name: str, file: str, home: Collection[str] = ()) -> Any:
        """The state in one file of a checkpoint (shared.json), with what belongs to it, verified.

        None if the manifest doesn't list it.

        home  keys of the state whose tensors go back to the device that they were on
        """
        digests = self.manifest(name)["files"]
        wanted = digests.get(file)
        if wanted is None:
            return None
        if file.endswith(".json"):
            return _read_state(self.path / name, file, digests, home)
        state, digest = _read(self.path / name / file, home=home)
        if digest != wanted:
            raise CheckpointError(f"{name}/{file} belongs to another checkpoint")
        return state

    def verify(self, name: str, share: slice = slice(None)) -> None:
        """Raise CheckpointError unless every file (of `share`) is as it was written."""
        for error in self.problems(name, share):
            raise error

    def problems(self, name: str, share: slice = slice(None)) -> Iterator[CheckpointError]:
        """What is wrong with its files (of `share`), one after another."""
        try:
            files = sorted(self.manifest(name)["files"].items())[share]
        except CheckpointError as e:
            yield e
            return
        for file, wanted in files:
            path = self.path / name / file
            try:
                old = file.endswith(".ckpt")
                if (_read(path, keep=False)[1] if old else digest_of(path)) != wanted:
                    yield CheckpointError(f"{path} is damaged")
            except CheckpointError as e:
                yield e

    def prune(
        self, keep: int, kind: str = "step", trust: bool = True, every: int | None = None
    ) -> None:
        """Keep the newest `keep` intact ones, or all if none is intact. A kill does no harm.

        every  those at multiples of so many steps are kept besides
        """
        names = self.names(kind)
        kept: list[str] = []  # what can't be read now, isn't deleted, and doesn't count
        intact = 0
        for name in names:
            if every is not None and int(name.split("-")[1]) % every == 0:
                kept.append(name)
            elif intact < keep and (found := self._intact(name, trust)) is not False:
                kept.append(name)
                intact += found is True
        for name in names if intact else []:
            if name not in kept:
                gone = self.path / f"tmp-gone-{name}"
                try:
                    os.rename(self.path / name, gone)  # atomic: nobody sees half a checkpoint
                except OSError as e:
                    self._tell(name, f"can't be removed: {e}")
        self.clear_leftovers()

    def _intact(self, name: str, trust: bool) -> bool | None:
        """None: the file system doesn't say."""
        if trust and name in self.trusted:
            return True
        try:
            self.verify(name)
        except CheckpointError as e:
            if isinstance(e.__cause__, OSError) and not isinstance(e.__cause__, FileNotFoundError):
                self._tell(name, f"is kept, but doesn't count: {e}")
                return None  # a file-system error must not delete anything
            return False
        self.trusted.add(name)
        return True

    def _tell(self, name: str, what: str) -> None:
        """Once for each checkpoint, not in every save."""
        if name not in self.told:
            _say(f"checkpoint {name} {what}")
        self.told.add(name)
