"""Crash consistency: which states follow from a record, what load makes of them, and what is said
of it.
"""

from __future__ import annotations

import os
import pathlib
import sys
import threading

import pytest
import torch

from grader.crash import crashtest, description, enumeration, judge, promise
from grader.crash.enumeration import PROCESS, Promise
from grader.crash.judge import Outcome
from grader.crash.operations import Disk, Mark, Names, Sync, Write
from grader.harness.inside.digest import digest
from grader.tests.crash import crash_savers
from grader.tests.crash.traced import traced

# --- states ---------------------------------------------------------------------------------------

OLD, NEW = b"old" * 10, b"new" * 10


def _renamed(*between) -> tuple[Disk, list]:
    """A file "f" that is there, and a new one renamed over it."""
    ops = [
        Mark(kind="began", save=2),
        Names("create t", changes=[(0, "t", None, 2)]),
        Write("write t", inode=2, data=NEW, parts=[len(NEW)]),
        *between,
        Names("rename t -> f", changes=[(0, "t", 2, None), (0, "f", 1, 2)]),
    ]
    return Disk(before={(0, "f"): 1}, contents={1: OLD, 2: b""}, names={1: "f", 2: "t"}), ops


def _at_the_end(made, model) -> set:
    found = enumeration.space(*made, [model], since=len(made[1]))
    return {s.tree["f"] for s in found.states if "f" in s.tree}


@pytest.mark.parametrize(
    "model, expected",
    [("ext4", {OLD, NEW}), ("ext4-wb", {OLD, NEW}), ("xfs", None), ("nfs", None), ("posix", None)],
)
def test_a_rename_sends_the_bytes_ahead_on_ext4_only(model, expected):
    """fs/ext4/namei.c: ext4_rename calls ext4_alloc_da_blocks when it replaces a file."""
    found = _at_the_end(_renamed(), model)
    assert found == expected if expected else {b"", NEW[:15], NEW, bytes(len(NEW))} <= found
    if model == "nfs":
        assert OLD not in found  # names are the server's


@pytest.mark.parametrize("model", list(enumeration.MODELS))
def test_a_synced_file_is_whole_under_whichever_name(model):
    assert _at_the_end(_renamed(Sync("fsync t", inode=2)), model) <= {OLD, NEW}


@pytest.mark.parametrize("model", list(enumeration.MODELS))
def test_a_failed_fsync_promises_nothing_nor_does_the_next(model):
    """The kernel marks the pages clean: the second fsync has nothing to write (fsyncgate)."""
    made = _renamed(Sync("fsync t", inode=2, worked=False), Sync("fsync t", inode=2))
    assert _at_the_end(made, model) >= _at_the_end(_renamed(), model)
    assert b"" in _at_the_end(made, model)  # what a rename sends ahead is lost, too


@pytest.mark.parametrize("model", list(enumeration.MODELS))
def test_a_file_that_nothing_made_shorter_keeps_its_durable_bytes_or_has_new_ones_there(model):
    """A header is written over, and records are appended, as databases do it."""
    old, header, record = b"1" + b"a" * 99, b"2", b"b" * 50
    made = (
        Disk(before={(0, "f"): 1}, contents={1: old}),
        [
            Write(inode=1, offset=0, data=header, parts=[1]),
            Write(inode=1, offset=100, data=record, parts=[50]),
        ],
    )
    found = _at_the_end(made, model)
    assert {
        len(content) >= 100 and content[:1] in (b"1", b"2") and content[1:100] == old[1:]
        for content in found
    } == {True}
    assert {old, header + old[1:] + record, old + record, header + old[1:]} <= found


def test_many_states_of_a_killed_process_leave_room_for_those_of_a_power_failure():
    ops = [Names("create f", changes=[(0, "f", None, 1)]), Mark(kind="began", save=1, digest="A")]
    ops += [Write("write f", inode=1, offset=n, data=b"x", parts=[1]) for n in range(200)]
    ops.append(Mark(kind="returned", save=1))
    found = enumeration.space(Disk(contents={1: b""}), ops)
    assert enumeration.thin(found, 40) and len(found.trees) <= 40
    rest = [s for s in found.states if PROCESS not in s.models and s.promise.durable]
    assert any(s.tree.get("f") != b"x" * 200 for s in rest)


@pytest.mark.parametrize("model, kept", [("ext4", True), ("xfs", True), ("posix", False)])
def test_syncing_a_new_file_makes_its_name_durable_where_there_is_a_journal(model, kept):
    made = (
        Disk(contents={1: b""}),
        [
            Names("create a", changes=[(0, "a", None, 1)]),
            Write("write a", inode=1, data=NEW),
            Sync("fsync a", inode=1),
        ],
    )
    found = enumeration.space(*made, [model], since=3)
    assert all("a" in s.tree for s in found.states) == kept


def test_names_come_in_order_with_a_journal_and_in_any_without():
    ops = [Names(f"create {n}", changes=[(0, n, None, i)]) for i, n in enumerate("abc", 1)]
    made = Disk(contents={1: b"", 2: b"", 3: b""}), ops

    def trees(model):
        return {"".join(s.tree) for s in enumeration.space(*made, [model], since=3).states}

    assert trees("ext4") == {"", "a", "ab", "abc"}
    assert trees("posix") == {"", "a", "b", "c", "ab", "ac", "bc", "abc"}
    assert trees("nfs") == {"abc"}


def test_a_dead_process_tears_a_write_and_loses_none():
    made = (
        Disk(contents={1: b""}),
        [
            Names("create a", changes=[(0, "a", None, 1)]),
            Write("write a", inode=1, data=b"0123456789", parts=[3, 10]),
        ],
    )
    assert [s.tree.get("a") for s in enumeration.space(*made, [PROCESS]).states] == [
        None,
        b"",
        b"0",
        b"012",
        b"01234",
        b"012345678",
        b"0123456789",
    ]


def test_the_bound_is_told():
    ops = [
        op
        for i in range(1, 9)
        for op in (
            Names(f"create {i}", changes=[(0, str(i), None, i)]),
            Write(f"write {i}", inode=i, data=bytes([i]) * 50),
        )
    ]
    found = enumeration.space(Disk(contents=dict.fromkeys(range(1, 9), b"")), ops)
    assert 0 < found.bounded < found.moments
    before = len(found.trees)
    assert enumeration.thin(found, 100) == before - 100
    assert len(found.trees) == 100 and set(found.keys) == set(found.trees)


# --- judging --------------------------------------------------------------------------------------


def _load(directory):
    text = pathlib.Path(directory, "f").read_text()
    if text == "none":
        return None
    if text == "hang":
        threading.Event().wait()
    if text == "die":
        os.kill(os.getpid(), 9)
    if text == "exit":
        sys.exit(4)
    if text == "error":
        raise ValueError("damaged")
    if text == "fork":
        if os.fork() == 0:
            threading.Event().wait()  # holds the answer's pipe open
    return text


@pytest.mark.parametrize("workers", [1, 2])
def test_what_load_does_is_told_apart(tmp_path, workers):
    trees = {t: {"f": t.encode()} for t in ("none", "die", "exit", "error", "fork", "abc", "hang")}
    found = judge.judge(trees, _load, [tmp_path / str(n) for n in range(workers)], seconds=1)
    assert {t: o.kind for t, o in found.items()} == {
        "none": "none",
        "hang": "late",
        "die": "died",
        "exit": "died",
        "error": "error",
        "fork": "state",
        "abc": "state",
    }
    assert found["abc"].digest == "abc"
    assert "damaged" in found["error"].text


def test_loads_that_hang_are_not_waited_for_for_ever(tmp_path):
    found = judge.judge({n: {"f": b"hang"} for n in range(50)}, _load, [tmp_path], seconds=0.2)
    assert [o.kind for o in found.values()] == ["late"]


@pytest.mark.parametrize(
    "outcome, promised, kind",
    [
        (Outcome("state", "B"), Promise(2), None),
        (Outcome("state", "A"), Promise(2), "old state"),
        (Outcome("state", "A"), Promise(1, frozenset([2])), None),
        (Outcome("state", "B"), Promise(1, frozenset([2])), None),
        (Outcome("state", "C"), Promise(1, frozenset([2])), "wrong state"),
        (Outcome("none"), Promise(1), "nothing"),
        (Outcome("error"), Promise(1), "error"),
        (Outcome("none"), Promise(0, frozenset([1])), None),
        (Outcome("error"), Promise(0, frozenset([1])), None),
        (Outcome("late"), Promise(0), "late"),
    ],
)
def test_the_promise(outcome, promised, kind):
    assert promise.broken(outcome, promised, {1: "A", 2: "B"}) == kind
    if outcome.kind == "error" and not promised.durable:
        assert promise.broken(outcome, promised, {1: "A", 2: "B"}, "none") == "first save"


# --- mistakes -------------------------------------------------------------------------------------


def report(save, load, number=2, state=crash_savers.state, **more):
    def loaded(directory):
        found = load(directory)
        return None if found is None else digest(found)

    torch.set_num_threads(1)
    return crashtest.test(
        crashtest.Program({"": crashtest.saves(save, state, digest, number)}, loaded), **more
    )


@traced
def test_a_right_saver_survives_everything():
    found = report(crash_savers.save, crash_savers.load, number=3)
    assert found.passed, "\n".join(description.text(found))
    assert found.errors >= 20 and found.flips >= 60


# mistake: (load, models on which it fails at least, on which it doesn't, inode names of the calls
# that are missing)
MISTAKES = {
    "no file fsync": (
        "load_newest",
        {"ext4", "xfs", "nfs", "posix"},
        {PROCESS},
        "fsync of tmp-000001/",
    ),
    "fsync after rename": (
        "load_newest",
        {"ext4", "xfs", "nfs", "posix"},
        {PROCESS},
        "fsync of tmp-00000",
    ),
    "fsync before flush": (
        "load_newest",
        {"ext4", "xfs", "nfs", "posix"},
        {PROCESS},
        "fsync of tmp-000001/",
    ),
    "fsync of another descriptor": (
        "load_newest",
        {"ext4", "xfs", "nfs", "posix"},
        {PROCESS},
        "fsync of tmp-000001/",
    ),
    "no folder fsync": (
        "load_newest",
        {"posix"},
        {PROCESS, "ext4", "xfs", "nfs"},
        "fsync of the directory tmp-000001",
    ),
    "no directory fsync": (
        "load",
        {"ext4", "xfs", "posix"},
        {PROCESS, "nfs"},
        "fsync of the directory",
    ),
    "retention before durable": (
        "load",
        {"posix"},
        {PROCESS, "ext4", "xfs", "nfs"},
        "fsync of the directory",
    ),
    "across file systems": (
        "load_newest",
        {PROCESS, "ext4", "xfs", "nfs", "posix"},
        set(),
        "fsync of step-000001/",
    ),
    "in place": ("load_newest", {PROCESS, "ext4", "xfs", "nfs", "posix"}, set(), None),
    "retention first": ("load", {PROCESS, "ext4", "xfs", "nfs", "posix"}, set(), None),
}


@traced
@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_caught_where_it_matters_with_its_story(mistake):
    load, fails, holds, missing = MISTAKES[mistake]
    found = report(
        lambda d, s: crash_savers.save(d, s, mistake),
        getattr(crash_savers, load),
        number=3 if "retention" in mistake else 2,
        errors=False,
        flips=False,
        most_trees=150,
    )
    broken = {model for model, n in found.failed.items() if n}
    assert fails <= broken and not (holds & broken), found.failed
    told = description.as_data(found)
    assert told["smallest"]["kind"] in promise.KINDS
    assert (told["smallest"]["crash"] == "the process is killed") == (PROCESS in broken)
    if missing:
        assert any(r["call"].startswith(missing) for r in told["missing"]), told["missing"]
    if mistake == "fsync after rename":
        assert all(r["too_late"] for r in told["missing"])
    assert any(r["too_early"] for r in told["missing"]) == (mistake == "fsync before flush")


@traced
def test_a_digest_that_is_durable_before_its_data_is_caught():
    found = report(
        crash_savers.digest_first,
        crash_savers.load_by_digest,
        errors=False,
        flips=False,
        most_trees=150,
    )
    assert all(found.failed.values())


@traced
def test_the_calls_that_are_said_to_be_missing_help():
    """Made, they rule out the failures that they are said to."""
    found = report(
        lambda d, s: crash_savers.save(d, s, "no directory fsync"),
        crash_savers.load,
        errors=False,
        flips=False,
    )
    first = found.failing[0]
    wanted = {(first.key, first.state.promise)}
    marks = [n for n, op in enumerate(found.record.ops) if isinstance(op, Mark)]
    ends = min(n for n in marks if n + 1 >= first.state.moment)  # the end of its save

    def reachable(ops) -> set:
        return enumeration.reachable(found.record.disk, ops, "ext4", wanted, found.space.trees)

    ops = found.record.ops[: ends + 1]
    assert reachable(ops) == wanted
    assert reachable(promise._with(ops, found.remedies)) == set()
    assert all(marks[-2] < r.at <= ends for r in found.remedies)  # calls of the save that is told


@traced
def test_flipped_bits_are_noticed_or_not(tmp_path):
    found = report(crash_savers.save, lambda d: crash_savers.load(d, verify=False), errors=False)
    assert found.flip_failures and {b.kind for b in found.flip_failures} == {"wrong state"}
    assert not found.failing


@traced
def test_an_error_that_is_passed_over_is_caught():
    def save(directory, state):
        try:
            crash_savers.save(directory, state)
        except OSError:
            pass

    found = report(save, crash_savers.load, flips=False)
    assert not found.failing and found.error_failures


@traced
def test_after_an_error_no_state_is_read_that_breaks_the_promise_anyway(monkeypatch):
    """Of a saver that syncs nothing there may be thousands, and each costs a load."""
    asked = []
    monkeypatch.setattr(
        crashtest.judge,
        "judge",
        lambda trees, *args, do=judge.judge: asked.append(len(trees)) or do(trees, *args),
    )

    def save(directory, state):
        for part in "ab":
            torch.save(state, f"{directory}/{part}{state['step']}")

    def load(directory):
        newest = max((name[1:] for name in os.listdir(directory)), default=None)
        return newest and next(
            torch.load(f"{directory}/{part}{newest}", weights_only=True) for part in "ab"
        )

    found = report(save, load, models=[PROCESS, "ext4"], flips=False)
    assert all(found.failed.values())
    assert found.errors and sum(asked[1:]) <= found.errors < asked[0], asked
