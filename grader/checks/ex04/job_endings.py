"""How a job ended: by itself and with nothing left in the queue, or how else."""

from __future__ import annotations

from functools import wraps

from grader.checks.ex04.cluster_runs import HELD
from grader.checks.ex04.job_record import STEPS, ClusterRun
from grader.checks.ex04.resubmission_runs import story
from grader.verdicts import FAIL, Finding, Found, Gist, Inconclusive

KILLS = ("kill", "torn", "lost")

ENDS = ("error", "left", "fault")  # one of these is a life's last event, unless it is under way
CONTRACTS = ("CrashLoop", "NothingIntact", "Busy")  # what the functions should raise
MODULE = "auto_resume.py"

# findings that a slow machine may cause
TIMED = ("lost", "save-disturbed", "late", "run-again-in-haste")


def in_time(check):
    """On a machine that was too slow, what came too late proves nothing."""

    @wraps(check)
    def checked(run: ClusterRun, *args):
        try:
            check(run, *args)
        except Finding as finding:
            timed = finding.code in TIMED or (run.late and not run.endless)
            if not (run.starved and timed and finding.verdict == FAIL):
                raise
            slow = f"squeue took {run.slowest:.1f} s"
            if run.cut_short:
                slow += f", and {run.cut_short} lives reached the job's time limit by themselves"
            machine = f"busy: {slow}; nothing was proved"
            raise Inconclusive("starved", [*finding.rows, ("machine", machine)]) from None

    return checked


@in_time
def finished(run: ClusterRun) -> None:
    """It finished by itself, and nothing of it is left in the queue."""
    if run.stuck in HELD:
        rows = [
            *story(run),
            *how_it_ended(run),
            ("queue", f"the job waits until a person releases it: {run.stuck}"),
        ]
        raise Finding("held", rows)
    if run.stuck:
        rows = [
            *story(run),
            ("queue", f"a job of the chain waits forever: {run.stuck}"),
        ]
        raise Finding("dependency", rows)
    if run.finished and not run.late:
        if (fired := len(run.all("fault"))) < run.planned:
            raise Inconclusive(
                "fault",
                [
                    *story(run),
                    ("but", f"of {run.planned} faults, {fired} fired: nothing was proved"),
                ],
            )
        return
    no_error_of_yours(run)
    before = [*story(run), *how_it_ended(run)]
    if run.endless:
        lives = (
            f"more than {run.most} lives, and it's in the queue again"
            if run.lives
            else "the training never begins"
        )
        raise Finding("endless", [*before, Found(f"the job is run again and again: {lives}")])
    if run.late:
        raise Finding(
            "late",
            [*before, Found(f"still in the queue after {run.where.pace.seconds:g} s")],
        )
    found = f"the job has left the queue, and it isn't done: step {_reached(run)} of {STEPS}"
    last = run.lives[-1] if run.lives else []
    states = [job["JobState"] for job in run.jobs.values() if "JobState" in job]
    by_itself = states[-1:] in (["FAILED"], ["COMPLETED"])  # the script had reached its end
    hurried = not by_itself and any(
        e["event"] == "fault" and e["do"] in ("preempt", "limit") for e in last
    )
    raise Finding(
        "run-again-in-haste" if hurried else "not-run-again",
        [*before, Found(found)],
        means="the job is never run again, and you find out days later",
        think="what requeues the job, and does your script reach that line?",
    )


def how_it_ended(run: ClusterRun) -> list[tuple[str, str]]:
    """How the last life ended, as far as the training could tell."""
    if not run.lives:
        return [Gist("ended", f"the training never began ({job_states(run)})")]
    last = run.lives[-1]
    if left := next((e for e in last if e["event"] == "left"), None):
        return [
            Gist(
                "ended", f"the training ended with exit status {left['status']}; {job_states(run)}"
            )
        ]
    if error := next((e for e in last if e["event"] == "error"), None):
        return [
            Gist(
                "ended",
                f"the training raised {error['type']}: {error['message'][:200]}; {job_states(run)}",
            )
        ]
    struck = [e["do"] for e in last if e["event"] == "fault"][-1:]
    if struck and struck[0] in KILLS:
        return [Gist("ended", f"the training was killed by that fault; {job_states(run)}")]
    return [Gist("ended", f"the training ended without reporting anything; {job_states(run)}")]


def no_error_of_yours(run: ClusterRun) -> None:
    """The last life of the training that ended didn't end by an error in the student's functions.

    The contract's exceptions are no errors, but may follow from one: CrashLoop does. A fault that
    makes the training fail isn't theirs.
    """
    ends = [[e for e in life if e["event"] in ENDS] for life in run.lives]
    ends = [of_life for of_life in ends if of_life and of_life[0].get("type") not in CONTRACTS]
    last = ends[-1] if ends else []
    error = next((e for e in last if e["event"] == "error" and e.get("frames")), None)
    if error is None:
        return
    frames = [
        f"{MODULE}:{f['line']} in {f['function']}: {f['text']}".replace(" in <module>", "")
        for f in error["frames"]
    ]
    said = f"{error['type']}: {error['message']}"[:300]
    number = sum(
        any(e["event"] == "error" and e.get("frames") == error["frames"] for e in life)
        for life in run.lives
    )
    rows = [
        *story(run),
        *(("crashed" if n == 0 else "", text) for n, text in enumerate(frames)),
        Gist("error", said),
        ("lives", f"{number} of {len(run.lives)} ended like this; {job_states(run)}"),
    ]
    raise Finding("crashed", rows, ending=said, about=f"{error['type']}:{frames[-1].split(' ')[0]}")


def job_states(run: ClusterRun) -> str:
    said = [
        f"{s['JobState']}, exit code {s['ExitCode'].split(':')[0]}"
        for s in run.jobs.values()
        if "JobState" in s
    ]
    shown = ["..."] * (len(said) > 5) + said[-5:]
    return f"the cluster's record of the job: {'; '.join(shown) or 'nothing'}"


def _reached(run: ClusterRun) -> int:
    return max([0, *(e["step"] for e in run.all("step"))])


def ended_well(run: ClusterRun) -> None:
    """The cluster says COMPLETED of the job in which the training got done."""
    of = [life[0]["job"] for life in run.lives if {"left"} & {e["event"] for e in life}]
    last = run.jobs.get(of[-1], {}) if of else {}
    if run.finished and last.get("JobState") not in ("COMPLETED", None):
        rows = [
            ("done", "the training ended with exit status 0"),
            Found(job_states(run)),
            ("expected", "COMPLETED: the cluster's state for a job that is done"),
        ]
        raise Finding(
            "final-state",
            rows,
            think="which exit status does your script end with when the training is done?",
        )


def left_with(run: ClusterRun, status: int) -> bool:
    return any(e["status"] == status for e in run.all("left"))


def reported_failed(run: ClusterRun, what: tuple[str, str]) -> None:
    ran = {life[0]["job"] for life in run.lives}
    state = [run.jobs[i].get("JobState") for i in run.jobs if i in ran][-1:]
    if state not in (["FAILED"], [None], []):
        rows = [
            what,
            Found(job_states(run)),
            ("expected", "FAILED: nobody looks for an error in a job that reports success"),
        ]
        raise Finding("final-state", rows, think="which exit status does your script end with?")
