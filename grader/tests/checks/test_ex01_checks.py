"""What the checks of exercise 1 do and conclude, on small literal cases without any life."""

from __future__ import annotations

import os
import random

import pytest

from grader.checks import directory_damage, foreign_files
from grader.checks.directory_damage import Harm
from grader.checks.ex01.replay import augmented_afresh
from grader.crash import operations, plain
from grader.crash.recorder import Record
from grader.crash.tracer import Ended
from grader.harness.run import Life, Process, Run
from grader.verdicts import Finding


def test_damage_is_undone_to_the_bit_and_date(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    before = directory_damage.listing(tmp_path)
    for one in (Harm("a", "flip", 7, 100, 3), Harm("a", "truncate", 10, 100)):
        undo = directory_damage.do(tmp_path, one)
        assert (tmp_path / "a").read_bytes() != bytes(range(100))
        undo()
    assert (tmp_path / "a").read_bytes() == bytes(range(100)) and directory_damage.listing(
        tmp_path
    ) == before


def test_a_copy_keeps_links_and_dates_and_says_when_it_would_lead_back(tmp_path):
    place = tmp_path / "here"
    (place / "sub").mkdir(parents=True)
    (place / "sub" / "a").write_bytes(b"x")
    os.link(place / "sub" / "a", place / "b")
    (place / "latest").symlink_to("sub/a")
    os.utime(place / "b", ns=(1, 10**18))
    directory_damage.copy(place, tmp_path / "there")
    copied = directory_damage.listing(tmp_path / "there", links=True)
    assert copied["b"][1] == copied["sub/a"][1] and copied["b"][3] == 10**18
    assert os.readlink(tmp_path / "there" / "latest") == "sub/a"
    assert not directory_damage.knows_its_place(place)
    (place / "pointer").write_text(str(place / "b"))
    assert directory_damage.knows_its_place(place)


def test_strangers_that_are_deleted_or_changed_are_missed(tmp_path):
    (tmp_path / "step-7.ckpt").write_bytes(b"checkpoint")
    others = foreign_files.put(tmp_path, ["step-7.ckpt"], random.Random(1))
    assert {"step-7.ckpt.bak", "step-7_final.ckpt", "notes.tmp", ".DS_Store"} < others.keys()
    assert foreign_files.lost(tmp_path, others) == []
    (tmp_path / "notes.tmp").unlink()
    (tmp_path / "step-7.ckpt.bak").write_bytes(b"another")
    assert sorted(foreign_files.lost(tmp_path, others)) == ["notes.tmp", "step-7.ckpt.bak"]


def test_a_record_is_the_same_after_a_trip_through_json():
    ops = [
        operations.Mark("", "", "began", 1),
        operations.Names("create a", "", [(0, "a", None, 1)]),
        operations.Write("write a", "", 1, 0, b"\0\xff", [2]),
        operations.Sync("fsync a", "", 1),
    ]
    record = Record(
        operations.Disk(before={(0, "b"): 2}, contents={2: b"old"}), ops, [Ended(0, False)]
    )
    again = plain.to_record(plain.from_record(record))
    assert (again.disk, again.ops, again.ended) == (record.disk, record.ops, record.ended)
    trees = [{"a": b"x", "d": None, "l": "a"}, {"a": b"x"}]
    assert plain.to_trees(plain.from_trees(trees)) == trees


def replay_of(*steps: list[dict]) -> Run:
    draws = [
        {"event": "draws", "step": n, "samples": samples} for n, samples in enumerate(steps, 1)
    ]
    process = Process(None, None, {"status": 0, "ended": None}).with_events(draws)
    return Run([Life([process], None)], (), None)


def batch(shifts: str, hidden: int = 0) -> list[dict]:
    return [
        {"shift": int(s), "hidden": hidden + n, "mistyped": [[n, int(s)]]}
        for n, s in enumerate(shifts)
    ]


def test_two_batches_with_the_same_numbers_are_told_apart_from_fresh_ones():
    augmented_afresh(replay_of(batch("01234567", 1), batch("70214365", 9)))
    with pytest.raises(Finding, match="the same numbers from"):
        augmented_afresh(
            replay_of(batch("01234567", 1), batch("70214365", 9), batch("01234567", 5))
        )
    with pytest.raises(Finding, match="the same numbers from"):
        augmented_afresh(replay_of(batch("01234567", 1), batch("70214365", 1)))
    strange = batch("01234567", 1)
    strange[3]["shift"] = None
    with pytest.raises(Finding, match="isn't the dataset's sample"):
        augmented_afresh(replay_of(strange))
