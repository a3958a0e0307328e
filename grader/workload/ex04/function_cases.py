"""Questions to the functions of exercise 4.

Each life of a job, and each process that wants to be the only one, is a separate process.
"""

import argparse
import builtins
import errno
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

from grader.harness.inside import fsevents, telemetry
from grader.processor_time import RunningTime
from grader.workload import load_submission, refusals
from grader.workload.ex04.job_lives import on_node, plain
from grader.workload.questions import answer_each, outcome

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's auto_resume.py")
p.add_argument("--directory", required=True)

PATIENCE = 4.0  # s to wait for a process that wants to enter, less those without a processor
EVENTS = 40  # the most events of one call before which a process is held


# --- 4.1  which checkpoint ------------------------------------------------------------------------


def newest(ck, question: dict, top: Path) -> dict:
    said, begun = [], os.getcwd()
    for one in question["directories"]:
        cwd, path = one["cwd"], one["path"]
        os.chdir(cwd)
        if one["finished"] or one["spoiled"]:
            ck.newest_intact(path)
        if one["spoiled"]:
            os.truncate(os.path.join(path, one["spoiled"]), 0)
        if one["finished"]:
            final = os.path.join(path, one["finished"])
            os.rename(f"{final}.tmp", final)
        file, why = one["unopened"]
        files = [os.path.join(path, file)] if file else []
        folders = [path] if one["unlisted"] else []
        number = getattr(errno, why or one["unlisted"] or "EIO")
        with refusals.refusing(files, folders, number):
            said.append(outcome(lambda path=path: plain(ck.newest_intact(path))))
        said[-1]["moved"] = not os.path.samefile(os.getcwd(), cwd)
    os.chdir(begun)
    return {"said": said}


# --- 4.3  knowing when to stop --------------------------------------------------------------------


def lives(ck, question: dict, top: Path) -> dict:
    """A small process does this (job_lives.py): forking this one, with torch, costs much more."""
    r, w = os.pipe()
    command = [
        sys.executable,
        "-I",
        str(Path(__file__).with_name("job_lives.py")),
        ck.__file__,
        str(top),
    ]
    fds = [fd for fd in (w, telemetry.stack) if fd is not None]
    command += map(str, fds)
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=fds) as small:
        os.close(w)
        small.stdin.write(json.dumps(question).encode())
        small.stdin.close()
        with open(r) as f:
            for line in f:
                if line.strip():
                    return json.loads(line)
                telemetry.emit("lived")
    raise RuntimeError(f"job_lives.py ended with exit status {small.returncode}")


# --- 4.4  a chain instead of a requeue ------------------------------------------------------------


class Node:
    """What a process sees of its machine: it makes this one look like another."""

    def __init__(self):
        self.pid, self.slept, self.sleep = None, 0.0, time.sleep
        self.getpid = os.getpid
        os.getpid = lambda: self.getpid() if self.pid is None else self.pid

        def sleep(seconds: float) -> None:
            self.slept += seconds
            self.sleep(seconds)

        time.sleep = sleep

    def be(self, name: str, pid: int, folder: Path) -> None:
        """Set the name, the process id there, and a folder for its own /tmp."""
        self.pid = pid
        on_node(name, folder)


NODE = Node()
# whether a process has waited in vain: all questions share it, and the others would wait as long
IN_VAIN = mmap.mmap(-1, 1)


class Process:
    """A process that obeys commands, and the blocks that it is in."""

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
        telemetry.emit("told")
        clock = RunningTime([self.pid, os.getpid()])
        self.line.send(words)
        while not wait([self.line], 0.1):
            if clock.seconds() > PATIENCE:
                stack = telemetry.where_it_stands(self.pid)
                self.die()
                IN_VAIN[0] = 1
                return {"waiting": PATIENCE, "stack": stack}
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
    """Obey commands: enter DIRECTORY (and pause before an event); leave; raise ERROR TEXT."""
    while True:
        word, *more = line.recv()
        if word == "leave":
            return
        if word == "raise":
            raise getattr(builtins, more[0])(more[1])
        line.send(_enter(ck, line, *more) | {"slept": NODE.slept})


_on_lock: list[Callable[[str, int], None]] = []


def _audit(event: str, args: tuple) -> None:
    if event in ("fcntl.lockf", "fcntl.flock") and _on_lock:
        _on_lock[-1](event.removeprefix("fcntl."), args[0])


sys.addaudithook(_audit)


@contextmanager
def _locking(directory: str, on_event: Callable[[str], None]) -> Iterator[None]:
    """Report locks of files in `directory` just before they happen: 'lockf lock'."""

    def report(name: str, fd: int) -> None:
        try:
            folder, file = os.path.split(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            return  # not Linux: it is unknown which file this is
        if os.path.realpath(directory) == folder:
            on_event(f"{name} {file}")

    _on_lock.append(report)
    try:
        yield
    finally:
        _on_lock.pop()


def _enter(ck, line: Connection, directory: str, pause: int | None = None) -> dict:
    """The block's outcome, when it is over; it reports earlier that it has entered."""
    seen = []

    def on_event(name: str) -> None:
        seen.append(name)
        if len(seen) - 1 == pause:
            line.send({"paused": name})
            line.recv()

    NODE.slept = 0.0

    def block() -> None:
        with fsevents.watching(directory, on_event), _locking(directory, on_event):
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
    """Processes enter or leave blocks, raise or are killed in them: [process, word, ...] each."""
    crew: dict[str, Process] = {}
    said = []
    for name in question["directories"]:
        (top / name).mkdir(parents=True)
    for who, word, *more in [] if IN_VAIN[0] else question["does"]:
        if who not in crew:
            crew[who] = Process(ck, question.get("nodes", {}).get(who), top)
        if word == "die":
            said.append(crew.pop(who).die())
        else:
            said.append(crew[who].tell(word, *([str(top / more[0])] if word == "enter" else more)))
            if IN_VAIN[0]:
                break
            if not crew[who].alive:
                crew.pop(who)
    for process in crew.values():
        process.die()
    return {"said": said}


def race(ck, question: dict, top: Path) -> dict:
    """Hold a process before each event of entering, while another one enters."""
    rounds = []
    for k in range(0 if IN_VAIN[0] else EVENTS):
        one = _round(ck, top, k, question["holder"])
        if one:
            rounds.append(one)
        if not one or IN_VAIN[0]:
            break
    return {"rounds": rounds}


def _round(ck, top: Path, event: int, before: str) -> dict:
    """The same for one event; empty if entering has fewer.

    before  what became of an earlier holder: "none"; "killed" first; "leaves" meanwhile
    """
    directory = top / f"round {event}"
    directory.mkdir(parents=True)
    holder = Process(ck, None, top)
    if before != "none":
        entered = holder.tell("enter", str(directory))
        if "waiting" in entered:
            return {"before": "", "first": entered, "second": {}}
    if before == "killed":
        holder.die()
    first, second = Process(ck, None, top), Process(ck, None, top)
    try:
        paused = first.tell("enter", str(directory), event)
        if "waiting" in paused:
            return {"before": "", "first": paused, "second": {}}
        if "paused" not in paused:
            return {}
        if before == "leaves" and "waiting" in (left := holder.tell("leave")):
            return {"before": paused["paused"], "first": left, "second": {}}
        other = second.tell("enter", str(directory))
        return {"before": paused["paused"], "second": other, "first": first.tell("go")}
    finally:
        for process in (holder, first, second):
            process.die()


ASKS = {
    "newest": newest,
    "lives": lives,
    "killed": lives,
    "refused": lives,
    "lock": lock,
    "race": race,
}


def main() -> None:
    args = p.parse_args()
    ck = load_submission.load(args.checkpoint)
    top = Path(args.directory)
    answer_each(lambda question: ASKS[question["ask"]](ck, question, top / question["id"]))


if __name__ == "__main__":
    main()
