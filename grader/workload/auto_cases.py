"""Questions to the functions of exercise 4. Each life of a job, and each process that wants to be the only
one, is a process of its own."""

import argparse
import os
import platform
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

from grader.crash import recorder, states
from grader.harness import fsevents
from grader.workload import student
from grader.workload.questions import answer_each, outcome

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's auto_resume.py")
p.add_argument("--directory", required=True)

PATIENCE = 8.0  # s that a process which wants in is waited for
KILLS = 40  # file-system events of one call that are tried
LOOK_ALIKES = ("{}.bak", "{}~", "{}.old", ".nfs0000{}", "copy of {}", ".{}.swp")


def plain(value: object) -> object:
    """What a function returned, fit for JSON."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return value if value is None or isinstance(value, (str, bool, int)) else {"type": type(value).__name__}


def elsewhere(work: Callable[[], object]) -> dict:
    """What came of `work()` in a process of its own; {"died": signal or status} if it didn't say."""
    ours, theirs = Pipe()
    if (pid := os.fork()) == 0:
        try:
            theirs.send(outcome(lambda: plain(work())))
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


# --- 4.1  which checkpoint ------------------------------------------------------------------------------------


def newest(ck, question: dict, top: Path) -> dict:
    os.chdir(question["cwd"])
    found = elsewhere(lambda: ck.newest_intact(question["path"]))
    return found | {"cwd": os.getcwd()}


# --- 4.3  knowing when to stop ----------------------------------------------------------------------------------


def live(ck, directory: Path, step: int, ends: str | None, tries: int | None) -> dict:
    """One life, which trains nothing. `ends`: None, without a word; `tries`: None, not given."""

    def life():
        more = () if tries is None else (tries,)
        may = ck.begin_life(str(directory), step, *more)
        if may and ends is not None:
            ck.end_life(str(directory), ends)
        return may

    return elsewhere(life)


def lives(ck, question: dict, top: Path) -> dict:
    """Lives of one job or of several, one after another: [job, step, ends, tries] each."""
    said, places = [], {}
    for number, (job, *life) in enumerate(question["lives"]):
        place = places.setdefault(job, top / f"job {job}")
        place.mkdir(parents=True, exist_ok=True)
        if question.get("moved"):
            places[job] = place.rename(top / f"job {job}, moved {number}")
        said.append(live(ck, places[job], *life))
        if question.get("look_alikes"):
            plant(places[job])
    return {"lives": said}


def plant(directory: Path) -> None:
    """Files that look like those that lie there, and are somebody else's."""
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
    """A life is killed in begin_life or end_life: in every state that this leaves, what later lives do."""
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
        found.append({"killed": what, "lives": [live(ck, directory, *life) for life in question["after"]]})
    return {"states": found}


def left_by_a_kill(dies: Callable[[Path], None], start: Path, top: Path):
    """(where it was killed, a directory in that state) for every state that a kill after the mark can leave."""
    place = top / "job"
    shutil.copytree(start, place, symlinks=True)
    try:
        record = recorder.record(place, {"": lambda: dies(place)}, seconds=10)
    except (recorder.Unavailable, recorder.Incomplete):
        yield from _killed_at_events(dies, start, place)
        return
    since = next(n for n, op in enumerate(record.ops, 1) if isinstance(op, states.Mark))
    space = states.space(record.disk, record.ops, [states.PROCESS], since=since)
    shown = {}
    for state, key in zip(space.states, space.keys):
        shown.setdefault(key, state)
    for key, state in shown.items():
        shutil.rmtree(place)
        lay_out(space.trees[key], place)
        op = record.ops[state.moment - 1]
        yield f"{'in' if state.torn else 'after'} {op.text or 'its begin'}", place


def lay_out(tree: states.Tree, place: Path) -> None:
    place.mkdir()
    for path, content in tree.items():
        if content is None:
            (place / path).mkdir()
        elif isinstance(content, bytes):
            (place / path).write_bytes(content)
        else:
            (place / path).symlink_to(content)


def _killed_at_events(dies: Callable[[Path], None], start: Path, place: Path):
    """Where processes can't be traced: just before each event that Python tells of."""
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


# --- 4.4  only one ------------------------------------------------------------------------------------------------

ERRORS = {e.__name__: e for e in (KeyError, OSError, BlockingIOError, RuntimeError, SystemExit, KeyboardInterrupt)}


class Node:
    """What a process sees of its machine: as if it were on another one."""

    def __init__(self):
        self.pid, self.slept, self.sleep = None, 0.0, time.sleep
        self.getpid = os.getpid
        os.getpid = lambda: self.getpid() if self.pid is None else self.pid

        def sleep(seconds: float) -> None:
            self.slept += seconds
            self.sleep(seconds)

        time.sleep = sleep

    def be(self, name: str, pid: int, folder: Path) -> None:
        """Its name, the process id there, and a folder for its own /tmp."""
        self.pid = pid
        folder.mkdir(parents=True, exist_ok=True)
        socket.gethostname = platform.node = lambda: name
        real = os.uname()
        os.uname = lambda: os.uname_result((real.sysname, name, *real[2:]))
        os.environ |= {"TMPDIR": str(folder), "HOME": str(folder), "HOSTNAME": name, "SLURMD_NODENAME": name}
        tempfile.tempdir = None
        os.chdir(folder)


NODE = Node()


class Left(Exception):
    """The block is left."""


class Process:
    """A process that does what it's sent, with the blocks that it is in."""

    def __init__(self, ck, at: dict | None, top: Path):
        self.line, theirs = Pipe()
        if (pid := os.fork()) == 0:
            try:
                if at:
                    NODE.be(at["node"], at["pid"], top / at["node"])
                _serve(ck, theirs)
            finally:
                os._exit(0)
        theirs.close()
        self.pid, self.alive = pid, True

    def tell(self, *words: object) -> dict:
        self.line.send(words)
        return self.hear()

    def hear(self) -> dict:
        if not wait([self.line], PATIENCE):
            self.die()
            return {"waiting": PATIENCE}
        try:
            return self.line.recv()
        except EOFError:
            self.alive = False
            return {"died": os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])}

    def die(self) -> dict:
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.alive = False
        return {}


def _serve(ck, line: Connection) -> None:
    """Words: enter DIRECTORY; leave; raise ERROR TEXT; enter DIRECTORY with a pause before an event."""
    while True:
        word, *more = line.recv()
        if word == "leave":
            return
        if word == "raise":
            raise ERRORS[more[0]](more[1])
        line.send(_enter(ck, line, *more) | {"slept": NODE.slept})


def _enter(ck, line: Connection, directory: str, pause: int | None = None) -> dict:
    """What came of the block, when it's over; that it was entered is said before."""
    seen = []

    def on_event(name: str) -> None:
        seen.append(name)
        if len(seen) - 1 == pause:
            line.send({"paused": name})
            line.recv()

    NODE.slept = 0.0

    def block() -> None:
        with fsevents.watching(directory, on_event):
            one = ck.only_one(directory)
            one.__enter__()
        raised = (None, None, None)
        try:
            line.send({"inside": len(os.listdir(directory)), "slept": NODE.slept})
            _serve(ck, line)
        except BaseException as e:
            raised = (type(e), e, e.__traceback__)
        if not one.__exit__(*raised) and raised[1] is not None:
            raise raised[1]

    return outcome(block)


def lock(ck, question: dict, top: Path) -> dict:
    """Processes that enter, leave, raise in and are killed in blocks: [process, word, ...] each."""
    crew: dict[str, Process] = {}
    said = []
    for name in question["directories"]:
        (top / name).mkdir(parents=True)
    for who, word, *more in question["does"]:
        if who not in crew:
            crew[who] = Process(ck, question.get("nodes", {}).get(who), top)
        if word == "die":
            said.append(crew.pop(who).die())
        else:
            said.append(crew[who].tell(word, *([str(top / more[0])] if word == "enter" else more)))
            if not crew[who].alive:
                crew.pop(who)
    for process in crew.values():
        process.die()
    return {"said": said}


def race(ck, question: dict, top: Path) -> dict:
    """A process is held before each event of its entering, while another one enters."""
    rounds = []
    for k in range(KILLS):
        directory = top / f"round {k}"
        directory.mkdir(parents=True)
        if question["after_a_kill"]:
            holder = Process(ck, None, top)
            holder.tell("enter", str(directory))
            holder.die()
        first, second = Process(ck, None, top), Process(ck, None, top)
        paused = first.tell("enter", str(directory), k)
        if "paused" not in paused:
            first.die()
            second.die()
            break
        other = second.tell("enter", str(directory))
        rounds.append({"before": paused["paused"], "second": other, "first": first.tell("go")})
        first.die()
        second.die()
    return {"rounds": rounds}


ASKS = {"newest": newest, "lives": lives, "killed": killed, "lock": lock, "race": race}


def main() -> None:
    args = p.parse_args()
    ck = student.load(args.checkpoint)
    top = Path(args.directory)
    answer_each(lambda question: ASKS[question["ask"]](ck, question, top / question["id"]))


if __name__ == "__main__":
    main()
