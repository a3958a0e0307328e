"""The storage checks: plans of points for grader/workload/storage.py, and what each must come to."""

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
                return self.digests.get(read["digest"], "another state") if read["outcome"] == "state" else read["outcome"]
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
    (folder / "plan.json").write_text(json.dumps([{"fault": None, "reads": ["latest"], "directory": p["name"]} | p for p in points]))
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


def _steps(lab: Lab, n: int) -> list[int]:
    """Steps as a run has them: growing, and not of equal length (9 before 10, 99 before 100)."""
    start = lab.draw.choice([9, 98, 99])
    return [start + i for i in range(n)]


def _works(seen: Seen) -> None:
    """Nothing was raised where no fault was injected."""
    if seen.raised:
        raise crashed(seen.raised, [])
    late = [e for e in seen.all("ended") if e["late"]]
    if late:
        raise Finding("limit:wall", [("ended", "a call of your storage functions was still running after 20 s")])
    if bad := [e for e in seen.all("ended") if e["status"] != 0 and e["part"] == "write"]:
        raise Finding("exit", [("ended", f"your function ended the process, with status {bad[0]['status']}")])


def _fails(cause: str, seen: Seen, rows: list[tuple[str, str]], fault: str | None = None, what: str = "latest") -> Finding:
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
    return f"{crash['type']}: {crash['message'].splitlines()[0][:120]}" if crash and crash["message"] else "an error"


# --- ex01.3 -----------------------------------------------------------------------------------------


def newest_wins(lab: Lab) -> None:
    steps = _steps(lab, 3)
    ops = [write(s) for s in steps]
    seen = observe(lab, [{"name": "plain", "ops": ops}, {"name": "dates", "ops": [*ops, {"op": "age"}]}])
    for name, fault in (("plain", "nothing"), ("dates", "the files' dates were changed, as a copy to another disk does: older files look newer")):
        _works(seen[name])
        if seen[name].found() != f"step {steps[-1]}":
            rows = [("saved", f"steps {', '.join(map(str, steps))}, in this order"), ("then", fault), ("expected", f"the state of step {steps[-1]}, bit for bit")]
            rows.append(("think", "what is compared when the newest is chosen, and does every value survive the file format?"))
            raise _fails(f"newest:{name}", seen[name], rows)


def _baseline(lab: Lab, steps: list[int], last: dict | None = None) -> tuple[list[str], int]:
    """Events and the largest file's size of an undisturbed last operation."""
    ops = [*map(write, steps[:-1]), last or write(steps[-1])]
    seen = observe(lab, [{"name": "undisturbed", "ops": ops}])["undisturbed"]
    _works(seen)
    saved = seen.all("saved")[-1]
    if last is None and not seen.all("did")[-1]["newest"]:
        raise Finding("nothing written", [("saved", f"step {steps[-1]}"), ("happened", "no file in the directory was written or changed")])
    sizes = [size for did in seen.all("did") for size in did["newest"]]
    return saved["events"], max(sizes, default=0)


def _kill_points(lab: Lab, step: int, events: list[str], select: bool = True) -> list[Fault]:
    number = len(events)
    if not number:
        raise Inconclusive("blind", [("watching", "the save raised no file-system event that Python can see")])
    picked = range(number) if number <= MAX_EVENTS else sorted(lab.draw.sample(range(number), MAX_EVENTS))
    points = [Fault("kill", step, event=k) for k in picked]
    return _selected(lab, points) if select else points


def _kill_and_tear_points(lab: Lab, step: int, events: list[str], size: int) -> list[Fault]:
    """Kills between the events, and two in the middle of a file's bytes, which raise no event."""
    everywhere = [*_kill_points(lab, step, events, select=False), *(Fault("tear", step, byte=b) for b in (size // 2, 0))]
    return _selected(lab, everywhere)


def _moment(fault: Fault, events: list[str]) -> str:
    return f"just before: {events[fault.event]}" if fault.event is not None else f"when a file had reached byte {fault.byte}"


def _selected(lab: Lab, faults: list[Fault]) -> list[Fault]:
    """All, or the one that --fault asks for."""
    if lab.only is None:
        return faults
    chosen = [f for f in faults if f in lab.only]
    if not chosen:
        raise NotSelected
    return chosen


def _under_faults(lab: Lab, before: list[dict], last: dict, faults: list[Fault], **more) -> dict[str, Seen]:
    points = [{"name": str(f), "ops": [*before, last], "fault": f.to_json() | {"step": last.get("step", 0)}} | more for f in faults]
    return observe(lab, points)


def _died_right(seen: Seen) -> None:
    """A kill really killed: otherwise the point proves nothing."""
    ended = next(e for e in seen.all("ended") if e["part"] == "write")
    if ended["late"]:
        raise Finding("limit:wall", [("ended", "a save was still running after 20 s")])
    if not seen.all("fault"):
        if seen.raised:
            raise crashed(seen.raised, [])
        raise Inconclusive("fault", [("fault", f"{seen.point['name']} never fired: two saves did different things")])


def killed_at_every_event(lab: Lab) -> None:
    first, second, third = _steps(lab, 3)
    events, _ = _baseline(lab, [first, second, third])
    faults = _kill_points(lab, third, events)
    seen = _under_faults(lab, [write(first), write(second)], write(third), faults)
    for fault in faults:
        point = seen[str(fault)]
        _died_right(point)
        if point.found() not in (f"step {second}", f"step {third}"):
            raise _lost(point, fault, events[fault.event], first, second, third)


def _lost(seen: Seen, fault: Fault, event: str, first: int, second: int, third: int) -> Finding:
    rows = [
        ("fault", f"SIGKILL in the save of step {third}, just before: {event}"),
        ("expected", f"the checkpoint of step {second} (or {third}), bit for bit"),
        ("means", "a job that is killed while it saves has lost its last good checkpoint too" + _consequence(seen)),
        ("think", "at that moment, which file holds the last good checkpoint, and who has touched it?"),
    ]
    return _fails("last good lost", seen, rows, str(fault))


def _consequence(seen: Seen) -> str:
    return {"none": ", and starts over without a word", "error": ", and crashes at every relaunch"}.get(seen.found(), "")


def torn_at_bytes(lab: Lab) -> None:
    first, second, third = _steps(lab, 3)
    _, size = _baseline(lab, [first, second, third])
    places = [max(size // 2, 1), lab.draw.randrange(2, max(3, size // 2)), max(size - 1, 1), 1, 0]
    faults = _selected(lab, [Fault(kind, third, byte=at) for kind in ("tear", "full") for at in dict.fromkeys(places)])
    seen = _under_faults(lab, [write(first), write(second)], write(third), faults)
    for fault in faults:
        point = seen[str(fault)]
        _died_right(point)
        if fault.kind == "full" and point.raised is None and point.found() != f"step {third}":
            rows = [
                ("fault", fault.story),
                ("happened", "write_checkpoint returned as if all were well"),
                ("means", "training goes on for days and believes that it is saving"),
                ("think", "who is to know that a checkpoint couldn't be written?"),
            ]
            raise _fails("error swallowed", point, rows, str(fault))
        if point.found() not in (f"step {second}", f"step {third}"):
            event = "its file was whole" if fault.kind == "tear" else "the disk was full"
            rows = [
                ("fault", fault.story),
                ("expected", f"the checkpoint of step {second}, bit for bit"),
                ("means", "a save that fails takes the last good checkpoint with it" + _consequence(point)),
                ("think", f"when the save broke off before {event}, under which name did the half file lie?"),
            ]
            raise _fails("last good lost", point, rows, str(fault))
    _next_save_works(lab, first, second, third, size)


def _next_save_works(lab: Lab, first: int, second: int, third: int, size: int) -> None:
    """What an interrupted save leaves behind doesn't block the next one, of the same step or a later."""
    fault = Fault("tear", third, byte=max(size // 2, 1))
    if lab.only:
        return
    before = {"name": "broken", "ops": [write(first), write(second), write(third)], "fault": fault.to_json(), "reads": []}
    again = {"name": "again", "directory": "broken", "ops": [write(third)]}
    later = {"name": "later", "directory": "broken", "ops": [write(third + 1)]}
    seen = observe(lab, [before, again, later])
    for name, want in (("again", third), ("later", third + 1)):
        point = seen[name]
        if point.raised or point.found() != f"step {want}":
            rows = [("fault", fault.story), ("then", f"a relaunched job saved step {want}")]
            if point.raised:
                raise crashed(point.raised, rows)
            rows += [("expected", f"the checkpoint of step {want}"), ("think", "what did the interrupted save leave in the directory, and who trips over it?")]
            raise _fails("leftovers", point, rows, str(fault))


def first_save_killed(lab: Lab) -> None:
    step, later = _steps(lab, 2)
    seen = observe(lab, [{"name": "undisturbed", "ops": [write(step)]}])["undisturbed"]
    _works(seen)
    events, size = seen.all("saved")[-1]["events"], max(seen.all("did")[-1]["newest"], default=0)
    faults = _kill_and_tear_points(lab, step, events, size)
    points = []
    for fault in faults:
        points.append({"name": str(fault), "ops": [write(step)], "fault": fault.to_json()})
        points.append({"name": f"{fault} next", "directory": str(fault), "ops": [write(later)]})
    seen = observe(lab, points)
    for fault in faults:
        point, after = seen[str(fault)], seen[f"{fault} next"]
        _died_right(point)
        if point.found() not in ("none", f"step {step}"):
            rows = [
                ("fault", f"SIGKILL in the run's very first save, {_moment(fault, events)}"),
                ("expected", "None: no save has ever finished here, so the job may start fresh"),
                ("means", "a job that dies in its first save can never start again"),
                ("think", "how does a reader tell a finished checkpoint from the beginning of one?"),
            ]
            raise _fails("first save", point, rows, str(fault))
        if after.raised:
            raise crashed(after.raised, [("fault", "SIGKILL in the run's very first save; then the relaunched job saved")], str(fault))
        if after.found() != f"step {later}":
            rows = [("fault", "SIGKILL in the run's very first save; then the relaunched job saved"), ("expected", f"the checkpoint of step {later}")]
            raise _fails("leftovers", after, rows, str(fault))


def damaged_newest(lab: Lab) -> None:
    first, second, third = _steps(lab, 3)
    ops = [write(first), write(second), write(third)]
    damages = [("truncate", at) for at in (0.0, 0.001, lab.draw.random(), 0.999)]
    damages += [("flip", (i + lab.draw.random()) / 12) for i in range(12)]
    points = []
    for pick in (0, 1):  # the largest file of the newest checkpoint, and the next one if it has more
        for how, at in damages if pick == 0 else damages[2:6]:
            damage = {"op": "damage", "how": how, "at": at, "files": "newest", "pick": pick}
            points.append({"name": f"{how} {pick} {at:.4f}", "ops": [*ops, damage]})
    seen = observe(lab, points)
    for point in seen.values():
        _works(point)
        if point.found() not in (f"step {second}", f"step {third}"):
            harm = point.all("damaged")[0]
            done = f"cut off at byte {harm['at']}" if "truncate" in point.point["name"] else f"one bit flipped in byte {harm['at']}"
            rows = [("damaged", f"{harm['file']}, of the newest checkpoint: {done} of {harm['size']}")]
            rows.append(("expected", f"the checkpoint before it, of step {second}, bit for bit"))
            if point.found() == "another state":
                rows.append(("means", "training goes on from wrong values, silently: torch.load verifies no checksum"))
                rows.append(("think", "how would you know that the bytes you read are the bytes you wrote?"))
                raise _fails("damage unnoticed", point, rows)
            rows.append(("means", "one bad file and the run can't be resumed, though an older checkpoint is there" if point.found() == "error" else "the older checkpoint is there, and nobody looks at it"))
            rows.append(("think", "which errors may a damaged file raise, and where do you go from there?"))
            raise _fails("no fallback", point, rows)


def none_intact(lab: Lab) -> None:
    first, second = _steps(lab, 2)
    ops = [write(first), write(second)]
    points = [{"name": "empty", "ops": [{"op": "age"}]}, {"name": "gone", "directory": "never/made", "ops": [{"op": "age"}]}]
    for how in ("truncate", "flip"):
        points.append({"name": f"all {how}", "ops": [*ops, {"op": "damage", "how": how, "at": lab.draw.uniform(0.3, 0.6), "files": "all", "pick": 0}]})
    seen = observe(lab, points)
    for name in ("empty", "gone"):
        if seen[name].found() != "none":
            rows = [("directory", "empty" if name == "empty" else "new"), ("expected", "None: the job starts fresh")]
            raise _fails("fresh start", seen[name], rows)
    for name in ("all truncate", "all flip"):
        _works(seen[name])
        if seen[name].found() != "error":
            rows = [
                ("damaged", "every file in the directory"),
                ("expected", "an error"),
                ("means", "after a disk problem the job silently starts over, or trains on garbage, and its checkpoints then replace what could have been rescued"),
                ("think", "how do 'there is no checkpoint' and 'there is no good checkpoint' differ for your user?"),
            ]
            raise _fails("silent restart", seen[name], rows)


# --- ex01.5 -----------------------------------------------------------------------------------------


def saved_when_due(lab: Lab) -> None:
    per_epoch, epochs = 4, 3
    every_steps, every_epochs = lab.draw.choice([2, 3, 5]), lab.draw.choice([1, 2])
    for steps, by_epoch in ((every_steps, None), (None, every_epochs), (every_steps, every_epochs)):
        args = [("--every-steps", steps), ("--every-epochs", by_epoch)]
        flags = [str(word) for pair in args if pair[1] for word in pair]
        run = lab.undisturbed("train.py", "--seed", lab.seed, "--epochs", epochs, "--steps-per-epoch", per_epoch, *flags)
        finished(lab, run)
        total = per_epoch * epochs
        due = [s for s in range(1, total + 1) if steps and s % steps == 0]
        due += [e * per_epoch for e in range(1, epochs + 1) if by_epoch and e % by_epoch == 0]
        saved = [e["step"] for e in run.last.all("saved")]
        if sorted(saved) != sorted(due):
            rows = [
                ("asked for", " and ".join(f"every {n} {w}" for n, w in ((steps, "steps"), (by_epoch, "epochs")) if n)),
                ("saved", f"after steps {', '.join(map(str, saved)) or 'none'}; an epoch has {per_epoch}"),
                ("expected", f"after steps {', '.join(map(str, sorted(due)))}"),
                ("think", "what do step and epoch count at the moment when you are asked?"),
            ]
            raise Finding("when", rows)


def best_kept_apart(lab: Lab) -> None:
    nan, inf = float("nan"), float("inf")
    losses = [3.0, 2.0, 2.5, nan, 1.5, 1.7]
    steps = [10 * (i + 1) for i in range(len(losses))]
    best, want, expected = inf, [], []
    points = []
    for i, loss in enumerate(losses):
        ops = [{"op": "best", "step": steps[i], "loss": loss, "best": best}, write(steps[i] + 1), {"op": "prune", "keep": 1}]
        if loss < best:
            best, at = loss, steps[i]
        want.append(at)
        expected.append(best)
        points.append({"name": f"loss {i}", "directory": "best", "ops": ops, "reads": ["latest", "best"]})
    empty = {"name": "empty", "ops": [{"op": "age"}], "reads": ["latest", "best"]}
    only = {"name": "only best", "ops": [{"op": "best", "step": 10, "loss": 1.0, "best": inf}], "reads": ["latest", "best"]}
    seen = observe(lab, [*points, empty, only])
    for i in range(len(losses)):
        point = seen[f"loss {i}"]
        _works(point)
        history = ("losses", ", ".join(map(str, losses[: i + 1])) + "; after each, one more checkpoint and prune(keep=1)")
        value = point.all("best")[0]["value"]
        if value != repr(expected[i]):
            raise Finding("best value", [history, ("returned", f"keep_best returned {value}"), ("expected", repr(expected[i]))])
        if point.found("best") != f"step {want[i]}":
            rows = [history, ("expected", f"the state of loss {expected[i]}, bit for bit"), ("means", "the model that you'd deploy isn't the best one"), ("think", "who may overwrite or delete the best, and when is a loss lower?")]
            raise _fails("best lost", point, rows, what="best")
        if point.found() != f"step {steps[i] + 1}":
            rows = [history, ("expected", f"read_latest gives the checkpoint of step {steps[i] + 1}"), ("think", "does the best look like one more checkpoint to read_latest or prune?")]
            raise _fails("best is taken for newest", point, rows)
    if seen["empty"].found("best") != "none":
        raise _fails("no best", seen["empty"], [("directory", "empty"), ("expected", "None: there is no best yet")], what="best")
    if seen["only best"].found() != "none":
        raise _fails("best is taken for newest", seen["only best"], [("saved", "a best, and no checkpoint yet"), ("expected", "read_latest gives None")])


def best_killed_at_every_event(lab: Lab) -> None:
    good = {"op": "best", "step": 10, "loss": 2.0, "best": float("inf")}
    better = {"op": "best", "step": 20, "loss": 1.0, "best": 2.0}
    undisturbed = observe(lab, [{"name": "undisturbed", "ops": [good, better], "reads": ["best"]}])["undisturbed"]
    _works(undisturbed)
    events = undisturbed.all("saved")[-1]["events"]
    if not events:
        raise Finding("nothing written", [("losses", "2.0, then 1.0"), ("happened", "keep_best wrote nothing")])
    size = undisturbed.all("did")[-1]["changed"]
    faults = _kill_and_tear_points(lab, 20, events, size)
    seen = _under_faults(lab, [good], better, faults, reads=["best"])
    for fault in faults:
        point = seen[str(fault)]
        _died_right(point)
        if point.found("best") not in ("step 10", "step 20"):
            rows = [
                ("fault", f"SIGKILL while keep_best replaced the best, {_moment(fault, events)}"),
                ("expected", "the old best or the new one, whole"),
                ("think", "is the best saved as carefully as the other checkpoints?"),
            ]
            raise _fails("best lost", point, rows, str(fault), what="best")


def last_ones_stay(lab: Lab) -> None:
    keep, number = lab.draw.choice([2, 3]), 7
    steps = _steps(lab, number)
    ops = [op for s in steps for op in (write(s), {"op": "prune", "keep": keep})]
    points = [{"name": "pruned", "ops": ops}, {"name": "one", "ops": [write(steps[0])]}]
    # the newest ones damaged one after another: each time the next older one must still be there
    for broken in range(1, keep):
        tail = steps[number - broken :]
        damaged: list[dict] = []
        for s in steps[: number - broken]:
            damaged += [write(s)]
        for s in tail:
            damaged += [write(s), {"op": "damage", "how": "truncate", "at": 0.5, "files": "newest", "pick": 0}]
        whole = steps[: number - broken]
        points.append({"name": f"{broken} damaged", "ops": [*map(write, whole), {"op": "prune", "keep": keep}, *damaged[len(whole) :]]})
    # what interrupted saves leave behind goes too
    torn = lab.draw.choice([0.3, 0.6])
    points.append({"name": "size", "ops": [write(steps[0])], "reads": []})
    seen = observe(lab, points)
    one = seen["one"].totals[0]
    for point in seen.values():
        _works(point)
    total = seen["pruned"].totals[-1]
    held = total / one
    asked = ("asked for", f"prune(keep={keep}) after each of {number} saves")
    if held > keep + 0.5:
        raise Finding("nothing pruned", [asked, ("found", f"the directory holds {held:.1f} times the bytes of one checkpoint"), ("means", "the quota is full after a weekend, and then every save fails"), ("think", "which checkpoints are left after the prune?")])
    if held < keep - 0.5:
        raise Finding("too much pruned", [asked, ("found", f"the directory holds {held:.1f} times the bytes of one checkpoint"), ("means", "when the newest turns out to be damaged, there is nothing to go back to"), ("think", "which of them does `keep` count?")])
    if seen["pruned"].found() != f"step {steps[-1]}":
        raise _fails("newest pruned", seen["pruned"], [asked, ("expected", f"the checkpoint of step {steps[-1]}")])
    for broken in range(1, keep):
        want = steps[number - broken - 1]
        if seen[f"{broken} damaged"].found() != f"step {want}":
            rows = [asked, ("then", f"the newest {broken} damaged"), ("expected", f"the checkpoint of step {want}")]
            raise _fails("too much pruned", seen[f"{broken} damaged"], rows)
    _leftovers_go(lab, steps, keep, one, torn)


def _leftovers_go(lab: Lab, steps: list[int], keep: int, one: int, torn: float) -> None:
    points = []
    for s in steps[:3]:
        fault = Fault("tear", s, byte=max(1, int(torn * one)))
        points.append({"name": f"torn {s}", "directory": "leftovers", "ops": [write(s)], "fault": fault.to_json(), "reads": []})
    ops = [*map(write, steps[3:]), {"op": "prune", "keep": keep}]
    seen = observe(lab, [*points, {"name": "after", "directory": "leftovers", "ops": ops}])["after"]
    _works(seen)
    held = seen.totals[-1] / one
    if held > keep + min(torn, 0.5):
        rows = [
            ("fault", "three saves killed half-way; then four whole ones"),
            ("asked for", f"prune(keep={keep})"),
            ("found", f"the directory holds {held:.1f} times the bytes of one checkpoint"),
            ("means", "every interrupted save leaves a file behind, until the quota is full"),
            ("think", "what does a save that is killed leave in the directory, and who clears it away?"),
        ]
        raise Finding("leftovers stay", rows)


def only_good_one_stays(lab: Lab) -> None:
    first, second, third, fourth = _steps(lab, 4)
    keep = lab.draw.choice([1, 2])
    tear = {"op": "damage", "how": lab.draw.choice(["truncate", "flip"]), "at": 0.5, "files": "newest", "pick": 0}
    prune = {"op": "prune", "keep": keep}
    bad = [write(second), tear, write(third), tear]
    points = [
        {"name": "good, bad, bad", "ops": [write(first), *bad, prune]},
        {"name": "bad, bad, good", "ops": [write(first), *bad, write(fourth), prune]},
        {"name": "none good", "ops": [write(first), tear, *bad, prune]},
        {"name": "none good, unpruned", "ops": [write(first), tear, *bad]},
    ]
    seen = observe(lab, points)
    for name, want in (("good, bad, bad", first), ("bad, bad, good", fourth)):
        point = seen[name]
        _works(point)
        if point.found() != f"step {want}":
            rows = [
                ("directory", f"three or four checkpoints, oldest first: {'good, bad, bad' if want == first else 'good, bad, bad, good'}"),
                ("asked for", f"prune(keep={keep})"),
                ("expected", f"the good one of step {want} stays"),
                ("means", "cleaning up deleted the only checkpoint that could be loaded"),
                ("think", "what must be true of a checkpoint before it may count as one of those you keep?"),
            ]
            raise _fails("only good one deleted", point, rows)
    for name in ("none good", "none good, unpruned"):
        _works(seen[name])
    if seen["none good"].totals[-1] < seen["none good, unpruned"].totals[-1] * 0.9:
        rows = [("directory", "damaged checkpoints only"), ("asked for", f"prune(keep={keep})"), ("happened", "some were deleted"), ("think", "what could still be rescued by hand?")]
        raise Finding("evidence deleted", rows)


def prune_killed_at_every_event(lab: Lab) -> None:
    steps = _steps(lab, 4)
    prune = {"op": "prune", "keep": 2}
    events, _ = _baseline(lab, [*steps, 0], last=prune)
    if not events:
        raise Finding("nothing pruned", [("asked for", "prune(keep=2), of four checkpoints"), ("happened", "nothing was deleted")])
    faults = _kill_points(lab, 0, events)
    seen = _under_faults(lab, [*map(write, steps)], prune, faults)
    for fault in faults:
        point = seen[str(fault)]
        _died_right(point)
        if point.found() != f"step {steps[-1]}":
            rows = [
                ("fault", f"SIGKILL in prune, just before: {events[fault.event]}"),
                ("expected", f"the newest checkpoint, of step {steps[-1]}"),
                ("think", "in which order does prune delete, and what is on disk between two deletions?"),
            ]
            raise _fails("newest pruned", point, rows, str(fault))


