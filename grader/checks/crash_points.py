"""Plans of points for grader/workload/storage.py, and what was seen at each of them.

A point prepares a directory, does something under a fault, and asks in another process what a relaunched
job would find there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from grader.checks.expect import crashed, finished
from grader.harness.faults import Fault
from grader.harness.fsevents import FROM_OUTSIDE
from grader.harness.lab import Lab
from grader.harness.run import Run
from grader.verdicts import Finding, Inconclusive, NotSelected

MAX_EVENTS = 40  # crash points of one save; a save with more events is sampled evenly


@dataclass
class Seen:
    """One point of a plan, after it ran: what was done there, and what a relaunched job found."""

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

    def _parts(self, begin: str) -> list[Seen]:
        at = [n for n, e in enumerate(self.events) if e["event"] == begin]
        return [Seen(self.point, self.events[a:b], self.digests) for a, b in zip(at, [*at[1:], None])]

    @property
    def operations(self) -> list[Seen]:
        """What was seen at each of the point's operations."""
        return self._parts("op")

    @property
    def harmed(self) -> list[Seen]:
        """What was found after each damage."""
        return self._parts("harmed")

    @property
    def harm(self) -> list[dict]:
        """The damage to files that this is about."""
        return self.all("harmed")[0]["files"]

    @property
    def did(self) -> dict:
        """What the directory held at last: "total" bytes, "entries", the sizes of the files "changed"."""
        return self.all("did")[-1]


def observe(lab: Lab, points: list[dict]) -> dict[str, Seen]:
    """Run the points, all in one life."""
    folder = lab.bench.folder()
    (folder / "plan.json").write_text(
        json.dumps([{"reads": ["latest"], "at": p["name"], "made": True, "harms": []} | p for p in points])
    )
    run = lab.launch("storage.py", "--seed", lab.seed, "--plan", folder / "plan.json")
    finished(lab, run)
    return {p["name"]: _seen(run, p) for p in points}


def observed(lab: Lab, name: str, points: Callable[[], list[dict]]) -> dict[str, Seen]:
    """Run `points()` once in a grading, for all checks that look at them under this name."""
    return lab.bench.once(("storage", name, lab.bench.submission.key), lambda: observe(lab, points()))


def _seen(run: Run, point: dict) -> Seen:
    life, events, inside = run.last, [], False
    for event in life.events:
        if event["event"] == "point":
            inside = event["point"] == point["name"]
        elif inside:
            events.append(event)
    digests = {digest: f"step {step}" for step, digest in life.first("digests")["of"].items()}
    return Seen(point, events, digests)


def write(step: int, **more) -> dict:
    return {"op": "write", "step": step} | more


def cut(*steps: int, to: float = 0.5) -> dict:
    """The files that were last written by the saves of these steps, cut short; without any, all files."""
    return {"op": "harm", "how": "truncate", "to": to, "of": list(steps) or None}


def steps_of_a_run(draw, n: int) -> list[int]:
    """Steps as a run has them: growing, and not of equal length (9 before 10, 99 before 100)."""
    start = draw.choice([9, 98, 99])
    return [start + i for i in range(n)]


def works(seen: Seen) -> None:
    """Nothing was raised where no fault was injected."""
    for op in seen.operations:
        if op.events[0]["op"].get("fault") or op.events[0]["op"].get("dies"):
            continue
        if op.raised:
            raise crashed(op.raised, [])
        in_time(op)
        if bad := [e for e in op.all("ended") if e["status"] != 0 and e["part"] == "write"]:
            raise Finding(
                "exit",
                [
                    ("ended", f"your function ended the process, with status {bad[0]['status']}"),
                    ("expected", "it returns, or raises"),
                ],
            )
    in_time(seen)
    untouched(seen)


def in_time(seen: Seen) -> None:
    if any(e["late"] for e in seen.all("ended")):
        raise Finding("limit:wall", [("ended", "a call of your storage functions was still running after 20 s")])


def untouched(seen: Seen) -> None:
    """Reading changed nothing."""
    for touched in seen.all("touched"):
        done = "was deleted" if touched["files"][0] in touched["gone"] else "was changed"
        raise Finding(
            "reading writes",
            [
                ("called", " and ".join(f"read_{what}" for what in dict.fromkeys(seen.point.get("reads", ["latest"])))),
                ("found", f"{touched['files'][0]} {done} by it"),
                ("expected", "reading changes nothing on the disk"),
                ("means", "what could still be rescued is lost, to a job that only wanted to look"),
                ("think", "what does your reader do with a file that it can't use?"),
            ],
        )


def others_untouched(seen: Seen, rows: list[tuple[str, str]]) -> None:
    """Files that somebody else put into the directory are as they were."""
    if lost := seen.did["lost"]:
        raise Finding(
            "foreign files",
            [
                *rows,
                ("found", f"{lost[0]} isn't what it was"),
                ("expected", "what others put there stays as it is"),
                ("think", "which files are yours, and how do you tell?"),
            ],
        )


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
    if not crash:
        return "an error"
    first = next((line.strip() for line in crash["message"].splitlines() if line.strip()), "")
    return f"{crash['type']}: {first[:120]}" if first else crash["type"]


# --- faults ------------------------------------------------------------------------------------------


def events_and_size(seen: Seen) -> tuple[list[str], int]:
    """Events and the largest file's size of an undisturbed last operation."""
    works(seen)
    events = seen.all("saved")[-1]["events"]
    if not seen.operations[-1].did["changed"] and seen.point["ops"][-1]["op"] == "write":
        step = seen.point["ops"][-1]["step"]
        raise Finding(
            "nothing written",
            [
                ("saved", f"step {step}"),
                ("found", "no file in the directory was written or changed"),
                ("expected", "a checkpoint"),
                ("think", "where does your write_checkpoint write to?"),
            ],
        )
    if moved := [e for e in events if e.endswith(FROM_OUTSIDE) and e.startswith(("rename", "link"))]:
        raise Finding(
            "another file system",
            [
                ("found", f"a file is made outside of the directory, and then: {moved[0]}"),
                ("expected", "temporary files lie in `directory` itself"),
                ("means", "on a cluster /tmp is another file system than the checkpoints': there the rename fails (EXDEV), or becomes a slow copy that a kill cuts short"),
                ("think", "in which folder does your temporary file lie, and which disk is that on?"),
            ],
        )
    return events, max((size for did in seen.all("did") for size in did["changed"]), default=0)


def kill_points(lab: Lab, step: int, events: list[str]) -> list[Fault]:
    number = len(events)
    if not number:
        raise Inconclusive("blind", [("watching", "the save raised no file-system event that Python can see")])
    picked = range(number) if number <= MAX_EVENTS else sorted(lab.draw.sample(range(number), MAX_EVENTS))
    return [Fault("kill", step, event=k) for k in picked]


def kill_and_tear_points(lab: Lab, step: int, events: list[str], size: int) -> list[Fault]:
    """Kills between the events, and two in the middle of a file's bytes, which raise no event."""
    tears = [Fault("tear", step, byte=b) for b in dict.fromkeys((size // 2, 0))]
    return selected(lab, [*kill_points(lab, step, events), *tears])


def moment(fault: Fault, events: list[str]) -> str:
    if fault.event is not None and fault.event < len(events):
        return f"just before: {events[fault.event]}"
    return f"before its event {fault.event}" if fault.event is not None else f"when a file had reached byte {fault.byte}"


def selected(lab: Lab, faults: list[Fault]) -> list[Fault]:
    """All, or the one that --fault asks for."""
    if lab.only is None:
        return faults
    chosen = [f for f in faults if f in lab.only]
    if not chosen:
        raise NotSelected
    return chosen


def cases(faults: list[Fault], events: list[str]) -> list[tuple[str, Fault, int | None]]:
    """(name, fault, late) of each point. If several files are written, a tear also strikes the last one alone:
    a temporary file that is *copied* to its final name is torn in the copy.
    """
    found = [(str(fault), fault, None) for fault in faults]
    opened = _opened(events)
    if len(opened) > 1:
        found += [(f"{fault}, last file", fault, opened[-1]) for fault in faults if fault.kind == "tear" and fault.byte]
    return found


def _opened(events: list[str]) -> list[int]:
    return [n for n, event in enumerate(events) if event.startswith(("open ", "torch.save begins"))]


def under(fault: Fault, op: dict, events: list[str] = (), late: int | None = None, **more) -> dict:
    """The operation under a fault. `events`: those of the same operation undisturbed; `late`: the one before
    which nothing is torn.
    """
    if any(event.endswith(FROM_OUTSIDE) for event in events) and late is None:
        late = next(iter(_opened(events)), None)  # what is copied in is torn here, not where it comes from
    return op | {"fault": fault.to_json() | {"step": op.get("step", 0), "late": late}} | more


def died_right(seen: Seen) -> None:
    """The fault struck: otherwise the point proves nothing."""
    in_time(seen)
    untouched(seen)
    op = next(op for op in seen.operations if op.events[0]["op"].get("fault"))
    fault, ended = op.events[0]["op"]["fault"], op.all("ended")[0]
    if not op.all("fault"):
        if op.raised:
            raise crashed(op.raised, [])
        raise Inconclusive("fault", [("fault", f"{seen.point['name']} never fired: two saves did different things")])
    struck_all = "byte" in fault and fault.get("late") is None  # every file that the operation wrote
    if op.all("lifted") or (struck_all and ended["status"] == 0 and max(op.did["changed"], default=0) > fault["byte"]):
        raise Finding(
            "limit lifted",
            [
                ("fault", f"no file may grow beyond byte {fault['byte']} (RLIMIT_FSIZE)"),
                ("found", "the save has changed that limit, and wrote on"),
                ("expected", "the save fails, as it would on a full disk"),
                ("think", "what would it have done on a disk that really is full?"),
            ],
        )


def struck(points: list[Seen]) -> None:
    """At least one of several torn or full saves met its limit."""
    if points and all(e["status"] == 0 for seen in points for e in seen.all("ended") if e["part"] == "write"):
        raise Inconclusive("fault", [("fault", "no file of the save ever reached the byte at which it was to be torn")])
