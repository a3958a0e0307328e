"""Unpacks zip and tar files that strangers made: only plain files, only inside, not too much."""

from __future__ import annotations

import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MAX_NAME = 200  # bytes of one part of a path
CHUNK = 1 << 20


class Unreadable(Exception):
    """The archive can't be unpacked; the text says why, in one line."""


@dataclass(frozen=True)
class Most:
    """What an archive may unpack to; one that holds more is refused as a whole."""

    bytes: int = 64 << 20
    files: int = 5000


A_CLASS = Most(bytes=8 << 30, files=500_000)


@dataclass
class _Member:
    """A plain file in an archive."""

    name: str
    open: IO[bytes]


@dataclass
class _Unpacking:
    target: Path
    most: Most
    notes: list[str] = field(default_factory=list)  # what was left out, and why
    files: int = 0
    bytes: int = 0

    def note(self, name: str, why: str) -> None:
        self.notes.append(f"left out {name[:200]!r}: {why}")

    def write(self, member: _Member) -> None:
        """Write the file, counting what comes out of it: an archive may lie about its sizes."""
        self.files += 1
        if self.files > self.most.files:
            raise Unreadable(f"it holds more than {self.most.files} files")
        path = self.target / member.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as f:
                while data := member.open.read(CHUNK):
                    self.bytes += len(data)
                    if self.bytes > self.most.bytes:
                        raise Unreadable(f"it unpacks to more than {self.most.bytes >> 20} MiB")
                    f.write(data)
        except FileExistsError:
            self.note(member.name, "another file in it has that name")
        except NotADirectoryError:
            self.note(member.name, "it is below a file")


def is_archive(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def stem(name: str) -> str:
    """The name without an archive's ending."""
    ending = max((e for e in ENDINGS if name.lower().endswith(e)), key=len, default="")
    return name[: len(name) - len(ending)]


def unpack(archive: Path, target: Path, most: Most | None = None) -> list[str]:
    """Unpack the archive's plain files below `target`, an empty folder.

    Links, devices, and names that lead out of `target` are left out. Returns a note for each.
    Raises Unreadable for what is no archive, is damaged or encrypted, or unpacks to too much.
    """
    work = _Unpacking(target, most or Most())
    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    try:
        for member in members(archive, work):
            work.write(member)
    # the libraries raise anything for damaged files
    except (zipfile.BadZipFile, tarfile.TarError) as e:
        raise Unreadable(f"it is damaged, or isn't an archive ({_in_one_line(e)})") from e
    except RuntimeError as e:  # zipfile's, for a missing password
        raise Unreadable(f"it can't be unpacked: {_in_one_line(e)}") from e
    except OSError as e:
        raise Unreadable(f"it can't be unpacked: {e.strerror or _in_one_line(e)}") from e
    except Unreadable:
        raise
    except Exception as e:  # EOFError, zlib.error, lzma.LZMAError, struct.error ...
        raise Unreadable(f"it is damaged ({type(e).__name__}: {_in_one_line(e)})") from e
    return work.notes


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _zip_members(archive: Path, work: _Unpacking) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            mode = info.external_attr >> 16
            if info.is_dir():
                continue
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                work.note(info.filename, "it is a link or a device")
            elif name := _inside(info.filename, work):
                with opened.open(info) as f:
                    yield _Member(name, f)


def _tar_members(archive: Path, work: _Unpacking) -> Iterator[_Member]:
    with tarfile.open(archive) as opened:
        for info in opened:
            if info.isdir():
                continue
            if not info.isreg():
                work.note(info.name, "it is a link or a device")
            elif name := _inside(info.name, work):
                f = opened.extractfile(info)
                assert f is not None
                with f:
                    yield _Member(name, f)


def _inside(name: str, work: _Unpacking) -> str:
    """The member's path below the target; empty, with a note, if it leads elsewhere."""
    # some programs for Windows write backslashes
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part != "."]
    if not parts:
        return ""
    if parts[0].startswith("/") or re.match(r"[A-Za-z]:", parts[0]) or ".." in parts:
        work.note(name, "its path leads out of the archive")
        return ""
    if any(len(part.encode(errors="replace")) > MAX_NAME or "\0" in part for part in parts):
        work.note(name, "its name can't be a file's")
        return ""
    return "/".join(parts).encode(errors="replace").decode()
