"""The life itself: a process that becomes a training script in the environment of its job.

The same code runs after a fork from the warm server and in a plainly started interpreter
(python -I child.py JOB.json), so a script can't distinguish the two.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import os
import random
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

MESSAGE = 10_000  # of an error's message, in characters: DCP's holds a traceback of each rank


_life = False


def is_life() -> bool:
    """Whether the harness runs this process: its script returns to `run`, which ends it."""
    return _life


def live(job: dict[str, Any]) -> None:
    """Run the whole life to its end; never returns."""
    global _life
    _life = True
    try:
        become(job)
        run(job)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(70)


def become(job: dict[str, Any]) -> None:
    """Set up what precedes the script.

    Under `grade debug`, a life keeps its terminal and has neither limits nor a sandbox.
    """
    from grader.harness import sandbox
    from grader.harness.inside import attempts, telemetry
    from grader.harness.readable_paths import readable_by

    if job.get("debug"):
        stay_on_terminal(job)
        load_script(job)
        if job["debug"] == "debugpy":
            wait_for_debugger()
    else:
        leave_terminal(job)
        load_script(job)
        attempts.watch(job, readable_by(job["sandbox"]), telemetry.attempt)
        sandbox.enter(job["sandbox"])
        os.chdir(job["cwd"])  # the same folder in the life's own root


def leave_terminal(job: dict[str, Any]) -> None:
    """Give the process its own session, stdio, limits, environment and random numbers."""
    from grader.harness.guardian import set_limits
    from grader.harness.inside import telemetry
    from grader.harness.silence import WHERE

    os.setsid()
    signal.set_wakeup_fd(-1)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # a fork also has its guardian's descriptors
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
    os.umask(0o022)
    for fd, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, fd)
        os.close(opened)
    for stream in (sys.stdout, sys.stderr):
        # a life that is killed has printed what it printed
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(job["env"])
    # it holds the fork server's; in this folder, what a killed life leaves is deleted with it
    tempfile.tempdir = None
    set_limits(job)

    import numpy
    import torch

    # a fork shares its parent's generators, which would hide a missing seed
    random.seed()
    numpy.random.seed(int.from_bytes(os.urandom(4), "little"))
    torch.default_generator.seed()  # torch.seed also reads source files, for absent GPUs

    sys.breakpointhook = no_terminal
    # where it stands when its guardian asks or its CPU time is up; works however stuck Python is
    stack = open(job["stack"], "a+")
    faulthandler.register(WHERE, file=stack)
    faulthandler.register(signal.SIGXCPU, file=stack, chain=True)
    telemetry.stack = stack.fileno()


def stay_on_terminal(job: dict[str, Any]) -> None:
    home = os.environ.get("HOME", "")
    os.environ.update(job["env"] | {"HOME": home})  # a debugger's settings are there
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGINT, signal.default_int_handler)  # `grade debug` ignores Ctrl-C


def load_script(job: dict[str, Any]) -> None:
    """Compile the script, with its arguments in sys.argv, in its working directory."""
    import torch

    from grader.harness.inside import telemetry

    torch.set_num_threads(1)
    sys.argv[:] = [job["script"], *job["argv"]]
    telemetry.open_events(job)
    # the sandbox may hide a script of the grader
    with open(job["script"], "rb") as f:
        job["code"] = compile(f.read(), job["script"], "exec")
    os.chdir(job["cwd"])


def wait_for_debugger() -> None:
    import debugpy

    host, port = debugpy.listen(("127.0.0.1", 0))
    print(f"debugpy listens at {host}:{port}: attach your IDE to it", flush=True)
    debugpy.wait_for_client()


_skipped: set[str] = set()  # breakpoints that were reported


def no_terminal(*_: object, **__: object) -> None:
    """What breakpoint() does in a grading, where no user could answer the debugger."""
    frame = sys._getframe(1)
    where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
    if where in _skipped:
        return
    _skipped.add(where)
    print(f"breakpoint() at {where}: skipped, a grading has no terminal; `grade debug` stops here")


def look_at(error: BaseException) -> None:
    """Open a debugger where the error came up, on a terminal."""
    import bdb
    import pdb

    if isinstance(error, bdb.BdbQuit):
        return
    if sys.stdin.isatty() and sys.stdout.isatty():
        how = "was interrupted" if isinstance(error, KeyboardInterrupt) else "crashed"
        print(f"the life {how}; the debugger is at this line (q quits)", flush=True)
        pdb.post_mortem(error.__traceback__)


def run(job: dict[str, Any]) -> None:
    """Execute the script as __main__ and exit as the interpreter would; never returns."""
    from grader.harness.inside import telemetry

    status = 0
    try:
        module = type(sys)("__main__")
        module.__file__ = job["script"]
        sys.modules["__main__"] = module
        exec(job["code"], module.__dict__)
    except SystemExit as e:
        code = e.code
        if code is None or type(code) is int or type(code) is bool:
            status = (code or 0) & 0xFF
        else:
            status = 1
            print(_text_of(lambda: str(code)), file=sys.stderr)
        telemetry.emit("exit", code=status, frames=_frames(e))
    except BaseException as e:
        status = 1
        telemetry.emit("crash", **describe(e))
        with contextlib.suppress(BaseException):
            traceback.print_exception(type(e), e, e.__traceback__)
            if job.get("debug") == "terminal":
                look_at(e)
    end(status)


def end(status: int) -> NoReturn:
    """Exit as the interpreter does, but free nothing.

    Freeing torch takes a second. It can also abort the process: gloo's threads may still hold
    tensors, and need an interpreter to free them (PyTorch's pull request 179291).
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # private
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (ValueError, OSError, AttributeError):
            pass
    os._exit(status)


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as the report needs it: type, message, frames from the outermost inwards.

    It is the student's object: its methods may raise, or return endless text.
    """
    name = type.__dict__["__name__"].__get__(type(error))  # its class's real name
    message = _text_of(lambda: str(error), MESSAGE, "(its __str__ fails)")
    return {"type": name[:100], "message": message, "frames": _frames(error)}


def _text_of(tell: Callable[[], str], most: int = 2000, otherwise: str = "?") -> str:
    try:
        return str.__getitem__(tell(), slice(most))
    except BaseException:
        return otherwise


def _frames(error: BaseException) -> list[dict[str, Any]]:
    """The last frames; none if the student's code makes them unreadable."""
    try:
        frames = [
            (f.filename, f.lineno, f.name, f.line)
            for f in traceback.extract_tb(error.__traceback__)
        ]
        if isinstance(error, SyntaxError) and error.filename:
            frames.append((error.filename, error.lineno, "", (error.text or "").strip()))
        return [
            {
                "file": str(file)[:1000],
                "line": int(line or 0),
                "function": str(name)[:100],
                "text": str(text or "")[:300],
            }
            for file, line, name, text in frames[-40:]
        ]
    except BaseException:
        return []


if __name__ == "__main__":
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))
    with open(sys.argv[1]) as f:
        job = json.load(f)
    # the module, not __main__, which the script replaces
    from grader.harness.inside import child

    child.live(job)
