"""Plans of points for grader/workload/storage.py, and what was seen at each of them.

A point prepares a directory, does something under a fault, and asks in another process what a relaunched
job would find there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from grader.checks.expect import crashed, finished
from grader.harness.faults import Fault
from grader.harness.lab import Lab
from grader.harness.run import Run
from grader.verdicts import Finding, Inconclusive, NotSelected

MAX_EVENTS = 40  # crash points of one save; a save with more events is sampled evenly


@dataclass
class Seen:
    """One point of a plan, after it ran: what a relaunched job found there."""

    point: dict
    events: list[dict]
    digests: dict[str, str]  # digest -> what it is, as text

    def all(self, event: str) -> list[dict]:
        return [e for e in self.events if e["event"] == event]

    def found(self, what: str = "latest") -> str:
        """'step 20', 'none', 'error', 'another state' or 'nothing' (the reader itself died)."""
        for read in self.all("read"):
            if read["what"] == what:
                return (
                    self.digests.get(read["digest"], "another state")
                    if read["outcome"] == "state"
                    else read["outcome"]
                )
        return "nothing"

    @property
    def raised(self) -> dict | None:
        """What the operations raised in the student's code."""
        return next((e for e in self.all("crash") if e["part"] == "write"), None)

    @property
    def read_crash(self) -> dict | None:
        for read in self.all("read"):
            if read["outcome"] == "error":
                return read["error"]
        return next((e for e in self.all("crash") if e["part"] == "read"), None)

    @property
    def totals(self) -> list[int]:
        """Bytes in the directory after each operation."""
        return [e["total"] for e in self.all("did")]


def observe(lab: Lab, points: list[dict]) -> dict[str, Seen]:
    """Run the points, all in one life."""
    folder = lab.bench.folder(f"{lab.name} plan")
    (folder / "plan.json").write_text(
        json.dumps([{"fault": None, "reads": ["latest"], "directory": p["name"]} | p for p in points])
    )
    run = lab.launch("storage.py", "--seed", lab.seed, "--plan", folder / "plan.json")
    finished(lab, run)
    return {p["name"]: _seen(run, p) for p in points}


def _seen(run: Run, point: dict) -> Seen:
    life, events, inside = run.last, [], False
    for event in life.events:
        if event["event"] == "point":
            inside = event["point"] == point["name"]
        elif inside:
            events.append(event)
    digests = {digest: f"step {step}" for step, digest in life.first("digests")["of"].items()}
    return Seen(point, events, digests)


def write(step: int) -> dict:
    return {"op": "write", "step": step}


def steps_of_a_run(lab: Lab, n: int) -> list[int]:
    """Steps as a run has them: growing, and not of equal length (9 before 10, 99 before 100)."""
    start = lab.draw.choice([9, 98, 99])
    return [start + i for i in range(n)]


def works(seen: Seen) -> None:
    """Nothing was raised where no fault was injected."""
    if seen.raised:
        raise crashed(seen.raised, [])
    late = [e for e in seen.all("ended") if e["late"]]
    if late:
        raise Finding(
            "limit:wall", [("ended", "a call of your storage functions was still running after 20 s")]
        )
    if bad := [e for e in seen.all("ended") if e["status"] != 0 and e["part"] == "write"]:
        raise Finding("exit", [("ended", f"your function ended the process, with status {bad[0]['status']}")])


def fails(
    cause: str, seen: Seen, rows: list[tuple[str, str]], fault: str | None = None, what: str = "latest"
) -> Finding:
    read = "read_best" if what == "best" else "read_latest"
    found = {
        "none": f"{read} returned None, as if nothing had ever been saved",
        "error": f"{read} raised {_error(seen)}",
        "nothing": f"the process that called {read} ended",
        "another state": f"{read} returned a state that was never saved",
    }.get(seen.found(what), f"{read} returned the state of {seen.found(what)}")
    at = next((i for i, (label, _) in enumerate(rows) if label in ("expected", "means", "think")), len(rows))
    return Finding(cause, [*rows[:at], ("found", found), *rows[at:]], fault)


def _error(seen: Seen) -> str:
    crash = seen.read_crash
    return (
        f"{crash['type']}: {crash['message'].splitlines()[0][:120]}"
        if crash and crash["message"]
        else "an error"
    )


# --- faults ------------------------------------------------------------------------------------------


def events_and_size(lab: Lab, steps: list[int], last: dict | None = None) -> tuple[list[str], int]:
    """Events and the largest file's size of an undisturbed last operation."""
    ops = [*map(write, steps[:-1]), last or write(steps[-1])]
    seen = observe(lab, [{"name": "undisturbed", "ops": ops}])["undisturbed"]
    works(seen)
    saved = seen.all("saved")[-1]
    if last is None and not seen.all("did")[-1]["newest"]:
        raise Finding(
            "nothing written",
            [("saved", f"step {steps[-1]}"), ("happened", "no file in the directory was written or changed")],
        )
    sizes = [size for did in seen.all("did") for size in did["newest"]]
    return saved["events"], max(sizes, default=0)


def kill_points(lab: Lab, step: int, events: list[str], select: bool = True) -> list[Fault]:
    number = len(events)
    if not number:
        raise Inconclusive(
            "blind", [("watching", "the save raised no file-system event that Python can see")]
        )
    picked = range(number) if number <= MAX_EVENTS else sorted(lab.draw.sample(range(number), MAX_EVENTS))
    points = [Fault("kill", step, event=k) for k in picked]
    return selected(lab, points) if select else points


def kill_and_tear_points(lab: Lab, step: int, events: list[str], size: int) -> list[Fault]:
    """Kills between the events, and two in the middle of a file's bytes, which raise no event."""
    everywhere = [
        *kill_points(lab, step, events, select=False),
        *(Fault("tear", step, byte=b) for b in (size // 2, 0)),
    ]
    return selected(lab, everywhere)


def moment(fault: Fault, events: list[str]) -> str:
    return (
        f"just before: {events[fault.event]}"
        if fault.event is not None
        else f"when a file had reached byte {fault.byte}"
    )


def selected(lab: Lab, faults: list[Fault]) -> list[Fault]:
    """All, or the one that --fault asks for."""
    if lab.only is None:
        return faults
    chosen = [f for f in faults if f in lab.only]
    if not chosen:
        raise NotSelected
    return chosen


def under_faults(lab: Lab, before: list[dict], last: dict, faults: list[Fault], **more) -> dict[str, Seen]:
    points = [
        {"name": str(f), "ops": [*before, last], "fault": f.to_json() | {"step": last.get("step", 0)}} | more
        for f in faults
    ]
    return observe(lab, points)


def died_right(seen: Seen) -> None:
    """A kill really killed: otherwise the point proves nothing."""
    ended = next(e for e in seen.all("ended") if e["part"] == "write")
    if ended["late"]:
        raise Finding("limit:wall", [("ended", "a save was still running after 20 s")])
    if not seen.all("fault"):
        if seen.raised:
            raise crashed(seen.raised, [])
        raise Inconclusive(
            "fault", [("fault", f"{seen.point['name']} never fired: two saves did different things")]
        )
