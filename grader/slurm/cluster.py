"""A cluster: start it, talk to it, look at it, end it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader.errors import UsageError
from grader.processes import wait_until
from grader.slurm import ancestors, installation, processes, state, teardown
from grader.slurm.config import Checked, Options, check_directory, user
from grader.slurm.errors import ClusterError

SUPERVISOR = Path(__file__).with_name("supervisor.py")
# what clients would take from the environment, of another cluster or of a job that we are in
# ourselves
OTHERS = (
    "SLURM_",
    "SLURMD_",
    "SBATCH_",
    "SALLOC_",
    "SRUN_",
    "SCANCEL_",
    "SINFO_",
    "SQUEUE_",
    "SACCT_",
    "SCONTROL_",
    "PMI_",
    "PMIX_",
)
# what a confined job gets of this process's environment
JOBS_GET = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "LD_LIBRARY_PATH",
)
ANSWER = 5.0  # s that slurmctld gets to report its state


@dataclass(frozen=True)
class Status:
    phase: str  # starting, up, broken (a daemon has died), dead (its keeper has)
    # name -> Slurm's word: idle, mixed, alloc, down*
    nodes: dict[str, str] = field(default_factory=dict)
    # "JOBID PARTITION NAME STATE TIME NODELIST(REASON)"
    jobs: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    proctrack: str = ""
    only_loopback: bool = True
    since: float = 0.0  # seconds since the epoch
    kind: str = "real"  # or stand-in


class Cluster:
    """A real Slurm cluster on this machine: munged, slurmctld and `nodes` slurmd, all state in
    `directory`.

        with Cluster(tmp_path / "c", grace=10) as cluster:
            cluster.run(["sbatch", "job.sh"])

    directory   mustn't exist yet; at most config.LONGEST (69) bytes long; mode 0700; removed at the
                end
    cpus        per node, pretended
    grace       s between the preemption of a job in partition `low` and its end
    kill_wait   s between SIGTERM and SIGKILL at a time limit, scancel or requeue
    proctrack   whom a job's signals reach: cgroup, direct, pgid, linuxproc; auto takes the first
                that can be had here
    fast_limits time limits are looked at every 2 s instead of every 30 (needs a C compiler)
    settings    further lines of slurm.conf: {"RequeueExit": "42"}; None leaves one out
    jobs_see    paths that jobs may read besides the system and the interpreter, in a sandbox
                (Landlock)
    jobs_write  folders that they may write to; None: no sandbox

    It ends at the end of the `with` block, and when this process dies, even by SIGKILL. Raises
    UsageError for options that it can't have, NotInstalled if Slurm is missing, ClusterError if it
    doesn't start.
    """

    kind = "real"

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        nodes: int = 2,
        cpus: int = 8,
        grace: int = 10,
        kill_wait: int = 5,
        proctrack: str = "auto",
        fast_limits: bool = False,
        settings: dict[str, str | None] | None = None,
        jobs_see: Sequence[os.PathLike] = (),
        jobs_write: Sequence[os.PathLike] | None = None,
    ):
        self.jobs_see, self.jobs_write = jobs_see, jobs_write
        self.directory = Path(os.path.abspath(directory))
        self.options: Checked = Options(
            nodes, cpus, grace, kill_wait, proctrack, fast_limits, settings or {}
        )
        self.seconds = 0.0  # that it took to start
        self._keeper: subprocess.Popen | None = None

    # --- starting and ending ----------------------------------------------------------------------

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self, stay: bool = False) -> None:
        """Return once all nodes are idle. With `stay`, the cluster outlives this process: until
        `stop`.
        """
        self._check()
        try:
            self.directory.mkdir(0o700)
        except FileExistsError:
            raise UsageError(f"{self.directory} already exists") from None
        except OSError as e:
            raise UsageError(f"{self.directory}: {e.strerror}") from e
        try:
            self._begin()
            self.seconds = self._await_start()
            if stay and self._keeper:
                assert self._keeper.stdin  # a pipe
                self._keeper.stdin.write(b"stay\n")
                self._keeper.stdin.flush()
                self._keeper.returncode = 0  # no process's child from here on
                self._keeper = None
        except BaseException:
            self.stop()
            raise

    def _check(self) -> None:
        self.options.check()
        check_directory(self.directory)
        user()
        installation.find()

    @property
    def program(self) -> Path:
        """What holds the cluster, and ends with our end of its standard input."""
        return SUPERVISOR

    def _begin(self) -> None:
        keeper = self._keeper = subprocess.Popen(
            [sys.executable, "-I", str(self.program), str(self.directory)],
            stdin=subprocess.PIPE,  # its lifeline
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            env={**os.environ, processes.MARK: str(self.directory)},
        )
        sandbox = None
        if self.jobs_write is not None:
            sandbox = {
                "readable": [*map(str, self.jobs_see)],
                "writable": [*map(str, self.jobs_write)],
            }
        said = {"options": vars(self.options), "sandbox": sandbox}
        assert keeper.stdin  # a pipe
        keeper.stdin.write(json.dumps(said).encode() + b"\n")
        keeper.stdin.flush()

    def _await_start(self) -> float:
        assert self._keeper and self._keeper.stdout  # _begin has made it
        said = self._keeper.stdout.readline()  # it bounds itself: PATIENCE in supervisor.py
        answer: dict[str, Any] = json.loads(said) if said else {"error": "its keeper was killed"}
        if "error" in answer:
            raise ClusterError(f"the cluster didn't start: {answer['error']}")
        return answer["up"]

    def stop(self) -> None:
        """End every process of the cluster, including those that jobs left behind, and remove its
        directory. This also works for a cluster that is half up, broken or already gone.
        ClusterError if a process or the directory is still there afterwards.
        """
        if self._keeper is not None:
            assert self._keeper.stdin  # a pipe
            with suppress(OSError):
                self._keeper.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                if self._keeper.wait(teardown.PROMPTLY) == 0 and not os.path.lexists(
                    self.directory
                ):
                    return
            self._keeper.kill()
            self._keeper.wait()
            self._keeper = None
        teardown.end(self.directory)

    # --- talking to it ----------------------------------------------------------------------------

    @property
    def conf(self) -> Path:
        return self.directory / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """The environment for clients of this cluster: this process's, with SLURM_CONF, and without
        the variables of another cluster.

        Jobs get what sbatch has: where they are confined, secrets stay outside.
        """
        mine = {k: v for k, v in os.environ.items() if not k.startswith(OTHERS)}
        if self.jobs_write is not None:
            mine = {k: v for k, v in mine.items() if k in JOBS_GET}
        return mine | {
            "SLURM_CONF": str(self.conf),
            "PATH": os.pathsep.join(self._folders(mine.get("PATH", os.defpath))),
        }

    def _folders(self, path: str) -> Sequence[str]:
        """The folders of the PATH: those of this process, and the clients'."""
        return [path, *(f for f in installation.find().folders if f not in path.split(os.pathsep))]

    def run(
        self,
        command: Sequence[str | os.PathLike],
        *,
        timeout: float = 60,
        check: bool = False,
        **options: Any,
    ) -> subprocess.CompletedProcess:
        """Run a client, or any command, in this cluster's environment: `subprocess.run`, with the
        output captured as text.

        ClusterError after `timeout` seconds, or if `check` and the exit status isn't 0.
        """
        words = [os.fspath(c) for c in command]
        options = {
            "env": self.env,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            **options,
        }
        try:
            done: subprocess.CompletedProcess[Any] = subprocess.run(
                words, timeout=timeout, **options
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(f"{' '.join(words)}: still running after {timeout:g} s") from None
        except FileNotFoundError:
            raise ClusterError(f"{words[0]}: no such command") from None
        if check and done.returncode:
            said = (done.stderr or done.stdout or "").strip().splitlines()
            raise ClusterError(
                f"{' '.join(words)}: exit status {done.returncode}: "
                f"{said[-1] if said else '(no message)'}"
            )
        return done

    def submit(self, *arguments: str | os.PathLike, **options) -> str:
        """`sbatch --parsable ...`: the job's id."""
        return (
            self.run(["sbatch", "--parsable", *arguments], check=True, **options)
            .stdout.strip()
            .partition(";")[0]
        )

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says about it: JobState, Restarts, ExitCode, NodeList ..."""
        text = self.run(["scontrol", "-o", "show", "job", str(job)], check=True).stdout
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait_for(self, job: str, *states: str, seconds: float = 30) -> dict[str, str]:
        """Wait until the job is in one of the states (RUNNING, COMPLETED ...); return
        `job` then.
        """
        seen: dict[str, str] = {}

        def there() -> bool:
            seen.update(self.job(job))
            return seen["JobState"] in states

        if not wait_until(there, seconds):
            raise ClusterError(
                f"job {job} is {seen.get('JobState')} ({seen.get('Reason')}), not "
                f"{' or '.join(states)}, after {seconds:g} s"
            )
        return seen

    def job_of(self, pid: int) -> str | None:
        """The id of the job that this process runs in, by its ancestors, which no job can choose;
        None: in none.
        """
        chain = ancestors.up_to(self.pids().get("keeper"), pid)
        return self._job_of(chain) if chain else None

    def _job_of(self, chain: list[int]) -> str | None:
        """`chain`: from the process to the child of the keeper below which it runs: that is its
        step's slurmstepd.
        """
        found = re.match(r"slurmstepd: \[(\d+)\.", " ".join(ancestors.arguments(chain[-1])))
        return found[1] if found and ancestors.program(chain[-1]).startswith("slurmstepd") else None

    # --- looking at it ----------------------------------------------------------------------------

    def pids(self) -> dict[str, int]:
        """The pids of the keeper and of each daemon that runs: {"keeper": 71, "munged": 72,
        "slurmctld": 73, "n1": 74 ...}.
        """
        known = state.read(self.directory) or {"now": False, "keeper": None, "daemons": {}}
        every = {"keeper": known["keeper"], **known["daemons"]}
        return {name: p["pid"] for name, p in every.items() if state.alive(known, p)}

    def status(self) -> Status:
        """What is up and what isn't. It takes a bounded time, even if a daemon hangs."""
        known = state.read(self.directory)
        if known is None and processes.belonging(str(self.directory)):
            return Status("starting", kind=self.kind)
        if known is None:
            return Status(
                "dead",
                problems=["its start was cut short, or its directory was emptied"],
                kind=self.kind,
            )
        facts = self._facts(known)
        problems = [] if known["now"] else ["the machine has restarted since"]
        if known["now"] and not state.alive(known, known["keeper"]):
            problems.append("its keeper was killed, and its daemons with it")
        if problems:
            return Status("dead", problems=problems, **facts)
        for name, daemon in known["daemons"].items():
            if not state.alive(known, daemon):
                called = name if name in installation.DAEMONS else f"slurmd of {name}"
                problems.append(
                    f"{called} has died{': ' + daemon['ended'] if 'ended' in daemon else ''}"
                )
        if known["phase"] == "starting":
            return Status("starting", problems=problems, **facts)
        nodes, jobs = [], []
        if self._answers():
            try:
                nodes = self.run(
                    ["sinfo", "-h", "-N", "-p", "low", "-o", "%N %t"], check=True, timeout=ANSWER
                ).stdout.splitlines()
                jobs = self.run(
                    ["squeue", "-h", "-o", "%i %P %j %T %M %R"], check=True, timeout=ANSWER
                ).stdout.splitlines()
            except ClusterError as e:
                problems.append(f"slurmctld doesn't answer ({e})")
        return Status(
            "broken" if problems else "up", dict(n.split() for n in nodes), jobs, problems, **facts
        )

    def _answers(self) -> bool:
        return {"slurmctld", "munged"} <= set(self.pids())

    def _facts(self, known: dict) -> dict:
        return {k: known[k] for k in ("proctrack", "only_loopback", "since") if k in known}
