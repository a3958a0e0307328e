"""What students handed in: found in the folders and archives that course systems make.

One folder a student is the plain case. The others have a layout of their own:

    gradescope   submission_metadata.yml, and a folder submission_N for each submission
    canvas       files named STUDENT_[LATE_]USERID_FILEID_FILENAME
    moodle       folders or files named FULL NAME_PARTICIPANTID_assignsubmission_file_...
    nbgrader     submitted/STUDENT/ASSIGNMENT/
    classroom    clones named ASSIGNMENT-STUDENT

Where several files of a student have the same name, as after another upload, the newest counts.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

from grader.classroom import archives
from grader.classroom.archives import Unreadable
from grader.errors import UsageError

METADATA = "submission_metadata.yml"
CANVAS = re.compile(
    r"(?P<name>.+?)(?P<late>_LATE)?_(?P<user>\d+)_(?P<file_id>\d+)_(?P<file>.+)", re.S
)
MOODLE = re.compile(r"(?P<name>.+)_(?P<id>\d+)_assignsubmission_(?:file|onlinetext)_?(?P<file>.*)")
# what file managers and version control leave behind
JUNK = re.compile(r"\..*|__MACOSX|__pycache__|Thumbs\.db|desktop\.ini")
LONGEST_ID = 80  # bytes


@dataclass
class HandedIn:
    """One student's work, as it was found; its files aren't read yet."""

    name: str  # the student's, or the folder's
    system: str
    folders: list[Path] = field(default_factory=list)
    # path in the submission -> file, where files lie singly beside those of others
    files: dict[str, Path] = field(default_factory=dict)
    email: str = ""
    ids: dict[str, str] = field(default_factory=dict)  # in the course system
    submitted: datetime | None = None
    late: bool | None = None
    source: str = ""  # where it lies, as the instructor sees it
    problem: str = ""  # why it can't be graded
    notes: list[str] = field(default_factory=list)  # what was left out, and why
    id: str = ""  # of its folder among the results


def find(where: Path, scratch: Path) -> list[HandedIn]:
    """Everything that was handed in, by student; archives are unpacked below `scratch`.

    Raises UsageError if nothing is found.
    """
    if where.is_dir():
        folder = where
    elif where.is_file() and archives.is_archive(where.name):
        folder = _unpacked(where, scratch, archives.A_CLASS)
    elif where.exists():
        raise UsageError(f"{where} is neither a folder nor a zip or tar file")
    else:
        raise UsageError(f"no such folder of submissions: {where}")
    unpack = _Unpacker(scratch)
    for layout in (_gradescope, _nbgrader, _canvas, _moodle, _folders):
        # a download of a whole class often has one folder around all
        if (inner := _only_folder(folder)) and (layout is not _folders or where.is_file()):
            if (found := layout(inner, unpack)) is not None:
                break
        if (found := layout(folder, unpack)) is not None:
            break
    if not found:
        raise UsageError(
            f"{where} holds no submissions: there is no folder and no archive in it; "
            "docs/instructors.md says what it may hold"
        )
    for one in found:
        one.source = one.source or str(where)
    return _with_ids(sorted(found, key=lambda one: (one.name.lower(), one.source)))


def _only_folder(folder: Path) -> Path | None:
    """The folder's only entry, if that is a folder and no student's own."""
    inner = _entries(folder)
    if len(inner) != 1 or not inner[0].is_dir():
        return None
    below = [entry.name for entry in _entries(inner[0])]
    of_a_student = any(name.endswith(".py") or re.match(r"ex\d\d", name) for name in below)
    return inner[0] if below and not of_a_student else None


def _unpacked(archive: Path, scratch: Path, most: archives.Most) -> Path:
    target = scratch / f"class-{sha256(str(archive).encode()).hexdigest()[:8]}"
    target.mkdir()
    try:
        archives.unpack(archive, target, most)
    except Unreadable as e:
        raise UsageError(f"{archive}: {e}") from e
    return target


class _Unpacker:
    """Unpacks each archive of a student into its own folder."""

    def __init__(self, scratch: Path):
        self._scratch, self._number = scratch, 0

    def __call__(self, one: HandedIn, archive: Path) -> None:
        self._number += 1
        target = self._scratch / str(self._number)
        target.mkdir()
        try:
            one.notes += archives.unpack(archive, target)
            one.folders.append(target)
        except Unreadable as e:
            one.problem = f"{archive.name}: {e}"


def _entries(folder: Path) -> list[Path]:
    """What lies in the folder, without junk and without links."""
    with os.scandir(folder) as found:
        return sorted(
            folder / entry.name
            for entry in found
            if not JUNK.fullmatch(entry.name) and not entry.is_symlink()
        )


def _with_ids(found: list[HandedIn]) -> list[HandedIn]:
    taken: set[str] = set()
    for one in found:
        wanted = one.ids.get("login") or "-".join([one.name, *_number(one)])
        text = unicodedata.normalize("NFC", re.sub(r"[^\w.@+-]+", "-", wanted)).strip("-.")
        while len(text.encode()) > LONGEST_ID:
            text = text[:-1]
        if not text or text.lower() in taken:
            identity = f"{wanted} {sorted(one.ids.items())} {one.source}"
            text = f"{text or 'student'}-{sha256(identity.encode()).hexdigest()[:6]}"
        taken.add(text.lower())
        one.id = text
    return found


def _number(one: HandedIn) -> list[str]:
    """The system's own number of the student: two may have one name, in this batch or the next."""
    names = ("canvas_user_id", "moodle_participant")
    return [one.ids[name] for name in names if name in one.ids]


# --- layouts: each returns None if the folder isn't laid out so -----------------------------------


def _folders(folder: Path, unpack: Callable[[HandedIn, Path], None]) -> list[HandedIn] | None:
    """A folder or an archive for each student."""
    inner = _entries(folder)
    prefix = _classroom_prefix(folder, inner)
    found: dict[str, HandedIn] = {}
    for entry in inner:
        if entry.is_dir():
            name = entry.name.removeprefix(prefix)
        elif archives.is_archive(entry.name):
            name = archives.stem(entry.name)
        else:
            continue
        one = found.setdefault(name, HandedIn(name, "classroom" if prefix else "folder"))
        one.source = str(entry)
        if entry.is_dir():
            one.folders.append(entry)
        else:
            unpack(one, entry)
    return list(found.values())


def _classroom_prefix(folder: Path, inner: list[Path]) -> str:
    """The assignment in the names of clones: ASSIGNMENT-STUDENT; empty if they aren't that."""
    clones = [entry.name for entry in inner if (entry / ".git").exists()]
    if len(clones) < 2 or len(clones) < len([entry for entry in inner if entry.is_dir()]):
        return ""
    named = folder.name.removesuffix("-submissions") + "-"
    common = os.path.commonprefix(clones)  # noqa: RUF071  # of names, not of paths
    if folder.name.endswith("-submissions") and common.startswith(named):
        return named
    return common[: common.rfind("-") + 1]


def _nbgrader(folder: Path, unpack: Callable[[HandedIn, Path], None]) -> list[HandedIn] | None:
    root = folder / "submitted"
    if not root.is_dir():
        root = folder
        if folder.name != "submitted" and not list(folder.glob("*/*/timestamp.txt")):
            return None
    found = []
    for student in _entries(root):
        if student.is_dir():
            one = HandedIn(student.name, "nbgrader", _folders_in(student), source=str(student))
            one.ids = {"student_id": student.name}
            one.submitted = _newest_timestamp(student)
            found.append(one)
    return found


def _folders_in(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _newest_timestamp(student: Path) -> datetime | None:
    times = []
    for file in student.glob("*/timestamp.txt"):
        text = file.read_text(errors="replace").strip().removesuffix(" UTC")
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            continue
        times.append(when if when.tzinfo else when.replace(tzinfo=timezone.utc))
    return max(times, default=None)


def _canvas(folder: Path, unpack: Callable[[HandedIn, Path], None]) -> list[HandedIn] | None:
    inner = _entries(folder)
    matches = [(entry, CANVAS.fullmatch(entry.name)) for entry in inner if entry.is_file()]
    if not matches or len(matches) < len(inner) or not all(match for _, match in matches):
        return None
    found: dict[str, HandedIn] = {}
    # a later upload has a higher number
    for entry, match in sorted(matches, key=lambda pair: int(pair[1]["file_id"])):  # type: ignore[index]
        assert match
        one = found.setdefault(match["user"], HandedIn(match["name"], "canvas"))
        one.ids = {"canvas_user_id": match["user"]}
        one.late = bool(one.late or match["late"])
        one.source = str(folder)
        if archives.is_archive(match["file"]):
            unpack(one, entry)
        else:
            one.files[_first_upload(match["file"])] = entry
    return list(found.values())


def _first_upload(name: str) -> str:
    """Canvas numbers the names of files that were uploaded again: name-1.py."""
    return re.sub(r"-\d+(\.[A-Za-z]+)$", r"\1", name)


def _moodle(folder: Path, unpack: Callable[[HandedIn, Path], None]) -> list[HandedIn] | None:
    inner = _entries(folder)
    matches = [(entry, MOODLE.fullmatch(entry.name)) for entry in inner]
    if not matches or not all(match for _, match in matches):
        return None
    found: dict[str, HandedIn] = {}
    for entry, match in matches:
        assert match
        one = found.setdefault(match["id"], HandedIn(match["name"], "moodle"))
        one.ids = {"moodle_participant": match["id"]}
        one.source = str(entry)
        if entry.is_dir():
            one.folders.append(entry)
        elif archives.is_archive(entry.name):
            unpack(one, entry)
        else:
            one.files[match["file"]] = entry
    return list(found.values())


def _gradescope(folder: Path, unpack: Callable[[HandedIn, Path], None]) -> list[HandedIn] | None:
    file = folder / METADATA
    if not file.is_file():
        return None
    entries = _metadata(file)
    found = [
        one
        for key, data in entries.items()
        for one in _submitters(str(key), data if isinstance(data, dict) else {}, folder)
    ]
    unnamed = [
        HandedIn(entry.name, "gradescope", [entry], source=str(entry))
        for entry in _folders_in(folder)
        if entry.name not in entries
    ]
    return found + unnamed


def _metadata(file: Path) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # Ruby's symbols are plain scalars here: ":name"
        data = yaml.load(file.read_text(encoding="utf-8", errors="replace"), loader)
    except yaml.YAMLError as e:
        raise UsageError(f"{file} isn't YAML: {' '.join(str(e).split())[:200]}") from e
    if not isinstance(data, dict):
        raise UsageError(f"{file} doesn't say who handed in what; is it Gradescope's own file?")
    return data


def _submitters(key: str, data: dict[str, Any], folder: Path) -> Iterator[HandedIn]:
    """Everybody who handed it in: a group's work counts for each of its members."""
    when = data.get(":created_at")
    people = [p for p in data.get(":submitters") or [] if isinstance(p, dict)]
    for person in people or [{}]:
        one = HandedIn(str(person.get(":name") or key), "gradescope", source=str(folder / key))
        one.email = str(person.get(":email") or "")
        one.ids = {"submission": key}
        if sid := person.get(":sid"):
            one.ids["sid"] = str(sid)
        if login := sid or one.email:
            one.ids["login"] = str(login)
        if isinstance(when, datetime):
            one.submitted = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        if (folder / key).is_dir():
            one.folders.append(folder / key)
        else:
            one.problem = f"{METADATA} names {key}, but there is no such folder"
        yield one
