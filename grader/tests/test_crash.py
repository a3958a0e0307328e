"""Crash consistency: what is recorded, which states follow, what load makes of them, and what is said of it."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest
import torch

from grader import course
from grader.crash import crashtest, disk, judge, recorder, savers, states, story, verdict
from grader.crash.disk import Disk, Mark, Names, Sync, Write
from grader.crash.judge import Outcome
from grader.crash.states import PROCESS, Promise
from grader.harness.digest import digest
from grader.tests import crash_savers
from grader.tests.conftest import IN_CI


def _traceable() -> str:
    try:
        recorder.record(pathlib.Path(os.getcwd()) / "grader" / "crash", {"": lambda: None}, 10)
    except recorder.Unavailable as e:
        return str(e)
    return ""


traced = pytest.mark.skipif(not IN_CI and bool(_traceable()), reason="processes can't be traced here")


# --- recording ------------------------------------------------------------------------------------------


def _texts(record) -> list[str]:
    return [op.text for op in record.ops if op.text]


def _buffered(d):
    with open(f"{d}/a", "w") as f:
        f.write("one")
        f.seek(100)
        f.write("two")


def _appended(d):
    for text in ("one", "two"):
        with open(f"{d}/a", "a") as f:
            f.write(text)


def _copied(d):
    pathlib.Path(d, "a").write_bytes(b"x" * 100_000)
    shutil.copy(f"{d}/a", f"{d}/b")  # sendfile or copy_file_range
    os.copy_file_range(os.open(f"{d}/a", os.O_RDONLY), os.open(f"{d}/b", os.O_RDWR), 50, 10, 99_990)


def _mapped(d):
    pathlib.Path(d, "a").write_bytes(bytes(10_000))
    with open(f"{d}/a", "r+b") as f, mmap.mmap(f.fileno(), 10_000) as m:
        m[5000:5003] = b"abc"
        m.flush()
        m[1] = 7


def _at_offsets(d):
    fd = os.open(f"{d}/a", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"tail", 1000)
    os.writev(fd, [b"he", b"ad"])
    os.pwritev(fd, [b"mid", b"dle"], 500)
    os.ftruncate(fd, 900)
    os.posix_fallocate(fd, 0, 2000)
    os.truncate(f"{d}/a", 1500)


def _names(d):
    os.chdir(d)
    os.mkdir("x")
    pathlib.Path("x/a").write_text("a")
    os.link("x/a", "b")
    os.rename("x", "y")
    os.symlink("y/a", "latest")
    os.replace("b", "y/a")
    shutil.rmtree("y")
    os.unlink("latest")
    os.mkdir("x")  # inode numbers are used again
    pathlib.Path("x/new").write_text("n")


def _unnamed(d):
    fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"hello")
    AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
    assert ctypes.CDLL(None).linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, f"{d}/a".encode(), AT_SYMLINK_FOLLOW) == 0


def _moved_in(d):
    outside = pathlib.Path(d).parent / "outside"
    outside.write_text("from outside")
    os.rename(outside, f"{d}/a")


def _threads_and_processes(d):
    threads = [threading.Thread(target=lambda n=n: pathlib.Path(d, f"t{n}").write_bytes(bytes([n]) * 30_000)) for n in range(4)]
    for t in threads:
        t.start()
    subprocess.run(["sh", "-c", f"echo hi > {d}/s; mv {d}/s {d}/s2; dd if={d}/s2 of={d}/s3 2>/dev/null"], check=True)
    for t in threads:
        t.join()
    if os.fork() == 0:
        pathlib.Path(d, "forked").write_text("f")
        os._exit(0)
    os.wait()


def _libraries(d):
    import numpy
    import torch.distributed.checkpoint as dcp
    from safetensors.torch import save_file

    torch.save({"a": torch.arange(5000)}, f"{d}/t.pt")
    save_file({"a": torch.arange(5000)}, f"{d}/s.safetensors")
    numpy.savez(f"{d}/n.npz", a=numpy.arange(100))
    dcp.save({"a": torch.arange(5000)}, checkpoint_id=f"{d}/dcp", no_dist=True)


PROGRAMS = [_buffered, _appended, _copied, _mapped, _at_offsets, _names, _unnamed, _moved_in, _threads_and_processes, _libraries]


@traced
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__.strip("_"))
def test_the_record_played_gives_what_lies_on_the_disk(program, tmp_path):
    root = tmp_path / "d"
    root.mkdir()
    (root / "old").write_text("was there")
    record = recorder.record(root, {"": lambda: program(str(root))}, 30)  # it compares by itself, too
    assert [e.status for e in record.ended] == [0]
    judge.lay(states.final(record.disk, record.ops), tmp_path / "again")
    there = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert there == {str(p.relative_to(tmp_path / "again")): p.read_bytes() for p in (tmp_path / "again").rglob("*") if p.is_file()}


@traced
def test_syncs_are_told_from_one_another(tmp_path):
    def program():
        with open(tmp_path / "a", "wb") as f:
            f.write(b"x")
            f.flush()
            os.fdatasync(f.fileno())
        fd = os.open(tmp_path, os.O_RDONLY)
        os.fsync(fd)
        os.write(os.open(tmp_path / "a", os.O_WRONLY | os.O_DSYNC), b"y")
        os.sync()

    assert _texts(recorder.record(tmp_path, {"": program}, 30)) == [
        "create a", "write a", "fdatasync a", "fsync the directory", "write a", "O_SYNC write a", "sync()",
    ]  # fmt: skip


@traced
def test_a_write_that_nobody_sees_is_no_verdict(tmp_path):
    """By a process that isn't recorded."""
    (tmp_path / "a").write_text("before")
    other = subprocess.Popen([sys.executable, "-c", f"input(); open({str(tmp_path / 'a')!r}, 'w').write('behind your back'); print(flush=True)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def program():
        os.write(other.stdin.fileno(), b"\n")
        other.stdout.readline()

    with pytest.raises(recorder.Incomplete, match="a"):
        recorder.record(tmp_path, {"": program}, 30)
    other.wait()


@traced
@pytest.mark.parametrize("which", [1, 2, 3])
def test_the_call_that_is_refused_is_not_made(tmp_path, which):
    def program():
        fd = os.open(tmp_path / "a", os.O_WRONLY | os.O_CREAT)
        seen = []
        for call in (lambda: os.write(fd, b"abc"), lambda: os.fsync(fd), lambda: os.pwrite(fd, b"d", 3)):
            try:
                call()
                seen.append(0)
            except OSError as e:
                seen.append(e.errno)
        expected = [0, 0, 0]
        expected[which - 1] = errno.EIO if which == 2 else errno.ENOSPC
        assert seen == expected

    record = recorder.record(tmp_path, {"": program}, 30, refuse=which)
    assert record.ended[0].status == 0
    assert record.calls == 3
    assert (tmp_path / "a").read_bytes() == {1: b"\0\0\0d", 2: b"abcd", 3: b"abc"}[which]
    assert [op.worked for op in record.ops if isinstance(op, Sync)] == [which != 2]


@traced
def test_a_program_that_does_not_end_is_ended(tmp_path):
    began = time.monotonic()
    record = recorder.record(tmp_path, {"": lambda: threading.Event().wait()}, 0.3)
    assert record.ended[0].late
    assert time.monotonic() - began < 20


@traced
def test_several_processes_have_one_order(tmp_path):
    def rank(n):
        def run():
            for i in range(30):
                with open(tmp_path / f"{n}.{i % 3}", "wb") as f:
                    f.write(bytes([n]) * 100)
                os.replace(tmp_path / f"{n}.{i % 3}", tmp_path / f"done{n}")

        return run

    record = recorder.record(tmp_path, {f"rank {n}": rank(n) for n in range(3)}, 30)
    assert {op.who for op in record.ops} == {"rank 0", "rank 1", "rank 2"}
    assert [e.status for e in record.ended] == [0, 0, 0]


# --- states ---------------------------------------------------------------------------------------------

OLD, NEW = b"old" * 10, b"new" * 10


def _renamed(*between) -> tuple[Disk, list]:
    """A file "f" that is there, and a new one renamed over it."""
    ops = [
        Mark(kind="began", save=2), Names("create t", changes=[(0, "t", None, 2)]), Write("write t", inode=2, data=NEW, parts=[len(NEW)]),
        *between, Names("rename t -> f", changes=[(0, "t", 2, None), (0, "f", 1, 2)]),
    ]  # fmt: skip
    return Disk(before={(0, "f"): 1}, contents={1: OLD, 2: b""}, names={1: "f", 2: "t"}), ops


def _at_the_end(made, model) -> set:
    found = states.space(*made, [model], since=len(made[1]))
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


@pytest.mark.parametrize("model", list(states.MODELS))
def test_a_synced_file_is_whole_under_whichever_name(model):
    assert _at_the_end(_renamed(Sync("fsync t", inode=2)), model) <= {OLD, NEW}


@pytest.mark.parametrize("model", list(states.MODELS))
def test_a_failed_fsync_promises_nothing_nor_does_the_next(model):
    """The kernel marks the pages clean: the second fsync has nothing to write (fsyncgate)."""
    made = _renamed(Sync("fsync t", inode=2, worked=False), Sync("fsync t", inode=2))
    assert _at_the_end(made, model) >= _at_the_end(_renamed(), model)
    assert b"" in _at_the_end(made, model)  # what a rename sends ahead is lost, too


@pytest.mark.parametrize("model, kept", [("ext4", True), ("xfs", True), ("posix", False)])
def test_syncing_a_new_file_makes_its_name_durable_where_there_is_a_journal(model, kept):
    made = Disk(contents={1: b""}), [Names("create a", changes=[(0, "a", None, 1)]), Write("write a", inode=1, data=NEW), Sync("fsync a", inode=1)]
    found = states.space(*made, [model], since=3)
    assert all("a" in s.tree for s in found.states) == kept


def test_names_come_in_order_with_a_journal_and_in_any_without():
    ops = [Names(f"create {n}", changes=[(0, n, None, i)]) for i, n in enumerate("abc", 1)]
    made = Disk(contents={1: b"", 2: b"", 3: b""}), ops

    def trees(model):
        return {"".join(s.tree) for s in states.space(*made, [model], since=3).states}

    assert trees("ext4") == {"", "a", "ab", "abc"}
    assert trees("posix") == {"", "a", "b", "c", "ab", "ac", "bc", "abc"}
    assert trees("nfs") == {"abc"}


def test_a_dead_process_tears_a_write_and_loses_none():
    made = Disk(contents={1: b""}), [Names("create a", changes=[(0, "a", None, 1)]), Write("write a", inode=1, data=b"0123456789", parts=[3, 10])]
    assert [s.tree.get("a") for s in states.space(*made, [PROCESS]).states] == [None, b"", b"0", b"012", b"01234", b"012345678", b"0123456789"]


def test_the_bound_is_told():
    ops = [op for i in range(1, 9) for op in (Names(f"create {i}", changes=[(0, str(i), None, i)]), Write(f"write {i}", inode=i, data=bytes([i]) * 50))]
    found = states.space(Disk(contents={i: b"" for i in range(1, 9)}), ops)
    assert 0 < found.bounded < found.moments
    before = len(found.trees)
    assert states.thin(found, 100) == before - 100
    assert len(found.trees) == 100 and set(found.keys) == set(found.trees)


# --- judging --------------------------------------------------------------------------------------------


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
    trees = {t: {"f": t.encode()} for t in ("none", "hang", "die", "exit", "error", "fork", "abc")}
    found = judge.judge(trees, _load, [tmp_path / str(n) for n in range(workers)], seconds=1)
    assert {t: o.kind for t, o in found.items()} == {
        "none": "none", "hang": "late", "die": "died", "exit": "died", "error": "error", "fork": "state", "abc": "state",
    }  # fmt: skip
    assert found["abc"].digest == "abc"
    assert "damaged" in found["error"].text


def test_loads_that_hang_are_not_waited_for_for_ever(tmp_path):
    found = judge.judge({n: {"f": b"hang"} for n in range(50)}, _load, [tmp_path], seconds=0.2)
    assert [o.kind for o in found.values()] == ["late"] * judge.ENOUGH_LATE


@pytest.mark.parametrize(
    "outcome, promise, kind",
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
def test_the_promise(outcome, promise, kind):
    assert verdict.broken(outcome, promise, {1: "A", 2: "B"}) == kind
    if outcome.kind == "error" and not promise.durable:
        assert verdict.broken(outcome, promise, {1: "A", 2: "B"}, "none") == "first save"


# --- mistakes -------------------------------------------------------------------------------------------


def report(save, load, number=2, state=crash_savers.state, **more):
    def loaded(directory):
        found = load(directory)
        return None if found is None else digest(found)

    torch.set_num_threads(1)
    return crashtest.test(crashtest.Program({"": crashtest.saves(save, state, digest, number)}, loaded), **more)


@traced
def test_a_right_saver_survives_everything():
    found = report(crash_savers.save, crash_savers.load, number=3)
    assert found.passed, "\n".join(story.text(found))
    assert found.errors >= 20 and found.flips >= 60


# mistake: (load, models on which it fails at least, on which it doesn't, inode names of the calls that are missing)
MISTAKES = {
    "no file fsync": ("load_newest", {"ext4", "xfs", "nfs", "posix"}, {PROCESS}, "fsync of tmp-000001/"),
    "fsync after rename": ("load_newest", {"ext4", "xfs", "nfs", "posix"}, {PROCESS}, "fsync of tmp-00000"),
    "fsync of another descriptor": ("load_newest", {"ext4", "xfs", "nfs", "posix"}, {PROCESS}, "fsync of tmp-000001/"),
    "no folder fsync": ("load_newest", {"posix"}, {PROCESS, "ext4", "xfs", "nfs"}, "fsync of the directory tmp-000001"),
    "no directory fsync": ("load", {"ext4", "xfs", "posix"}, {PROCESS, "nfs"}, "fsync of the directory"),
    "retention before durable": ("load", {"posix"}, {PROCESS, "ext4", "xfs", "nfs"}, "fsync of the directory"),
    "across file systems": ("load_newest", {PROCESS, "ext4", "xfs", "nfs", "posix"}, set(), "fsync of step-000001/"),
    "in place": ("load_newest", {PROCESS, "ext4", "xfs", "nfs", "posix"}, set(), None),
    "retention first": ("load", {PROCESS, "ext4", "xfs", "nfs", "posix"}, set(), None),
}


@traced
@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_caught_where_it_matters_with_its_story(mistake):
    load, fails, holds, missing = MISTAKES[mistake]
    found = report(lambda d, s: crash_savers.save(d, s, mistake), getattr(crash_savers, load), number=3 if "retention" in mistake else 2, errors=False, flips=False, most_trees=150)
    broken = {model for model, n in found.failed.items() if n}
    assert fails <= broken and not (holds & broken), found.failed
    told = story.as_data(found)
    assert told["smallest"]["kind"] in verdict.KINDS
    assert (told["smallest"]["crash"] == "the process is killed") == (PROCESS in broken)
    if missing:
        assert any(r["call"].startswith(missing) for r in told["missing"]), told["missing"]
    if mistake == "fsync after rename":
        assert all(r["too_late"] for r in told["missing"])


@traced
def test_a_digest_that_is_durable_before_its_data_is_caught():
    found = report(crash_savers.digest_first, crash_savers.load_by_digest, errors=False, flips=False, most_trees=150)
    assert all(found.failed.values())


@traced
def test_the_calls_that_are_said_to_be_missing_help():
    """Made, they rule out the failures that they are said to."""
    found = report(lambda d, s: crash_savers.save(d, s, "no directory fsync"), crash_savers.load, errors=False, flips=False)
    ops = verdict._with(found.record.ops, found.remedies)
    end = max(r.at for r in found.remedies)
    still = {key for key in states.space(found.record.disk, ops[: end + 1], interned=found.space.interned).keys}
    assert found.failing[0].key not in still


def test_flipped_bits_are_noticed_or_not(tmp_path):
    if _traceable() and not IN_CI:
        pytest.skip("processes can't be traced here")
    found = report(crash_savers.save, lambda d: crash_savers.load(d, verify=False), errors=False)
    assert found.flip_failures and {b.kind for b in found.flip_failures} == {"wrong state"}
    assert not found.failing


def test_an_error_that_is_passed_over_is_caught():
    if _traceable() and not IN_CI:
        pytest.skip("processes can't be traced here")

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
    monkeypatch.setattr(crashtest.judge, "judge", lambda trees, *args, do=judge.judge: asked.append(len(trees)) or do(trees, *args))

    def save(directory, state):
        for part in "ab":
            torch.save(state, f"{directory}/{part}{state['step']}")

    def load(directory):
        newest = max((name[1:] for name in os.listdir(directory)), default=None)
        return newest and [torch.load(f"{directory}/{part}{newest}", weights_only=True) for part in "ab"][0]

    found = report(save, load, models=[PROCESS, "ext4"], flips=False)
    assert all(found.failed.values())
    assert found.errors and sum(asked[1:]) <= found.errors < asked[0], asked


# --- the command ----------------------------------------------------------------------------------------


def crashtest_command(*args, cwd) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.run([sys.executable, "-m", "grader", "crashtest", *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@traced
def test_the_command_on_somebodys_file(tmp_path):
    shutil.copy(crash_savers.__file__, tmp_path / "mine.py")
    args = ["--load", "mine.py:load", "--state", "mine.py:state", "--json", "-", "--saves", "2"]
    done = crashtest_command("--save", "mine:save", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"]
    done = crashtest_command("--save", "mine.py:digest_first", *args, "--picture", "worst.png", cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.stdout)["smallest"]["load"].startswith("raised")
    assert (tmp_path / "worst.png").stat().st_size > 10_000


@traced
@pytest.mark.parametrize(
    "code, save, says",
    [
        ("def save(d, s): pass", "mine.py", "module:function"),
        ("def save(d, s): pass", "other.py:save", "other.py"),
        ("def save(d, s): pass", "mine:absent", "absent"),
        ("def save(d, s: pass", "mine:save", "SyntaxError"),
        ("import no_such_thing\ndef save(d, s): pass", "mine:save", "no_such_thing"),
        ("def save(d, s): raise OSError('broken')", "mine:save", "the saves failed"),
        ("import sys\ndef save(d, s): sys.exit(3)", "mine:save", "exit status 3"),
        ("import threading\ndef save(d, s): threading.Event().wait()", "mine:save", "in time"),
    ],
)
def test_bad_input_gets_one_line_and_exit_status_2(tmp_path, code, save, says):
    (tmp_path / "mine.py").write_text(f"{code}\n")
    (tmp_path / "reader.py").write_text("def load(d): return None\n")
    done = crashtest_command("--save", save, "--load", "reader:load", "--time-limit", "3", cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and says in last and last.startswith("grade: "), done.stderr
    assert "grader/" not in done.stderr


def test_names_in_the_record_lead_where_they_did():
    entries = {(0, "d"): 1, (1, "f"): 2, (0, "g"): 2}
    assert disk.paths(entries, Disk(directories={0, 1})) == {"d": 1, "d/f": 2, "g": 2}


README = pathlib.Path(__file__).resolve().parents[1] / "crash" / "README.md"


@traced
@pytest.mark.parametrize("without, status", [(None, 0), ("os.fsync(f.fileno())", 1), ("os.fsync(fd)", 1)])
def test_the_example_in_the_readme_does_what_it_says(tmp_path, without, status):
    code = README.read_text().split("<!-- example: mine.py -->\n```python\n")[1].split("```")[0]
    assert without is None or code.count(without) == 1
    (tmp_path / "mine.py").write_text(code.replace(without, "pass") if without else code)
    done = crashtest_command("--save", "mine.py:save", "--load", "mine.py:load", "--no-flips", cwd=tmp_path)
    assert done.returncode == status, done.stdout + done.stderr
    if without:
        assert "missing    fsync of " in done.stdout


@traced
@pytest.mark.needs_solution
@pytest.mark.parametrize("version, status", [("solution", 0), ("starter", 1)])
def test_exercise_1_by_its_readme(tmp_path, version, status):
    exercise = course.find("ex01")
    code = (exercise.folder / "README.md").read_text().split("```python\nfrom checkpoint import")[1].split("```")[0]
    (tmp_path / "crash.py").write_text(f"from checkpoint import{code}")
    (tmp_path / "checkpoint.py").write_bytes((exercise.folder / version / "checkpoint.py").read_bytes())
    done = crashtest_command("--save", "crash.py:save", "--load", "crash.py:load", "--strict-first", cwd=tmp_path)
    assert done.returncode == status, done.stdout + done.stderr


@traced
def test_a_saver_of_the_table_is_run_as_the_table_says():
    found = savers.one("safetensors")
    assert not found["passed"]
    posix = found["models"]["posix"]
    assert posix["kept"] < posix["states"]  # no version of it syncs anything
    text = savers.page({"safetensors": found}, "2026-01-01")
    assert f"**{posix['kept']}/{posix['states']}**" in text and "safetensors " in text
    readme = savers.in_readme(savers.README.read_text(), {"safetensors": found}, "2026-01-01")
    assert savers.rows({"safetensors": found})[-1] in readme and "Lightning" not in readme.split(savers.BEGIN)[1].split(savers.END)[0]


def test_the_readme_shows_the_table_and_names_its_day_and_versions():
    shown = [line for line in savers.README.read_text().split(savers.BEGIN)[1].split(savers.END)[0].splitlines() if line.strip()]
    page = savers.TABLE.read_text().splitlines()
    assert len(shown) == 2 + len(savers.SAVERS) + 2
    assert all(line in page for line in shown[:-1])


TRY_OUT = """
import json, pathlib, shutil, sys
import torch
from grader.crash import judge, recorder, savers, states
from grader.crash.disk import Mark

torch.set_num_threads(1)
run, load = savers.SAVERS[sys.argv[1]].make()
there = pathlib.Path(sys.argv[2], "there")
there.mkdir()
record = recorder.record(there, {"": lambda: run(str(there))}, 60)
whole = states.final(record.disk, record.ops)
newest = max(path for path, content in whole.items() if content is None)
trees = {"whole": whole, "empty": {}, "begun": {p: c for p, c in whole.items() if not p.startswith(newest + "/")}}
found = judge.judge(trees, load, [there])
saved = [op.digest for op in record.ops if isinstance(op, Mark) and op.kind == "began"]
print(json.dumps({"saved": saved} | {name: [o.kind, o.digest] for name, o in found.items()}))
"""


@traced
@pytest.mark.parametrize("name", ["accelerate", "transformers"])
def test_a_saver_of_the_table_gives_what_it_saved_last(tmp_path, name):
    if savers._versions(savers.SAVERS[name]) is None:
        pytest.skip(f"{name} isn't installed (pip install -e '.[bench]')")
    env = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", TRY_OUT, name, str(tmp_path)], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(set(found["saved"])) == savers.SAVES
    assert found["whole"] == ["state", found["saved"][-1]] and found["empty"] == ["none", ""]
    assert found["begun"][0] == "error"  # neither falls back to the checkpoint before
