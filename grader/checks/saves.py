"""ex01.3: an interrupted save costs nothing."""

from __future__ import annotations

from grader.checks.crash_points import (
    Seen,
    died_right,
    events_and_size,
    fails,
    kill_and_tear_points,
    kill_points,
    moment,
    observe,
    selected,
    steps_of_a_run,
    under_faults,
    works,
    write,
)
from grader.checks.expect import crashed
from grader.harness.faults import Fault
from grader.harness.lab import Lab
from grader.verdicts import Finding


def newest_wins(lab: Lab) -> None:
    points = []
    # across every number of digits: compared as text, 99 is newer than 100, and 999 than 1000
    for digits in range(1, 9):
        start = 10**digits - lab.draw.choice([1, 2])
        points.append({"name": f"steps {start}", "ops": [write(start), write(start + 1), write(start + 2)]})
    first = lab.draw.choice([9, 98])
    points.append({"name": "again", "ops": [write(first), write(first + 1), write(first + 1)]})
    points.append({"name": "dates", "ops": [*map(write, (first, first + 1, first + 2)), {"op": "age"}]})
    for name, seen in observe(lab, points).items():
        works(seen)
        steps = [op["step"] for op in seen.point["ops"] if op["op"] == "write"]
        if seen.found() != f"step {steps[-1]}":
            rows = [("saved", f"steps {', '.join(map(str, steps))}, in this order")]
            if name == "dates":
                rows.append(
                    (
                        "then",
                        "the files' dates were changed, as a copy to another disk does: older files look newer",
                    )
                )
            rows.append(("expected", f"the state of step {steps[-1]}, bit for bit"))
            rows.append(
                (
                    "think",
                    "what is compared when the newest is chosen, and does every value survive the file format?",
                )
            )
            raise fails(f"newest:{'dates' if name == 'dates' else 'steps'}", seen, rows)


def killed_at_every_event(lab: Lab) -> None:
    first, second, third = steps_of_a_run(lab, 3)
    events, _ = events_and_size(lab, [first, second, third])
    faults = kill_points(lab, third, events)
    seen = under_faults(lab, [write(first), write(second)], write(third), faults)
    for fault in faults:
        point = seen[str(fault)]
        died_right(point)
        if point.found() not in (f"step {second}", f"step {third}"):
            raise _lost(point, fault, events[fault.event], first, second, third)


def _lost(seen: Seen, fault: Fault, event: str, first: int, second: int, third: int) -> Finding:
    rows = [
        ("fault", f"SIGKILL in the save of step {third}, just before: {event}"),
        ("expected", f"the checkpoint of step {second} (or {third}), bit for bit"),
        (
            "means",
            "a job that is killed while it saves has lost its last good checkpoint too" + _consequence(seen),
        ),
        ("think", "at that moment, which file holds the last good checkpoint, and who has touched it?"),
    ]
    return fails("last good lost", seen, rows, str(fault))


def _consequence(seen: Seen) -> str:
    return {"none": ", and starts over without a word", "error": ", and crashes at every relaunch"}.get(
        seen.found(), ""
    )


def torn_at_bytes(lab: Lab) -> None:
    first, second, third = steps_of_a_run(lab, 3)
    _, size = events_and_size(lab, [first, second, third])
    places = [max(size // 2, 1), lab.draw.randrange(2, max(3, size // 2)), max(size - 1, 1), 1, 0]
    faults = selected(
        lab, [Fault(kind, third, byte=at) for kind in ("tear", "full") for at in dict.fromkeys(places)]
    )
    seen = under_faults(lab, [write(first), write(second)], write(third), faults)
    for fault in faults:
        point = seen[str(fault)]
        died_right(point)
        if fault.kind == "full" and point.raised is None and point.found() != f"step {third}":
            rows = [
                ("fault", fault.story),
                ("happened", "write_checkpoint returned as if all were well"),
                ("means", "training goes on for days and believes that it is saving"),
                ("think", "who is to know that a checkpoint couldn't be written?"),
            ]
            raise fails("error swallowed", point, rows, str(fault))
        if point.found() not in (f"step {second}", f"step {third}"):
            event = "its file was whole" if fault.kind == "tear" else "the disk was full"
            rows = [
                ("fault", fault.story),
                ("expected", f"the checkpoint of step {second}, bit for bit"),
                ("means", "a save that fails takes the last good checkpoint with it" + _consequence(point)),
                ("think", f"when the save broke off before {event}, under which name did the half file lie?"),
            ]
            raise fails("last good lost", point, rows, str(fault))
    _next_save_works(lab, first, second, third, size)


def _next_save_works(lab: Lab, first: int, second: int, third: int, size: int) -> None:
    """What an interrupted save leaves behind doesn't block the next one, of the same step or a later."""
    fault = Fault("tear", third, byte=max(size // 2, 1))
    if lab.only:
        return
    before = {
        "name": "broken",
        "ops": [write(first), write(second), write(third)],
        "fault": fault.to_json(),
        "reads": [],
    }
    again = {"name": "again", "directory": "broken", "ops": [write(third)]}
    later = {"name": "later", "directory": "broken", "ops": [write(third + 1)]}
    seen = observe(lab, [before, again, later])
    for name, want in (("again", third), ("later", third + 1)):
        point = seen[name]
        if point.raised or point.found() != f"step {want}":
            rows = [("fault", fault.story), ("then", f"a relaunched job saved step {want}")]
            if point.raised:
                raise crashed(point.raised, rows)
            rows += [
                ("expected", f"the checkpoint of step {want}"),
                ("think", "what did the interrupted save leave in the directory, and who trips over it?"),
            ]
            raise fails("leftovers", point, rows, str(fault))


def first_save_killed(lab: Lab) -> None:
    step, later = steps_of_a_run(lab, 2)
    seen = observe(lab, [{"name": "undisturbed", "ops": [write(step)]}])["undisturbed"]
    works(seen)
    events, size = seen.all("saved")[-1]["events"], max(seen.all("did")[-1]["newest"], default=0)
    faults = kill_and_tear_points(lab, step, events, size)
    points = []
    for fault in faults:
        points.append({"name": str(fault), "ops": [write(step)], "fault": fault.to_json()})
        points.append({"name": f"{fault} next", "directory": str(fault), "ops": [write(later)]})
    seen = observe(lab, points)
    for fault in faults:
        point, after = seen[str(fault)], seen[f"{fault} next"]
        died_right(point)
        if point.found() not in ("none", f"step {step}"):
            rows = [
                ("fault", f"SIGKILL in the run's very first save, {moment(fault, events)}"),
                ("expected", "None: no save has ever finished here, so the job may start fresh"),
                ("means", "a job that dies in its first save can never start again"),
                ("think", "how does a reader tell a finished checkpoint from the beginning of one?"),
            ]
            raise fails("first save", point, rows, str(fault))
        if after.raised:
            raise crashed(
                after.raised,
                [("fault", "SIGKILL in the run's very first save; then the relaunched job saved")],
                str(fault),
            )
        if after.found() != f"step {later}":
            rows = [
                ("fault", "SIGKILL in the run's very first save; then the relaunched job saved"),
                ("expected", f"the checkpoint of step {later}"),
            ]
            raise fails("leftovers", after, rows, str(fault))


def damaged_newest(lab: Lab) -> None:
    first, second, third = steps_of_a_run(lab, 3)
    ops = [write(first), write(second), write(third)]
    damages = [("truncate", at) for at in (0.0, 0.001, lab.draw.random(), 0.999)]
    damages += [("flip", (i + lab.draw.random()) / 12) for i in range(12)]
    points = []
    for pick in (0, 1):  # the largest file of the newest checkpoint, and the next one if it has more
        for how, at in damages if pick == 0 else damages[2:6]:
            damage = {"op": "damage", "how": how, "at": at, "files": "newest", "pick": pick}
            points.append({"name": f"{how} {pick} {at:.4f}", "ops": [*ops, damage]})
    # digests and pointers are text, and a flipped high bit makes a text unreadable
    for at in (0.1, lab.draw.uniform(0.2, 0.8), 0.9):
        damage = {"op": "damage", "how": "flip", "at": at, "files": "newest", "pick": 1, "bit": 7}
        points.append({"name": f"flip high bit {at:.4f}", "ops": [*ops, damage]})
    seen = observe(lab, points)
    for point in seen.values():
        works(point)
        if point.found() not in (f"step {second}", f"step {third}"):
            harm = point.all("damaged")[0]
            done = (
                f"cut off at byte {harm['at']}"
                if "truncate" in point.point["name"]
                else f"one bit flipped in byte {harm['at']}"
            )
            rows = [("damaged", f"{harm['file']}, of the newest checkpoint: {done} of {harm['size']}")]
            rows.append(("expected", f"the checkpoint before it, of step {second}, bit for bit"))
            if point.found() == "another state":
                rows.append(
                    ("means", "training goes on from wrong values, silently: torch.load verifies no checksum")
                )
                rows.append(("think", "how would you know that the bytes you read are the bytes you wrote?"))
                raise fails("damage unnoticed", point, rows)
            rows.append(
                (
                    "means",
                    "one bad file and the run can't be resumed, though an older checkpoint is there"
                    if point.found() == "error"
                    else "the older checkpoint is there, and nobody looks at it",
                )
            )
            rows.append(("think", "which errors may a damaged file raise, and where do you go from there?"))
            raise fails("no fallback", point, rows)
    _two_damaged(lab, first, second, third)


def _two_damaged(lab: Lab, first: int, second: int, third: int) -> None:
    """The two newest are damaged: the search goes on to the third."""
    tear = {"op": "damage", "how": "truncate", "at": lab.draw.uniform(0.2, 0.8), "files": "newest", "pick": 0}
    ops = [write(first), write(second), tear, write(third), tear]
    point = observe(lab, [{"name": "two damaged", "ops": ops}])["two damaged"]
    works(point)
    if point.found() != f"step {first}":
        rows = [
            ("damaged", f"the two newest of three checkpoints, of steps {second} and {third}"),
            ("expected", f"the checkpoint of step {first}, bit for bit"),
            (
                "think",
                "how far back does your search go, and what does a save leave of the earlier checkpoints?",
            ),
        ]
        raise fails("no fallback", point, rows)


def none_intact(lab: Lab) -> None:
    first, second = steps_of_a_run(lab, 2)
    ops = [write(first), write(second)]
    points = [
        {"name": "empty", "ops": [{"op": "age"}]},
        {"name": "gone", "directory": "never/made", "ops": [{"op": "age"}]},
    ]
    for how, at in (
        ("truncate", lab.draw.uniform(0.3, 0.6)),
        ("flip", lab.draw.uniform(0.3, 0.6)),
        ("truncate", 0.0),
    ):
        damage = {"op": "damage", "how": how, "at": at, "files": "all", "pick": 0}
        name = f"all {how}" if at else "all emptied"
        points.append({"name": name, "ops": [*ops, damage], "reads": ["latest", "latest"]})
    seen = observe(lab, points)
    for name in ("empty", "gone"):
        if seen[name].found() != "none":
            rows = [
                ("directory", "empty" if name == "empty" else "new"),
                ("expected", "None: the job starts fresh"),
            ]
            raise fails("fresh start", seen[name], rows)
    for name, done in (("all truncate", "cut short"), ("all flip", "one bit flipped"), ("all emptied", "emptied")):
        works(seen[name])
        if seen[name].found() != "error":
            rows = [
                ("damaged", f"every file in the directory: {done}"),
                ("expected", "an error"),
                (
                    "means",
                    "after a disk problem the job silently starts over, or trains on garbage, and its checkpoints then replace what could have been rescued",
                ),
                (
                    "think",
                    "how do 'there is no checkpoint' and 'there is no good checkpoint' differ for your user?",
                ),
            ]
            raise fails("silent restart", seen[name], rows)
        if seen[name].all("read")[-1]["outcome"] != "error":
            rows = [
                ("damaged", f"every file in the directory: {done}"),
                ("happened", "read_latest raised when it was called first, and not when it was called again"),
                ("means", "the job crashes once; relaunched, it starts over without a word"),
                ("think", "does reading change what lies on the disk?"),
            ]
            raise Finding("silent restart", rows)
