"""Runs of a job on a cluster: submitted, disturbed as planned, followed until its queue is empty.

Every run has its own cluster, so that no run disturbs another. The checks judge only what the
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
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from grader.checks.ex04.job_record import MOST_LIVES, STEPS, ClusterRun
from grader.checks.ex04.witness import Witness
from grader.course import catalog
from grader.errors import UsageError
from grader.harness.lab import WORKLOAD, Lab
from grader.harness.printed import followed
from grader.harness.sandbox import NONE, jobs_can_be_confined
from grader.harness.workbench import Cancelled
from grader.slurm import Cluster, ClusterError, NotInstalled, backend
from grader.slurm.target import Where
from grader.verdicts import Finding, Inconclusive
from grader.workload.ex04.train import DONE

POLL = 0.2  # s between two looks at the queue
BUSY = 1.0  # s between two, while a life is under way
# reasons of a job that will stay in the queue forever
HELD = {"JobHeldUser", "JobHeldAdmin", "job_requeued_in_held_state"}
NEVER = {"DependencyNeverSatisfied"} | HELD

FOLDER = "my job"  # where it is submitted from: people's directories have blanks in their names
DIFFERS = "the stand-in doesn't know"  # its message where only the real cluster has the answer


@dataclass(frozen=True)
class Watched:
    """For a run that a person watches: `grade run ex04`."""

    pace: float  # s that a step takes
    on_event: Callable[[dict], None]  # gets each event as the witness writes it down


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
    then   called with (cluster, job id) when the training is done and the run over; what is in
           the queue then is followed as well
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
                if fault["do"] == "limit" and where.chosen != "site":  # only an operator raises one
                    run.limits[job] = cluster.job(job)["TimeLimit"]
                run.others |= dict.fromkeys(_inflict(where, cluster, fault, job), "")

            job_of = None if where.chosen == "site" else cluster.job_of
            with Witness(folder, work / "checkpoints", faults, STEPS, strike, job_of) as witness:
                code = work / lab.bench.submission.module if uses else None
                if watched:
                    witness.pace, witness.on_event = watched.pace, watched.on_event
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
            if row[1] == "PENDING" and (limit := run.limits.pop(row[0], None)):
                # Slurm keeps a moved limit when it requeues a job: the next life would be warned
                # before it has a handler
                cluster.run(["scontrol", "update", f"jobid={row[0]}", f"TimeLimit={limit}"])
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
            if then is None or not any(e["status"] == DONE for e in run.all("left")):
                return
            then(cluster, first)
            then, empty = None, 0
            continue
        lives = len(run.all("life"))
        looks += 1
        if looks % 25 == 0:  # a script that never gets to the training has no lives
            lives = max([lives, *(_restarts(cluster, row[0]) for row in mine), len(run.jobs) - 1])
        # lives that a slow machine added don't count
        endless = lives - run.cut_short > most
        if time.monotonic() - began > run.where.pace.seconds or endless:
            run.late, run.endless = True, endless
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
    ):  # users can't preempt there, so send the signal with which a preemption begins
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
