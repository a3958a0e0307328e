"""The stand-in's controller: one process that plays slurmctld and slurmd, and keeps what they
start.

    python -I controller.py DIRECTORY     with {"options": ...} as the first line of standard input

It uses standard input and output as supervisor.py does: a lifeline, and one line of JSON.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from grader.processes import reap_descendants, wait_until
from grader.slurm import processes, state, teardown
from grader.slurm.standin.lifecycle import Jobs
from grader.slurm.standin.loop import Loop
from grader.slurm.standin.protocol import SOCKET, Line
from grader.slurm.standin.requests import Client
from grader.slurm.standin.settings import Options

LOOK = 1.0  # s between two looks whether the directory is still there
COMMANDS = (
    "sbatch",
    "srun",
    "squeue",
    "scancel",
    "scontrol",
    "sacct",
    "sinfo",
    "salloc",
    "sattach",
    "sbcast",
    "sstat",
    "sprio",
    "sacctmgr",
    "sreport",
    "strigger",
    "sshare",
)


class Controller:
    def __init__(self, directory: Path, options: Options, sandbox: dict | None = None):
        self.directory = directory
        self.ending = False
        self.loop = Loop((signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        self.loop.watch(0, self.lifeline)
        self.jobs = Jobs(self.loop, directory, options, sandbox)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / SOCKET))
        self.listener.listen(128)
        self.loop.watch(self.listener, self.accept)
        self.here = os.stat(directory)
        self.look()

    def lifeline(self) -> None:
        if os.read(0, 100).strip() == b"stay":
            self.loop.forget(0)
        else:
            self.ending = True

    def look(self) -> None:
        """End the cluster if its directory was removed."""
        self.ending |= not state.still_there(self.directory, self.here)
        self.loop.after(LOOK, self.look)

    def accept(self) -> None:
        sock, _ = self.listener.accept()
        line = Line(sock)
        client = Client(self.jobs, line)

        def read() -> None:
            messages = line.read()
            if messages is None:
                self.loop.forget(sock)
                client.lost()
                sock.close()
                return
            for message in messages:
                client.take(message)

        self.loop.watch(sock, read)

    def run(self) -> None:
        while not self.ending:
            self.loop.turn()
            if self.loop.caught - {signal.SIGCHLD}:
                return
            if signal.SIGCHLD in self.loop.caught:
                self.loop.caught.discard(signal.SIGCHLD)
                bury()

    def end(self) -> bool:
        """Kill every descendant until there is none; return whether that succeeded."""
        self.listener.close()

        def gone() -> bool:
            bury()
            left = processes.descendants(os.getpid())
            if not processes.PROC:  # no process adopts orphans there
                left += [p for p in processes.belonging(str(self.directory)) if p not in left]
            processes.kill(left)
            return not left

        return wait_until(gone, 10)


def bury() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def furnish(directory: Path) -> None:
    """Write the commands, and a slurm.conf that SLURM_CONF can name."""
    (directory / "slurm.conf").write_text(
        "# The stand-in's: no slurm.conf. The real cluster has one (make slurm).\n"
        "ClusterName=loopback\n"
    )
    (directory / "bin").mkdir()
    before = shlex.join(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("client.py")), str(directory)]
    )
    for name in COMMANDS:
        file = directory / "bin" / name
        file.write_text(f'#!/bin/sh\nexec {before} {name} "$@"\n')
        file.chmod(0o700)


def main() -> None:
    directory, began = Path(sys.argv[1]), time.monotonic()
    reap_descendants()
    here = os.stat(directory)
    controller = error = None
    try:
        said = json.loads(sys.stdin.buffer.raw.readline())  # type: ignore[union-attr]  # unbuffered
        mine = processes.identity(os.getpid())
        known = {
            "boot": processes.boot(),
            "keeper": mine,
            "phase": "starting",
            "daemons": {},
            "kind": "stand-in",
            "since": time.time(),
        }
        state.write(directory, known)
        furnish(directory)
        controller = Controller(directory, Options(**said["options"]), said.get("sandbox"))
        state.write(directory, known | {"phase": "up"})
        state.tell({"up": time.monotonic() - began})
        controller.run()
    except OSError as e:
        error = f"{e.strerror or e}{f': {e.filename}' if e.filename else ''}"
    except Exception as e:
        # report our own errors to the starting process, too: what is written here is removed
        error = f"{type(e).__name__} in the controller: {e}"
    finally:
        clean = controller is None or controller.end()
        if state.still_there(directory, here):
            with suppress(OSError):
                teardown.remove(directory)
        if error:
            state.tell({"error": error})
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
