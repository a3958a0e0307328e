"""Writes files as a folder or a zip file: all of them, or nothing."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from grader.course.release.contents import Content
from grader.errors import UsageError

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold


def is_zip(target: Path) -> bool:
    return target.suffix == ".zip"


def check_target(target: Path) -> None:
    """UsageError if something is there that would be overwritten, or if there is no place."""
    if is_zip(target):
        taken = os.path.lexists(target)
    else:
        taken = os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir()))
    if taken:
        raise UsageError(f"{target} exists already; remove it, or choose another name")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target} can't be made: {target.absolute().parent} isn't a directory")


def write(target: Path, contents: Mapping[str, Content], top: str = "") -> None:
    """Write the files to `target`, which appears when it is complete.

    top   the folder in a zip file that holds them
    """
    check_target(target)
    new = target.absolute().with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        if is_zip(target):
            new.write_bytes(zipped(contents, top))
        else:
            write_folder(new, contents)
        os.rename(new, target)
    finally:
        with suppress(OSError):
            new.unlink()
        shutil.rmtree(new, ignore_errors=True)


def write_folder(folder: Path, contents: Mapping[str, Content]) -> None:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.data)
        path.chmod(_mode(content))


def zipped(contents: Mapping[str, Content], top: str = "") -> bytes:
    """The same files give the same bytes: sorted names, one time for all, modes of their own."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(f"{top}/{name}" if top else name, EPOCH)
            entry.create_system = 3  # Unix: the mode counts
            entry.external_attr = (0o100000 | _mode(contents[name])) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, contents[name].data)
    return out.getvalue()


def _mode(content: Content) -> int:
    return 0o755 if content.executable else 0o644
