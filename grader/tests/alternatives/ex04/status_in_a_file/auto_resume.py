"""A right solution in another style: a file for each life, and classes."""

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager


class NothingIntact(RuntimeError):
    pass


class CrashLoop(RuntimeError):
    pass


class Busy(RuntimeError):
    pass


class Checkpoint:
    def __init__(self, folder):
        self.folder = folder
        _, number = os.path.basename(folder).split("-")
        self.step = int(number) if number.isascii() and number.isdigit() else None

    @property
    def intact(self):
        try:
            manifest = json.load(open(os.path.join(self.folder, "manifest.json")))
            if manifest["step"] != self.step or len(manifest["files"]) == 0:
                return False
            return all(self.matches(name, said) for name, said in manifest["files"].items())
        except Exception:
            return False

    def matches(self, name, said):
        path = os.path.join(self.folder, name)
        with open(path, "rb") as f:
            return os.path.getsize(path) == said["bytes"] and (
                hashlib.file_digest(f, "sha256").hexdigest() == said["sha256"]
                if hasattr(hashlib, "file_digest")
                else (hashlib.sha256(f.read()).hexdigest() == said["sha256"])
            )


def newest_intact(directory):
    if not os.path.isdir(directory):
        return None
    names = [n for n in os.listdir(directory) if n.count("-") == 1 and n.startswith("step-")]
    found = [
        c for c in (Checkpoint(os.path.join(directory, n)) for n in names) if c.step is not None
    ]
    found.sort(key=lambda c: -c.step)
    chosen = next((c for c in found if c.intact), None)
    if chosen is None and found:
        raise NothingIntact(directory)
    return chosen and chosen.folder


def _lives(directory):
    """(number, notes), the newest first."""
    folder = os.path.join(directory, "lives")
    numbers = (
        sorted((int(n) for n in os.listdir(folder) if n.isdigit()), reverse=True)
        if os.path.isdir(folder)
        else []
    )
    for number in numbers:
        with open(os.path.join(folder, str(number))) as f:
            yield number, json.load(f)


def _note(directory, number, notes):
    folder = os.path.join(directory, "lives")
    os.makedirs(folder, exist_ok=True)
    new = os.path.join(folder, "new")
    with open(new, "w") as f:
        json.dump(notes, f)
    os.rename(new, os.path.join(folder, str(number)))


def begin_life(directory, step, tries=3):
    crashes, number = 0, 0
    for n, notes in _lives(directory):
        number = max(number, n)
        if notes["end"] == "done":
            return False
        if notes["step"] != step or notes["end"] == "preempted":
            break
        crashes += 1
    if crashes >= tries:
        raise CrashLoop(f"{crashes} crashes at step {step}")
    _note(directory, number + 1, {"step": step, "end": None})
    return True


def end_life(directory, outcome):
    number, notes = next(_lives(directory))
    _note(directory, number, {**notes, "end": outcome})


@contextmanager
def only_one(directory):
    with open(os.path.join(directory, "only-one"), "w") as f:
        try:
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(directory) from None
        yield
