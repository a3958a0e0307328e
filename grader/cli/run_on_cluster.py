"""`grade run ex04`: the job scripts on their own cluster, slowly enough to follow."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

from grader.checks.ex04 import cluster_runs, job_endings, resubmission, resubmission_runs
from grader.course.submissions import Submission
from grader.errors import UsageError
from grader.harness import launcher as launchers
from grader.harness.lab import Lab
from grader.harness.workbench import Bench, course_paths
from grader.report.logs import escaped
from grader.slurm.target import Where
from grader.verdicts import INCONCLUSIVE, Finding

# which of the submission's functions a task's training calls
USES = {1: "checkpoint", 2: "", 3: "lives", 4: "lock", None: "checkpoint,lives,lock"}
CHAIN_TASK = 4
STRIKES = ("preempt", "limit", "kill")
SAYS = {
    "life": "begins, as a process of job {job}",
    "resumed": "resumes at step {step}",
    "step": "step {step}",
    "signal": "gets {signal}",
    "saving": "saves step {step} ...",
    "saved": "has saved step {step}",
    "error": "raises {type}: {message}",
    "nothing to do": "finds nothing to do",
    "left": "exits with status {status}",
}


def play(
    work: Submission, task: int | None, strikes: list[tuple[int, str]], pace: float,
    where: Where,
) -> int:  # fmt: skip
    """Submit the task's job script, inject the faults, and print every event as it comes.

    task     whose script and functions: 4.4 has the chain; None: 4.2's, with every function
    strikes  [(step, "preempt" | "limit" | "kill")]
    pace     s that a step takes

    Returns the exit status of the command: 0 if the job finished as an undisturbed one.
    """
    script = resubmission_runs.CHAIN if task == CHAIN_TASK else resubmission_runs.REQUEUE
    plan = tuple(
        {"step": step, "do": do} | ({} if do == "kill" else {"save": "short"})
        for step, do in sorted(strikes)
    )
    began, bench = time.monotonic(), Bench(work, launchers.choose(), 0, jobs=1)

    def tell(who: str, text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {who:<7} {escaped(text)}", flush=True)

    def show(event: dict[str, Any]) -> None:
        if event["event"] == "fault":
            tell("cluster", f"strikes at step {event['step']}: {event['do']}")
        elif event["event"] in SAYS:
            tell(f"life {event['life']}", SAYS[event["event"]].format(**event))

    bench.cluster, bench.show = where, lambda _, line: tell("log", course_paths(line, bench))
    with closing(bench.launcher), closing(bench):
        print(f"{script} on {_called(where)}; a step takes {pace:g} s")
        try:
            run = cluster_runs.ran(
                Lab(bench, "play"), script, plan=plan, uses=USES[task],
                watched=cluster_runs.Watched(pace, show),
            )  # fmt: skip
            if run.instead:
                print(f"on {run.instead}")
            job_endings.finished(run)
            resubmission.same_course(run)
        except cluster_runs.Refused as e:
            raise UsageError(f"sbatch refuses {script}: {e}") from e
        except Finding as finding:
            print(course_paths(str(finding).strip("\n"), bench))
            return 3 if finding.verdict == INCONCLUSIVE else 1
    print(f"The job is done after {len(run.lives)} lives, and equals an undisturbed one.")
    return 0


def _called(where: Where) -> str:
    return {
        "slurm": "Slurm, on this machine",
        "stand-in": "the stand-in for Slurm",
        "site": "the site's Slurm",
    }[where.chosen]
