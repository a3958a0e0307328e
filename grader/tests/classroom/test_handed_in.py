"""What course systems give an instructor: each layout, with its names and its surprises."""

from __future__ import annotations

import zipfile
from datetime import datetime, timezone

import pytest

from grader.classroom import contents
from grader.classroom.handed_in import find
from grader.course import catalog
from grader.errors import UsageError


@pytest.fixture
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("unpacked")


def made(root, files):
    """Files below `root`: path -> text; a dict makes an archive of its files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(text, dict):
            with zipfile.ZipFile(path, "w") as z:
                for inner, data in text.items():
                    z.writestr(inner, data)
        else:
            path.write_text(text)
    return root


def taken(where, scratch):
    """student -> exercise -> path -> text."""
    exercises = list(catalog.exercises().values())
    out = {}
    for one in find(where, scratch):
        held = contents.read(one, exercises, scratch)
        out[one.id] = {
            e: {path: data.decode() for path, data in files.items()}
            for e, files in held.files.items()
        }
    return out


FLAT = {"ex01": {"checkpoint.py": "a"}}


def test_a_folder_or_an_archive_for_each_student(tmp_path, scratch):
    made(
        tmp_path,
        {
            "alice/checkpoint.py": "a",
            "bob/ex01/checkpoint.py": "a",
            "carol/ex01-basic-checkpoint/starter/checkpoint.py": "a",
            "dan/my work/checkpoint.py": "a",
            "erin.zip": {"erin/ex01/checkpoint.py": "a", "__MACOSX/._checkpoint.py": "junk"},
            "frank/work.zip": {"checkpoint.py": "a"},
            "__MACOSX/x": "",
            ".DS_Store": "",
            "notes.txt": "mine",
        },
    )
    assert taken(tmp_path, scratch) == dict.fromkeys(
        ("alice", "bob", "carol", "dan", "erin", "frank"), FLAT
    )


def test_other_files_of_the_exercise_come_with_it_and_the_courses_own_dont(tmp_path, scratch):
    made(
        tmp_path,
        {
            "alice/ex01-basic-checkpoint/starter/checkpoint.py": "a",
            "alice/ex01-basic-checkpoint/starter/helpers/io.py": "h",
            "alice/ex01-basic-checkpoint/solution/checkpoint.py": "not hers",
            "alice/grader/course/handed_out/ex01/checkpoint.py": "not hers",
            "alice/ex04-auto-resume/starter/auto_resume.py": "d",
            "alice/ex04-auto-resume/starter/job.sh": "s",
        },
    )
    assert taken(tmp_path, scratch)["alice"] == {
        "ex01": {"checkpoint.py": "a", "helpers/io.py": "h"},
        "ex04": {"auto_resume.py": "d", "job.sh": "s"},
    }


def test_a_copys_name_counts_if_there_is_no_other(tmp_path, scratch):
    made(
        tmp_path,
        {
            "alice/checkpoint (1).py": "a",
            "bob/checkpoint.py": "a",
            "bob/old/checkpoint (2).py": "older",
        },
    )
    work = taken(tmp_path, scratch)
    assert work["alice"] == FLAT
    assert work["bob"]["ex01"]["checkpoint.py"] == "a"


def test_two_versions_are_a_problem_that_names_both(tmp_path, scratch):
    made(tmp_path, {"alice/new/checkpoint.py": "a", "alice/old/checkpoint.py": "b"})
    (one,) = find(tmp_path, scratch)
    held = contents.read(one, catalog.exercises().values(), scratch)
    assert not held.files
    problem = held.problems["ex01"]
    assert "new/checkpoint.py" in problem and "old/checkpoint.py" in problem


def test_no_link_is_followed(tmp_path, scratch):
    outside = made(tmp_path / "outside", {"checkpoint.py": "another's"})
    class_ = made(tmp_path / "class", {"alice/readme.txt": "", "bob/checkpoint.py": "a"})
    (class_ / "alice" / "ex01").symlink_to(outside)
    (class_ / "alice" / "checkpoint.py").symlink_to(outside / "checkpoint.py")
    (class_ / "carol").symlink_to(class_ / "bob")
    assert taken(class_, scratch) == {"alice": {}, "bob": FLAT}


def test_canvas(tmp_path, scratch):
    made(
        tmp_path,
        {
            "doejane_1001_50001_checkpoint.py": "first",
            "doejane_1001_50009_checkpoint-1.py": "a",
            "roerichard_LATE_1002_50002_checkpoint.py": "a",
            "o_neill_1003_50003_work.zip": {"ex01/checkpoint.py": "a"},
        },
    )
    jane, neill, richard = find(tmp_path, scratch)
    assert [jane.name, neill.name, richard.name] == ["doejane", "o_neill", "roerichard"]
    assert (jane.system, jane.ids, jane.late) == ("canvas", {"canvas_user_id": "1001"}, False)
    assert richard.late
    again = scratch / "again"
    again.mkdir()
    names = ("doejane-1001", "o_neill-1003", "roerichard-1002")
    assert taken(tmp_path, again) == dict.fromkeys(names, FLAT)


def test_moodle(tmp_path, scratch):
    made(
        tmp_path,
        {
            "Jane Doe_1234567_assignsubmission_file_/checkpoint.py": "a",
            "Jane Doe_1234599_assignsubmission_file_/checkpoint.py": "a",
            "Li Wei_1234568_assignsubmission_file_checkpoint.py": "a",
        },
    )
    found = find(tmp_path, scratch)
    assert [one.ids["moodle_participant"] for one in found] == ["1234567", "1234599", "1234568"]
    again = scratch / "again"
    again.mkdir()
    names = ("Jane-Doe-1234567", "Jane-Doe-1234599", "Li-Wei-1234568")
    assert taken(tmp_path, again) == dict.fromkeys(names, FLAT)


def test_nbgrader(tmp_path, scratch):
    made(
        tmp_path,
        {
            "submitted/bitdiddle/ps1/checkpoint.py": "a",
            "submitted/bitdiddle/ps1/timestamp.txt": "2026-11-20 10:00:00.000000 UTC\n",
            "submitted/hacker/ex01/checkpoint.py": "a",
            "release/ps1/checkpoint.py": "the hand-out",
        },
    )
    first, _ = find(tmp_path, scratch)
    assert (first.system, first.id) == ("nbgrader", "bitdiddle")
    assert first.submitted == datetime(2026, 11, 20, 10, tzinfo=timezone.utc)
    assert taken(tmp_path, scratch) == {"bitdiddle": FLAT, "hacker": FLAT}
    assert taken(tmp_path / "submitted", scratch) == {"bitdiddle": FLAT, "hacker": FLAT}


METADATA = """\
---
submission_77:
  :created_at: 2026-11-20 10:00:00.000000000 Z
  :submitters:
  - :name: Jane Doe
    :sid: '0042'
    :email: jane@example.org
  - :name: Richard Roe
    :email: richard@example.org
submission_78:
  :submitters:
  - :name: Ann Lost
"""


def test_gradescope_with_a_group_and_a_folder_that_is_missing(tmp_path, scratch):
    export = tmp_path / "assignment_1_export"
    made(export, {"submission_metadata.yml": METADATA, "submission_77/checkpoint.py": "a"})
    ann, jane, richard = find(tmp_path, scratch)
    assert (jane.id, jane.email, jane.ids["sid"]) == ("0042", "jane@example.org", "0042")
    assert richard.id == "richard@example.org" and "no such folder" in ann.problem
    work = taken(export, scratch)
    assert work == {"0042": FLAT, "richard@example.org": FLAT, "Ann-Lost": {}}


def test_clones_of_a_classroom_lose_the_assignments_name(tmp_path, scratch):
    clones = tmp_path / "ft-course-submissions"
    for who in ("ann-lee", "bo"):
        made(clones, {f"ft-course-{who}/ex01-basic-checkpoint/starter/checkpoint.py": "a"})
        (clones / f"ft-course-{who}" / ".git").mkdir()
    assert taken(clones, scratch) == {"ann-lee": FLAT, "bo": FLAT}


def test_a_whole_class_in_one_archive(tmp_path, scratch):
    archive = tmp_path / "class.zip"
    made(tmp_path, {"class.zip": {"alice/checkpoint.py": "a", "bob/ex01/checkpoint.py": "a"}})
    assert taken(archive, scratch) == {"alice": FLAT, "bob": FLAT}


def test_a_class_with_one_folder_around_all(tmp_path, scratch):
    made(tmp_path, {"c.zip": {"term/alice/checkpoint.py": "a", "term/bob/checkpoint.py": "a"}})
    assert taken(tmp_path / "c.zip", scratch) == {"alice": FLAT, "bob": FLAT}


def test_names_become_folders_that_every_system_can_hold(tmp_path, scratch):
    for name in ("Ünal Öz", "a b", "A-b", "x" * 200, "..", "con:1"):
        if name != "..":
            made(tmp_path, {f"{name}/checkpoint.py": "a"})
    ids = [one.id for one in find(tmp_path, scratch)]
    assert len({i.lower() for i in ids}) == len(ids)
    assert all(i.replace("-", "").replace(".", "").isalnum() and len(i.encode()) < 100 for i in ids)


def test_ids_dont_depend_on_the_order_or_on_the_others(tmp_path, scratch):
    made(tmp_path, {"bob/checkpoint.py": "a"})
    before = [one.id for one in find(tmp_path, scratch)]
    made(tmp_path, {"alice/checkpoint.py": "a"})
    assert before == [one.id for one in find(tmp_path, scratch) if one.name == "bob"]


@pytest.mark.parametrize("what", ["nothing", "file", "empty", "one student"])
def test_what_is_no_class_is_said_in_one_line(tmp_path, scratch, what):
    where = tmp_path / "where"
    if what == "file":
        where.write_text("")
    elif what != "nothing":
        where.mkdir()
        if what == "one student":
            made(where, {"checkpoint.py": "a"})
    with pytest.raises(UsageError) as error:
        find(where, scratch)
    assert "\n" not in str(error.value)
