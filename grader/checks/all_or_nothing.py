"""ex02.5: one rank dies at any point of a save, and all ranks find the same complete checkpoint."""

from __future__ import annotations

from grader.checks import power_loss
from grader.checks.crash_points import moment, selected
from grader.checks.rank_points import (
    AFTER_GOOD,
    FIRST,
    RANKS,
    SECOND,
    Seen,
    agrees,
    goes_on,
    observe,
    of_point,
    works,
)
from grader.checks.rank_runs import deadlock, leaving, left_early
from grader.harness.faults import Fault, KillInSave
from grader.harness.lab import Lab
from grader.verdicts import Finding, Inconclusive

MOST = 14  # crash points of one rank's save; of more, so many are drawn


def undisturbed(lab: Lab) -> dict[str, Seen]:
    """What saves do when nothing disturbs them, seen once for all checks."""
    points = [
        {"name": "one", "saves": [FIRST], "next": False},
        {"name": "two", "from": "one", "saves": [SECOND]},
        {"name": "empty"},
    ]
    return lab.bench.once(("rank points", lab.bench.submission.key), lambda: observe(lab, points))


def newest_on_every_rank(lab: Lab) -> None:
    seen = undisturbed(lab)
    for name, step in (("one", FIRST), ("two", SECOND)):
        works(seen[name])
        rows = [("saved", f"steps {FIRST} and {SECOND}" if name == "two" else f"step {FIRST}")]
        agrees(seen[name], (f"step {step}",), rows, "a resumed job isn't the job that was saved", "which parts of the job does each rank get back?")
    goes_on(seen["two"], f"step {SECOND}", [("saved", f"steps {FIRST} and {SECOND}")], texts=AFTER_GOOD)
    rows = [("directory", "empty: nothing was ever saved")]
    agrees(seen["empty"], ("nothing",), rows, "a new job can't begin", "what does resume find in a new directory?")
    goes_on(seen["empty"], "nothing", rows, texts=AFTER_GOOD)


def events_of(lab: Lab, name: str) -> list[list[str]]:
    """For each rank, the file-system events of an undisturbed save."""
    seen = undisturbed(lab)[name]
    works(seen)
    return [seen.first(rank, "saved")["events"] for rank in range(RANKS)]


def _kills(lab: Lab, step: int, events: list[list[str]], most: int) -> list[Fault]:
    faults = []
    for rank, of_rank in enumerate(events):
        numbers = range(len(of_rank)) if len(of_rank) <= most else sorted(lab.draw.sample(range(len(of_rank)), most))
        faults += [KillInSave(step, event, rank) for event in numbers]
    if not faults:
        raise Inconclusive("blind", [("watching", "the save raised no file-system event that Python can see")])
    return selected(lab, faults)


def killed_at_every_event(lab: Lab) -> None:
    _killed(lab, "two", [{"name": "before", "saves": [FIRST], "next": False}], SECOND, (f"step {FIRST}", f"step {SECOND}"), MOST)


def first_save_killed(lab: Lab) -> None:
    _killed(lab, "one", [], FIRST, ("nothing", f"step {FIRST}"), 4)


def _killed(lab: Lab, like: str, before: list[dict], step: int, allowed: tuple[str, ...], most: int) -> None:
    events = events_of(lab, like)
    faults = _kills(lab, step, events, most)
    # every other time, the launcher ends the rank that is left as soon as it notices; else it sees the error
    points = [
        {"name": str(f), "from": "before" if before else None, "saves": [step], "fault": f.to_json(), "node": bool(n % 2)}
        for n, f in enumerate(faults)
    ]
    seen = observe(lab, before + points)
    for fault in faults:
        point = seen[str(fault)]
        if point.first(fault.rank, "fault") is None:
            raise Inconclusive("fault", [("fault", f"{fault} never fired: two saves did different things")])
        rows = [("fault", f"SIGKILL of rank {fault.rank} in the save of step {step}, {moment(fault, events[fault.rank])}")]
        means = "a partial checkpoint is taken for a whole one" if "nothing" not in allowed else "what an interrupted first save left is taken for a checkpoint, or keeps the job from starting"
        resumed = agrees(point, allowed, rows, means, "what makes a checkpoint complete, and when does it begin to exist for all ranks?", str(fault))
        goes_on(point, resumed, rows, str(fault))


def _failures(lab: Lab, events: list[list[str]]) -> list[Fault]:
    """A full disk at some byte, for each rank that writes; and at what it does besides: folders, renames."""
    writers = [rank for rank, of_rank in enumerate(events) if any(e.startswith(("open ", "torch.save")) for e in of_rank)]
    faults = [Fault("full", SECOND, byte=lab.draw.randint(1, 400), rank=rank) for rank in writers]
    for rank, of_rank in enumerate(events):
        others = [n for n, event in enumerate(of_rank) if event.startswith(("mkdir ", "rename "))]
        picked = others if len(others) <= 4 else [others[0], *sorted(lab.draw.sample(others[1:-1], 2)), others[-1]]
        faults += [Fault("error", SECOND, event=n, rank=rank) for n in picked]
    return selected(lab, faults)


def disk_full_at_one_rank(lab: Lab) -> None:
    events = events_of(lab, "two")
    faults = _failures(lab, events)
    before = [{"name": "before", "saves": [FIRST], "next": False}]
    seen = observe(lab, before + [{"name": str(f), "from": "before", "saves": [SECOND], "fault": f.to_json()} for f in faults])
    for fault in faults:
        point = seen[str(fault)]
        rows = [("fault", fault.story if fault.kind == "full" else f"the disk is full for rank {fault.rank} in the save of step {SECOND}, {moment(fault, events[fault.rank]).replace('just before', 'at')}")]
        if point.first(fault.rank, "fault") is None:
            raise Inconclusive("fault", [("fault", f"{fault} never fired: two saves did different things")])
        lives = [of_point(life, point, r, "save") for r, life in enumerate(point.lives)]
        if any(life.all("collective failed") for life in lives):
            errors = {r: life.first("raised") for r, life in enumerate(lives) if life.first("raised") and not life.all("collective failed")}
            raise leaving(deadlock(lives, rows, str(fault)), "save_step", errors)
        silent = [f"rank {rank}" for rank in range(RANKS) if not point.all(rank, "raised")]
        # what fails may be something that the checkpoint doesn't need; then it's complete, and all know it
        if silent and not (fault.kind == "error" and len(silent) == RANKS and set(point.found()) == {f"step {SECOND}"}):
            raise Finding(
                "error on one rank",
                [
                    *rows,
                    ("found", f"save_step returned on {' and '.join(silent)} as if all were well"),
                    ("expected", "an error on every rank"),
                    ("means", "the job believes in a checkpoint that it doesn't have"),
                    ("think", "how do the others get to know that one rank's part isn't there?"),
                ],
                str(fault),
            )
        allowed = (f"step {FIRST}",) if fault.kind == "full" else (f"step {FIRST}", f"step {SECOND}")
        resumed = agrees(point, allowed, rows, "a partial checkpoint is taken for a whole one", "what becomes of the parts that the other ranks have written?", str(fault))
        goes_on(point, resumed, rows, str(fault))


def nobody_leaves_early(lab: Lab) -> None:
    """Rank 0 is held before the last thing that makes the checkpoint exist."""
    events = events_of(lab, "two")[0]
    moves = [n for n, event in enumerate(events) if event.startswith(("rename ", "open ", "torch.save begins"))]
    if not moves:
        raise Inconclusive("blind", [("watching", "rank 0's save raised no file-system event that Python can see")])
    before = [{"name": "before", "saves": [FIRST], "next": False}]
    point = observe(lab, [*before, {"name": "held", "from": "before", "saves": [SECOND], "hold": moves[-1], "next": False}])["held"]
    works(point)
    shown = point.first(0, "held")["shown"]
    if shown == "returned":
        think = "what is the last thing that rank 0 does in your save, and what do the others wait for?"
        raise left_early(f"rank 0 stands still just before: {events[moves[-1]]}", "rank 1", "save_step", think)
    if shown is None:
        raise Inconclusive("fault", [("held", f"rank 0 never came to its event {moves[-1]}: two saves did different things")])


BOTH = [{"name": "before", "saves": [FIRST], "next": False}, {"name": "both", "from": "before", "saves": [SECOND], "next": False}]
OF_BOTH = {"from": "both", "since": "before"}


def ranks_see_different_listings(lab: Lab) -> None:
    events_of(lab, "two")
    seen = observe(lab, BOTH + [{"name": f"stale {rank}", **OF_BOTH, "stale": rank, "next": False} for rank in range(RANKS)])
    for rank in range(RANKS):
        point = seen[f"stale {rank}"]
        rows = [("saved", f"steps {FIRST} and {SECOND}"), ("but", f"rank {rank} doesn't see the new names in `directory` yet, as on a node whose file system lags (it can open them)")]
        means = "ranks that choose for themselves resume from different steps, or wait for each other for ever"
        agrees(point, (f"step {FIRST}", f"step {SECOND}"), rows, means, "who decides which checkpoint it is, and how do the others get to know?")


def damaged_for_one_rank(lab: Lab) -> None:
    events_of(lab, "two")
    written = undisturbed(lab)["two"].first(0, "wrote")["files"]
    if not written:
        raise Finding("nothing written", [("saved", f"step {SECOND}"), ("found", "no file in `directory` was written or changed"), ("expected", "a checkpoint")])
    harms = [(how, n) for n in range(min(len(written), 8)) for how in ("remove", "truncate")]
    points = [{"name": f"{how} {n}", **OF_BOTH, "harm": {"how": how, "file": n}} for how, n in harms]
    points.append({"name": "all", **OF_BOTH, "harm": {"how": "truncate", "file": "all"}, "next": False})
    seen = observe(lab, BOTH + points)
    for how, n in harms:
        point = seen[f"{how} {n}"]
        file = point.first(0, "harmed")["file"]
        rows = [("saved", f"steps {FIRST} and {SECOND}"), ("damaged", f"{file}: {'deleted' if how == 'remove' else 'cut in half'}")]
        means = "one rank's part is missing, and the ranks don't pass over that checkpoint together"
        think = "how does each rank get to know that another one's part is no good?"
        resumed = agrees(point, (f"step {FIRST}", f"step {SECOND}"), rows, means, think)
        goes_on(point, resumed, rows)
    rows = [("saved", f"steps {FIRST} and {SECOND}"), ("damaged", "every file: cut in half")]
    agrees(seen["all"], ("an error",), rows, "the run starts over, and nobody is told that it ever got this far", "what is the difference between nothing saved and nothing intact?")


def power_lost(lab: Lab) -> None:
    selected(lab, [])  # no fault is asked for
    works(undisturbed(lab)["two"])  # what fails with nothing wrong is told as that
    power_loss.survives(lab, "crash_ranks.py", "--ranks", RANKS, steps=[FIRST, SECOND], saves="save_step", load="resume")
