"""What student code tries from inside of a life: it reads, writes and reaches nothing that isn't
its own.

Each attack is code of a submission. It prints "got ..." for everything that it got, and what it was
refused otherwise.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import textwrap
from pathlib import Path

import pytest

from grader.course import catalog, submissions
from grader.course.catalog import ROOT
from grader.harness import privileges, readable_paths, sandbox, scratch
from grader.harness.lab import Lab
from grader.harness.launcher import ForkServer, Limits
from grader.harness.run import OBJECTS, read_events
from grader.harness.sandbox import LANDLOCK, NAMESPACES, NONE, Sandbox
from grader.harness.workbench import Bench
from grader.verdicts import Finding

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has namespaces and Landlock"
)

ATTEMPT = textwrap.dedent(
    """
    import ctypes, os, signal, socket, subprocess, sys
    libc = ctypes.CDLL(None, use_errno=True)
    directory = sys.argv[sys.argv.index("--directory") + 1]

    def attempt(what, call):
        try:
            value = call()
        except (OSError, subprocess.SubprocessError) as e:
            print("refused", what, type(e).__name__)
        else:
            print("got", what, repr(value)[:60])

    def must(result):
        if result < 0:
            raise OSError(ctypes.get_errno(), "refused")
        return result
    """
)


def available() -> list[Sandbox]:
    """Those that can be had here, strongest first."""
    best = sandbox.choose()
    kinds = [best] if best.kind == LANDLOCK else [best, Sandbox(LANDLOCK)]
    return [kind for kind in kinds if kind.kind != NONE and not sandbox._unavailable(kind)]


@pytest.fixture(params=[NAMESPACES, LANDLOCK])
def confined(request) -> Sandbox:
    found = next((one for one in available() if one.kind == request.param), None)
    if found is None and os.environ.get("GRADE_CI"):
        pytest.fail(f"{request.param} can't be had here")
    if found is None:
        pytest.skip(f"{request.param} can't be had here")
    return found


@pytest.fixture
def attack(launcher, ex01, confined):
    """attack(code) -> what it printed; in the same directory each time."""
    benches, directory = [], []

    def run(code: str, ranks: int | None = None, **limits) -> str:
        text = ATTEMPT + textwrap.dedent(code)
        work = submissions.Submission(ex01.starter, ex01.module, {ex01.module: text.encode()})
        benches.append(
            Bench(
                work, launcher, 0, jobs=2, limits=Limits(**{"wall": 20} | limits), sandbox=confined
            )
        )
        if not directory:
            directory.append(benches[0].folder() / "checkpoints")
            directory[0].mkdir()
        life = (
            Lab(benches[-1], "attack")
            .launch("import_check.py", ranks=ranks, directory=directory[0])
            .last
        )
        first = life.processes[0]
        if ranks is None and first.status != 0:
            return f"ended {first.ended} {first.status} {life.text()[-2000:]}"
        return life.text(characters=20_000)

    yield run
    for bench in benches:
        bench.close()


def refused(shown: str, *, times: int) -> None:
    assert "got" not in shown and shown.count("refused") == times, shown


def test_files_that_arent_its_own_are_neither_read_nor_listed(attack, tmp_path):
    (tmp_path / "secret").write_text("of another submission")
    (ROOT / ".grade").mkdir(exist_ok=True)
    paths = [
        *(str(exercise.solution / exercise.module) for exercise in catalog.exercises().values()),
        str(ROOT / "grader" / "mutants" / "ex01" / "README.md"),
        str(ROOT / "grader" / "checks" / "ex01" / "test_ex01.py"),
        str(ROOT / "grader" / "tests" / "conftest.py"),
        str(tmp_path / "secret"),
        "/etc/shadow",
        "/etc/sudoers",
    ]
    folders = [
        str(ROOT / ".git"),
        str(ROOT / ".grade"),
        str(tmp_path),
        os.path.expanduser("~/.ssh"),
        "/var/log",
        "/home",
    ]
    code = f"""
        for path in {paths!r}:
            attempt(path, lambda: open(path).read())
        for path in {folders!r}:
            attempt(path, lambda: os.listdir(path))
    """
    refused(attack(code), times=len(paths) + len(folders))


def test_the_answers_cant_be_imported(attack):
    names = [
        "grader.mutants",
        "grader.checks",
        "grader.tests",
        "grader.course.catalog",
        "grader.engine",
        "grader.yardstick",
        "grader.given",
    ]
    code = f"""
        import importlib
        for name in {names!r}:
            try:
                importlib.import_module(name)
            except (ImportError, PermissionError):
                print("refused", name)
            else:
                print("got", name)
    """
    refused(attack(code), times=len(names))


def test_nothing_is_planted_for_other_processes(attack):
    site = next(path for path in sys.path if path.endswith("site-packages"))
    places = [
        f"{site}/x.pth",
        f"{site}/sitecustomize.py",
        str(ROOT / "grader" / "workload" / "x.py"),
        str(ROOT / "x"),
        "/usr/x",
        "/etc/x",
    ]
    code = f"""
        for path in {places!r}:
            attempt(path, lambda: open(path, "w").write("x"))
        attempt("torch", lambda: open(__import__("torch").__file__, "a").write("x"))
        attempt("the scratch folder", lambda: open(os.path.join(os.getcwd(), "..", "result"), "w").write("x"))
        attempt("another life's place", lambda: os.mkdir(os.path.join(os.getcwd(), "..", "..", "x")))
    """  # noqa: E501
    refused(attack(code), times=len(places) + 3)
    assert not any(os.path.exists(path) for path in places)


def test_a_link_in_the_checkpoint_directory_leads_nowhere(attack, tmp_path):
    (tmp_path / "secret").write_text("x")
    code = f"""
        for n, target in enumerate([{str(tmp_path / "secret")!r}, {str(ROOT / "README.md")!r}, "/proc/1/root/etc/shadow"]):
            os.symlink(target, os.path.join(directory, str(n)))
            attempt(target, lambda: open(os.path.join(directory, str(n))).read())
            os.unlink(os.path.join(directory, str(n)))  # a life that leaves it has lost, see below
    """  # noqa: E501
    refused(attack(code), times=3)


KEEPERS = {
    "a file in /tmp": ("open('/tmp/kept', 'w').write('x')", "open('/tmp/kept').read()"),
    "a file in /var/tmp": ("open('/var/tmp/kept', 'w').write('x')", "open('/var/tmp/kept').read()"),
    "a file at home": (
        "open(os.path.expanduser('~/kept'), 'w').write('x')",
        "open(os.path.expanduser('~/kept')).read()",
    ),
    "a System V segment": (
        "must(libc.shmget(4711, 100, 0o1600))",
        "must(libc.shmget(4711, 100, 0o600))",
    ),
    "a System V queue": ("must(libc.msgget(4711, 0o1600))", "must(libc.msgget(4711, 0o600))"),
    "a key": (
        "must(libc.syscall(248, b'user', b'kept', b'x', ctypes.c_size_t(1), -4))",
        "must(libc.syscall(249, b'user', b'kept', None, -4))",
    ),
}


@pytest.mark.parametrize("how", KEEPERS)
def test_a_life_leaves_nothing_for_the_next_but_checkpoints(attack, how):
    leave, find = KEEPERS[how]
    attack(
        f"attempt('to leave it', lambda: {leave})\nopen(os.path.join(directory, 'kept'), "
        "'w').write('x')"
    )
    shown = attack(
        f"attempt('it', lambda: {find})\nprint(open(os.path.join(directory, 'kept')).read())"
    )
    assert "refused it" in shown and shown.splitlines()[-1] == "x", shown


def test_shared_memory_is_private(attack, confined):
    attack("attempt('to leave it', lambda: open('/dev/shm/grade-test-kept', 'w').write('x'))")
    try:
        shown = attack("attempt('it', lambda: open('/dev/shm/grade-test-kept').read())")
    finally:
        Path("/dev/shm/grade-test-kept").unlink(missing_ok=True)
    # Landlock alone can't give a life one of its own: DataLoader workers need it
    assert ("refused" in shown) == (confined.kind == NAMESPACES), shown


def test_no_signal_reaches_another_process(attack):
    code = f"""
        for pid in ({os.getpid()}, os.getppid(), 1):
            for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
                attempt(f"{{number}} to {{pid}}", lambda: os.kill(pid, number))
    """
    shown = attack(code)
    assert (
        f"to {os.getpid()} ProcessLookupError" in shown
        or f"to {os.getpid()} PermissionError" in shown
    )
    assert "ended" not in shown, shown


def test_processes_of_others_tell_nothing(attack, confined):
    privileges.hide_from_others()  # as the command does
    code = f"""
        for name in ("environ", "maps", "mem", "fd/0", "cwd", "root/etc"):
            path = "/proc/{os.getpid()}/" + name
            attempt(name, lambda: os.listdir(path) if name in ("cwd", "root/etc") else open(path, "rb").read(1))
        attempt("to trace it", lambda: must(libc.ptrace(16, {os.getpid()}, None, None)))
    """  # noqa: E501
    refused(attack(code), times=7)
    if confined.kind == NAMESPACES:
        seen = attack("print([name for name in os.listdir('/proc') if name.isdigit()])")
        assert str(os.getpid()) not in seen and seen.count(",") <= 3, seen


def test_the_network_is_out_of_reach(attack, confined):
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = f"\0grade-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as abstract:
            abstract.bind(name)
            abstract.listen()
            code = f"""
                attempt("TCP", lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 2))
                attempt("a name", lambda: socket.socket(socket.AF_UNIX).connect({name!r}))
            """  # noqa: E501
            refused(attack(code), times=2)


def test_ranks_meet_over_loopback_of_their_own(attack, confined):
    if confined.kind != NAMESPACES:
        pytest.skip("Landlock doesn't tell loopback from other networks")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
            import torch.distributed as dist
            from grader.harness.inside import ranks
            ranks.join("gloo")
            dist.barrier()
            print("met", dist.get_world_size())
            attempt("TCP", lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 2))
        """  # noqa: E501
        shown = attack(code, ranks=2)
    assert shown.count("met 2") == 2 and shown.count("refused TCP") == 2, shown


def test_the_environment_holds_nothing_of_the_callers(attack, monkeypatch):
    for name in ("GRADE_SECRET", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "PYTHONPATH"):
        monkeypatch.setenv(name, "of-the-caller")
    shown = attack("print(sorted(os.environ.items()))")
    assert "TMPDIR" in shown and "of-the-caller" not in shown


def test_there_is_no_way_back(attack, confined):
    """No capability, no set-user-id program, no other root."""
    code = """
        attempt("chroot", lambda: os.chroot("/"))
        attempt("mount", lambda: must(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)))
        attempt("umount", lambda: must(libc.umount2(b"/proc", 2)))
        attempt("another user", lambda: os.setuid(os.getuid() + 1))
        attempt("a device", lambda: os.mknod(os.path.join(directory, "dev"), 0o60600, os.makedev(8, 0)))
    """  # noqa: E501
    if confined.kind == NAMESPACES:
        refused(attack(code), times=5)
        status = attack(
            "print([line for line in open('/proc/self/status') if line.startswith(('CapEff', "
            "'NoNewPrivs', 'Uid'))])"
        )
        assert "CapEff:\\t0000000000000000" in status and "NoNewPrivs:\\t1" in status, status
        assert os.geteuid() != 0 or "Uid:\\t0" not in status


def test_what_fills_shared_memory_is_ended(attack, confined):
    if confined.kind != NAMESPACES:
        pytest.skip("Landlock alone gives a life no /dev/shm of its own")
    code = """
        import time
        with open("/dev/shm/x", "wb") as f:
            for _ in range(40):
                f.write(bytes(1 << 20))
        time.sleep(20)
    """
    assert attack(code, memory=24 << 20).startswith(("ended memory", "ended None 1"))


def test_a_kind_that_cant_be_had_is_an_error_where_its_required(monkeypatch):
    monkeypatch.setattr(sandbox, "_unavailable", lambda one: "not here")
    assert sandbox.choose("auto").kind == NONE and sandbox.choose("off").kind == NONE
    with pytest.raises(catalog.UsageError, match="not here"):
        sandbox.choose("require")


def test_a_fresh_interpreter_and_both_servers_have_other_hash_secrets(ex01):
    """Two real processes never agree on hash("..."); two lives of one run don't, either."""
    work = submissions.Submission(
        ex01.starter, ex01.module, {ex01.module: b"print(hash('x'), id(object))\n"}
    )
    launcher = ForkServer()
    bench = Bench(work, launcher, 0, jobs=2)
    try:
        lab = Lab(bench, "hash")
        first = lab.launch("import_check.py")
        later = lab.launch("import_check.py", directory=first.directory)
        fresh = lab.launch("import_check.py", directory=first.directory, fresh=True)
        shown = [run.last.text().split() for run in (first, later, fresh)]
        assert all(len(set(column)) == 3 for column in zip(*shown, strict=False)), shown
    finally:
        bench.close()
        launcher.close()


# --- what slips past a limit, or leads the grader astray ------------------------------------------

UNCOUNTED = {
    "a file that was removed while open": ("disk", """
        f = open(directory + "/x", "wb")
        os.unlink(f.name)
        for _ in range(64):
            f.write(bytes(1 << 20))
        f.flush()
    """),
    "a file below a path that is too long": ("disk", """
        os.chdir(directory)
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        with open("x", "wb") as f:
            for _ in range(64):
                f.write(bytes(1 << 20))
    """),
    "memory with a descriptor": ("memory", """
        fd = os.memfd_create("x")
        for _ in range(400):
            os.write(fd, bytes(1 << 20))
    """),
    "a process that lost its parent": ("memory", """
        if os.fork() == 0:
            if os.fork() == 0:
                hog = b"x" * (400 << 20)
                time.sleep(20)
            os._exit(0)
    """),
}  # fmt: skip


@pytest.mark.parametrize("what", UNCOUNTED)
def test_nothing_slips_past_a_limit(attack, what):
    limit, code = UNCOUNTED[what]
    code = "import time" + textwrap.dedent(code) + "time.sleep(10)"
    shown = attack(code, disk=32 << 20, memory=300 << 20)
    assert shown.startswith(f"ended {limit} "), shown


def test_empty_files_in_memory_are_bounded(attack, confined):
    if confined.kind != NAMESPACES:
        pytest.skip("Landlock alone gives a life no /dev/shm of its own")
    code = """
        for n in range(60_000):
            os.close(os.open(f"/dev/shm/{n}", os.O_CREAT))
    """
    assert "No space left" in attack(code)


def test_a_life_holds_nothing_of_its_guardians(attack):
    """It could tell the guardian that the grader stops it, or keep it from hearing anything."""
    code = """
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                print(fd, os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
            except FileNotFoundError:  # the listing's own
                pass
    """
    shown = dict(line.split() for line in attack(code).splitlines())
    assert sorted(shown.values()) == ["events", "null", "output", "output", "output", "stack"], (
        shown
    )


@pytest.mark.parametrize("where", ["", "/x", "/a/b/x"])
def test_no_link_leads_the_grader_out_of_the_directory(attack, tmp_path, where):
    """Checks copy and change what a life has left; as root, they could copy and change anything."""
    code = f"""
        place = directory + {where!r}
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if place == directory:
            os.rename(directory, directory + "-away")
        os.symlink({str(tmp_path)!r}, place)
    """
    with pytest.raises(Finding, match="link"):
        attack(code)


def test_links_within_the_directory_are_allowed(attack):
    code = """
        os.mkdir(directory + "/step-1")
        os.symlink("step-1", directory + "/latest")
        os.symlink(directory + "/step-1", directory + "/absolute")
        os.symlink("nowhere", directory + "/dangling")
        print("linked")
    """
    assert "linked" in attack(code)


def test_a_link_is_removed_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "folder").mkdir(mode=0o500)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    scratch.remove(tmp_path / "link")
    assert not os.path.lexists(tmp_path / "link")
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o500


def test_a_folder_that_becomes_a_link_is_given_to_nobody(tmp_path, monkeypatch):
    """One rank may run while another one's guardian gives away what lies in their directory."""
    (tmp_path / "own" / "a").mkdir(parents=True)
    (tmp_path / "others").mkdir()
    for folder in ("own/a", "others"):
        (tmp_path / folder / "file").write_text("")
    given = []

    def chown(name, uid, gid, **how):
        if name == "file" or str(name).endswith("/file"):
            (tmp_path / "own" / "a").rename(tmp_path / "own" / "b")
            (tmp_path / "own" / "a").symlink_to(tmp_path / "others")
            given.append(os.stat(name, **how).st_ino)

    monkeypatch.setattr(sandbox.os, "chown", chown)
    sandbox._give(str(tmp_path / "own"), 50_000)
    assert given == [(tmp_path / "own" / "b" / "file").stat().st_ino]


def test_a_virtual_environment_that_is_a_link_can_be_read(tmp_path, monkeypatch):
    (tmp_path / "venv").symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    real = os.path.realpath(sys.prefix)
    readable = readable_paths.everybodys.__wrapped__()
    assert any(f"{real}/".startswith(f"{path}/") for path in readable)


def test_a_flood_of_events_is_read_in_part(tmp_path):
    """Each life's are kept to the end of a grading."""
    first = {"event": "first", "t": 0.5}
    short, long = b'{"event": "", "t": 0}\n', b'{"event": "x", "t": 0, "of": [%s0]}\n'
    for line in (short, long % (b"[]," * 5000)):
        (tmp_path / "events").write_bytes(
            json.dumps(first).encode() + b"\n" + line * (3_000_000 // len(line))
        )
        events = read_events(tmp_path / "events")
        assert events[0] == first and len(events) > 1
        assert sum(1 + len(e.get("of", ())) for e in events) <= OBJECTS


def test_lines_that_are_no_events_are_skipped(tmp_path):
    """A life's file may be torn, or hold what the submission wrote into it."""
    lines = [
        "{}",
        "[]",
        "3",
        '{"event": "end"}',
        '{"event": 3, "t": 1}',
        '{"t": 1}',
        '{"event": "e',
    ]
    whole = {"event": "end", "t": 1.5, "step": 3}
    (tmp_path / "events").write_text("\n".join([*lines, json.dumps(whole)]))
    assert read_events(tmp_path / "events") == [whole]
