"""Crash consistency: what a process does to a directory is recorded, whoever does it and
however.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest
import torch

from grader.crash import enumeration, judge, operations, recorder
from grader.crash.operations import Disk, Sync
from grader.tests.crash.traced import traced

# --- recording ------------------------------------------------------------------------------------


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
    assert (
        ctypes.CDLL(None).linkat(
            AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, f"{d}/a".encode(), AT_SYMLINK_FOLLOW
        )
        == 0
    )


def _moved_in(d):
    outside = pathlib.Path(d).parent / "outside"
    outside.write_text("from outside")
    os.rename(outside, f"{d}/a")


def _threads_and_processes(d):
    threads = [
        threading.Thread(
            target=lambda n=n: pathlib.Path(d, f"t{n}").write_bytes(bytes([n]) * 30_000)
        )
        for n in range(4)
    ]
    for t in threads:
        t.start()
    subprocess.run(
        ["sh", "-c", f"echo hi > {d}/s; mv {d}/s {d}/s2; dd if={d}/s2 of={d}/s3 2>/dev/null"],
        check=True,
    )
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


PROGRAMS = [
    _buffered,
    _appended,
    _copied,
    _mapped,
    _at_offsets,
    _names,
    _unnamed,
    _moved_in,
    _threads_and_processes,
    _libraries,
]


@traced
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__.strip("_"))
def test_the_record_played_gives_what_lies_on_the_disk(program, tmp_path):
    root = tmp_path / "d"
    root.mkdir()
    (root / "old").write_text("was there")
    # it compares by itself, too
    record = recorder.record(root, {"": lambda: program(str(root))}, 30)
    assert [e.status for e in record.ended] == [0]
    judge.lay(enumeration.final(record.disk, record.ops), tmp_path / "again")
    there = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert there == {
        str(p.relative_to(tmp_path / "again")): p.read_bytes()
        for p in (tmp_path / "again").rglob("*")
        if p.is_file()
    }


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
        "create a",
        "write a",
        "fdatasync a",
        "fsync the directory",
        "write a",
        "O_SYNC write a",
        "sync()",
    ]


@traced
def test_a_write_that_nobody_sees_is_no_verdict(tmp_path):
    """By a process that isn't recorded."""
    (tmp_path / "a").write_text("before")
    other = subprocess.Popen(
        [
            sys.executable,
            "-c",
            (
                f"input(); open({str(tmp_path / 'a')!r}, 'w').write('behind your back'); "
                "print(flush=True)"
            ),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

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
        for call in (
            lambda: os.write(fd, b"abc"),
            lambda: os.fsync(fd),
            lambda: os.pwrite(fd, b"d", 3),
        ):
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
    record = recorder.record(tmp_path, {"": lambda: threading.Event().wait()}, 0.3)
    assert record.ended[0].late


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


def test_names_in_the_record_lead_where_they_did():
    entries = {(0, "d"): 1, (1, "f"): 2, (0, "g"): 2}
    assert operations.paths(entries, Disk(directories={0, 1})) == {"d": 1, "d/f": 2, "g": 2}


@traced
def test_what_is_neither_file_nor_directory_is_no_verdict(tmp_path):
    with pytest.raises(recorder.Incomplete, match="neither"):
        recorder.record(tmp_path, {"": lambda: os.mkfifo(tmp_path / "control")}, 10)
