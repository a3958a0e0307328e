"""Crash consistency: `grade crashtest` on somebody's code, and the table of public savers."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from grader.bench import public_savers, saver_adapters
from grader.course import catalog
from grader.tests.conftest import IN_CI
from grader.tests.crash import crash_savers
from grader.tests.crash.traced import traced

# --- the command ----------------------------------------------------------------------------------


def crashtest_command(*args, cwd) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.run(
        [sys.executable, "-m", "grader", "crashtest", *args],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


@traced
def test_the_command_on_somebodys_file(tmp_path):
    shutil.copy(crash_savers.__file__, tmp_path / "mine.py")
    args = ["--load", "mine.py:load", "--state", "mine.py:state", "--json", "-", "--saves", "2"]
    done = crashtest_command("--save", "mine:save", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"]
    done = crashtest_command(
        "--save", "mine.py:digest_first", *args, "--picture", "worst.png", cwd=tmp_path
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["smallest"]["load"].startswith("raised")
    assert (tmp_path / "worst.png").stat().st_size > 10_000


@traced
def test_a_link_to_bytes_elsewhere_is_no_verdict(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.py").write_text(
        "import os, tempfile, torch\n"
        "def save(directory, state):\n"
        f"    path = os.path.join(tempfile.mkdtemp(dir={str(tmp_path / 'elsewhere')!r}), 'state')\n"
        "    torch.save(state, path)\n"
        "    os.symlink(path, directory + '/new')\n"
        "    os.replace(directory + '/new', directory + '/latest')\n"
        "def load(directory):\n"
        "    path = directory + '/latest'\n"
        "    return torch.load(path) if os.path.lexists(path) else None\n"
    )
    args = ["--save", "mine.py:save", "--load", "mine.py:load", "--no-flips", "--no-errors"]
    done = crashtest_command(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "no verdict\n")
    assert done.stderr.startswith("grade: load reads ") and done.stderr.count("\n") == 1


@traced
@pytest.mark.parametrize(
    "code, save, says",
    [
        ("def save(d, s): pass", "mine.py", "module:function"),
        ("def save(d, s): pass", "other.py:save", "other.py"),
        ("def save(d, s): pass", "mine:absent", "absent"),
        ("def save(d, s: pass", "mine:save", "SyntaxError"),
        ("import no_such_thing\ndef save(d, s): pass", "mine:save", "no_such_thing"),
        ("def save(d, s): raise OSError('broken')", "mine:save", "the saves failed"),
        ("import sys\ndef save(d, s): sys.exit(3)", "mine:save", "exit status 3"),
        ("import threading\ndef save(d, s): threading.Event().wait()", "mine:save", "in time"),
    ],
)
def test_bad_input_gets_one_line_and_exit_status_2(tmp_path, code, save, says):
    (tmp_path / "mine.py").write_text(f"{code}\n")
    (tmp_path / "reader.py").write_text("def load(d): return None\n")
    done = crashtest_command(
        "--save", save, "--load", "reader:load", "--time-limit", "3", cwd=tmp_path
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and says in last and last.startswith("grade: "), done.stderr
    assert "grader/" not in done.stderr


README = pathlib.Path(__file__).resolve().parents[2] / "crash" / "README.md"


@traced
@pytest.mark.parametrize(
    "without, status", [(None, 0), ("os.fsync(f.fileno())", 1), ("os.fsync(fd)", 1)]
)
def test_the_example_in_the_readme_does_what_it_says(tmp_path, without, status):
    code = README.read_text().split("<!-- example: mine.py -->\n```python\n")[1].split("```")[0]
    assert without is None or code.count(without) == 1
    (tmp_path / "mine.py").write_text(code.replace(without, "pass") if without else code)
    done = crashtest_command(
        "--save", "mine.py:save", "--load", "mine.py:load", "--no-flips", cwd=tmp_path
    )
    assert done.returncode == status, done.stdout + done.stderr
    if without:
        assert "missing    fsync of " in done.stdout


@traced
@pytest.mark.needs_solution
@pytest.mark.parametrize("version, status", [("solution", 0), ("starter", 1)])
def test_exercise_1_by_its_readme(tmp_path, version, status):
    exercise = catalog.find("ex01")
    code = (
        (exercise.folder / "README.md")
        .read_text()
        .split("```python\nfrom checkpoint import")[1]
        .split("```")[0]
    )
    (tmp_path / "crash.py").write_text(f"from checkpoint import{code}")
    (tmp_path / "checkpoint.py").write_bytes(
        (exercise.folder / version / "checkpoint.py").read_bytes()
    )
    done = crashtest_command(
        "--save", "crash.py:save", "--load", "crash.py:load", "--strict-first", cwd=tmp_path
    )
    assert done.returncode == status, done.stdout + done.stderr


@traced
def test_a_saver_of_the_table_is_run_as_the_table_says():
    found = public_savers.one("safetensors")
    assert not found["passed"]
    posix = found["models"]["posix"]
    assert posix["kept"] < posix["states"]  # no version of it syncs anything
    text = public_savers.page({"safetensors": found}, "2026-01-01")
    assert f"**{posix['kept']}/{posix['states']}**" in text and "safetensors " in text


def test_the_table_lists_every_saver():
    page = public_savers.TABLE.read_text()
    assert all(f"\n| {saver.title} | " in page for saver in saver_adapters.SAVERS.values())


TRY_OUT = """
import json, pathlib, shutil, sys
import torch
from grader.bench import saver_adapters
from grader.crash import enumeration, judge, recorder
from grader.crash.operations import Mark

torch.set_num_threads(1)
run, load = saver_adapters.SAVERS[sys.argv[1]].make()
there = pathlib.Path(sys.argv[2], "there")
there.mkdir()
record = recorder.record(there, {"": lambda: run(str(there))}, 60)
whole = enumeration.final(record.disk, record.ops)
newest = max(path for path, content in whole.items() if content is None)
begun = {p: c for p, c in whole.items() if not p.startswith(newest + "/")}
trees = {"whole": whole, "empty": {}, "begun": begun}
found = judge.judge(trees, load, [there])
saved = [op.digest for op in record.ops if isinstance(op, Mark) and op.kind == "began"]
print(json.dumps({"saved": saved} | {name: [o.kind, o.digest] for name, o in found.items()}))
"""


@traced
@pytest.mark.parametrize("name", ["accelerate", "transformers"])
def test_a_saver_of_the_table_gives_what_it_saved_last(tmp_path, name):
    if public_savers._versions(saver_adapters.SAVERS[name]) is None and not IN_CI:
        pytest.skip(f"{name} isn't installed (make test SAVERS=1)")
    env = os.environ | {
        "PYTHONPATH": os.getcwd(),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", TRY_OUT, name, str(tmp_path)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(set(found["saved"])) == saver_adapters.SAVES
    assert found["whole"] == ["state", found["saved"][-1]] and found["empty"] == ["none", ""]
    assert found["begun"][0] == "error"  # neither falls back to the checkpoint before
