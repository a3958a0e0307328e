"""What status.json says: one rank writes it, and it names the outcome once that is true."""

from __future__ import annotations

from grader.checks.ex03.stop_runs import fault_row
from grader.harness.preemption import TORN
from grader.harness.run import PREEMPTED, Life, Run, schedule_of
from grader.verdicts import Finding, Found

SAYS = {0: "done", PREEMPTED: "preempted"}
FINAL = ("done", "preempted", "failed")  # words that end a life


def status_says(says: str | None, want: str, rows: list, schedule: str | None = None) -> None:
    """The status `says` what is wanted."""
    if says != want:
        found = (
            "isn't whole"
            if says == TORN
            else f"says {says!r}"
            if says
            else "is missing, or names no outcome"
        )
        rows = [
            *rows,
            ("status.json", found),
            ("expected", f"{want!r}"),
        ]
        raise Finding(
            "wrong-status",
            rows,
            schedule,
            means=(
                "launchers hide exit statuses (torchrun turns each of them into 1): "
                "the script that decides whether to run the job again reads this file"
            ),
            think="who writes it, and when?",
        )


def run_says(run: Run, want: str, rows: list) -> None:
    """After the run's last life, the status file says `want`."""
    status_says(run.notes["words"][-1], want, [*fault_row(run), *rows], schedule_of(run))


def not_said_too_soon(run: Run, number: int) -> None:
    """While life `number` works, status.json doesn't say how it ended."""
    life = run.lives[number]
    doing = {
        "building": "when the job was being built",
        "built": "when the job had been built",
        "resuming": "when the job was about to resume",
        "begins": "when the job began the step after step {step}",
        "saving": "when the save of step {step} began",
        "trained": "when step {step} was done",
    }
    for event in [event for one in life.processes for event in one.events]:
        says = event.get("says")
        if says not in FINAL or (says == "failed" and _broken_by_then(life, event["t"])):
            continue
        at = doing.get(event["event"], "in the evaluation after step {step}").format(
            step=event.get("step")
        )
        writers = _wrote_by_then(life, event["t"])
        if number and says == run.notes["words"][number - 1] and not writers:
            raise _stale(run, says, at)
        rows = [*fault_row(run), ("status.json", f"said {says!r} {at}")]
        if writers and life.world > 1:
            ranks = ", ".join(map(str, writers))
            rows.append(("written", f"in this life, by rank {ranks} (of {life.world})"))
        raise Finding(
            "told-too-soon",
            rows,
            schedule_of(run),
            means=(
                "if the job is killed now, its status says that it failed, though nothing was wrong"
                if says == "failed"
                else "if the job is killed now, its status says that it exited cleanly"
            ),
            think="from which moment on is that status true, whatever happens next?",
        )


def _broken_by_then(life: Life, t: float) -> bool:
    """Had a rank failed or been killed by time `t`? The others keep working until they notice.

    A crash is recorded after the status is written, so its time proves nothing.
    """
    return any(
        event["event"] == "crash" or (event["event"] in ("failing", "killed") and event["t"] <= t)
        for one in life.processes
        for event in one.events
    )


def _wrote_by_then(life: Life, t: float) -> list[int]:
    """The ranks that had written something other than checkpoints by time `t`."""
    return [
        rank
        for rank, one in enumerate(life.processes)
        if any(word["t"] <= t for word in one.all("word"))
    ]


def _stale(run: Run, says: str, at: str) -> Finding:
    rows = [
        *fault_row(run),
        (
            "status.json",
            f"says {says!r} {at}: an earlier life wrote that, and this one has written nothing",
        ),
        ("expected", "no status, as this life didn't write one"),
    ]
    return Finding(
        "stale-status",
        rows,
        schedule_of(run),
        means="a job that crashes without writing a status looks as if it had exited cleanly",
        think="when does what the file says stop being true?",
    )


def not_stale(run: Run, number: int) -> None:
    """After a life that SIGKILL ended, status.json doesn't say what the life before had written."""
    says = run.notes["words"][number]
    if says in FINAL and not _wrote_by_then(run.lives[number], float("inf")):
        raise _stale(run, says, "after the SIGKILL")


def one_writes(run: Run) -> None:
    """Of several ranks, one writes status.json."""
    for life in run.lives:
        writers = [rank for rank, one in enumerate(life.processes) if one.all("word")]
        if len(writers) > 1:
            what = {one.first("word")["what"] for one in life.processes if one.first("word")}
            rows = [
                *fault_row(run),
                Found(
                    f"ranks {', '.join(map(str, writers))} write next to the checkpoints: "
                    f"{'; '.join(sorted(what))[:200]}",
                ),
                ("expected", "one of them writes status.json"),
            ]
            raise Finding(
                "several-writers",
                rows,
                schedule_of(run),
                means=(
                    "the last writer wins, and on several nodes they "
                    "write over each other's half-written file"
                ),
                think="which number is unique to one rank, on however many nodes?",
            )
