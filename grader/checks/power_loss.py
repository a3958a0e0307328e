"""Every disk state that a crash may leave of the saves, read by the student's own load."""

from __future__ import annotations

from pathlib import Path

from grader.checks.endings import finished
from grader.checks.stacks import rows_of
from grader.crash import description, enumeration, plain, promise
from grader.crash.crashtest import Report
from grader.crash.judge import Outcome
from grader.crash.operations import Mark
from grader.crash.recorder import Record
from grader.harness.lab import Lab
from grader.harness.run import Run
from grader.verdicts import Finding, Found, Inconclusive

# most operations before the crash, and most lost things, that a message names
SHOWN = 6
EVENTS = 40  # ... that the results as JSON hold
TREES = 120  # most different directories that are read; of more, this many are drawn


def saves_survive(
    lab: Lab,
    *flags: str,
    given: dict,
    digests: dict[int, str],
    key: str,
    steps: list[int],
    saves: str,
    load: str,
) -> None:
    """One life saves and is recorded; the states are worked out here; another life, which doesn't
    know what was saved, reads each of them.

    given    what the recorded life saves (workload/ex01/power_loss.py)
    digests  save -> digest of its state with this key, from a life without student code
    """
    run = lab.launch("ex01/power_loss.py", *flags, given=given)
    finished(lab, run)
    record = _record(run, len(steps))
    found = enumeration.space(record.disk, record.ops)
    left_out = enumeration.thin(found, TREES)
    keys = list(found.trees)
    trees = plain.from_trees([found.trees[k] for k in keys])
    read = lab.launch(
        "ex01/read_disk_states.py",
        *flags,
        given={"key": key, "trees": trees},
        directory=run.directory,
    )
    finished(lab, read)
    outcomes = {
        keys[int(n)]: Outcome(**outcome) for n, outcome in read.last.first("outcomes")["of"].items()
    }
    left_out += enumeration.keep(found, set(outcomes))
    failing = promise.failures(found, outcomes, digests, fresh="none")
    remedies = promise.remedies(record.disk, record.ops, failing, found.trees) if failing else []
    tried = {
        model: sum(model in state.models for state in found.states) for model in enumeration.TITLES
    }
    report = Report(record, found, digests, tried, failing, remedies, left_out=left_out)
    data, advice = description.as_data(report), description.advice(report)
    _judge(lab, data, advice, steps, saves, load, read.last.process.code)


def _record(run: Run, number: int) -> Record:
    """What the life recorded, once, of all its saves."""
    if unrecorded := run.last.first("unrecorded"):
        raise _unseen(unrecorded)
    reported = run.last.all("record")
    if len(reported) != 1:
        raise _unseen({"why": f"{len(reported)} records were reported, not one", "seen": True})
    record = plain.to_record(reported[0]["of"])
    (ended,) = record.ended
    if ended.late or ended.status != 0:
        what = (
            "didn't end in time"
            if ended.late
            else f"failed on a healthy disk (exit status {ended.status})"
        )
        raise _unseen({"why": f"the saves {what}", "seen": True})
    marks = [(op.kind, op.save) for op in record.ops if isinstance(op, Mark)]
    if marks != [(kind, n) for n in range(1, number + 1) for kind in ("began", "returned")]:
        raise _unseen({"why": "it isn't clear when each save began and returned", "seen": True})
    return record


def survives(
    lab: Lab,
    script: str,
    *argv: object,
    given: dict[str, object],
    steps: list[int],
    saves: str,
    load: str,
) -> None:
    """`script` saves `steps` and tries every state; its report is judged. `saves` and `load`: what
    the student calls them.
    """
    run = lab.launch(script, "--seed", lab.seed, *argv, "--steps", *steps, given=given)
    finished(lab, run)
    if unseen := run.last.first("crash states unseen"):
        raise _unseen(unseen)
    found = run.last.first("crash states")
    code = run.last.process.code
    _judge(lab, found["report"], found["advice"], steps, saves, load, code)


def _judge(
    lab: Lab,
    report: dict,
    advice: list,
    steps: list[int],
    saves: str,
    load: str,
    code: Path | None,
) -> None:
    recorded = report["recorded"]
    tried, left_out = recorded["trees"], recorded["left_out"]
    possible = f" (of {tried + left_out:,} possible)" if left_out else ""
    lab.measured(
        "power loss",
        f"tried {tried} disk states{possible} after {recorded['operations']} operations",
    )
    if not report["passed"]:
        saved = (
            "saved",
            f"steps {', '.join(map(str, steps))}, one after another: saves 1 to {len(steps)}",
        )
        # with several ranks, the smallest state depends on which rank came first
        gist = f"for at least one disk state, {load} breaks its promise"
        raise Finding(
            "power-loss",
            [saved, *_rows(report, advice, load, code)],
            gist=gist,
            disk_state=report["smallest"] | {"events": report["smallest"]["events"][-EVENTS:]},
            about=report["smallest"]["kind"],
            means=report["smallest"]["means"],
            think=(
                "fsync waits for what the kernel has. Which call hands over what Python holds?"
                if any(call.get("too_early") for call in report["missing"])
                else f"until when is what {saves} wrote only in the kernel's memory, and which "
                "call waits for the disk?"
            ),
        )


def _unseen(unseen: dict) -> Inconclusive:
    rows = [("unseen", f"what a power loss leaves of your saves: {unseen['why']}")]
    means = (
        "nothing wrong was found, but this machine can't prove it; grade it on Linux for the "
        "points (a container works)"
    )
    blocks = unseen["seen"]
    return Inconclusive("unseen", rows, blocks=blocks, means="" if blocks else means)


def _rows(report: dict, advice: list, load: str, code: Path | None) -> list[tuple[str, str]]:
    worst = report["smallest"]
    events, lost, disk = worst["events"], worst["lost"], worst["disk"] or ["nothing"]
    return [
        ("did", "; ".join([*(["..."] if len(events) > SHOWN else []), *events[-SHOWN:]])),
        (
            "crash",
            f"{worst['crash']} then"
            + (f" ({_systems(worst['on'])})" if worst["crash"] == "the power fails" else ""),
        ),
        *([("lost", "; ".join(_few(lost)))] if lost else []),
        ("on disk", "; ".join(_few(disk))),
        Found(f"{load} {worst['load']}"),
        *rows_of(worst["stack"], code),
        (
            "expected",
            f"the state of {worst['promised']}"
            if worst["promised"].startswith("save")
            else f"no save had returned yet: {load} says so, and doesn't raise",
        ),
        *map(tuple, advice),
    ]


def _systems(on: list[str]) -> str:
    return on[0] if len(on) == 1 else f"{on[0]}, and {len(on) - 1} other kinds of file systems"


def _few(lines: list[str]) -> list[str]:
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"and {len(lines) - SHOWN} more"]
