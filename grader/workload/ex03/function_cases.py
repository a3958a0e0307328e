"""What StopSignal does (exercise 3, task 1) in programs drawn by the check: signals, blocks, looks.

Each question is answered in its own process, which may die of it. Signals come from outside,
from a process that was there before the student's code (node_daemon.py).
"""

import argparse
import asyncio
import builtins
import io
import multiprocessing
import os
import signal
import sys
import threading
import time

import torch

from grader.harness.inside import fsevents
from grader.harness.inside.digest import rng_digests
from grader.workload import load_submission, questions
from grader.workload.ex03.node_daemon import Daemon
from grader.workload.job import seed_everything

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's preemption.py")
p.add_argument("--directory", required=True)
p.add_argument("--seed", type=int, default=0)

NOT_BUILT_IN = {"CancelledError": asyncio.CancelledError}
SHAPES = {"tuple": tuple, "list": list, "set": set}
DEFAULT, IGNORED, OWN = "default", "ignored", "own"
REPORTED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)


class Handlers:
    """The handlers before the student's; "own" counts its signals."""

    def __init__(self):
        self.heard: list[int] = []

    def _own(self, number, frame):
        self.heard.append(int(number))

    def install(self, kinds: dict) -> None:
        of = {DEFAULT: signal.SIG_DFL, IGNORED: signal.SIG_IGN, OWN: self._own}
        for number, kind in kinds.items():
            signal.signal(int(number), of[kind])

    def table(self) -> dict:
        """Signal number -> the installed handler: the name of one of ours, or "other"."""
        return {str(int(number)): self._name(signal.getsignal(number)) for number in REPORTED}

    def _name(self, handler) -> str:
        ours = ((signal.SIG_DFL, DEFAULT), (signal.SIG_IGN, IGNORED), (self._own, OWN))
        return next(
            (
                name
                for known, name in (*ours, (signal.default_int_handler, "interrupts"))
                if handler == known
            ),
            "other",
        )


class Retraced:
    """How often something called sys.settrace: an audit hook stays, whatever replaces a name."""

    def __init__(self):
        self.times = 0
        sys.addaudithook(self._heard)

    def _heard(self, event: str, args: tuple) -> None:
        self.times += event == "sys.settrace"


retraced = Retraced()
WAITS = " "  # to be printed


class Clock:
    def __init__(self, time: float):
        self.time = time

    def __call__(self) -> float:
        return self.time


def plain(value):
    """`value` for JSON: a number as it is, anything else as text."""
    if value is None or type(value) in (bool, float):
        return value
    return int(value) if isinstance(value, int) else f"{type(value).__name__}: {value!r}"[:200]


def held_by(error: BaseException) -> dict:
    """What an error holds besides its place."""
    cause = error.__cause__
    return {
        "arguments": [str(each)[:200] for each in error.args[:5]],
        "notes": [str(each)[:200] for each in getattr(error, "__notes__", [])[:5]],
        "cause": None if cause is None else type(cause).__name__,
    }


def printed() -> int:
    """Bytes that have left the buffers of standard output and standard error."""
    return sum(os.fstat(fd).st_size for fd in (1, 2))


def surroundings() -> dict:
    """What a handler must leave alone, besides files."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return {
        "printed": printed(),
        "threads": threading.active_count(),
        "children": len(multiprocessing.active_children()),
        "wakeup": wakeup,
        "alarm": list(signal.getitimer(signal.ITIMER_REAL)),
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        "open files": len(os.listdir("/dev/fd")),
        "folder": os.getcwd(),
        "environment": len(os.environ),
        **rng_digests(),
    }


class Program:
    """Runs a list of operations, and logs what each `look` sees.

    ["enter", {"signals": [...] or null, "shape": ...}]   a block begins, within the last one
    ["exit"]                                              it ends
    ["raise", type, message]                              ... by this error
    ["send", number]  ["time", seconds]  ["look"]  ["around"]
    ["buffer"]                                            something waits to be printed
    """

    def __init__(self, ck, send, operations: list, clock: Clock, handlers: Handlers):
        self.ck, self.send, self.todo = ck, send, list(operations)
        self.clock, self.handlers = clock, handlers
        self.stops, self.log = [], []
        self.raised: BaseException | None = None
        self.buffered: int | None = None  # what was printed when more began to wait

    def run(self) -> list:
        self._block()
        return self.log

    def _block(self) -> None:
        while self.todo:
            name, *values = self.todo.pop(0)
            if name == "exit":
                return
            if name == "raise":
                kind = NOT_BUILT_IN.get(values[0]) or getattr(builtins, values[0])
                self.raised = kind(values[1])
                raise self.raised
            getattr(self, f"_{name}")(*values)

    def _enter(self, arguments: dict) -> None:
        given = {"clock": self.clock}
        if arguments["signals"] is not None:
            given["signals"] = SHAPES[arguments["shape"]](map(signal.Signals, arguments["signals"]))
        made = self.ck.StopSignal(**given)
        between = self.handlers.table()
        came, stop, same, holds = None, None, True, None
        try:
            with made as stop:
                self.stops.append(stop)
                self._block()
        except BaseException as e:
            came, same = [type(e).__name__, str(e.args[0]) if e.args else ""], e is self.raised
            holds = held_by(e)
        self.log.append({"left": came, "same": same, "holds": holds, "made": between})

    def _send(self, number: int) -> None:
        self.send(number)

    def _time(self, seconds: float) -> None:
        self.clock.time = seconds

    def _look(self) -> None:
        seen = [
            [plain(getattr(stop, name, "missing")) for name in ("received", "at")]
            for stop in self.stops
        ]
        self.log.append(
            {"seen": seen, "handlers": self.handlers.table(), "heard": list(self.handlers.heard)}
        )

    def _buffer(self) -> None:
        sys.stdout.flush()
        self.buffered = printed()
        sys.stdout.write(WAITS)

    def _around(self) -> None:
        waits, flushed = 0, False
        if self.buffered is not None:
            waits = len(WAITS) * (1 + os.path.sameopenfile(1, 2))  # `printed` counts both
            flushed = printed() > self.buffered
        found = surroundings()
        found |= {"printed": found["printed"] - waits, "flushed": flushed}
        self.log.append({"around": found})


# --- the questions: (ck, send, directory, question) -> values


def program(ck, send, directory: str, question: dict) -> dict:
    seed_everything(question["seed"])
    handlers, files = Handlers(), []
    handlers.install(question["before"])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])  # as a program may have done
    run = Program(ck, send, question["program"], Clock(0.0), handlers)
    with fsevents.watching(os.sep, files.append):
        log = run.run()
    # an import may write one of these
    files = [name for name in files if "__pycache__" not in name]
    return {"log": log, "files": files[:5]}


def real_time(ck, send, directory: str, question: dict) -> dict:
    """StopSignal without arguments."""
    with ck.StopSignal() as stop:
        before = time.time()
        send(question["number"])
        after = time.time()
        time.sleep(0.01)
        return {
            "received": plain(stop.received),
            "at": plain(stop.at),
            "before": before,
            "after": after,
        }


def save(ck, send, directory: str, question: dict) -> dict:
    """Signals between any two writes of a save."""
    path = os.path.join(directory, "state.pt")
    state = {
        str(n): torch.full((size,), fill) for n, (size, fill) in enumerate(question["tensors"])
    }
    numbers, sent = question["numbers"], 0

    class File(io.RawIOBase):
        def __init__(self, f):
            self.f = f

        def write(self, data):
            nonlocal sent
            send(numbers[sent % len(numbers)])
            sent += 1
            return self.f.write(data)

        def flush(self):
            self.f.flush()

    with ck.StopSignal() as stop, open(path, "wb") as f:
        torch.save(state, File(f))
    found = torch.load(path, weights_only=True)
    read = [[t.numel(), t.min().item(), t.max().item()] for t in found.values()]
    return {"read": read, "sent": sent, "received": plain(stop.received)}


def interrupted(ck, send, directory: str, question: dict) -> dict:
    """A second signal at every moment of StopSignal: `where` is handler, enter, exit or look."""
    outcomes, moment, step = [], question["from"], question["every"]
    while True:
        found = Interrupted(ck, question).at(moment)
        if not found["struck"] or found["retraced"]:
            return {
                "outcomes": outcomes,
                "moments": found["moments"],
                "retraced": found["retraced"],
            }
        outcomes.append(found)
        moment += step


class Interrupted:
    def __init__(self, ck, question: dict):
        self.ck, self.where = ck, question["where"]
        self.first, self.second, self.third = map(signal.Signals, question["numbers"])
        self.file = ck.__file__
        self.handlers, self.clock = Handlers(), Clock(question["time"])
        self.handlers.install(dict.fromkeys(question["numbers"], OWN))
        self.moments, self.due, self.struck = 0, -1, False
        self.retraced = False  # the student's code has changed what traces it

    def at(self, moment: int) -> dict:
        self.due = moment
        found = {}
        try:
            made = self.ck.StopSignal(
                signals=(self.first, self.second, self.third), clock=self.clock
            )
            stop = self._traced("enter", made.__enter__)
            self._traced("look", lambda: self._seen(stop))
            if self.where == "handler":
                self._traced("handler", lambda: signal.raise_signal(self.first))
            found["inside"] = self._seen(stop)
            self._traced("exit", lambda: made.__exit__(None, None, None))
            found |= {"after": self._seen(stop), "heard": list(self.handlers.heard)}
            signal.raise_signal(self.third)
            found["late"] = self.handlers.heard[len(found["heard"]) :]
        except BaseException as e:
            found["raised"] = f"{type(e).__name__}: {e}"[:300]
        return found | {
            "struck": self.struck,
            "moments": self.moments,
            "retraced": self.retraced,
        }

    @staticmethod
    def _seen(stop) -> list:
        return [plain(stop.received), plain(stop.at)]

    def _traced(self, where: str, call):
        if where != self.where:
            return call()
        sys.settrace(self._trace)
        before = retraced.times
        try:
            return call()
        finally:
            self.retraced = retraced.times > before
            sys.settrace(None)

    def _trace(self, frame, event, argument):
        """Count moments: each instruction in the student's file, each line in what it calls."""
        file = frame.f_code.co_filename
        if file == __file__:
            return None
        if event == "call" and file == self.file:
            frame.f_trace_opcodes = True
        if event in ("opcode", "line"):
            if self.moments == self.due:
                self.struck = True
                self.moments += 1
                try:
                    signal.raise_signal(self.second if self.where == "handler" else self.first)
                except BaseException:
                    retraced.times -= 1  # the interpreter then ends the tracing, and no one else
                    raise
            else:
                self.moments += 1
        return self._trace


QUESTIONS = {f.__name__: f for f in (program, real_time, save, interrupted)}


def main() -> None:
    args = p.parse_args()
    daemon = Daemon()
    handlers = Handlers()
    before = handlers.table()
    ck = load_submission.load(args.checkpoint)
    after = handlers.table()
    os.makedirs(args.directory, exist_ok=True)

    def handle(question: dict) -> dict:
        values = QUESTIONS[question["ask"]](ck, daemon.send, args.directory, question)
        return values | {"imported": [before, after]}

    questions.answer_each(handle)


if __name__ == "__main__":
    main()
