"""Plans of points for grader/workload/rank_points.py, and what each rank saw at each of them.

At a point, ranks save under a fault, or find what was done to a checkpoint; then they resume, and save once more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from grader.checks.expect import crashed
from grader.checks.rank_runs import deadlock, ended_early
from grader.harness.lab import Lab
from grader.harness.run import Life
from grader.verdicts import Finding

RANKS = 2
FIRST, SECOND = 4, 8  # steps that are saved (grader/workload/rank_points.py counts in fours)


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
    default = {"from": None, "since": None, "saves": [], "fault": None, "node": False, "harm": None, "stale": None, "next": True, "hold": None}
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
    told.append(("expected", f"on every rank: {' or '.join('False' if a == 'nothing' else a for a in allowed)}"))
    if set(found) == {"an error"} and "nothing" in allowed:
        means = "a job whose first save was interrupted can't begin any more"
    elif set(found) == {"an error"} and "an error" not in allowed:
        means, think = "the job can't go on, although an older checkpoint is complete", "what does resume do when the newest can't be loaded, on one rank or on all?"
    elif set(found) == {"nothing"}:
        means = "the run starts over, and nobody is told that it ever got this far"
    hung = [of_point(life, seen, rank) for rank, life in enumerate(seen.lives)]
    if "no answer" in found and any(life.all("collective failed") for life in hung):
        raise deadlock(hung, rows, fault)
    raise Finding("ranks disagree" if len(set(found)) > 1 else f"found {found[0]}", [*told, ("means", means), ("think", think)], fault)


def _told(seen: Seen, rank: int, what: str, when: str) -> str:
    if what == "an error":
        error = seen.resumed(rank, when)["error"]
        return f"resume raised {error['type']}: {_gist(error['message'])}"
    if what == "another state":
        return f"a state that was never saved: of step {seen.resumed(rank, when)['step']}, but for {', '.join(seen.different(rank, when)[:5])}"
    if what == "nothing":
        return "resume returned False, as if nothing had ever been saved"
    if what == "no answer":
        crash = next((e for e in seen.all(rank, "crash")), None)
        return f"no answer: {crash['type']}: {_gist(crash['message'])}" if crash else "no answer"
    return what


def _gist(message: str) -> str:
    first = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return first if len(first) <= 160 else first[:157] + "..."


def of_point(life: Life, seen: Seen, rank: int, until: str = "resume") -> Life:
    """The rank's life as far as this point goes; `until`: the part of it that is the last."""
    part, events = Life(life.folder, life.fault, life.result), seen.events[rank]
    end = next((n for n, e in enumerate(events) if e["event"] == "ended" and e["part"] == until), len(events))
    part.__dict__["events"] = events[:end]
    return part


def works(seen: Seen) -> None:
    """Nothing went wrong where no fault was injected."""
    for rank in range(RANKS):
        for crash in seen.all(rank, "raised") + seen.all(rank, "crash"):
            if any(seen.all(r, "collective failed") for r in range(RANKS)):
                raise deadlock([of_point(life, seen, r) for r, life in enumerate(seen.lives)], [("called", "save_step, with nothing in its way")])
            raise crashed(crash, [("rank", str(rank))])
        for ended in seen.all(rank, "ended"):
            if ended["late"]:
                raise Finding("limit:wall", [("ended", f"rank {rank} was still in {ended['part']} after 20 s")])
        if any(e["changed"] for e in seen.all(rank, "state")):
            raise Finding("save changes the job", [("changed", f"rank {rank}'s job isn't what it was before save_step"), ("think", "does a save draw a random number, or set something?")])


AFTER_INTERRUPTED = ("the save after an interrupted one can't be found", "what is left of the interrupted save, and what does your save do with it?")
AFTER_GOOD = ("an older checkpoint is taken for the newest", "by what does resume order the checkpoints? Is 12 more than 8?")


def goes_on(seen: Seen, resumed: str, rows: list, fault: str | None = None, texts: tuple[str, str] = AFTER_INTERRUPTED) -> None:
    """The relaunched job's next save works, and is what is found from then on."""
    following = f"step {(0 if resumed == 'nothing' else int(resumed.split()[1])) + 4}"
    rows = [*rows, ("relaunched", f"resumed from {resumed}, and saved {following}")]
    for rank in range(RANKS):
        saved = seen.first(rank, "saved next")
        if saved and saved["error"]:
            finding = crashed(saved["error"], [*rows, ("rank", str(rank))], fault)
            finding.rows += [
                ("means", "what lies there already blocks every later save: the job runs, and never saves again"),
                ("think", "what may lie there already when your save begins?"),
            ]
            raise finding
    agrees(seen, (following,), rows, *texts, fault, when="again")
