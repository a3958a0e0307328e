"""Lives of jobs for task 4.3, forked from a process without torch: hundreds of them in a second.

    python -I job_lives.py AUTO_RESUME DIRECTORY FD [STACK]

It reads a question as JSON from standard input. To the file descriptor FD it writes an empty line
after each life, and at last the outcome as JSON. To the descriptor STACK, a life writes where it
stands when it is asked.
"""

import errno
import faulthandler
import json
import mmap
import os
import platform
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Pipe
from pathlib import Path
from types import ModuleType

# in a sandbox, the grader's folder can't be listed, only these below it
PACKAGES = (
    "grader",
    "grader.crash",
    "grader.harness",
    "grader.harness.inside",
    "grader.workload",
    "grader.workload.ex04",
)
if __name__ == "__main__":
    for name in PACKAGES:
        package = ModuleType(name)
        package.__path__ = [str(Path(__file__).resolve().parents[3] / name.replace(".", "/"))]
        sys.modules[name] = package

from grader.crash import enumeration, recorder  # noqa: E402
from grader.harness import silence  # noqa: E402
from grader.harness.inside import child, fsevents  # noqa: E402
from grader.workload.ex04.train import module_at  # noqa: E402

KILLS = 40  # the most file-system events of one call to try
LOOK_ALIKES = ("{}.bak", "{}~", "{}.old", ".nfs0000{}", "copy of {}", ".{}.swp")


def plain(value: object) -> object:
    """What a function returned, fit for JSON."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return (
        value
        if value is None or isinstance(value, (str, bool, int))
        else {"type": type(value).__name__}
    )


def outcome(call: Callable[[], object]) -> dict:
    """{"returned": value} or {"raised": the exception's description}"""
    try:
        return {"returned": call()}
    except BaseException as e:
        return {"raised": child.describe(e)}


def elsewhere(work: Callable[[], object]) -> dict:
    """The outcome of `work()` in its own process; {"died": status} if it reported none."""
    ours, theirs = Pipe()
    if (pid := os.fork()) == 0:
        try:
            theirs.send(outcome(work))
        finally:
            os._exit(0)
    theirs.close()
    try:
        said = ours.recv()
    except EOFError:
        said = None
    ours.close()
    _, status = os.waitpid(pid, 0)
    return said or {"died": os.waitstatus_to_exitcode(status)}


def on_node(name: str, folder: Path) -> None:
    """Make this process see the node `name`, whose own disk is `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    socket.gethostname = platform.node = lambda: name
    real = os.uname()
    os.uname = lambda: os.uname_result((real.sysname, name, *real[2:]))
    os.environ |= {
        "TMPDIR": str(folder),
        "HOME": str(folder),
        "HOSTNAME": name,
        "SLURMD_NODENAME": name,
    }
    tempfile.tempdir = None
    os.chdir(folder)


DAY = 24 * 60 * 60


def on_a_later_day(days: int, top: Path) -> None:
    """Make this process a job of its own, on another node, `days` later."""
    on_node(f"n{days}", top / f"disk of n{days}")
    os.environ |= {"SLURM_JOB_ID": str(1000 + days), "SLURM_RESTART_COUNT": "0"}
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + days * DAY
    time.time_ns = lambda: now_ns() + days * DAY * 10**9


def live(
    ck, directory: Path, step: int, ends: str | None, tries: int | None,
    begins: Callable[[], None] = lambda: None,
) -> dict:  # fmt: skip
    """One life that trains nothing.

    ends    None: it just stops, without end_life
    tries   None: not passed
    begins  what its process does first
    """

    def life():
        begins()
        cwd = os.getcwd()
        more = () if tries is None else (tries,)
        may = ck.begin_life(str(directory), step, *more)
        if may and ends is not None:
            ck.end_life(str(directory), ends)
        return {"returned": plain(may), "moved": os.getcwd() != cwd}

    said = elsewhere(life)
    os.write(ANSWERS, b"\n")
    return said.get("returned", said)


def lives(ck, question: dict, top: Path) -> dict:
    return {
        "courses": [
            course(ck, question, one, top / str(n)) for n, one in enumerate(question["courses"])
        ]
    }


def course(ck, question: dict, one: list, top: Path) -> list[dict]:
    """Lives of one job or several, one after another: [job, step, ends, tries] each."""
    said, places = [], {}
    for number, (job, *life) in enumerate(one):
        place = places.setdefault(job, top / f"job {job}")
        place.mkdir(parents=True, exist_ok=True)
        if question.get("moved"):
            places[job] = place.rename(top / f"job {job}, lr=[0.1]*, moved {number}")
            later = partial(on_a_later_day, number, top)
            said.append(live(ck, places[job], *life, later))
        else:
            said.append(live(ck, place, *life))
        if question.get("look_alikes"):
            plant(places[job])
    return said


def plant(directory: Path) -> None:
    """Write foreign files that look like the existing ones."""
    for path in [p for p in sorted(directory.rglob("*")) if p.is_file() and not p.is_symlink()]:
        for form in LOOK_ALIKES:
            other = path.with_name(form.format(path.name))
            if "look-alike" not in path.name and not other.exists() and not is_planted(path):
                other.write_bytes(b"look-alike\n")
        folder = path.with_name(f"{path.name}.d")
        if not is_planted(path):
            folder.mkdir(exist_ok=True)


def is_planted(path: Path) -> bool:
    return path.read_bytes() == b"look-alike\n"


def killed(ck, question: dict, top: Path) -> dict:
    """Kill a life in begin_life or end_life; report what later lives do in each resulting state."""
    start = top / "start"
    start.mkdir(parents=True)
    for life in question["before"]:
        live(ck, start, *life)
    step, ends, tries = question["life"]

    def dies(directory: Path) -> None:
        if ends is None:
            recorder.mark("began", 1)
            ck.begin_life(str(directory), step, tries)
        else:
            ck.begin_life(str(directory), step, tries)
            recorder.mark("began", 1)
            ck.end_life(str(directory), ends)

    found = []
    for what, directory in left_by_a_kill(dies, start, top):
        found.append(
            {"killed": what, "lives": [live(ck, directory, *life) for life in question["after"]]}
        )
    return {"states": found}


def left_by_a_kill(dies: Callable[[Path], None], start: Path, top: Path):
    """(where it was killed, a directory in that state) for every kill after the mark."""
    place = top / "job"
    shutil.copytree(start, place, symlinks=True)
    try:
        record = recorder.record(place, {"": lambda: dies(place)}, seconds=10)
    except (recorder.Unavailable, recorder.Incomplete):
        yield from _killed_at_events(dies, start, place)
        return
    since = next(n for n, op in enumerate(record.ops, 1) if isinstance(op, enumeration.Mark))
    space = enumeration.space(record.disk, record.ops, [enumeration.PROCESS], since=since)
    shown = {}
    for state, key in zip(space.states, space.keys, strict=False):
        # SIGKILL doesn't cut a small write: it comes between two calls
        if state.torn is None or state.torn in record.ops[state.moment - 1].parts:
            shown.setdefault(key, state)
    for key, state in shown.items():
        shutil.rmtree(place)
        lay_out(space.trees[key], place)
        op = record.ops[state.moment - 1]
        yield f"{'in' if state.torn else 'after'} {op.text or 'its begin'}", place


def lay_out(tree: enumeration.Tree, place: Path) -> None:
    place.mkdir()
    for path, content in tree.items():
        if content is None:
            (place / path).mkdir()
        elif isinstance(content, bytes):
            (place / path).write_bytes(content)
        else:
            (place / path).symlink_to(content)


def _killed_at_events(dies: Callable[[Path], None], start: Path, place: Path):
    """Where processes can't be traced: kill just before each event that Python reports."""
    for k in range(KILLS):
        shutil.rmtree(place)
        shutil.copytree(start, place, symlinks=True)
        shown = Path(f"{place}.event")

        def die(k=k, shown=shown):
            seen = []

            def on_event(name: str) -> None:
                seen.append(name)
                if len(seen) > k:
                    shown.write_text(name)
                    os.kill(os.getpid(), signal.SIGKILL)

            with fsevents.watching(str(place), on_event):
                dies(place)

        if "died" not in elsewhere(die):
            return
        yield f"before {shown.read_text()}", place


WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def refused(ck, question: dict, top: Path) -> dict:
    """A life whose begin_life meets a fault of the disk, for each of question["faults"]: what it
    says, and what later lives do.

    A fault is [what, error]: no file can be opened to be "read" or "written", with this error (a
    name such as "EIO"); or a file can be opened and not be "filled": the first byte fits. "fired":
    whether a file was refused; None if that is unknown.
    """
    found = []
    for what, error in question["faults"]:
        place, fired = top / f"{what} {error}", mmap.mmap(-1, 1)
        place.mkdir(parents=True)
        for life in question["before"]:
            live(ck, place, *life)
        begins = (
            _no_room
            if what == "filled"
            else partial(_refuses, place.resolve(), what == "written", getattr(errno, error), fired)
        )
        said = live(ck, place, *question["life"], begins)
        after = [live(ck, place, *life) for life in question["after"]]
        known = None if what == "filled" else bool(fired[0])
        found.append({"fired": known, "said": said, "lives": after})
    return {"faults": found}


def _refuses(place: Path, written: bool, number: int, fired: mmap.mmap) -> None:
    def refuse(event: str, args: tuple) -> None:
        if event != "open" or not isinstance(args[0], (str, bytes, os.PathLike)):
            return
        inside = Path(os.path.realpath(os.fsdecode(args[0]))).is_relative_to(place)
        if inside and bool((args[2] or 0) & WRITES) == written:
            fired[0] = 1
            raise OSError(number, os.strerror(number), args[0])

    sys.addaudithook(refuse)


def _no_room() -> None:
    """No file of this process grows past its first byte; Python ignores SIGXFSZ."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


ASKS = {"lives": lives, "killed": killed, "refused": refused}


def main() -> None:
    module, top, _, *stack = sys.argv[1:]
    if stack:
        faulthandler.register(silence.WHERE, file=int(stack[0]))
    question = json.load(sys.stdin)
    ck = module_at(module)
    found = ASKS[question["ask"]](ck, question, Path(top))
    with open(ANSWERS, "w") as f:
        json.dump(found, f)


if __name__ == "__main__":
    ANSWERS = int(sys.argv[3])
    main()
