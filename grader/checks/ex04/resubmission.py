"""What must hold for a job on a cluster that is run again until it is done."""

from __future__ import annotations

from grader.checks.ex04.job_endings import (
    finished,
    how_it_ended,
    in_time,
    job_states,
    left_with,
    no_error_of_yours,
    reported_failed,
)
from grader.checks.ex04.job_record import STEPS, ClusterRun
from grader.checks.ex04.resubmission_runs import SAVE_EVERY, TRIES, story
from grader.harness.lab import Lab
from grader.verdicts import Finding, Found, Gist
from grader.workload.ex04 import train

NEVER_CAME = {"preempt": "its preemption", "limit": "its time limit"}


@in_time
def kept(run: ClusterRun, do: str, think: str) -> None:
    """The fault `do` cost no finished step: the training was warned in time, saved, and ended."""
    number, fault = next(
        ((n, f) for n, f in enumerate(run.all("fault")) if f["do"] == do), (-1, None)
    )
    if fault is None:  # an earlier one has ended it
        _ended_before(run, f"the job didn't get as far as {NEVER_CAME[do]}")
        raise Finding("fault", [("but", f"'{do}' never fired")])
    of_life, life = next((n, life) for n, life in enumerate(run.lives, 1) if fault in life)
    since = life[life.index(fault) :]
    saved = any(e["event"] == "saved" and e["step"] == fault["step"] for e in since)
    if saved and any(e["event"] == "left" and e["status"] == train.PREEMPTED for e in since):
        return
    signals = ", ".join(
        f"{e['signal']} after {e['t'] - fault['t']:.0f} s" for e in since if e["event"] == "signal"
    )
    rows = [
        *story(run, number + 1),
        ("signals", f"the training got {signals or 'none'}"),
        Gist("ended", _end_after(fault, since)),
    ]
    raise Finding(
        "lost",
        rows,
        about=do,
        printed_by=of_life,
        means=(
            "the work since the last regular save is lost: "
            f"steps {fault['saved'] + 1} to {fault['step']}"
        ),
        think=think,
    )


def _ended_before(run: ClusterRun, so: str) -> None:
    """It didn't end by itself before it got to what the check is about."""
    try:
        finished(run)
    except Finding as earlier:
        earlier.data["unreached"] = True  # a check that is about its end comes first (engine.py)
        earlier.rows.append(("so", f"{so}, which this check is about"))
        raise


def _end_after(fault: dict, since: list[dict]) -> str:
    """How the training ended after the fault, as far as it was seen."""
    saved = [e["event"] for e in since if e["event"] in ("saving", "saved")][-1:]
    when = {"saving": "while it saved", "saved": "after a save"}.get(
        "".join(saved), "without a save"
    )
    if left := next((e for e in since if e["event"] == "left"), None):
        return f"it exited with status {left['status']}, {when}"
    if error := next((e for e in since if e["event"] == "error"), None):
        return f"it raised {error['type']}: {error['message'][:200]}, {when}"
    gone = next((e for e in since if e["event"] == "gone"), None)
    after = f" {gone['t'] - fault['t']:.0f} s after the fault" if gone else ""
    return f"it ended without reporting anything{after}, {when}"


@in_time
def undisturbed_saves(run: ClusterRun) -> None:
    """No SIGTERM came during a save: a requeue that comes too early sends one."""
    for life in run.lives:
        saving = None
        for e in life:
            if e["event"] == "saving":
                saving = e
            elif e["event"] == "saved":
                saving = None
            elif e["event"] == "signal" and e["signal"] == "SIGTERM" and saving:
                rows = [
                    *story(run),
                    Found(
                        "SIGTERM came while the training was saving: from a requeue, or from "
                        "the time limit itself",
                    ),
                ]
                raise Finding("save-disturbed", rows)


def log_goes_on(run: ClusterRun) -> None:
    """Each life printed its own mark, and a later life didn't truncate it.

    A killed life may have lost what it printed, and the last one may have been ended before it
    printed anything. So a mark counts as truncated if no earlier one is in the log, or if its life
    ended by itself.
    """
    marks = [e["mark"] for e in run.all("mark")]
    if len(marks) < 2:
        _ended_before(run, "the job had no second life")
    if not run.log:
        rows = [
            ("log", "there is no train.log where the job was submitted from"),
            ("expected", "the script's --output says train.log, for all lives"),
        ]
        raise Finding("no-log", rows)
    there = [mark for mark in marks if mark in run.log]
    oldest = marks.index(there[0]) if there else len(marks)
    left = {e["life"] for e in run.all("left")}
    ended = {e["mark"] for e in run.all("mark") if e["life"] in left}
    if oldest or ended - set(there):
        raise Finding(
            "log-truncated",
            [("log", f"train.log holds the output of {len(there)} of {len(marks)} lives")],
        )


def same_course(run: ClusterRun) -> None:
    want, got = run.undisturbed, run.course
    if wrong := [n for n in want if got.get(n) != want[n]]:
        rows = [
            *story(run),
            ("diverged", f"at step {wrong[0]}"),
            Gist("resumed", ", ".join(str(e["step"]) for e in run.all("resumed"))),
        ]
        raise Finding("trajectory-differs", rows)


@in_time
def does_nothing_when_done(run: ClusterRun) -> None:
    """The life that began after the job was done trained nothing, and the job wasn't run again."""
    finished(run)
    done = next(
        n
        for n, life in enumerate(run.lives)
        if any(e["event"] == "left" and e["status"] == 0 for e in life)
    )
    after, requeued = run.lives[done + 1 :], ("requeued", "when it was done")
    if any(e["event"] in ("step", "saved") for life in after for e in life):
        think = "how does a life learn that an earlier one has finished?"
        raise Finding(
            "done-twice",
            [
                requeued,
                Found("it trained again"),
            ],
            think=think,
        )
    if len(after) > 1 or any(e["event"] == "error" for life in after for e in life):
        no_error_of_yours(run)
        found = Found(f"{len(after)} more lives; {job_states(run)}")
        raise Finding(
            "done-twice",
            [
                requeued,
                found,
            ],
            think="what does your script do after exit status 0?",
        )


@in_time
def gives_up(run: ClusterRun) -> None:
    """A job that crashes at the same step every time is tried there TRIES times, and fails."""
    crash = run.all("fault")[0] if run.all("fault") else {"step": 12, "status": 1}
    what = (
        "crashes",
        f"at step {crash['step']}, every time; the newest checkpoint is step 10; tries={TRIES}",
    )
    crashed = [life for life in run.lives if any(e["event"] == "fault" for e in life)]
    began = sum(e["step"] == 10 for life in crashed for e in life if e["event"] == "resumed")
    if began < TRIES:
        no_error_of_yours(run)
    if not run.late and began < TRIES:
        rows = [
            what,
            *how_it_ended(run),
            Found(f"{began} lives began at step 10"),
        ]
        raise Finding("not-tried-again", rows)
    if run.late or run.stuck or began > TRIES:
        gave_up = left_with(run, train.GAVE_UP)
        how = "the training ended with exit status 70" if gave_up else "no life ended with 70"
        after = (
            f"after {began} lives that began at step 10, {how}"
            if began
            else f"no life began at step 10, and {how}"
        )
        again = "was run again" if gave_up else "the job is run again and again"
        still = again if run.endless and not run.stuck else "the job is still in the queue"
        rows = [
            what,
            *([] if gave_up else how_it_ended(run)),
            Found(
                f"more than {TRIES} lives began at step 10"
                if began > TRIES
                else f"{after}, and {still}"
            ),
        ]
        raise Finding("crash-loop", rows)
    reported_failed(run, what)


@in_time
def chain_ends(run: ClusterRun) -> None:
    """After 70, nothing of the chain runs again or stays in the queue; its last job has failed."""
    if not left_with(run, train.GAVE_UP):
        finished(run)
    what = ("left", "the training ended with exit status 70: a person has to look at it")
    if run.late or run.stuck or len(run.lives) > 1:
        rows = [
            what,
            Found(
                f"the next job waits forever: {run.stuck}" if run.stuck else "the chain continues",
            ),
        ]
        raise Finding("chain-without-end", rows)
    reported_failed(run, what)


def one_at_a_time(run: ClusterRun) -> None:
    beside = next((e for e in run.all("life") if e["at_once"]), None)
    if beside or run.at_once:
        pair = (beside["job"], beside["at_once"][0]) if beside else sorted(run.at_once)[:2]
        rows = [
            Found(f"job {pair[0]} ran while job {pair[1]} was running"),
        ]
        raise Finding("two-at-once", rows)


def generations(run: ClusterRun) -> None:
    """A chain: each life was a separate job, and each job submitted one."""
    ids = [life[0]["job"] for life in run.lives]
    think = "what submits the next job?"
    if len(set(ids)) != len(ids) and not run.endless:
        rows = [
            ("lives", f"of jobs {', '.join(ids)}"),
            ("expected", "each is its own job (--no-requeue)"),
        ]
        raise Finding("no-chain", rows, think=think)
    if ids and len(run.jobs) > len(ids) + 1:
        rows = [
            Found(f"{len(run.jobs)} jobs were submitted, and {len(ids)} trained"),
            ("expected", "each job submits one, and the last one's successor is cancelled"),
        ]
        means = "each job that has two successors doubles the chain"
        raise Finding("too-many-jobs", rows, means=means, think=think)


def resumed_well(run: ClusterRun) -> None:
    """Every fault cost at most the steps since the last save; each life took the newest intact
    checkpoint."""
    for fault, steps in run.lost:
        most = {"preempt": 0, "limit": 0, "kill": SAVE_EVERY, "torn": 2 * SAVE_EVERY}[fault["do"]]
        if steps > most:
            rows = [
                *story(run, fault["number"] + 1),
                ("lost", f"{steps} finished steps; at most {most} may be lost"),
            ]
            raise Finding(
                "too-much-lost",
                rows,
                about=fault["do"],
            )
    for resumed in run.all("resumed"):
        if resumed["step"] != resumed["newest"]:
            rows = [
                *story(run, sum(e["t"] < resumed["t"] for e in run.all("fault"))),
                Gist("resumed", f"from step {resumed['step']}"),
                ("expected", f"from step {resumed['newest']}, then the newest intact checkpoint"),
            ]
            raise Finding("not-the-newest", rows)


def chaos_survived(lab: Lab, run: ClusterRun) -> None:
    """Finished by itself, bit for bit; every fault cost at most the steps since the last save."""
    resumed_well(run)
    finished(run)
    same_course(run)
    lost = ", ".join(f"{fault['do']} at step {fault['step']}: {steps}" for fault, steps in run.lost)
    again = sum(steps for _, steps in run.lost)
    lab.measured(
        "lost work",
        f"{again} of {STEPS} steps done again ({lost}); "
        f"{len(run.lives)} lives in {run.seconds:.0f} s",
    )
