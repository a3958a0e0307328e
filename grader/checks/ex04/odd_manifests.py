"""Task 4.1: manifests that prove nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from grader.checks.ex04.sample_checkpoints import copy, several
from grader.checks.ex04.scenes import Scene


def _manifest(text: bytes | Callable[[Path], object]) -> Callable[[Path, Random], None]:
    def build(d: Path, draw: Random) -> None:
        several(d, draw, 9, 10)
        file = d / "step-10" / "manifest.json"
        if callable(text):
            text(file)
        else:
            file.write_bytes(text)

    return build


def _entry(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """The manifest with its first file's entry changed."""

    def edit(file: Path) -> None:
        manifest = json.loads(file.read_text())
        name = next(iter(manifest["files"]))
        manifest["files"][name] = change(manifest["files"][name])
        file.write_text(json.dumps(manifest))

    return edit


def _says(key: str, value: object) -> Callable[[Path], object]:
    """The manifest with another value of `key`."""
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))


def odd_manifests_are_no_proof(draw: Random) -> list[Scene]:
    entry = {"bytes": 3, "sha256": f"{draw.getrandbits(256):064x}"}
    odd: dict[str, bytes | Callable[[Path], object]] = {
        "names no file": b'{"step": 10, "files": {}}',
        "is a list": b"[]",
        "is a number": b"7",
        "is null": b"null",
        "is text": b'"step-10"',
        "names no step": lambda f: f.write_text(
            json.dumps({"files": json.loads(f.read_text())["files"]})
        ),
        "names an earlier step": _says("step", 9),
        "names a later step": _says("step", 11),
        "has null for its step": _says("step", None),
        "has infinity for its step": _says("step", float("inf")),
        "has no list of files": b'{"step": 10}',
        "has null for its files": b'{"step": 10, "files": null}',
        "has a list for its files": b'{"step": 10, "files": ["state.json"]}',
        "isn't UTF-8": lambda f: f.write_bytes(b"\xff\xfe\x9f" + f.read_bytes()),
        "is nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
        "names a file with a zero byte in its name": _says("files", {"a\0b": entry}),
        "is zeros": lambda f: f.write_bytes(bytes(f.stat().st_size)),
        "has null where a file's size and digest belong": _entry(lambda e: None),
        "has a list where a file's size and digest belong": _entry(lambda e: []),
        "has no digest of a file": _entry(lambda e: {"bytes": e["bytes"]}),
        "has a number for a digest": _entry(lambda e: e | {"sha256": 7}),
        "has half of a file's digest": _entry(lambda e: e | {"sha256": e["sha256"][:32]}),
        "has an empty text for a digest": _entry(lambda e: e | {"sha256": ""}),
        "has null for a digest": _entry(lambda e: e | {"sha256": None}),
        "has null for a file's size": _entry(lambda e: e | {"bytes": None}),
        "says that a file is empty": _entry(lambda e: e | {"bytes": 0}),
        "has no size of a file": _entry(lambda e: {"sha256": e["sha256"]}),
        "says that a file is a byte shorter": _entry(lambda e: e | {"bytes": e["bytes"] - 1}),
        "says that a file is a byte longer": _entry(lambda e: e | {"bytes": e["bytes"] + 1}),
    }
    scenes = [
        Scene(f"step-9, step-10; the manifest of step-10 {how}", "step-9", _manifest(m))
        for how, m in odd.items()
    ]

    def copied(d: Path, draw: Random) -> None:
        several(d, draw, 9, 10)
        copy(d / "step-9", d / "step-11")

    return [
        *scenes,
        Scene(
            "step-9, step-10, and step-11, a copy of step-9 with its manifest",
            "step-10",
            copied,
        ),
        *(
            Scene(
                f"step-9, step-10; the manifest of step-10 can't be opened: {why}",
                "step-9",
                lambda d, draw: several(d, draw, 9, 10),
                unopened=("step-10/manifest.json", why),
            )
            for why in ("EIO", "EACCES", "ESTALE")
        ),
    ]
