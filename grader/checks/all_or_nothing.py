"""ex02.5: one rank dies at any point of a save, and all ranks find the same complete checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass

from grader.checks.crash_points import moment, selected
from grader.checks.expect import crashed
from grader.checks.rank_runs import deadlock, ended_early
from grader.harness.faults import Fault, KillInSave
from grader.harness.lab import Lab
from grader.harness.run import Life
from grader.verdicts import Finding, Inconclusive

RANKS = 2
FIRST, SECOND, THIRD = 4, 8, 12  # steps that are saved (grader/workload/rank_points.py counts in fours)
MOST = 14  # crash points of one rank's save; of more, so many are drawn


@dataclass
class Seen:
    """One point of a plan, after it ran: what each rank reported there."""

    point: dict
    lives: list[Life]
    events: list[list[dict]]  # by rank

    def all(self, rank: int, event: str) -> list[dict]:
        return [e for e in self.events[rank] if e["event"] == event]

    def first(self, rank: int, event: str) -> dict | None:
        return next(iter(self.all(rank, event)), None)

    def found(self, when: str = "first") -> list[str]:
        """What each rank came to: 'step 4', 'nothing', 'an error', 'another state', 'no answer'."""
        return [self._found(rank, when) for rank in range(len(self.events))]

    def resumed(self, rank: int, when: str) -> dict | None:
        return next((e for e in self.all(rank, "resumed") if e["when"] == when), None)

    def _found(self, rank: int, when: str) -> str:
        answer = self.resumed(rank, when)
        if answer is None:
            return "no answer"
        if answer["error"]:
            return "an error"
        if answer["found"] not in ("True", "False"):
            return f"an answer that is neither True nor False: {answer['found'][:40]}"
        if answer["found"] == "False":
            return "nothing"
        for expected in self.lives[rank].all("expected"):
            if expected["state"] == answer["state"]:
                return f"step {expected['step']}"
        return "another state"

    def different(self, rank: int, when: str) -> list[str]:
        """The components that aren't those of the step that the rank believes to be at."""
        answer = self.resumed(rank, when)
        for expected in self.lives[rank].all("expected"):
            if expected["step"] == answer["step"]:
                return [k for k, v in expected["state"].items() if answer["state"].get(k) != v]
        return ["global step"]


def observe(lab: Lab, points: list[dict]) -> dict[str, Seen]:
    """Run the points, all in one life of two ranks."""
    default = {"from": None, "since": None, "saves": [], "fault": None, "node": False, "harm": None, "stale": None, "next": True}
    folder = lab.bench.folder()
    at = {p["name"]: f"run-{n}" for n, p in enumerate(points)}  # the directory's name doesn't tell what is to happen in it
    plan = [default | p | {"at": at[p["name"]], "from": at.get(p.get("from")), "since": at.get(p.get("since"))} for p in points]
    (folder / "plan.json").write_text(json.dumps(plan))
    run = lab.launch("rank_points.py", "--plan", folder / "plan.json", "--seed", lab.seed, ranks=RANKS)
    lives = run.last.ranks
    if any(life.first("end") is None for life in lives):
        raise ended_early(lab, run, run.last)
    return {p["name"]: Seen(default | p, lives, [_part(life, p["name"]) for life in lives]) for p in points}


def _part(life: Life, name: str) -> list[dict]:
    events, inside = [], False
    for event in life.events:
        if event["event"] == "point":
            inside = event["point"] == name
        elif inside:
            events.append(event)
    return events


# --- what must hold at every point -------------------------------------------------------------------


def agrees(seen: Seen, allowed: tuple[str, ...], rows: list, means: str, think: str, fault: str | None = None, when: str = "first") -> str:
    """All ranks came to the same, and it is one of those allowed. Returns it."""
    found = seen.found(when)
    if len(set(found)) == 1 and found[0] in allowed:
        return found[0]
    told = list(rows)
    told += [(f"rank {rank}", _told(seen, rank, what, when)) for rank, what in enumerate(found)]
    told.append(("expected", f"on every rank: {' or '.join(allowed)}"))
    if set(found) == {"an error"} and not allowed[0].startswith("an error"):
        means = "the job can't go on, although a complete checkpoint was there before this save"
    elif set(found) == {"nothing"}:
        means = "the run starts over, and nobody is told that it ever got this far"
    hung = [_of_point(life, seen, rank) for rank, life in enumerate(seen.lives)]
    if "no answer" in found and any(life.all("collective failed") for life in hung):
        raise deadlock(hung, rows, fault)
    raise Finding("ranks disagree" if len(set(found)) > 1 else f"found {found[0]}", [*told, ("means", means), ("think", think)], fault)


def _told(seen: Seen, rank: int, what: str, when: str) -> str:
    if what == "an error":
        error = seen.resumed(rank, when)["error"]
        return f"resume raised {error['type']}: {error['message'].splitlines()[0][:120] if error['message'] else ''}"
    if what == "another state":
        return f"a state that was never saved: of step {seen.resumed(rank, when)['step']}, but for {', '.join(seen.different(rank, when)[:5])}"
    if what == "nothing":
        return "resume returned False, as if nothing had ever been saved"
    if what == "no answer":
        crash = next((e for e in seen.all(rank, "crash")), None)
        return f"no answer: {crash['type']}: {crash['message'].splitlines()[0][:100]}" if crash else "no answer"
    return what


def _of_point(life: Life, seen: Seen, rank: int) -> Life:
    """The rank's life as far as this point goes."""
    part = Life(life.folder, life.fault, life.result)
    part.__dict__["events"] = seen.events[rank]
    return part


def works(seen: Seen) -> None:
    """Nothing went wrong where no fault was injected."""
    for rank in range(RANKS):
        for crash in seen.all(rank, "raised") + seen.all(rank, "crash"):
            if any(seen.all(r, "collective failed") for r in range(RANKS)):
                raise deadlock([_of_point(life, seen, r) for r, life in enumerate(seen.lives)], [("called", "save_step, with nothing in its way")])
            raise crashed(crash, [("rank", str(rank))])
        for ended in seen.all(rank, "ended"):
            if ended["late"]:
                raise Finding("limit:wall", [("ended", f"rank {rank} was still in {ended['part']} after 20 s")])
        if any(e["changed"] for e in seen.all(rank, "state")):
            raise Finding("save changes the job", [("changed", f"rank {rank}'s job isn't what it was before save_step"), ("think", "does a save draw a random number, or set something?")])


def goes_on(seen: Seen, resumed: str, rows: list, fault: str | None = None) -> None:
    """The relaunched job's next save works, and is what is found from then on."""
    following = f"step {(0 if resumed == 'nothing' else int(resumed.split()[1])) + 4}"
    rows = [*rows, ("relaunched", f"resumed from {resumed}, and saved {following}")]
    for rank in range(RANKS):
        saved = seen.first(rank, "saved next")
        if saved and saved["error"]:
            finding = crashed(saved["error"], [*rows, ("rank", str(rank))], fault)
            finding.rows += [
                ("means", "what an interrupted save left behind blocks every later one: the job runs, and never saves again"),
                ("think", "what may lie there already when your save begins?"),
            ]
            raise finding
    agrees(
        seen, (following,), rows,
        "the save after an interrupted one can't be found",
        "what is left of the interrupted save, and what does your save do with it?",
        fault, when="again",
    )  # fmt: skip


# --- the checks -------------------------------------------------------------------------------------


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
    goes_on(seen["two"], f"step {SECOND}", [("saved", f"steps {FIRST} and {SECOND}")])
    rows = [("directory", "empty: nothing was ever saved")]
    agrees(seen["empty"], ("nothing",), rows, "a new job can't begin", "what does resume find in a new directory?")
    goes_on(seen["empty"], "nothing", rows)


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


def disk_full_at_one_rank(lab: Lab) -> None:
    writers = [rank for rank, events in enumerate(events_of(lab, "two")) if any(e.startswith(("open ", "torch.save")) for e in events)]
    faults = selected(lab, [Fault("full", SECOND, byte=lab.draw.randint(1, 400), rank=rank) for rank in writers])
    before = [{"name": "before", "saves": [FIRST], "next": False}]
    seen = observe(lab, before + [{"name": str(f), "from": "before", "saves": [SECOND], "fault": f.to_json()} for f in faults])
    for fault in faults:
        point = seen[str(fault)]
        rows = [("fault", fault.story)]
        if any(point.all(r, "collective failed") for r in range(RANKS)):
            raise deadlock([_of_point(life, point, r) for r, life in enumerate(point.lives)], rows, str(fault))
        silent = [f"rank {rank}" for rank in range(RANKS) if not point.all(rank, "raised")]
        if silent:
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
        resumed = agrees(point, (f"step {FIRST}",), rows, "a partial checkpoint is taken for a whole one", "what becomes of the parts that the other ranks have written?", str(fault))
        goes_on(point, resumed, rows, str(fault))


BOTH = [{"name": "before", "saves": [FIRST], "next": False}, {"name": "both", "from": "before", "saves": [SECOND], "next": False}]
OF_BOTH = {"from": "both", "since": "before", "next": False}


def ranks_see_different_listings(lab: Lab) -> None:
    events_of(lab, "two")
    seen = observe(lab, BOTH + [{"name": f"stale {rank}", **OF_BOTH, "stale": rank} for rank in range(RANKS)])
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
    points.append({"name": "all", **OF_BOTH, "harm": {"how": "truncate", "file": "all"}})
    seen = observe(lab, BOTH + points)
    for how, n in harms:
        point = seen[f"{how} {n}"]
        file = point.first(0, "harmed")["file"]
        rows = [("saved", f"steps {FIRST} and {SECOND}"), ("damaged", f"{file}: {'deleted' if how == 'remove' else 'cut in half'}")]
        means = "one rank's part is missing, and the ranks don't pass over that checkpoint together"
        agrees(point, (f"step {FIRST}", f"step {SECOND}"), rows, means, "how does each rank get to know that another one's part is no good?")
    rows = [("saved", f"steps {FIRST} and {SECOND}"), ("damaged", "every file: cut in half")]
    agrees(seen["all"], ("an error",), rows, "the run starts over, and nobody is told that it ever got this far", "what is the difference between nothing saved and nothing intact?")
