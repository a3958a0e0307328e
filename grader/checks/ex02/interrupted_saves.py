"""ex02.5: one rank dies at any point of a save, and all ranks find the same complete checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from grader.checks import power_loss
from grader.checks.ex02.rank_assertions import agrees, goes_on, works
from grader.checks.ex02.rank_plan import copied, loads, place, saves, secrets, steps
from grader.checks.ex02.undisturbed_saves import (
    GOES_ON,
    Undisturbed,
    contents_of,
    paths_below,
    save,
)
from grader.checks.fault_points import moment, selected
from grader.harness.faults import Fault, KillInSave
from grader.harness.inside.fsevents import FROM_OUTSIDE
from grader.harness.lab import Lab
from grader.verdicts import Inconclusive, Struck

MOST = 24  # crash points of one rank's save, at most
FEW = 4  # for a save that resembles another one


def _kills(
    lab: Lab, step: int, events: list[list[str]], most: int, size: int
) -> list[tuple[Fault, int | None]]:
    """(fault, late): a kill before each event of each rank, and two for each file that it opens:
    when it is empty, and when something of it is written, of `size` bytes at most."""
    faults: list[tuple[Fault, int | None]] = []
    for rank, of_rank in enumerate(events):
        numbers = spread(len(of_rank), most, lab.draw.random())
        faults += [(KillInSave(step, event, rank), None) for event in numbers]
    if not faults:
        raise Inconclusive(
            "blind", [("watching", "the save raised no file-system event that Python can see")]
        )
    for rank, of_rank in enumerate(events):
        opened = [n for n, e in enumerate(of_rank) if e.startswith(("open ", "torch.save begins"))]
        # torch.save into a file that was opened just before writes no other file
        opened = [
            n for n in opened if not (of_rank[n].startswith("torch.save") and n - 1 in opened)
        ]
        picked = [opened[n] for n in spread(len(opened), 4, lab.draw.random())]
        for n in picked if most == MOST else opened[-1:]:
            for byte in dict.fromkeys((0, lab.draw.choice([1, 20, size // 2]))):
                faults.append((Fault("tear", step, byte=byte, rank=rank), n))
    chosen = selected(lab, [fault for fault, _ in faults])
    return [pair for pair in faults if pair[0] in chosen]


def spread(number: int, most: int, begin: float) -> list[int]:
    """All of `number`, or `most` of them at equal distances."""
    return (
        list(range(number))
        if number <= most
        else [int((n + begin) * number / most) for n in range(most)]
    )


def _stamps(folder: Path) -> dict[str, tuple]:
    """Everything below the folder, and what changes when it is written to. (Not ctime: a sandbox
    may change owners and modes.)
    """
    found = {}
    for path in [folder, *paths_below(folder)]:
        stat = path.lstat()
        found[str(path.relative_to(folder))] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


def _first_trace(events: list[str], before: Path | None) -> int:
    """The number of the first event that changes the directory: a name appears or disappears."""
    for n, event in enumerate(events):
        what, _, path = event.removesuffix(FROM_OUTSIDE).partition(" ")
        if what in ("mkdir", "rename", "remove", "rmdir", "link", "symlink"):
            return n
        if what == "open" and not (before and os.path.lexists(before / path)):
            return n
    return len(events)


def killed_at_every_event(lab: Lab) -> None:
    first, second, _ = steps(lab)
    _killed(lab, "two", "one", save(second), (f"step {first}", f"step {second}"), MOST)


def first_save_killed(lab: Lab) -> None:
    first = steps(lab)[0]
    _killed(lab, "one", None, save(first), ("nothing", f"step {first}"), FEW)


def save_again_killed(lab: Lab) -> None:
    """The step was saved already. Its old checkpoint may be gone during the save, so the step
    before it counts."""
    first, second, _ = steps(lab)
    allowed = (f"step {first}", f"step {second}", f"step {second}, saved again")
    _killed(lab, "again", "two", save(second, version=1), allowed, FEW)


def _killed(
    lab: Lab, like: str, before: str | None, last: dict, allowed: tuple[str, ...], most: int
) -> None:
    ready, folder = Undisturbed.of(lab), place(lab)
    events = ready.events(like)
    new = ready.new(like, before) if before else list(contents_of(ready.folder / like))
    size = max([(ready.folder / like / file).stat().st_size for file in new], default=2)
    step, points = last["step"], []
    faults = _kills(lab, step, events, most, size)
    was = []
    for n, (fault, late) in enumerate(faults):
        if before:
            copied(ready.folder / before, folder / f"run-{n}")
        else:
            (folder / f"run-{n}").mkdir()
        was.append(_stamps(folder / f"run-{n}"))
        with_fault = last | {"fault": fault.to_json() | {"late": late}}
        # every other time, the launcher ends the rank that is left as soon as it notices; else it
        # sees the error
        points.append({"name": f"run-{n}", "ops": [with_fault], "node": bool(n % 2)})
    died = saves(lab, points, folder, judged=False)
    is_now = [_stamps(folder / f"run-{n}") for n in range(len(faults))]
    seen = loads(lab, [{"name": f"run-{n}", "ops": GOES_ON} for n in range(len(faults))], folder)
    # after which of a rank's events something in the directory must look different
    traced = [
        _first_trace(of_rank, (ready.folder / before) if before else None) for of_rank in events
    ]
    for n, (fault, late) in enumerate(faults):
        then, point = died[f"run-{n}"], seen[f"run-{n}"]
        rank = fault.rank or 0
        if then.first(rank, "fault") is None:
            raise Inconclusive(
                "fault", [Struck(f"{fault} never fired: two saves did different things")]
            )
        dead = then.first(rank, "ended point")["status"] < 0
        if fault.kind == "kill" and not dead:
            raise Inconclusive("fault", [Struck(f"{fault} fired, and the rank continued")])
        happened = late if late is not None else fault.event or 0
        if dead and is_now[n] == was[n] and happened > traced[rank]:
            raise Inconclusive(
                "fault",
                [
                    Struck(f"SIGKILL of rank {rank} in the save of step {step}"),
                    ("but", "it died before it had written anything: nothing was interrupted"),
                ],
            )
        where = (
            moment(fault, events[rank])
            if late is None
            else f"when the file was {fault.byte} bytes long: {events[rank][late]}"
        )
        again = " again" if last.get("version") else ""
        rows = [Struck(f"SIGKILL of rank {fault.rank} in the save of step {step}{again}, {where}")]
        means = (
            "a partial checkpoint is mistaken for a complete one"
            if "nothing" not in allowed
            else "the leftovers of an interrupted first save count as a checkpoint, or keep the "
            "job from starting"
        )
        resumed = agrees(
            point,
            allowed,
            rows,
            means,
            "what makes a checkpoint complete, and when does it begin to exist for all ranks?",
            str(fault),
        )
        goes_on(point, resumed, rows, str(fault))


def power_lost(lab: Lab) -> None:
    first, second, _ = steps(lab)
    _power_lost(lab, [first, second])


def power_lost_again(lab: Lab) -> None:
    first, second, _ = steps(lab)
    _power_lost(lab, [first, second, second], "--again")


def _power_lost(lab: Lab, numbers: list[int], *flags: object) -> None:
    selected(lab, [])  # no fault is asked for
    ready = Undisturbed.of(lab)
    # a failure without a fault is reported as such
    works(ready.seen["again" if flags else "run"])
    power_loss.survives(
        lab,
        "ex02/power_loss.py",
        "--ranks",
        2,
        *flags,
        given={"payload": secrets(lab)["saved"]},
        steps=numbers,
        saves="save_step",
        load="resume",
    )
