"""Runs of a job on a cluster: submitted, disturbed as planned, followed until nothing of it is in the queue.

Every run has a cluster of its own, so that what befalls one befalls no other.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from grader import course
from grader.harness import scratch
from grader.harness.lab import WORKLOAD, Cancelled, Lab
from grader.harness.run import read_events
from grader.slurm import Cluster, ClusterError, NotInstalled, StandIn, choice
from grader.slurm.site import Site
from grader.verdicts import Finding, Inconclusive
from grader.workload import auto_job

MOST_LIVES = 6  # more of them are a loop without end; the longest run has five
POLL = 0.2  # s between two looks at the queue
NEVER = {"DependencyNeverSatisfied"}  # reasons of a job that will stay in the queue for ever
STEPS = 40


@dataclass(frozen=True)
class Pace:
    """How much time things have, in s: Slurm can't be made quicker than this, a stand-in can, a site is slow."""

    kill_wait: float = 5  # between SIGTERM and SIGKILL
    grace: float = 15  # of a preemption
    limit: int = 20  # that are left when a time limit comes near
    long: float = 7  # a save that kill_wait is too short for
    short: float = 1
    seconds: float = 150  # for a run; the longest takes about forty


@dataclass(frozen=True)
class Where:
    """The cluster that runs are to have: "slurm", "stand-in", "site", or "auto": Slurm where it's installed."""

    kind: str = "auto"
    partition: str | None = None
    account: str | None = None

    @property
    def chosen(self) -> str:
        if self.kind != "auto":
            return self.kind
        return "stand-in" if choice.missing() else "slurm"

    @property
    def pace(self) -> Pace:
        return {
            "slurm": Pace(),
            "stand-in": Pace(kill_wait=1, grace=4, limit=6, long=2, short=0.3, seconds=60),
            "site": Pace(kill_wait=30, grace=0, limit=240, long=40, short=5, seconds=4 * 3600),
        }[self.chosen]

    def cluster(self, directory: Path, first_job: int = 1) -> Cluster:
        if self.chosen == "site":
            return Site(self.partition, self.account)
        kind = Cluster if self.chosen == "slurm" else StandIn
        return kind(directory, nodes=1, grace=self.pace.grace, kill_wait=self.pace.kill_wait, fast_limits=True, settings={"FirstJobId": str(first_job)})


@dataclass
class ClusterRun:
    """One job, or chain of jobs, after its end."""

    folder: Path
    jobs: dict[str, dict]  # job id -> what the cluster said of it last
    late: bool  # it was still in the queue when its time was over
    stuck: str = ""  # why a job in the queue will never run
    seconds: float = 0.0
    record: list[dict] = field(default_factory=list)  # the cluster's own: "job", "start" and "end" (epoch s), "state" of each run
    where: Where = field(default_factory=Where)
    planned: int = 0  # faults that were to befall it
    endless: bool = False  # it came back into the queue again and again

    @cached_property
    def events(self) -> list[dict]:
        return _events(self.folder)

    def all(self, event: str) -> list[dict]:
        return [e for e in self.events if e["event"] == event]

    @cached_property
    def lives(self) -> list[list[dict]]:
        """The events of each life, in the order in which they began."""
        of: dict[int, list[dict]] = {}
        for e in self.events:
            if e["event"] == "life":
                of.pop(e["pid"], None)
            of.setdefault(e["pid"], []).append(e)
        return sorted(of.values(), key=lambda events: events[0]["t"])

    @cached_property
    def log(self) -> str:
        try:
            return scratch.read(self.folder / "train.log", 1 << 20, tail=True).decode(errors="replace")
        except OSError:
            return ""

    @property
    def finished(self) -> bool:
        return any(e["event"] == "left" and e["status"] == auto_job.DONE for e in self.events)

    @property
    def course(self) -> dict[int, str]:
        """Step -> digest, of the life that trained it last."""
        return {e["step"]: e["digest"] for e in self.all("step")}

    @property
    def lost(self) -> list[tuple[dict, int]]:
        """(fault, finished steps that the next life did again) for each fault that the run survived."""
        out = []
        for life, after in zip(self.lives, self.lives[1:]):
            fault = next((e for e in life if e["event"] == "fault"), None)
            resumed = next((e["step"] for e in after if e["event"] == "resumed"), None)
            if fault and resumed is not None:
                out.append((fault, max(e["step"] for e in life if e["event"] == "step") - resumed))
        return out


# what an event must say to be one of the training's: anybody may write to that file
FIELDS = {"fault": {"do", "step", "number"}, "left": {"status"}, "step": {"step", "digest"}, "saved": {"step"}, "resumed": {"step"}, "signal": {"signal"}}


def _events(folder: Path) -> list[dict]:
    found = [e for e in read_events(folder / "events") if isinstance(e.get("event"), str)]
    return [e for e in found if {"t", "pid", "job"} | FIELDS.get(e["event"], set()) <= e.keys()]


def ran(lab: Lab, script: str, *flags: object, plan: tuple[dict, ...] = (), uses: str = "", then=None) -> ClusterRun:
    """The run of `script` (of the submission) with these flags of auto_job.py, under this plan; once in a grading.

    plan   [{"step": 7, "do": "preempt", "save": "long"}, ...]: what befalls it at which steps ("preempt", "limit", "kill",
           "torn"), and how long a save takes that follows: "short", or "long": too long for a job that isn't warned
    uses   which of the submission's Python functions the training calls (auto_job.py --uses)
    then   called with (cluster, job id) when the run is over; what is in the queue then is followed as well
    """
    where = lab.bench.cluster or Where()
    plan = tuple(fault | {"save": vars(where.pace)[fault["save"]]} if "save" in fault else fault for fault in plan)
    key = ("cluster", script, *map(str, flags), json.dumps(plan), uses, bool(then), lab.bench.submission.key)
    return lab.bench.once(key, lambda: _run(lab, where, script, flags, list(plan), uses, then))


def _run(lab: Lab, where: Where, script: str, flags: tuple, plan: list[dict], uses: str, then) -> ClusterRun:
    # the nodes of a site see the home directory, and not this machine's /tmp
    folder = _on_shared_disk() if where.chosen == "site" else lab.bench.folder()
    work = lab.bench.submission.copy_to(folder / "job")
    if not (work / script).exists():
        raise Finding("script", [("missing", f"there is no {script} in the submission")])
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [
        sys.executable, "-I", str(WORKLOAD / "auto_job.py"), "--directory", str(work / "checkpoints"),
        "--events", str(work / "events"), "--plan", str(folder / "plan.json"), "--seed", str(lab.seed), "--steps", str(STEPS), *map(str, flags),
    ]  # fmt: skip
    if uses:
        command += ["--code", str(work / lab.bench.submission.module), "--uses", uses]
    try:
        with where.cluster(folder / "c", first_job=1000 + lab.shared.randrange(8000)) as cluster:
            run = _follow(lab, where, cluster, work, script, " ".join(command), then)
        run.planned = len(plan)
        return run
    except course.UsageError as e:
        raise Inconclusive("cluster", [("cluster", str(e)), ("try", "TMPDIR=/tmp")])
    except NotInstalled as e:
        raise Inconclusive("no cluster", [("cluster", str(e))])
    except ClusterError as e:
        raise Inconclusive("cluster", [("cluster", str(e))])
    finally:
        if where.chosen == "site":
            shutil.rmtree(folder, ignore_errors=True)


def _on_shared_disk() -> Path:
    top = course.ROOT / ".grade" / "site"
    top.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=top))


def _follow(lab: Lab, where: Where, cluster: Cluster, work: Path, script: str, train: str, then) -> ClusterRun:
    began = time.monotonic()
    submitted = cluster.run(["sbatch", "--parsable", script], cwd=work, env={**cluster.env, "TRAIN": train})
    if submitted.returncode:
        raise Refused(submitted.stderr.strip())
    first = submitted.stdout.strip().split(";")[0]
    run = ClusterRun(work, {first: {}}, late=False, where=where)
    try:
        _watch(lab, where, cluster, run, first, then)
    finally:
        if where.chosen == "site":
            cluster.run(["scancel", *run.jobs])
    for i in run.jobs:
        try:
            run.jobs[i] = cluster.job(i)
        except ClusterError:
            pass  # it's gone from the cluster's memory
    run.seconds, run.record = time.monotonic() - began, _record(cluster, set(run.jobs))
    run.events, run.log  # noqa: B018  (read now: what it reported outlives its folder)
    return run


def _watch(lab: Lab, where: Where, cluster: Cluster, run: ClusterRun, first: str, then) -> None:
    """Inflict what is due, until nothing of the run is in the queue any more."""
    began, work = time.monotonic(), run.folder
    handled, others, empty, looks = 0, set(), 0, 0
    while True:
        events = _events(work)
        for fault in [e for e in events if e["event"] == "fault"][handled:]:
            others |= _inflict(where, cluster, fault)
            handled += 1
        asked = cluster.run(["squeue", "-h", "-o", "%i|%T|%r|%Z"])
        rows = [row for row in (line.split("|") for line in asked.stdout.splitlines()) if len(row) == 4]
        mine = {row[0]: row for row in rows if row[0] not in others and os.path.realpath(row[3]) == os.path.realpath(work)}
        for i in mine:
            run.jobs.setdefault(i, {})
        if stuck := next((q for q in mine.values() if q[2] in NEVER), None):
            run.stuck = stuck[2]
            break
        # in whatever state; twice, as a job may be between two of them; and a slurmctld that is too busy to say says nothing
        empty = empty + 1 if asked.returncode == 0 and not mine else 0
        if empty == 2:
            if then is None:
                break
            then(cluster, first)
            then, empty = None, 0
            continue
        lives = sum(e["event"] == "life" for e in events)
        looks += 1
        if looks % 25 == 0:  # a script that never comes to the training has no lives
            lives = max([lives, *(_restarts(cluster, i) for i in mine), len(run.jobs) - 1])
        if time.monotonic() - began > where.pace.seconds or lives > MOST_LIVES:
            run.late, run.endless = True, lives > MOST_LIVES
            break
        if lab.bench.cancelled.wait(POLL):
            raise Cancelled


def _restarts(cluster: Cluster, job: str) -> int:
    try:
        return int(cluster.job(job).get("Restarts", 0))
    except (ClusterError, ValueError):
        return 0


def _record(cluster: Cluster, jobs: set[str]) -> list[dict]:
    """What the cluster has noted of each run of these jobs. A run that ended by a requeue is said to be PENDING."""
    said = cluster.run(["sacct", "-c", "-n", "-P", "-o", "JobID,Start,End,State"]).stdout
    rows = [line.split("|") for line in said.splitlines()]
    return [
        {"job": job, "start": datetime.fromisoformat(start).timestamp(), "end": datetime.fromisoformat(end).timestamp(), "state": state}
        for job, start, end, state in (row for row in rows if len(row) == 4)
        if job in jobs and "T" in start and "T" in end
    ]


class Refused(Exception):
    """sbatch didn't take the script."""


def _inflict(where: Where, cluster: Cluster, fault: dict) -> set[str]:
    """Do to the job what it waits for; the ids of jobs that this takes."""
    if fault["do"] == "preempt" and where.chosen == "site":  # nobody may preempt there: what a preemption begins with
        cluster.run(["scancel", "--signal=TERM", fault["job"]], check=True)
    elif fault["do"] == "preempt":
        return {cluster.submit("-p", "high", "--exclusive", "-o", os.devnull, "--wrap", "true")}
    if fault["do"] == "limit":
        cluster.run(["scontrol", "update", f"jobid={fault['job']}", f"EndTime=now+{where.pace.limit}"], check=True)
    return set()
