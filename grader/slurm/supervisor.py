"""The keeper of one cluster: it starts the daemons, and when it ends, nothing of the cluster is
left.

    python -I supervisor.py DIRECTORY      with {"options": ...} as the first line of standard input

It is the reaper of every descendant, as a life's guardian is: slurmctld, slurmd and munged are its
children, and what a job leaves behind becomes its child, whatever session it made itself and
whatever it did to its environment. If the keeper is killed, the kernel kills the daemons
(PR_SET_PDEATHSIG), and `teardown.end` finds the rest by other means.

Standard input is its lifeline: when the starter dies, the cluster ends, unless it wrote "stay" once
the cluster was up. Standard output says, in one line of JSON, {"up": seconds} or {"error": text}.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from grader.harness.sandbox import confine_jobs
from grader.processes import die_with_parent, reap_descendants, wait_until
from grader.slurm import freezer, installation, ports, preload, processes, state, teardown
from grader.slurm.config import Options, cgroup_conf, name_is_here, slurm_conf
from grader.slurm.errors import ClusterError
from grader.wakeup import wakeup_pipe

PATIENCE = 30.0  # s from start to idle nodes, on a machine that does much else
TRIES = 5  # sets of ports: another process may take one between our check and Slurm's
LOOK = 1.0  # s between two looks whether the directory is still there
PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")


class Ended(Exception):
    """The cluster was asked to end."""


class PortTaken(Exception):
    pass


class Keeper:
    def __init__(self, directory: Path, options: Options, sandbox: dict | None = None):
        self.directory, self.options, self.sandbox = directory, options, sandbox
        self.programs = installation.find()
        self.environment = {k: os.environ[k] for k in PASSED_ON if k in os.environ} | {
            "SLURM_CONF": f"{directory}/slurm.conf",
            processes.MARK: str(directory),
        }
        self.running: dict[int, str] = {}  # pid -> daemon's name
        self.ended: dict[str, str] = {}  # daemon's name -> how
        self.staying = False
        self.wake, _ = wakeup_pipe(signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        mine = processes.identity(os.getpid())
        self.state: dict[str, Any] = {
            "boot": processes.boot(),
            "keeper": mine,
            "phase": "starting",
            "daemons": {},
            "freezer": str(freezer.place(f"{directory.name}-{mine['pid']}-{mine['start']}")),
            "since": time.time(),
        }

    # --- waiting ----------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Wait for an event, at most this long. Raises Ended if the cluster was asked to end."""
        watched = [self.wake] if self.staying else [self.wake, 0]
        ready = select.select(watched, [], [], seconds)[0]
        if 0 in ready:
            if os.read(0, 100).strip() != b"stay":
                raise Ended
            self.staying = True
        if self.wake in ready and set(os.read(self.wake, 4096)) - {signal.SIGCHLD}:
            raise Ended
        if self.reap():
            self.write_state()

    def reap(self) -> bool:
        """Reap processes that have ended; return whether a daemon was among them."""
        lost = False
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                if name := self.running.pop(pid, None):
                    code = os.waitstatus_to_exitcode(status)
                    self.ended[name] = (
                        f"exit status {code}" if code >= 0 else signal.Signals(-code).name
                    )
                    lost = True
        return lost

    def wait_until(self, condition, what: str, began: float) -> None:
        """Wait until it holds. PortTaken or ClusterError if a daemon ended, or it took too long."""

        def holds() -> bool:
            if self.ended:
                name, how = next(iter(self.ended.items()))
                if "Address already in use" in teardown.log_tail(self.directory, name, 50):
                    raise PortTaken
                raise ClusterError(f"{name} ended when it was started ({how})")
            return condition()

        if not wait_until(holds, PATIENCE - (time.monotonic() - began), self.pause):
            raise ClusterError(f"no {what} after {PATIENCE:.0f} s")

    def keep(self) -> None:
        """Run until the cluster is asked to end, or its directory is removed."""
        here = os.stat(self.directory)
        while state.still_there(self.directory, here):
            self.pause(LOOK)

    # --- starting ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Return once every node is idle. ClusterError if that doesn't happen."""
        began = time.monotonic()
        self.prepare()
        for _ in range(TRIES):
            self.held = ports.hold(self.options.nodes + 1)
            numbers = [one.getsockname()[1] for one in self.held]
            text = slurm_conf(self.directory, self.options, numbers, self.state["proctrack"])
            (self.directory / "slurm.conf").write_text(text)
            self.state["ports"] = numbers
            try:
                return self.start_daemons(numbers, began)
            except PortTaken:
                self.end_processes()
                ports.release(self.held)
                self.ended.clear()
                for file in [
                    self.directory / "munge" / "socket",
                    *(self.directory / "log").iterdir(),
                ]:
                    file.unlink(missing_ok=True)  # or the next try would take them for its own
        raise ClusterError(f"other processes took our ports {TRIES} times")

    def prepare(self) -> None:
        for name in ("munge", "state", "log", *self.node_names()):
            (self.directory / name).mkdir()
        with open(
            os.open(self.directory / "munge" / "key", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600),
            "wb",
        ) as key:
            key.write(os.urandom(128))
        self.state["proctrack"] = tracked_by(self.options.proctrack)
        self.write_state()
        (self.directory / "cgroup").mkdir()
        (self.directory / "cgroup" / "freezer").symlink_to(self.state["freezer"])
        (self.directory / "cgroup.conf").write_text(
            cgroup_conf(self.directory, self.programs.version, self.state["proctrack"])
        )
        everywhere = (
            [preload.build("loopback", self.directory)]
            if not name_is_here() and preload.compiler()
            else []
        )
        self.state["only_loopback"] = bool(everywhere) or name_is_here()
        direct = (
            [preload.build("directsignals", self.directory)]
            if self.state["proctrack"] == "direct"
            else []
        )
        ticks = [preload.build("fasttick", self.directory)] if self.options.fast_limits else []
        self.preloaded = {
            "slurmctld": everywhere + ticks,
            "slurmd": everywhere + direct,
            "munged": [],
        }

    def start_daemons(self, numbers: list[int], began: float) -> None:
        munge = self.directory / "munge"
        # --force: it wants a socket that all users reach, where ours is for one user alone
        self.spawn(
            "munged",
            "munged",
            "--foreground",
            "--force",
            "--num-threads=2",
            f"--key-file={munge}/key",
            f"--socket={munge}/socket",
            f"--pid-file={munge}/pid",
            f"--log-file={munge}/log",
            f"--seed-file={munge}/seed",
        )
        self.wait_until((munge / "socket").exists, "munged", began)
        if self.state["proctrack"] == "cgroup":
            Path(self.state["freezer"]).mkdir()
        self.spawn("slurmctld", "slurmctld", "-D")
        self.wait_until(lambda: ports.listening(numbers[0]), "slurmctld", began)
        for name in self.node_names():
            self.spawn(name, "slurmd", "-D", "-N", name)
        self.wait_until(lambda: self.idle() == self.options.nodes, "idle nodes", began)

    def spawn(self, name: str, program: str, *arguments: str) -> None:
        preloaded = (
            {"LD_PRELOAD": ":".join(map(str, self.preloaded[program]))}
            if self.preloaded[program]
            else {}
        )
        with open(self.directory / "log" / f"{name}.out", "wb") as log:
            process = subprocess.Popen(
                [self.programs.paths[program], *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                env=self.environment | preloaded, preexec_fn=partial(self.begin_daemon, name),
            )  # fmt: skip
        process.returncode = 0  # `reap` waits for it
        self.running[process.pid] = name
        self.state["daemons"][name] = processes.identity(process.pid)
        self.write_state()

    def begin_daemon(self, name: str) -> None:
        """Between fork and exec. A node's daemon, and so its jobs, see the cluster's settings and
        their own folders.
        """
        die_with_parent()
        if self.sandbox and name in self.node_names():
            libraries = [path for paths in self.preloaded.values() for path in paths]
            known = [self.directory / file for file in ("slurm.conf", "cgroup.conf", "cgroup")]
            own = [self.directory / name, self.directory / "log"]
            freezers = [self.state["freezer"]] if self.state["proctrack"] == "cgroup" else []
            confine_jobs(
                [
                    *self.sandbox["readable"],
                    *map(str, [*known, *libraries, self.directory / "munge" / "socket"]),
                ],
                [*self.sandbox["writable"], *map(str, own), *freezers],
            )

    def idle(self) -> int:
        command = [
            self.programs.paths["sinfo"],
            "-h",
            "-N",
            "-p",
            "low",
            "-r",
            "-t",
            "idle",
            "-o",
            "%N",
        ]
        try:
            done = subprocess.run(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=10,
            )
        except subprocess.TimeoutExpired:
            return 0
        return len(set(done.stdout.split()))

    def node_names(self) -> list[str]:
        return [f"n{n}" for n in range(1, self.options.nodes + 1)]

    def write_state(self) -> None:
        for name, how in self.ended.items():
            self.state["daemons"][name]["ended"] = how
        with contextlib.suppress(OSError):  # removed: `keep` notices
            state.write(self.directory, self.state)

    # --- ending -----------------------------------------------------------------------------------

    def end_processes(self) -> bool:
        """Kill every descendant until there is none; whether that came to be."""
        top = Path(self.state["freezer"])

        def gone() -> bool:
            self.reap()
            left = processes.descendants(os.getpid())
            processes.kill(left)
            if top.exists():
                freezer.thaw(top)
            return not left

        done = wait_until(gone, 10)
        return (not top.exists() or wait_until(lambda: freezer.remove(top), 2)) and done


def tracked_by(wanted: str) -> str:
    """The tracking that `auto` stands for here. ClusterError if cgroup is asked for and missing."""
    if wanted in ("auto", "cgroup") and freezer.possible():
        return "cgroup"
    if wanted == "cgroup":
        raise ClusterError(
            "proctrack/cgroup needs root and a v1 freezer hierarchy in /sys/fs/cgroup/freezer; "
            "without them: --proctrack direct"
        )
    if wanted == "auto":
        return "direct" if preload.compiler() else "pgid"
    return wanted


def main() -> None:
    directory = Path(sys.argv[1])
    reap_descendants()
    here = os.stat(directory)
    keeper, error = None, None
    try:
        said = json.loads(sys.stdin.buffer.raw.readline())  # type: ignore[union-attr]  # unbuffered
        keeper = Keeper(directory, Options(**said["options"]), said.get("sandbox"))
        keeper.write_state()
        keeper.start()
        keeper.state["phase"] = "up"
        keeper.write_state()
        state.tell({"up": time.time() - keeper.state["since"]})
        keeper.keep()
    except Ended:
        error = "it was ended while it started"
    except ClusterError as e:
        error = "\n".join([str(e), *teardown.last_lines(directory)])
    except OSError as e:
        error = f"{e.strerror or e}{f': {e.filename}' if e.filename else ''}"
    except Exception as e:
        # our own bugs are reported to the starter, too: what is written here is removed
        error = f"{type(e).__name__} in the keeper: {e}"
    finally:
        clean = keeper is None or keeper.end_processes()
        if state.still_there(directory, here):
            with contextlib.suppress(OSError):
                teardown.remove(directory)
        if error:
            state.tell({"error": error})
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
