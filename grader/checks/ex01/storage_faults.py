"""Faults in one save: where they strike, and whether they did."""

from __future__ import annotations

from collections.abc import Sequence

from grader.checks.crashes import crashed
from grader.checks.ex01.observations import Seen
from grader.checks.ex01.storage_assertions import room_enough, untouched, works
from grader.checks.fault_points import selected
from grader.harness.faults import Fault
from grader.harness.inside.fsevents import FROM_OUTSIDE
from grader.harness.lab import Lab
from grader.verdicts import Finding, Found, Inconclusive, Struck

MAX_EVENTS = 40  # crash points of one save; a save with more events is sampled evenly


def events_and_size(seen: Seen) -> tuple[list[str], int]:
    """Events and the largest file's size of an undisturbed last operation."""
    works(seen)
    last = seen.operations[-1]
    events = last.all("saved")[-1]["events"]
    if not last.wrote and last.op["op"] == "write":
        raise Finding(
            "nothing-written",
            [
                ("saved", f"step {last.op['step']}"),
                Found("no file in the directory was written or changed"),
                ("expected", "a checkpoint"),
            ],
            think="where does your write_checkpoint write to?",
        )
    if moved := [
        e for e in events if e.endswith(FROM_OUTSIDE) and e.startswith(("rename", "link"))
    ]:
        raise Finding(
            "another-file-system",
            [
                Found(f"a file is made outside the directory, and then: {moved[0]}"),
                ("expected", "temporary files are in `directory` itself"),
            ],
            means=(
                "on a cluster, /tmp isn't on the checkpoints' file system: the rename "
                "fails (EXDEV), or becomes a slow copy that a kill cuts short"
            ),
            think="in which folder is your temporary file, and which disk is that on?",
        )
    return events, max(
        (size for operation in seen.operations for size in operation.sizes), default=0
    )


def kill_points(lab: Lab, step: int, events: list[str]) -> list[Fault]:
    number = len(events)
    if not number:
        raise Inconclusive(
            "blind", [("watching", "the save caused no file-system event that Python can see")]
        )
    picked = (
        range(number)
        if number <= MAX_EVENTS
        else sorted(lab.draw.sample(range(number), MAX_EVENTS))
    )
    return [Fault("kill", step, event=k) for k in picked]


def kill_and_tear_points(
    lab: Lab, step: int, events: list[str], size: int, kinds: tuple[str, ...] = ("tear",)
) -> list[Fault]:
    """Kills between the events, and two in the middle of a file's bytes, which raise no event."""
    middle = [Fault(kind, step, byte=b) for kind in kinds for b in dict.fromkeys((size // 2, 0))]
    return selected(lab, [*kill_points(lab, step, events), *middle])


def cases(faults: list[Fault], events: list[str]) -> list[tuple[str, Fault, int | None]]:
    """(name, fault, late) of each point. If several files are written, a tear also strikes the last
    one alone: a temporary file that is *copied* to its final name is torn in the copy.
    """
    found: list[tuple[str, Fault, int | None]]
    found = [(str(fault), fault, None) for fault in faults]
    opened = _opened(events)
    if len(opened) > 1:
        found += [
            (f"{fault}, last file", fault, opened[-1])
            for fault in faults
            if fault.kind == "tear" and fault.byte
        ]
    return found


def _opened(events: Sequence[str]) -> list[int]:
    return [n for n, event in enumerate(events) if event.startswith(("open ", "torch.save begins"))]


def under(
    fault: Fault, op: dict, events: Sequence[str] = (), late: int | None = None, **more
) -> dict:
    """The operation under a fault. `events`: those of the same operation undisturbed; `late`: the
    one before which nothing is torn.
    """
    if any(event.endswith(FROM_OUTSIDE) for event in events) and late is None:
        late = next(
            iter(_opened(events)), None
        )  # what is copied in is torn here, not where it comes from
    return op | {"fault": fault.to_json() | {"step": op.get("step", 0), "late": late}} | more


def died_right(seen: Seen) -> None:
    """The fault struck: otherwise the point proves nothing."""
    for look in seen.looks:
        untouched(look)
    op = next(operation for operation in seen.operations if operation.op.get("fault"))
    fault, ended = op.op["fault"], op.all("ended")[0]
    if not op.all("fault"):
        if op.raised:
            room_enough(op.raised)
            raise crashed(op.raised, [])
        raise Inconclusive(
            "fault",
            [Struck(f"{seen.point['name']} never fired: two saves did different things")],
        )
    struck_all = (
        "byte" in fault and fault.get("late") is None
    )  # every file that the operation wrote
    if op.all("lifted") or (
        struck_all and ended["status"] == 0 and max(op.sizes, default=0) > fault["byte"]
    ):
        raise Finding(
            "limit-lifted",
            [
                Struck(f"no file may grow past byte {fault['byte']} (RLIMIT_FSIZE)"),
                Found("the save changed that limit, and kept writing"),
                ("expected", "the save fails, as it would on a full disk"),
            ],
            think="what would it do on a disk that really is full?",
        )


def struck(points: list[Seen]) -> None:
    """At least one of several torn or full saves met its limit."""
    if points and all(e["status"] == 0 for seen in points for e in seen.all("ended")):
        raise Inconclusive(
            "fault",
            [Struck("no file of the save reached the byte at which it should be torn")],
        )
