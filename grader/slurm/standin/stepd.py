"""A container of processes: the batch shell of a job, or the tasks of a step, and all that they
start.

It is forked from the controller, as slurmstepd is from slurmd. It is the parent of the tasks, so a
signal can't reach a reused pid. On Linux it is also the reaper of all their descendants. The rule
is that of proctrack/cgroup: the tasks get signals, and what they start gets only SIGKILL. When the
controller dies, everything in the container dies with it.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from grader.processes import reap_descendants
from grader.slurm import processes
from grader.slurm.standin.loop import Loop
from grader.slurm.standin.protocol import Line
from grader.wakeup import wakeup_pipe

DEFAULTS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
STUBBORN = 10.0  # s after which what doesn't die of SIGKILL is left to the controller's end


class Container:
    """The controller's end. `ended(task, status)` once per task, status as wait's; then
    `gone()`.
    """

    def __init__(
        self,
        loop: Loop,
        tasks: list[dict],
        fds: list[int],
        umask: int,
        ended: Callable[[int, int], None],
        gone: Callable[[], None],
        confine: Callable[[], None],
    ):
        """confine: called in the container's process, before any task starts.

        tasks  {"argv", "env", "cwd"}
        fds    stdin, stdout and stderr of each task
        """
        self.loop, self.ended, self.gone = loop, ended, gone
        self.left = set(range(len(tasks)))
        mine, theirs = socket.socketpair()
        if os.fork() == 0:
            status = 1
            try:
                confine()
                _be(theirs, tasks, fds, umask)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        self.line: Line | None = Line(mine)
        loop.watch(mine, self._read)

    def _read(self) -> None:
        assert self.line  # it is watched until it is None
        messages = self.line.read()
        for message in messages or []:
            self.left.discard(message["task"])
            self.ended(message["task"], message["status"])
        if messages is None:
            self.loop.forget(self.line.sock)
            self.line.sock.close()
            self.line = None
            for task in sorted(self.left):  # the container itself was killed
                self.ended(task, signal.SIGKILL)
            self.gone()

    def _send(self, message: dict) -> None:
        if self.line is not None:
            with suppress(OSError):  # it's just going
                self.line.send(message)

    def signal(self, *numbers: int, children: bool = False) -> None:
        """Signal the tasks; with `children`, also everything that they started."""
        self._send({"signal": numbers, "children": children})

    def say(self, text: str) -> None:
        """Write a line to the first task's standard error."""
        self._send({"say": text})

    def kill(self) -> None:
        self._send({"kill": True})


# --- the container itself -------------------------------------------------------------------------


def _be(control: socket.socket, tasks: list[dict], fds: list[int], umask: int) -> None:
    os.setsid()
    keep = {control.fileno(), *fds}
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        if fd not in keep:
            os.dup2(null, fd)
    for fd in _open_fds():
        if fd > 2 and fd not in keep:
            with suppress(OSError):
                os.close(fd)
    orphans_come_here = reap_descendants()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wake, _ = wakeup_pipe(signal.SIGCHLD)
    os.umask(umask)
    line = Line(control)
    running: dict[int, int] = {}  # pid -> task

    def ended(task: int, status: int) -> None:
        with suppress(OSError):
            line.send({"task": task, "status": status})

    errors = os.dup(fds[2])
    for index, task in enumerate(tasks):
        pid = _start(task, fds)
        if pid is None:
            ended(index, 2 << 8)
        else:
            running[pid] = index
    for fd in fds:
        os.close(fd)

    killing = False
    while running and not killing:
        ready = select.select([control, wake], [], [])[0]
        if wake in ready:
            os.read(wake, 4096)
            _bury(running, ended)
        for message in (line.read() or [{"kill": True}]) if control in ready else []:
            killing |= "kill" in message
            if "say" in message:
                with suppress(OSError):
                    os.write(errors, message["say"].encode() + b"\n")
            for number in message.get("signal", []):
                for pid in (
                    _below(orphans_come_here, tasks) if message["children"] else list(running)
                ):
                    with suppress(OSError):
                        os.kill(pid, number)
    os.close(errors)
    deadline = time.monotonic() + STUBBORN
    while (below := _below(orphans_come_here, tasks)) and time.monotonic() < deadline:
        processes.kill(below)
        if select.select([wake], [], [], 0.01)[0]:
            os.read(wake, 4096)
        _bury(running, ended)


def _open_fds() -> list[int]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return [int(name) for name in os.listdir(folder)]
    return list(range(3, 4096))


def _start(task: dict, stdio: list[int]) -> int | None:
    """Start a task. If there is no such program: a line in its standard error, and None."""
    env, argv = task["env"], task["argv"]
    try:
        try:
            os.chdir(task["cwd"])
        except OSError as e:
            os.write(
                stdio[2],
                (
                    f"slurmstepd-{env['SLURMD_NODENAME']}: error: couldn't chdir to "
                    f"`{task['cwd']}': {e.strerror}: going to /tmp instead\n"
                ).encode(),
            )
            os.chdir("/tmp")
        program = (
            argv[0] if "/" in argv[0] else shutil.which(argv[0], path=env.get("PATH", os.defpath))
        )
        if program is None:
            raise FileNotFoundError(2, os.strerror(2))
        moves = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)]
        return os.posix_spawn(
            program, argv, env, file_actions=moves, setpgroup=0, setsigmask=[], setsigdef=DEFAULTS
        )
    except OSError as e:
        with suppress(OSError):
            node = env["SLURMD_NODENAME"]
            said = f"slurmstepd-{node}: error: execve(): {argv[0]}: {e.strerror}\n"
            os.write(stdio[2], said.encode())
        return None


def _bury(running: dict[int, int], ended: Callable[[int, int], None]) -> None:
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] in running:
                ended(running.pop(found[0]), found[1])


def _below(orphans_come_here: bool, tasks: list[dict]) -> list[int]:
    """Every process in the container. On macOS, orphans leave the process tree, so it also finds
    them by their environment.
    """
    below = processes.descendants(os.getpid())
    if not orphans_come_here:
        env = tasks[0]["env"]
        mine = {k: env[k] for k in ("SLURM_CONF", "SLURM_JOB_ID", "SLURM_STEP_ID") if k in env}
        # a step of the job has its own container
        outside = processes.with_environment(
            mine, without=None if "SLURM_STEP_ID" in mine else "SLURM_STEP_ID"
        )
        below += [pid for pid in outside if pid not in below]
    return below
