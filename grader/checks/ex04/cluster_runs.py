"""Runs of a job on a cluster: submitted, disturbed as planned, followed until its queue is empty.

Every run has a cluster of its own, so that no run disturbs another. The checks judge only what the
grader itself recorded: by the run's witness (witness.py) and from the cluster.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from grader.checks.ex04.witness import Witness
from grader.course import catalog
from grader.errors import UsageError
from grader.harness import scratch
from grader.harness.lab import WORKLOAD, Cancelled, Lab
from grader.harness.printed import Line, followed
from grader.harness.sandbox import NONE, jobs_can_be_confined
from grader.slurm import Cluster, ClusterError, NotInstalled, StandIn, backend
from grader.slurm.site import Site
from grader.verdicts import Finding, Inconclusive
from grader.workload.ex04.train import DONE, SAYS_LIFE

MOST_LIVES = 6  # more of them are a loop without end; most runs have five at most
POLL = 0.2  # s between two looks at the queue
BUSY = 1.0  # s between two, while a life is under way
# reasons of a job that will stay in the queue forever
HELD = {"JobHeldUser", "JobHeldAdmin", "job_requeued_in_held_state"}
NEVER = {"DependencyNeverSatisfied"} | HELD
STEPS = 40
FOLDER = "my job"  # where it is submitted from: people's directories have blanks in their names
DIFFERS = "the stand-in doesn't know"  # what it says where only the real cluster can tell


@dataclass(frozen=True)
class Pace:
    """How much time things have, in s. Slurm can't be faster than this, a stand-in can."""

    kill_wait: float = 5  # between SIGTERM and SIGKILL
    grace: float = 15  # of a preemption
    limit: int = 20  # that are left when a time limit comes near
    long: float = 7  # a save that kill_wait is too short for
    short: float = 1
    seconds: float = 150  # for a run; the longest takes about forty


@dataclass(frozen=True)
class Where:
    """The cluster that runs are to have: slurm, stand-in, site; auto: Slurm if it's installed."""

    kind: str = "auto"
    partition: str | None = None
    account: str | None = None

    @property
    def chosen(self) -> str:
        if self.kind != "auto":
            return self.kind
        return "stand-in" if backend.missing() else "slurm"

    @property
    def pace(self) -> Pace:
        return {
            "slurm": Pace(),
            "stand-in": Pace(kill_wait=1, grace=4, limit=6, long=2, short=0.3, seconds=60),
            "site": Pace(kill_wait=30, grace=0, limit=240, long=40, short=5, seconds=4 * 3600),
        }[self.chosen]

    def cluster(self, directory: Path, first_job: int = 1, **jobs: Any) -> Cluster:
        """`jobs`: what they may read and write (Cluster's jobs_see and jobs_write); a site has
        rules of its own.
        """
        if self.chosen == "site":
            return Site(self.partition, self.account)
        kind = Cluster if self.chosen == "slurm" else StandIn
        times: dict[str, Any] = {
            "grace": self.pace.grace,
            "kill_wait": self.pace.kill_wait,
            "fast_limits": True,
        }
        return kind(directory, nodes=1, settings={"FirstJobId": str(first_job)}, **times, **jobs)


@dataclass
class ClusterRun:
    """One job, or chain of jobs, after its end."""

    folder: Path
    jobs: dict[str, dict]  # job id -> what the cluster said of it last
    late: bool  # it was still in the queue when its time was over
    where: Where
    stuck: str = ""  # why a job in the queue will never run
    seconds: float = 0.0
    record: list[dict] = field(
        default_factory=list
    )  # of each run: "job", "start", "end" (epoch s), "state"
    events: list[dict] = field(default_factory=list)  # what the witness wrote down
    undisturbed: dict[int, str] = field(
        default_factory=dict
    )  # step -> digest of a run without faults
    planned: int = 0  # faults that were to strike
    most: int = MOST_LIVES  # lives; more are a loop without end
    endless: bool = False  # it came back into the queue again and again
    at_once: set[str] = field(
        default_factory=set
    )  # jobs of a chain that the cluster ran at the same time
    others: dict[str, str] = field(
        default_factory=dict
    )  # jobs that preempted it -> their state at the end
    trouble: str = ""  # what the cluster couldn't do
    instead: str = ""  # why it ran on another kind of cluster than was chosen
    slowest: float = (
        0.0  # s that the cluster took to say what is in its queue; milliseconds are normal
    )

    @property
    def starved(self) -> bool:
        """The machine was so slow that what came too late proves nothing about the script."""
        return self.slowest > self.where.pace.limit / 6

    def all(self, event: str) -> list[dict]:
        return [e for e in self.events if e["event"] == event]

    @cached_property
    def lives(self) -> list[list[dict]]:
        """The events of each life, in the order in which they began."""
        of: dict[int, list[dict]] = {}
        for e in self.events:
            if "life" in e:
                of.setdefault(e["life"], []).append(e)
        return [events for _, events in sorted(of.items()) if events[0]["event"] == "life"]

    @cached_property
    def log(self) -> str:
        try:
            return scratch.read(self.folder / "train.log", 1 << 20, tail=True).decode(
                errors="replace"
            )
        except OSError:
            return ""

    def printed(self) -> list[Line]:
        """The lines of the job's log. All lives write into it, and so does Slurm."""
        found, life, traceback = [], 0, False
        for text in self.log.splitlines():
            script = text.startswith(SAYS_LIFE)
            life += script
            traceback = traceback or text.startswith("Traceback (most recent call last)")
            if text.strip():
                found.append(Line(0.0, life, None, text, script, traceback))
            # its last line is the error
            traceback = traceback and text.startswith((" ", "Traceback"))
        return found

    @property
    def finished(self) -> bool:
        """A life trained the last step and left with the status that says so."""
        for life in self.lives:
            done = any(e["event"] == "left" and e["status"] == DONE for e in life)
            if done and any(e["event"] == "saved" and e["step"] == STEPS for e in life):
                return True
        return False

    @property
    def course(self) -> dict[int, str]:
        """Step -> digest, of the life that trained it last."""
        return {e["step"]: e["digest"] for e in self.all("step")}

    @property
    def lost(self) -> list[tuple[dict, int]]:
        """(fault, finished steps that the next life did again) for each fault that it survived."""
        out = []
        for life, after in zip(self.lives, self.lives[1:], strict=False):
            fault = next((e for e in life if e["event"] == "fault"), None)
            resumed = next((e["step"] for e in after if e["event"] == "resumed"), None)
            if fault and resumed is not None:
                out.append((fault, fault["step"] - resumed))
        return out


@dataclass(frozen=True)
class Watched:
    """For a run at which somebody looks: `grade run ex04`."""

    pace: float  # s that a step takes
    told: Callable[[dict], None]  # gets each event as the witness writes it down


def ran(
    lab: Lab, script: str, *flags: object, plan: tuple[dict, ...] = (), uses: str = "",
    then: Callable[[Cluster, str], None] | None = None, most: int = MOST_LIVES, quick: bool = False,
    watched: Watched | None = None,
) -> ClusterRun:  # fmt: skip
    """The run of `script` with these flags of train.py, under this plan; once in a grading.

    plan   [{"step": 7, "do": "preempt", "save": "long"}, ...]: what happens at which steps, and how
           long a save takes that follows: "short", or "long": too long for a job that isn't warned.
           "preempt", "limit" (the time limit comes near), "kill", "torn" (killed, its newest
           checkpoint damaged "how"), "lost" (the whole job is killed), "exit" with a "status"; one
           with "every" strikes every life
    uses   which of the submission's Python functions the training calls (train.py --uses)
    then   called with (cluster, job id) when the run is over; what is in the queue then is
           followed as well
    most   lives; more are a loop without end
    quick  many lives: on the stand-in, where it can run them
    watched  somebody looks on
    """
    where = lab.bench.cluster or Where()
    key = (
        "cluster",
        script,
        *map(str, flags),
        json.dumps(plan),
        uses,
        bool(then),
        most,
        quick,
        lab.bench.submission.key,
    )
    run = lab.bench.once(
        key, lambda: _ran(lab, where, quick, script, flags, plan, uses, then, most, watched)
    )
    lab.runs.append(run)
    if run.instead:
        lab.measured("cluster", run.instead)
    return run


def _ran(lab: Lab, where: Where, quick: bool, *rest) -> ClusterRun:
    """On the cluster that was chosen, or on the stand-in where that may take its place."""
    standin = Where("stand-in")
    if quick and where.chosen == "slurm":
        with suppress(Refused):
            run = _run(lab, standin, *rest)
            if DIFFERS not in run.log:
                return run
    try:
        run = _run(lab, where, *rest)
        if where.kind == "auto" and where.chosen == "stand-in":
            run.instead = f"a stand-in: {backend.missing()}"
        return run
    except ClusterError as e:
        if where.kind != "auto" or where.chosen == "stand-in":
            raise Inconclusive("cluster", [("cluster", str(e))]) from e
    run = _run(lab, standin, *rest)
    run.instead = "a stand-in: Slurm is installed here, but didn't start"
    return run


def _run(
    lab: Lab,
    where: Where,
    script: str,
    flags: tuple,
    plan: tuple[dict, ...],
    uses: str,
    then,
    most: int,
    watched: Watched | None,
) -> ClusterRun:
    if known := lab.hopeless():
        raise known
    lab.bench.clusters.append(where.chosen)
    # the nodes of a site see the home directory, and not this machine's /tmp
    folder = _on_shared_disk() if where.chosen == "site" else lab.bench.folder()
    work = lab.bench.submission.copy_to(folder / FOLDER)
    if not (work / script).exists():
        raise Finding("script", [("missing", f"there is no {script} in the submission")])
    times = vars(where.pace)
    faults = [
        fault | {"save": times[fault["save"]]} if "save" in fault else fault for fault in plan
    ]
    given, temporary = folder / "given", folder / "tmp"
    given.mkdir()
    temporary.mkdir()
    confined = lab.bench.sandbox.kind != NONE
    if confined and where.chosen != "site" and not jobs_can_be_confined():
        lab.measured("job script", "without a sandbox: this kernel has no Landlock")
    jobs = {"jobs_see": [given], "jobs_write": [work, temporary]} if confined else {}
    first_job = 1000 + lab.shared.randrange(8000)
    try:
        with where.cluster(folder / "c", first_job=first_job, **jobs) as cluster:
            run = ClusterRun(
                work, {}, False, where, planned=sum("every" not in f for f in plan), most=most
            )

            def strike(fault: dict, job: str) -> None:
                run.others |= dict.fromkeys(_inflict(where, cluster, fault, job), "")

            job_of = None if where.chosen == "site" else cluster.job_of
            with Witness(folder, work / "checkpoints", faults, STEPS, strike, job_of) as witness:
                code = work / lab.bench.submission.module if uses else None
                if watched:
                    witness.pace, witness.told = watched.pace, watched.told
                witness.command = _training(
                    work / "checkpoints", witness.address, code, uses, flags
                )
                train = _as_words(witness.command, given)
                env = _surroundings(cluster, train, temporary)
                run.events, run.undisturbed = witness.events, witness.undisturbed
                _follow(lab, cluster, run, script, env, then, most, witness)
                run.trouble = witness.trouble
            run.events = list(run.events)
        return run
    except UsageError as e:
        raise Inconclusive("cluster", [("cluster", str(e)), ("try", "TMPDIR=/tmp")]) from e
    except NotInstalled as e:
        raise Inconclusive("no-cluster", [("cluster", str(e))]) from e
    finally:
        if where.chosen == "site":
            shutil.rmtree(folder, ignore_errors=True)


def _training(
    checkpoints: Path, witness: str, code: Path | None, uses: str, flags: tuple
) -> list[str]:
    """The command line of the training. It is made here and nowhere else."""
    own = ["--code", str(code), "--uses", uses] if code else []
    command = [
        sys.executable,
        "-I",
        str(WORKLOAD / "ex04/train.py"),
        "--directory",
        str(checkpoints),
    ]
    return [*command, "--witness", witness, "--steps", str(STEPS), *map(str, flags), *own]


def _as_words(command: list[str], folder: Path) -> str:
    """The value of TRAIN: `srun $TRAIN` splits it at blanks, and paths may hold some."""
    (folder / "train").write_text(f'exec {shlex.join(command)} "$@"\n')
    return f"sh {folder / 'train'}"


def _surroundings(cluster: Cluster, train: str, temporary: Path) -> dict[str, str]:
    """The environment in which the script is submitted: the job's."""
    return {**cluster.env, "TRAIN": train, "TMPDIR": str(temporary)}


def _on_shared_disk() -> Path:
    top = catalog.ROOT / ".grade" / "site"
    top.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=top))


def _follow(
    lab: Lab,
    cluster: Cluster,
    run: ClusterRun,
    script: str,
    env: dict[str, str],
    then,
    most: int,
    witness: Witness,
) -> None:
    began = time.monotonic()
    submitted = cluster.run(["sbatch", "--parsable", script], cwd=run.folder, env=env)
    if submitted.returncode:
        raise Refused(submitted.stderr.strip())
    first = submitted.stdout.strip().split(";")[0]
    run.jobs[first] = {}
    log = {f"{lab.short_name} job {first}": run.folder / "train.log"}
    try:
        with followed(log, lab.bench.show) if lab.bench.show else nullcontext():
            _watch(lab, cluster, run, first, then, most, witness)
    finally:
        if run.where.chosen == "site":
            cluster.run(["scancel", *run.jobs])
    for i in [row[0] for row in _queue(cluster, run, "-t", "all")[1]]:
        run.jobs.setdefault(i, {})  # one that came and went between two looks
    for i in run.jobs:
        with suppress(ClusterError):  # it's gone from the cluster's memory
            run.jobs[i] = cluster.job(i)
    for i in run.others:
        with suppress(ClusterError):
            run.others[i] = cluster.job(i)["JobState"]
    run.seconds, run.record = time.monotonic() - began, _record(cluster, set(run.jobs))
    run.log


def _queue(cluster: Cluster, run: ClusterRun, *options: str) -> tuple[bool, list[list[str]]]:
    """(whether the cluster answered, [id, state, reason, directory] of each job of this run)."""
    asked = cluster.run(["squeue", "-h", *options, "-o", "%i|%T|%r|%Z"])
    rows = [row for row in (line.split("|") for line in asked.stdout.splitlines()) if len(row) == 4]
    here = os.path.realpath(run.folder)
    return asked.returncode == 0, [
        row for row in rows if row[0] not in run.others and os.path.realpath(row[3]) == here
    ]


def _watch(
    lab: Lab, cluster: Cluster, run: ClusterRun, first: str, then, most: int, witness: Witness
) -> None:
    """Until nothing of the run is left in the queue."""
    began, looked, empty, looks = time.monotonic(), 0.0, 0, 0
    while not witness.trouble:
        if known := lab.hopeless():  # the training calls the function that hung
            raise known
        if witness.under_way and time.monotonic() - looked < BUSY:
            if lab.bench.cancelled.wait(POLL):
                raise Cancelled
            continue
        looked = time.monotonic()
        answered, mine = _queue(cluster, run)
        run.slowest = max(run.slowest, time.monotonic() - looked)
        for row in mine:
            run.jobs.setdefault(row[0], {})
        running = {row[0] for row in mine if row[1] == "RUNNING"}
        if len(running) > 1:
            run.at_once |= running
        if stuck := next((row for row in mine if row[2] in NEVER), None):
            run.stuck = stuck[2]
            return
        # in any state; twice, since a job may be between two of them, and a busy slurmctld may not
        # answer
        empty = empty + 1 if answered and not mine else 0
        if empty == 2:
            if then is None:
                return
            then(cluster, first)
            then, empty = None, 0
            continue
        lives = len(run.all("life"))
        looks += 1
        if looks % 25 == 0:  # a script that never comes to the training has no lives
            lives = max([lives, *(_restarts(cluster, row[0]) for row in mine), len(run.jobs) - 1])
        if time.monotonic() - began > run.where.pace.seconds or lives > most:
            run.late, run.endless = True, lives > most
            return
        if lab.bench.cancelled.wait(POLL):
            raise Cancelled


def _restarts(cluster: Cluster, job: str) -> int:
    try:
        return int(cluster.job(job).get("Restarts", 0))
    except (ClusterError, ValueError):
        return 0


def _record(cluster: Cluster, jobs: set[str]) -> list[dict]:
    """What the cluster has noted of each run of these jobs. PENDING: it ended by a requeue."""
    said = cluster.run(["sacct", "-c", "-n", "-P", "-o", "JobID,Start,End,State"]).stdout
    rows = [line.split("|") for line in said.splitlines()]
    return [
        {
            "job": job,
            "start": datetime.fromisoformat(start).timestamp(),
            "end": datetime.fromisoformat(end).timestamp(),
            "state": state,
        }
        for job, start, end, state in (row for row in rows if len(row) == 4)
        if job in jobs and "T" in start and "T" in end
    ]


class Refused(Exception):
    """sbatch didn't take the script."""


def _inflict(where: Where, cluster: Cluster, fault: dict, job: str) -> set[str]:
    """Do to the job what the fault says; returns the ids of jobs that this takes."""
    if (
        fault["do"] == "preempt" and where.chosen == "site"
    ):  # users can't preempt there: send what a preemption begins with
        cluster.run(["scancel", "--signal=TERM", job], check=True)
    elif fault["do"] == "preempt":
        return {cluster.submit("-p", "high", "--exclusive", "-o", os.devnull, "--wrap", "true")}
    if fault["do"] == "limit":
        cluster.run(
            ["scontrol", "update", f"jobid={job}", f"EndTime=now+{where.pace.limit}"], check=True
        )
    if fault["do"] == "lost":
        cluster.run(["scancel", "--full", "--signal=KILL", job], check=True)
    return set()
