"""Questions to StopSignal (exercise 3, task 1), each in a process of its own, as it may die of the answer.

An answer is a list of what was found, where more was expected: [] is right.
"""

import argparse
import os
import signal
import sys

import torch

from grader.harness import fsevents, watch
from grader.harness.digest import digest, rng_digests
from grader.workload import student
from grader.workload.forked import ask_each
from grader.workload.job import seed_everything

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's preemption.py")
p.add_argument("--directory", required=True)
p.add_argument("--seed", type=int, default=0)
p.add_argument("--case", action="append", required=True)

TERM, USR1, USR2 = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2


class Ticking:
    """A clock that goes on by a second each time somebody looks."""

    def __init__(self):
        self.time = 100.0

    def __call__(self):
        self.time += 1.0
        return self.time


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def handlers() -> list:
    return [signal.getsignal(number) for number in (TERM, USR1, USR2, signal.SIGINT)]


def shown(handler) -> str:
    if isinstance(handler, signal.Handlers):
        return handler.name
    return getattr(handler, "__name__", "a function") if callable(handler) else repr(handler)


def mine(number, frame) -> None:
    """A handler that was there before."""


# --- the cases: (ck, directory) -> list of (label, text) rows of what is wrong


def each_signal_is_noted(ck, directory) -> list:
    for number in (TERM, USR1):
        clock = Ticking()
        with ck.StopSignal(clock=clock) as stop:
            if stop is None:
                return [("found", "`with StopSignal() as stop` gives None")]
            if stop.received is not None or stop.at is not None:
                return [("found", f"before any signal, received is {stop.received!r} and at is {stop.at!r}"), ("expected", "None")]
            before = clock.time
            send(number)
            after = clock.time
            clock.time += 50
            received, at = stop.received, stop.at
        if received != number:
            return [("sent", number.name), ("found", f"received is {received!r}"), ("expected", f"{number!r}")]
        if not isinstance(at, (int, float)) or not before < at <= after:
            return [("sent", f"{number.name} when the clock was about to say {before + 1:g}"), ("found", f"at is {at!r}"), ("expected", f"{before + 1:g}: the time when it came")]
        if stop.received != number or stop.at != at:
            return [("found", f"after the block, received is {stop.received!r} and at is {stop.at!r}"), ("expected", "what they were in it")]
    return []


def the_first_one_counts(ck, directory) -> list:
    clock = Ticking()
    with ck.StopSignal(clock=clock) as stop:
        send(USR1)
        first = stop.received, stop.at
        clock.time += 50
        send(TERM, USR1, TERM)
        if (stop.received, stop.at) != first:
            return [
                ("sent", "SIGUSR1, and later SIGTERM, SIGUSR1, SIGTERM"),
                ("found", f"received and at went from {first} to {(stop.received, stop.at)}"),
                ("expected", "the first signal's stay"),
                ("means", "the grace that is left is counted from the wrong moment"),
            ]
    return []


def it_does_nothing_else(ck, directory) -> list:
    seed_everything(3)
    out, err = (os.fstat(fd).st_size for fd in (1, 2))
    before, events = rng_digests(), []
    with ck.StopSignal() as stop, fsevents.watching(directory, events.append):
        send(TERM, USR1)
        _ = stop.received
    sys.stdout.flush()
    sys.stderr.flush()
    printed = os.fstat(1).st_size - out + os.fstat(2).st_size - err
    if printed:
        return [
            ("found", f"the handler printed ({printed} bytes)"),
            ("means", "a signal that comes while the program itself prints raises 'RuntimeError: reentrant call', in the middle of training"),
        ]
    if events:
        return [("found", f"the handler wrote files: {events[0]}")]
    if changed := [name for name, value in rng_digests().items() if before[name] != value]:
        return [("found", f"the handler moved a generator: {changed[0]}")]
    return []


def a_save_survives_signals(ck, directory) -> list:
    path, sent = os.path.join(directory, "state.pt"), 0
    state = {f"layer {n}": torch.full((2000,), float(n)) for n in range(8)}

    class File:
        """Signals come between any two of its writes."""

        def __init__(self, f):
            self.f = f

        def write(self, data):
            nonlocal sent
            send((TERM, USR1)[sent % 2])
            sent += 1
            return self.f.write(data)

        def flush(self):
            self.f.flush()

    with ck.StopSignal(), open(path, "wb") as f:
        torch.save(state, File(f))
    found = torch.load(path, weights_only=True)
    if digest(found) != digest(state):
        return [("found", f"a checkpoint in whose writing {sent} signals came isn't what was saved")]
    return []


def the_old_handlers_come_back(ck, directory) -> list:
    for before in (signal.SIG_DFL, signal.SIG_IGN, mine):
        for number in (TERM, USR1):
            signal.signal(number, before)
        old = handlers()
        with ck.StopSignal():
            pass
        if handlers() != old:
            return _not_back(before, "the block")
        try:
            with ck.StopSignal():
                raise KeyError("training failed")
        except KeyError:
            pass
        else:
            return [("found", "an error in the block was swallowed"), ("expected", "it goes on to the caller")]
        if handlers() != old:
            return _not_back(before, "a block that raised")
    return []


def _not_back(before, after) -> list:
    return [
        ("before", f"{shown(before)} was installed for SIGTERM and SIGUSR1"),
        ("found", f"after {after}: {shown(signal.getsignal(TERM))} for SIGTERM, {shown(signal.getsignal(USR1))} for SIGUSR1"),
        ("means", "whatever runs next in this process doesn't hear its own signals: it can't be stopped, or a handler of a job that is gone runs"),
    ]


def one_within_another(ck, directory) -> list:
    with ck.StopSignal() as outer:
        with ck.StopSignal() as inner:
            send(TERM)
        if inner.received != TERM or outer.received is not None:
            return [("sent", "SIGTERM in the inner of two blocks"), ("found", f"inner.received {inner.received!r}, outer.received {outer.received!r}")]
        send(USR1)
        if outer.received != USR1 or inner.received != TERM:
            return [
                ("sent", "SIGUSR1 to the outer block, after the inner one"),
                ("found", f"inner.received {inner.received!r}, outer.received {outer.received!r}"),
            ]
    with ck.StopSignal() as fresh:
        if fresh.received is not None:
            return [("found", f"a new StopSignal has received {fresh.received!r} already: it belongs to another one")]
    return []


def only_its_own_signals(ck, directory) -> list:
    for number in (TERM, USR1, USR2):
        signal.signal(number, mine)
    old = handlers()
    made = ck.StopSignal(signals=(USR2,))
    if handlers() != old:
        return [("found", "a handler is installed when StopSignal is made"), ("expected", "from the `with` block's begin to its end")]
    with made as stop:
        now = handlers()
        send(TERM, USR1)
        early = stop.received
        send(USR2)
        late = stop.received
    if now[:2] != old[:2] or now[3] != old[3]:
        return [("made", "StopSignal(signals=(SIGUSR2,))"), ("found", "it has taken other signals, too")]
    if early is not None or late != USR2:
        return [("made", "StopSignal(signals=(SIGUSR2,))"), ("found", f"received {early!r} after SIGTERM, {late!r} after SIGUSR2")]
    return []


CASES = {
    f.__name__: f
    for f in (
        each_signal_is_noted, the_first_one_counts, it_does_nothing_else, a_save_survives_signals, the_old_handlers_come_back,
        one_within_another, only_its_own_signals,
    )
}  # fmt: skip


def main() -> None:
    args = p.parse_args()
    before = handlers()
    ck = student.load(args.checkpoint)
    imported = [] if handlers() == before else [("found", "importing your file installs a handler"), ("expected", "the `with` block does")]
    os.makedirs(args.directory, exist_ok=True)

    ask_each(args.case, lambda case: watch.emit("answer", case=case, rows=imported or CASES[case](ck, args.directory)))
    watch.emit("end", step=0, state={})


if __name__ == "__main__":
    main()
