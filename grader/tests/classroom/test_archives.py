"""Archives that strangers made: nothing leaves its folder, and nothing fills the disk."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import pytest

from grader.classroom.archives import Most, Unreadable, is_archive, stem, unpack


@pytest.fixture
def target(tmp_path):
    inner = tmp_path / "deep" / "inner"
    inner.mkdir(parents=True)
    return inner


def zipped(path, members):
    """members: name -> text, or (text, file mode)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in members:
            text, mode = data if isinstance(data, tuple) else (data, stat.S_IFREG | 0o644)
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            z.writestr(info, text)
    return path


def tarred(path, members):
    """members: (name, type, text or link's target)."""
    with tarfile.open(path, "w:gz") as t:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(text)
                t.addfile(info, io.BytesIO(text.encode()))
            else:
                info.linkname = text
                t.addfile(info)
    return path


def held(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


OUTSIDE = [
    "../out.py",
    "a/../../out.py",
    "/tmp/out.py",
    "C:\\out.py",
    "..\\out.py",
    "//host/out.py",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_is_left_out_and_the_rest_is_unpacked(tmp_path, target, name):
    archive = zipped(tmp_path / "a.zip", [(name, "evil"), ("ok/fine.py", "fine")])
    notes = unpack(archive, target)
    assert held(target) == {"ok/fine.py": "fine"}
    assert list(tmp_path.rglob("out.py")) == []
    assert len(notes) == 1 and "leads out" in notes[0]


def test_the_same_for_a_tar_file(tmp_path, target):
    archive = tarred(
        tmp_path / "a.tar.gz",
        [("../out.py", tarfile.REGTYPE, "evil"), ("fine.py", tarfile.REGTYPE, "fine")],
    )
    assert len(unpack(archive, target)) == 1
    assert held(target) == {"fine.py": "fine"}


def test_links_and_devices_are_left_out(tmp_path, target):
    archive = tarred(
        tmp_path / "a.tgz",
        [
            ("link.py", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.py", tarfile.LNKTYPE, "link.py"),
            ("fifo", tarfile.FIFOTYPE, ""),
            ("null", tarfile.CHRTYPE, ""),
            ("fine.py", tarfile.REGTYPE, "fine"),
        ],
    )
    assert len(unpack(archive, target)) == 4
    assert held(target) == {"fine.py": "fine"}
    link = zipped(tmp_path / "b.zip", [("link.py", ("/etc/passwd", stat.S_IFLNK | 0o777))])
    other = target / "other"
    other.mkdir()
    assert "link" in unpack(link, other)[0]
    assert held(other) == {}


def test_a_file_below_a_link_of_the_same_archive_stays_inside(tmp_path, target):
    archive = tarred(
        tmp_path / "a.tar.gz",
        [("d", tarfile.SYMTYPE, str(tmp_path)), ("d/out.py", tarfile.REGTYPE, "x")],
    )
    unpack(archive, target)
    assert not (tmp_path / "out.py").exists()
    assert held(target) == {"d/out.py": "x"}


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_a_bomb_is_refused_by_what_comes_out_of_it(tmp_path, target, ending):
    text = "0" * (3 << 20)
    path = tmp_path / f"bomb{ending}"
    if ending == ".zip":
        zipped(path, [("a.py", text)])
    else:
        tarred(path, [("a.py", tarfile.REGTYPE, text)])
    assert path.stat().st_size < 20_000
    with pytest.raises(Unreadable, match="more than 2 MiB"):
        unpack(path, target, Most(bytes=2 << 20))


def test_an_archive_of_too_many_files_is_refused(tmp_path, target):
    path = zipped(tmp_path / "many.zip", [(f"{n}.py", "") for n in range(12)])
    with pytest.raises(Unreadable, match="more than 10 files"):
        unpack(path, target, Most(files=10))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
@pytest.mark.parametrize(
    "data", [b"", b"hello", b"PK\x03\x04" + bytes(100), b"\x1f\x8b" + bytes(50)]
)
def test_what_is_no_archive_is_said_in_one_line(tmp_path, target, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Unreadable) as error:
        unpack(tmp_path / name, target)
    assert str(error.value) and "\n" not in str(error.value)


def test_every_cut_of_an_archive_is_refused_or_gives_whole_files(tmp_path):
    whole = zipped(tmp_path / "w.zip", [("a.py", "alpha" * 50), ("b.py", "beta")]).read_bytes()
    for cut in range(0, len(whole), 7):
        (tmp_path / "cut.zip").write_bytes(whole[:cut])
        target = tmp_path / f"t{cut}"
        target.mkdir()
        with pytest.raises(Unreadable):
            unpack(tmp_path / "cut.zip", target)


def test_two_members_of_one_name_dont_replace_each_other(tmp_path, target):
    path = tmp_path / "two.zip"
    with pytest.warns(UserWarning, match="Duplicate"):
        zipped(path, [("a.py", "first"), ("a.py", "second"), ("a.py/b.py", "below")])
    assert len(unpack(path, target)) == 2
    assert held(target) == {"a.py": "first"}


def test_windows_separators_become_folders(tmp_path, target):
    unpack(zipped(tmp_path / "w.zip", [("ex01\\checkpoint.py", "x")]), target)
    assert held(target) == {"ex01/checkpoint.py": "x"}


def test_the_endings():
    assert is_archive("A.ZIP") and is_archive("a.tar.gz") and not is_archive("a.py")
    assert (stem("a.b.tar.gz"), stem("a.tgz"), stem("a.ZIP")) == ("a.b", "a", "a")
