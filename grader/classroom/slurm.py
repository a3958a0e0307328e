"""Grades a class as an array of jobs, through submitit.

A job's result is its record in the results folder, which the nodes share. A job that is preempted,
requeued or lost has written none, and is run again: by Slurm, by submitit, or by us.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.classroom.grading import PATIENCE, Watcher, Work, begin, settle
from grader.classroom.records import Graded
from grader.classroom.worker import Unit
from grader.errors import UsageError
from grader.slurm.errors import ClusterError
from grader.slurm.site import Site

LOOK = 2.0  # s between two looks at the queue
GONE = 20.0  # s without a record after a job has left the queue: shared folders show files late
TRIES = 3  # of a job that leaves no record, not counting what Slurm and submitit do
MEMORY = 6  # GB for one grading


@dataclass(frozen=True)
class Options:
    """How the jobs are submitted."""

    partition: str | None = None
    account: str | None = None
    at_once: int = 64
    cores: int = 2


class GradeUnit:
    """The work of one job. It is pickled, and submitit runs it on a node."""

    def __call__(self, unit: Unit, key: str, record: str) -> int:
        if (graded := Graded.read(Path(record))) and graded.key == key:
            return 0  # this job was requeued after its end
        foreign = ("SLURM_", "SBATCH_", "SUBMITIT_", "SRUN_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        return subprocess.run(unit.command, stdin=subprocess.DEVNULL, env=kept).returncode

    def checkpoint(self, *args: Any) -> Any:
        """Asked before a preemption or a time limit: begin again, in a requeued job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *args)


def grade_on_slurm(
    todo: Sequence[Work], watcher: Watcher, *, options: Options, folder: Path
) -> None:
    """Submit everything, and wait for the records. Interrupted, it cancels its jobs."""
    if not todo:
        return
    site = Site(options.partition, options.account)
    executor = _executor(options, folder, max(work.unit.seconds for work in todo))
    left, tries = list(todo), dict.fromkeys((work.key for work in todo), 0)
    while left:
        for work in left:
            tries[work.key] += 1
            begin(work)
        jobs = executor.map_array(
            GradeUnit(),
            [work.unit for work in left],
            [work.key for work in left],
            [str(_record(work)) for work in left],
        )
        try:
            lost = _await(dict(zip((job.job_id for job in jobs), left, strict=True)), site, watcher)
        except BaseException:
            array = jobs[0].job_id.partition("_")[0]
            site.run(["scancel", array])
            raise
        left = []
        for work, printed in lost:
            if tries[work.key] < TRIES:
                left.append(work)
            else:
                settle(work, printed, watcher)


def check() -> None:
    """Raises UsageError if nothing can be submitted here."""
    if importlib.util.find_spec("submitit") is None:
        raise UsageError("--slurm needs submitit: pip install submitit")
    if shutil.which("sbatch") is None:
        raise UsageError(
            "--slurm works on a login node of a Slurm cluster: there is no sbatch here"
        )


def _executor(options: Options, folder: Path, seconds: float) -> Any:
    import submitit

    executor = submitit.AutoExecutor(folder=folder / "slurm", cluster="slurm")
    executor.update_parameters(
        name="grade-class",
        timeout_min=math.ceil((seconds + PATIENCE) / 60) + 2,
        cpus_per_task=options.cores,
        mem_gb=MEMORY,
        slurm_array_parallelism=options.at_once,
        slurm_additional_parameters={"requeue": True},
        **({"slurm_partition": options.partition} if options.partition else {}),
        **({"slurm_account": options.account} if options.account else {}),
    )
    return executor


def _record(work: Work) -> Path:
    return work.twins[0].record(work.unit.exercise)


def _has_record(work: Work) -> bool:
    graded = Graded.read(_record(work))
    return graded is not None and graded.key == work.key


def _await(
    jobs: dict[str, Work], site: Site, watcher: Watcher, now: Callable[[], float] = time.monotonic
) -> list[tuple[Work, str]]:
    """Settle each work when its record is there; return those that left the queue without one."""
    array = next(iter(jobs)).partition("_")[0]
    waiting, lost = dict(jobs), []
    gone: dict[str, float] = {}  # job -> since when it isn't in the queue
    while waiting:
        for job, work in list(waiting.items()):
            if _has_record(work):
                settle(work, "", watcher)
                del waiting[job]
        queued = _queued(array, site)
        for job, work in list(waiting.items()):
            if queued is None or job in queued:
                gone.pop(job, None)
            elif now() - gone.setdefault(job, now()) > GONE and not _has_record(work):
                lost.append((work, f"job {job} left the queue, and no result"))
                del waiting[job]
        if waiting:
            time.sleep(LOOK)
    return lost


def _queued(array: str, site: Site) -> set[str] | None:
    """The array's jobs that wait or run; None if the scheduler doesn't answer now."""
    try:
        done = site.run(["squeue", "--noheader", "--array", "--format=%i %t", "--jobs", array])
    except ClusterError:
        return None
    if done.returncode:
        # an array that has ended may be forgotten
        return set() if "Invalid job id" in done.stderr else None
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[0] for row in rows if len(row) == 2 and row[1] not in ("CD", "F", "CA", "TO", "NF")}
