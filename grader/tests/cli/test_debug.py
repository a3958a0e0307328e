"""`grade debug`, on a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grader.course import catalog
from grader.course.catalog import ROOT

PATIENCE = 120.0  # s for a whole session: torch is loaded twice, maybe on a busy machine
CHECK = "ex01.4/a-run-killed-between-saves-in-mid-epoch-rejoins:no_workers"

pytestmark = pytest.mark.needs_solution


def session(
    *words: str, answers: tuple[str, ...] = (), interrupt_at: str = "no such text"
) -> tuple[int, str]:
    """`grade WORDS` on a terminal; each `(Pdb)` gets the next of `answers`. (status, output).

    interrupt_at  Ctrl-C is pressed when this is shown
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "grader", *words])
    shown, answered, left, interrupted = b"", 0, list(answers), False
    until = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < until:
            if not select.select([terminal], [], [], 1.0)[0]:
                continue
            try:
                data = os.read(terminal, 4096)
            except OSError:  # Linux: the other end is closed
                break
            if not data:
                break
            shown += data
            if interrupt_at.encode() in shown and not interrupted:
                interrupted = True
                os.write(terminal, b"\x03")
            if left and shown.count(b"(Pdb) ") > answered:
                answered += 1
                os.write(terminal, left.pop(0).encode() + b"\n")
        else:
            os.kill(pid, 9)
            pytest.fail(f"the session didn't end:\n{shown.decode(errors='replace')}")
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


@pytest.fixture
def work(tmp_path):
    """A submission that stops in every `restore`, and forgets Python's generator."""
    exercise = catalog.find("ex01")
    folder = tmp_path / "mine"
    shutil.copytree(exercise.solution, folder)
    file = folder / exercise.module
    text = file.read_text()
    assert (
        'random.setstate(state["python"])' in text and '    set_rng_state(state["rng"])\n' in text
    )
    text = text.replace('random.setstate(state["python"])', "pass")
    text = text.replace(
        '    set_rng_state(state["rng"])\n', '    breakpoint()\n    set_rng_state(state["rng"])\n'
    )
    file.write_text(text)
    return folder


def test_the_failing_life_stops_at_a_breakpoint_in_the_students_own_file(work):
    status, shown = session(
        "debug", CHECK, "--submission", str(work), "--seed", "7",
        answers=("p 'at step', state['step'], __file__", "c"),
    )  # fmt: skip
    assert status == 0, shown
    assert re.search(r"\('at step', \d+, '" + re.escape(str(work)), shown), shown
    # the life that resumed, not the one that was killed
    assert re.search(r"--- life \w{4}\.2 of", shown) and "ended with exit status 0" in shown


def test_ctrl_c_stops_a_life_that_hangs_where_it_hangs(work):
    file = work / "checkpoint.py"
    text = file.read_text()
    hangs = '    print("it hangs", flush=True)\n    while True: waited = "for ever"\n'
    assert text.count("    set_rng_state(state") == 1 and text.count("    breakpoint()\n") == 1
    file.write_text(text.replace("    breakpoint()\n", hangs))
    status, shown = session(
        "debug", CHECK, "--submission", str(work), "--seed", "7", "--life", _life_of(work),
        answers=("p 'waited', waited", "q"), interrupt_at="it hangs",
    )  # fmt: skip
    assert status == 0 and "('waited', 'for ever')" in shown, shown


def _life_of(work: Path) -> str:
    """The life in which the check fails, as its message names it."""
    status, shown = session(CHECK, "--submission", str(work), "--seed", "7")
    assert status == 1
    return re.findall(r"--life ([\w.-]+)", shown)[0]


def test_a_rank_stops_while_the_others_wait(tmp_path):
    exercise = catalog.find("ex02")
    folder = tmp_path / "mine"
    shutil.copytree(exercise.solution, folder)
    file = folder / exercise.module
    text = file.read_text()
    assert text.count("    set_rng_state(rng)") == 1
    file.write_text(
        text.replace("    set_rng_state(rng)", "    breakpoint()")  # and it forgets them
    )
    check = "ex02.2/a-run-killed-in-mid-epoch-rejoins-on-every-rank:two_ranks"
    status, shown = session(
        "debug", check, "--submission", str(folder), "--rank", "1",
        answers=("p 'rank', job.rank", "c"),
    )  # fmt: skip
    assert status == 0 and "('rank', 1)" in shown, shown
    assert "rank 1 ended with exit status 0" in shown


def test_a_message_ends_with_the_command_and_says_that_a_breakpoint_was_skipped(work):
    done = subprocess.run(
        [sys.executable, "-m", "grader", CHECK, "--submission", str(work), "--seed", "7"],
        capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1 and "BdbQuit" not in done.stdout
    assert re.search(r"printed +life 2: breakpoint\(\) at checkpoint.py:\d+: skipped", done.stdout)
    command = re.search(r"^  debug +grade (debug .*)$", done.stdout, re.M)
    assert command and re.search(r"--seed 7 --life \w{4}\.2$", command[1]), done.stdout


@pytest.mark.parametrize(
    "words,why",
    [
        (["ex01.4"], "name a check"),
        (["ex01.4/a-run"], "several checks have"),
        (["ex01.4/killed-twice"], "name one of"),
        ([CHECK, "--life", "0000.1", "--solution"], "has no life 0000.1"),
    ],
)
def test_what_cant_be_debugged_is_one_line(words, why):
    done = subprocess.run(
        [sys.executable, "-m", "grader", "debug", *words],
        capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 2 and why in done.stderr and "Traceback" not in done.stderr
