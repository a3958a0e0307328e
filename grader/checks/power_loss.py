"""What a power loss leaves of saves: every state of the disk, read by the student's own load."""

from __future__ import annotations

from grader.checks.expect import finished
from grader.harness.lab import Lab
from grader.verdicts import Finding, Inconclusive

SHOWN = 6  # operations before the crash, and things that didn't reach the disk, that a message tells


def survives(lab: Lab, script: str, *argv: object, steps: list[int], saves: str, load: str) -> None:
    """`script` saves `steps` and tries every state; what it tells is judged. `saves` and `load`: what the student calls them."""
    run = lab.launch(script, "--seed", lab.seed, *argv, "--steps", *steps)
    finished(lab, run)
    if unseen := run.last.first("crash states unseen"):
        raise _unseen(unseen)
    told = run.last.first("crash states")
    report = told["report"]
    recorded = report["recorded"]
    more = f" (of {recorded['left_out']} more none)" if recorded["left_out"] else ""
    lab.measured("power loss", f"{recorded['states']} states of the disk after {recorded['operations']} operations were read{more}")
    if not report["passed"]:
        saved = ("saved", f"steps {', '.join(map(str, steps))}, one after another: saves 1 to {len(steps)}")
        # of several ranks, which state is the smallest depends on who came first
        gist = f"there is a state of the disk of which {load} makes something else than was promised"
        raise Finding(f"power loss:{report['smallest']['kind']}", [saved, *_rows(report, told["advice"], saves, load)], gist=gist)


def _unseen(unseen: dict) -> Inconclusive:
    rows = [("unseen", f"what a power loss leaves of your saves: {unseen['why']}")]
    if not unseen["seen"]:
        rows.append(("means", "nothing was found wrong here, and this can't be decided here; grade it on Linux for the points (a container will do)"))
    return Inconclusive("unseen", rows, blocks=unseen["seen"])


def _rows(report: dict, advice: list, saves: str, load: str) -> list[tuple[str, str]]:
    worst = report["smallest"]
    events, lost, disk = worst["events"], worst["lost"], worst["disk"] or ["nothing"]
    return [
        ("did", "; ".join([*(["..."] if len(events) > SHOWN else []), *events[-SHOWN:]])),
        ("crash", f"the power goes then ({_systems(worst['on'])})"),
        *([("lost", "; ".join(_few(lost)))] if lost else []),
        ("on disk", "; ".join(_few(disk))),
        ("found", f"{load} {worst['load']}"),
        ("expected", f"the state of {worst['promised']}" if worst["promised"].startswith("save") else f"no save had returned yet: {load} says so, and doesn't raise"),
        ("means", f"{worst['means']} ({report['failing_states']} of {report['recorded']['states']} states are like this)"),
        *map(tuple, advice),
        ("think", f"until when does what {saves} wrote lie in the kernel's memory only, and which call waits for the disk?"),
    ]


def _systems(on: list[str]) -> str:
    return on[0] if len(on) == 1 else f"{on[0]}, and {len(on) - 1} other kinds of file systems"


def _few(lines: list[str]) -> list[str]:
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"and {len(lines) - SHOWN} more"]
