"""A life that reports nothing hangs, unless it couldn't run; asked where it stands, it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from grader import processor_time
from grader.checks import stacks
from grader.course import submissions
from grader.harness import silence
from grader.harness.lab import Lab
from grader.harness.launcher import Limits
from grader.harness.run import Process
from grader.harness.silence import ALONE, LONGEST, Silence
from grader.harness.workbench import Bench
from grader.processor_time import ThreadState

LIMIT = 3.0


class Machine:
    """A clock, and a process that waits for a processor or the disk as the test says."""

    def __init__(self, monkeypatch, folder: Path):
        self.folder, self.now, self.on_disk = folder, 100.0, False
        self.state, self.not_counted = ThreadState("S", 0.0, 0.0), 0.0
        monkeypatch.setattr(processor_time.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(processor_time, "thread_state", lambda pid, thread: self.state)
        monkeypatch.setattr(silence, "_threads", lambda main: [(main, "1")])
        monkeypatch.setattr(silence, "SHARE", 1.0)

    def silence(self, rank: int = 0, ranks: int = 1) -> Silence:
        folders = [self.folder / str(r) for r in range(ranks)]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        job = {
            "limits": {"quiet": LIMIT},
            "reports": [str(folders[rank] / "events")],
            "silence": str(folders[rank] / "silence"),
            "others": [
                {name: str(other / name) for name in ("silence", "result")}
                for other in folders[:rank] + folders[rank + 1 :]
            ],
        }
        return Silence(job, 1)

    def reports(self, rank: int = 0) -> None:
        with open(self.folder / str(rank) / "events", "a") as f:
            f.write("{}\n")

    def passes(self, seconds: float, *watched: Silence, waiting: float = 0.0) -> list[bool]:
        """`waiting`: this share of the time it waits for a processor."""
        said = [False for _ in watched]
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self._runs(0.1 * (1 - waiting), 0.1 * waiting)
            said = [one.lasts_too_long() for one in watched]
        return said

    def _runs(self, ran: float, waited: float) -> None:
        """The kernel counts a wait when it ends."""
        _, before, counted = self.state
        letter = "D" if self.on_disk else "R" if waited else "S"
        self.not_counted += waited
        if ran:
            counted, self.not_counted = counted + self.not_counted, 0.0
        self.state = ThreadState(letter, before + ran, counted)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    return Machine(monkeypatch, tmp_path)


def test_a_life_is_silent_from_its_last_report_on(machine):
    one = machine.silence()
    assert machine.passes(2 * LIMIT, one) == [False]  # it hasn't begun
    machine.reports()
    assert machine.passes(LIMIT - 0.2, one) == [False]
    machine.reports()
    assert machine.passes(LIMIT - 0.2, one) == [False]
    assert machine.passes(0.5, one) == [True]


def test_time_without_a_processor_or_in_wait_for_the_disk_does_not_count(machine):
    one = machine.silence()
    machine.reports()
    assert machine.passes(4 * LIMIT, one, waiting=1.0) == [False]
    assert machine.passes(1.8 * LIMIT, one, waiting=0.5) == [False]
    machine.on_disk = True
    assert machine.passes(4 * LIMIT, one) == [False]
    machine.on_disk = False
    assert machine.passes(0.2 * LIMIT, one) == [True]
    assert one.stalled == pytest.approx(8.9 * LIMIT, rel=0.1)


def test_when_it_had_no_processor_is_kept_in_its_result(machine):
    one = machine.silence()
    machine.passes(2.0, one)
    machine.passes(4.0, one, waiting=0.5)
    machine.passes(2.0, one)
    process = Process(machine.folder, None, {"stalls": one.stalls})
    assert process.stalled(0.0, 200.0) == pytest.approx(2.0)
    assert process.stalled(100.0, 102.0) == pytest.approx(0.0)
    assert process.stalled(103.05, 105.0) == pytest.approx(0.975)  # from the middle of a look on
    assert process.stalled(106.0, 108.0) == pytest.approx(0.0)


def test_a_wait_counts_while_it_lasts_and_only_once(machine):
    one = machine.silence()
    machine.reports()
    machine.passes(0.5, one)
    machine.passes(3.0, one, waiting=1.0)
    assert one.stalled == pytest.approx(3.0)
    machine.passes(0.5, one)  # now the kernel counts it
    assert one.stalled == pytest.approx(3.0)
    machine.passes(1.0, one, waiting=0.3)
    assert one.stalled == pytest.approx(3.3)


def test_who_looks_late_was_stopped_as_well(machine):
    one = machine.silence()
    machine.reports()
    assert machine.passes(0.1, one) == [False]
    machine.now += 100 * LIMIT
    assert not one.lasts_too_long() and one.seconds <= LONGEST


def test_a_rank_may_wait_for_one_that_reports_or_has_no_processor(machine):
    waiting, working = machine.silence(0, 2), machine.silence(1, 2)
    for rank in (0, 1):
        machine.reports(rank)
    for _ in range(4):
        assert machine.passes(LIMIT / 2, waiting, working) == [False, False]
        machine.reports(1)
    assert waiting.seconds > LIMIT
    assert machine.passes(LIMIT + 0.5, waiting, working) == [True, True]


def test_a_rank_whose_peer_has_ended_gets_a_moment(machine):
    one, other = machine.silence(0, 2), machine.silence(1, 2)
    for rank in (0, 1):
        machine.reports(rank)
    machine.passes(LIMIT / 2, one, other)
    machine.reports(1)
    assert machine.passes(LIMIT - 0.5, one, other) == [False, False]
    (machine.folder / "1" / "result").write_text("{}")
    assert machine.passes(ALONE - 0.2, one) == [False] and one.seconds > LIMIT
    assert machine.passes(0.5, one) == [True]


# --- real processes -------------------------------------------------------------------------------

HANGS = {
    "it sleeps": "time.sleep(1000)",
    "it spins": "while True: pass",
    "it waits for a lock": "lock = threading.Lock()\n    lock.acquire()\n    lock.acquire()",
    "it reads a pipe that nobody writes": "os.mkfifo('pipe')\n    open('pipe').read()",
    "it prints that it waits": "while True: print('waiting', time.sleep(0.01))",
    "a thread of it hangs": "if threading.current_thread() is threading.main_thread():\n"
    "        thread = threading.Thread(target=inner)\n        thread.start()\n"
    "        thread.join()\n    time.sleep(1000)",
    "a process of it hangs": "if (pid := os.fork()) == 0:\n        time.sleep(1000)\n"
    "    os.waitpid(pid, 0)",
}


@pytest.fixture
def ended(launcher, ex01):
    """Imports this code, and returns the process after its end."""
    benches = []

    def run(code: str, **limits: float) -> Process:
        work = submissions.Submission(ex01.solution, ex01.module, {ex01.module: code.encode()})
        limited = Limits(**{"quiet": 0.7} | limits)
        benches.append(Bench(work, launcher, seed=0, jobs=1, limits=limited))
        return Lab(benches[-1], "silence").launch("import_check.py").last.process

    yield run
    for bench in benches:
        bench.close()


@pytest.mark.parametrize("hang", HANGS)
def test_a_life_that_hangs_is_ended_and_says_where(ended, hang):
    code = (
        f"import os, threading, time\ndef inner():\n    {HANGS[hang]}\ndef outer():\n    inner()\n"
    )
    process = ended(f"{code}outer()\n")
    assert process.ended == "quiet"
    said = [text for _, text in stacks.stood_at(process)]
    line = len(code.splitlines())
    assert f"checkpoint.py:{line} in outer: inner()" in said
    assert any(" in inner: " in text for text in said)


def test_a_life_that_reports_lives_as_long_as_its_wall_time(ended):
    code = (
        "import time\nfrom grader.harness.inside import telemetry\n"
        "while True:\n    telemetry.emit('step')\n    time.sleep(0.05)\n"
    )
    process = ended(code, wall=2.0)
    assert process.ended == "wall" and "in <module>: " in stacks.stood_at(process)[0][1]


def test_a_life_that_catches_every_signal_is_ended_all_the_same(ended):
    code = (
        "import signal, time\nfor n in signal.valid_signals():\n"
        "    try: signal.signal(n, lambda *_: None)\n    except (OSError, ValueError): pass\n"
        "time.sleep(1000)\n"
    )
    process = ended(code)
    assert process.ended == "quiet" and stacks.stood_at(process) == []
