"""Fetches what a case needs, all of it below the folder: a repository, a virtual environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

from grader.audit.trainers.cases import Case, Environment
from grader.errors import UsageError
from grader.processes import kill_session

SECONDS = 1800  # s that one download may take
LINES = 6  # of a failed command's output
DONE = ".fetched"  # says what a folder holds; written last
SPARE = 1000  # MB that must stay free on the disk


def bounded(
    words: list[str], *, seconds: float, cwd: Path, environment: dict[str, str], log: Path
) -> int:
    """Run a command; its exit status. It ends with this process, and after `seconds`."""
    with open(log, "ab") as output:
        try:
            process = subprocess.Popen(
                words,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as e:
            raise UsageError(f"{words[0]}: {e.strerror}") from e
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise UsageError(f"{words[0]} took longer than {seconds:.0f} s (see {log})") from None
        finally:
            _end(process)


def end_of(log: Path, lines: int) -> str:
    """The last lines of what a command printed, to follow what went wrong."""
    last = log.read_text(errors="replace").splitlines()[-lines:]
    return "".join(f"\n  | {line}" for line in last)


def _end(process: subprocess.Popen[bytes]) -> None:
    """An audit that is asked to end removes its scratch; one that doesn't answer is killed."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            pass
    kill_session(process.pid)
    process.wait()


def room(folder: Path, environments: list[Environment]) -> None:
    """Raise an error if the disk has no room for these environments."""
    needed = SPARE + sum(e.disk for e in environments if not _is_done(_at(e, folder), e))
    free = shutil.disk_usage(folder).free // 1_000_000
    if free < needed:
        raise UsageError(f"{folder} has {free} MB free, and {needed} MB are needed")


def clone(case: Case, folder: Path, say: Callable[[str], None]) -> Path:
    """The folder in which the commands of this case run."""
    if not case.repository:
        target = folder / "work" / case.name
        target.mkdir(parents=True, exist_ok=True)
        return target
    target = folder / "repositories" / f"{Path(case.repository).name}-{case.commit[:12]}"
    if not (target / DONE).exists():
        say(f"git clone {case.repository} at {case.commit[:12]}")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        git = ["git", "-C", str(target)]
        for words in (
            ["init", "--quiet"],
            ["fetch", "--quiet", "--depth", "1", case.repository, case.commit],
            ["checkout", "--quiet", "FETCH_HEAD"],
        ):
            _must([*git, *words], folder, dict(os.environ), f"git-{case.name}")
        (target / DONE).touch()
    where = target / case.folder
    if not where.is_dir():
        raise UsageError(f"{case.name}: {case.repository} has no folder {case.folder}")
    return where


def environment(wanted: Environment, folder: Path, say: Callable[[str], None]) -> Path:
    """The folder with the programs of this virtual environment."""
    target = _at(wanted, folder)
    if not _is_done(target, wanted):
        say(f"pip install {' '.join(wanted.packages)}")
        shutil.rmtree(target, ignore_errors=True)
        venv.create(target, with_pip=True, symlinks=True)
        # torch is large, and this one is known to work here
        (site,) = target.glob("lib/python*/site-packages")
        (site / "grader-packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
        python = str(target / "bin" / "python")
        words = [python, "-m", "pip", "install", "--no-cache-dir", "--no-input", *wanted.packages]
        _must(words, folder, dict(os.environ), f"pip-{wanted.name}")
        (target / DONE).write_text(_holds(wanted))
    return target / "bin"


def _must(words: list[str], folder: Path, environ: dict[str, str], name: str) -> None:
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    log = logs / f"{name}.log"
    log.unlink(missing_ok=True)
    status = bounded(words, seconds=SECONDS, cwd=folder, environment=environ, log=log)
    if status:
        what = f"{' '.join(words[:6])} ... failed with exit status {status}"
        raise UsageError(f"{what}:{end_of(log, LINES)}")


def _at(wanted: Environment, folder: Path) -> Path:
    return folder / "environments" / wanted.name


def _holds(wanted: Environment) -> str:
    return "\n".join(wanted.packages) + "\n"


def _is_done(target: Path, wanted: Environment) -> bool:
    mark = target / DONE
    return mark.exists() and mark.read_text() == _holds(wanted)
