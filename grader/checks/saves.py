"""ex01.3: an interrupted save costs nothing."""

from __future__ import annotations

from grader.checks import power_loss
from grader.checks.crash_points import (
    Seen,
    cases,
    died_right,
    events_and_size,
    fails,
    kill_and_tear_points,
    kill_points,
    moment,
    observe,
    observed,
    others_untouched,
    selected,
    steps_of_a_run,
    struck,
    under,
    works,
    write,
)
from grader.checks.expect import crashed
from grader.harness.faults import Fault
from grader.harness.lab import Lab
from grader.verdicts import Finding

ODD = "run[1] of 3"  # a directory's name, full of what glob and shells take for something else


def _undisturbed(lab: Lab) -> dict[str, Seen]:
    """What saves do when nothing disturbs them, seen once for all checks."""
    return observed(lab, "saves", lambda: _undisturbed_points(lab.shared))


def _undisturbed_points(draw) -> list[dict]:
    first, second, third = steps_of_a_run(draw, 3)
    three = [write(first), write(second), write(third)]
    points = [
        {"name": "undisturbed", "ops": three},
        {"name": "first save", "ops": [write(first)]},
        {"name": "again", "ops": [write(first), write(second), write(second)]},
        {"name": "dates", "ops": [*three, {"op": "age"}]},
        {"name": "odd", "at": f"odd/{ODD}", "made": False, "ops": three},
        {"name": "foreign", "ops": [{"op": "foreign"}, *three]},
        {"name": "returned", "ops": [write(first), write(second, dies=True)]},
        {"name": "file", "at": "file/here", "made": False, "ops": [{"op": "file"}, write(first, goes_on=True)], "reads": []},
    ]
    # across every number of digits: compared as text, 99 is newer than 100, and 999 than 1000
    for digits in range(1, 9):
        start = 10**digits - draw.choice([1, 2])
        points.append({"name": f"steps {start}", "ops": [write(start), write(start + 1), write(start + 2)]})
    return points


def newest_wins(lab: Lab) -> None:
    special = {
        "dates": "the files' dates were changed, as a copy to another disk does: older files look newer",
        "odd": f"the directory is called '{ODD}'",
        "foreign": "the directory also holds notes.txt and a folder logs, which somebody else put there",
        "returned": "the process was killed as soon as write_checkpoint had returned",
    }
    for name, seen in _undisturbed(lab).items():
        if name in ("first save", "file"):
            continue
        works(seen)
        steps = [op["step"] for op in seen.point["ops"] if op["op"] == "write"]
        rows = [("saved", f"steps {', '.join(map(str, steps))}, in this order")]
        if name in special:
            rows.append(("but", special[name]))
        if seen.found() != f"step {steps[-1]}":
            rows += [
                ("expected", f"the state of step {steps[-1]}, bit for bit"),
                (
                    "think",
                    "what is on disk when write_checkpoint returns, and who still works on the rest?"
                    if name == "returned"
                    else "what is compared when the newest is chosen, and does every value survive the file format?",
                ),
            ]
            raise fails(f"newest:{name if name in special else 'steps'}", seen, rows)
        others_untouched(seen, rows)


def no_place_to_save(lab: Lab) -> None:
    seen = _undisturbed(lab)["file"]
    rows = [
        ("directory", "a file lies where the directory should be"),
        ("expected", "write_checkpoint raises, and leaves the file as it is"),
        ("means", "training goes on for days and believes that it is saving"),
        ("think", "which errors of making the directory and its files do you pass over?"),
    ]
    if seen.raised is None:
        raise Finding("error swallowed", [rows[0], ("found", "it returned as if all were well"), *rows[1:]])
    if seen.did["lost"]:
        raise Finding("foreign files", [rows[0], ("found", "the file isn't what it was"), rows[1]])


def killed_at_every_event(lab: Lab) -> None:
    first, second, third = steps_of_a_run(lab.shared, 3)
    events, _ = events_and_size(_undisturbed(lab)["undisturbed"])
    faults = selected(lab, kill_points(lab, third, events))
    before = [write(first), write(second)]
    seen = observe(lab, [{"name": str(f), "ops": [*before, under(f, write(third))]} for f in faults])
    for fault in faults:
        point = seen[str(fault)]
        died_right(point)
        if point.found() not in (f"step {second}", f"step {third}"):
            rows = [
                ("fault", f"SIGKILL in the save of step {third}, {moment(fault, events)}"),
                ("expected", f"the checkpoint of step {second} (or {third}), bit for bit"),
                (
                    "means",
                    "a job that is killed while it saves has lost its last good checkpoint too"
                    + _consequence(point),
                ),
                ("think", "at that moment, which file holds the last good checkpoint, and who has touched it?"),
            ]
            raise fails("last good lost", point, rows, str(fault))


def _consequence(seen: Seen) -> str:
    return {"none": ", and starts over without a word", "error": ", and crashes at every relaunch"}.get(
        seen.found(), ""
    )


def torn_at_bytes(lab: Lab) -> None:
    first, second, third = steps_of_a_run(lab.shared, 3)
    events, size = events_and_size(_undisturbed(lab)["undisturbed"])
    places = [max(size // 2, 1), lab.draw.randrange(2, max(3, size // 2)), max(size - 1, 1), 1, 0]
    faults = selected(
        lab, [Fault(kind, third, byte=at) for kind in ("tear", "full") for at in dict.fromkeys(places)]
    )
    before = [write(first), write(second)]
    points = [{"name": str(f), "ops": [*before, under(f, write(third), events)]} for f in faults]
    if lab.only is None:
        points += _next_saves(before, third, size, events)
    seen = observe(lab, points)
    for fault in faults:
        point = seen[str(fault)]
        died_right(point)
        if fault.kind == "full" and point.raised is None and point.found() != f"step {third}":
            rows = [
                ("fault", fault.story),
                ("happened", "write_checkpoint returned as if all were well"),
                ("expected", "it raises: the checkpoint isn't there"),
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
    if lab.only is None:
        for kind in ("tear", "full"):
            struck([seen[str(f)] for f in faults if f.kind == kind])
        _next_saves_work(seen, third)


NEXT = {
    "again": ("tear", 0, "a relaunched job saved the same step again"),
    "later": ("tear", 1, "a relaunched job saved the step after it"),
    "room": ("full", 1, "the same process went on, and there was room again for its next save"),
}


def _next_saves(before: list[dict], third: int, size: int, events: list[str]) -> list[dict]:
    """What a broken save leaves behind blocks no other, in this process or in the next."""
    points = []
    for name, (kind, later, _) in NEXT.items():
        broken = under(Fault(kind, third, byte=max(size // 2, 1)), write(third), events, goes_on=True)
        points.append({"name": name, "ops": [*before, broken, write(third + later)]})
    return points


def _next_saves_work(seen: dict[str, Seen], third: int) -> None:
    for name, (_, later, then) in NEXT.items():
        point, fault = seen[name], Fault(NEXT[name][0], third, byte=seen[name].point["ops"][2]["fault"]["byte"])
        rows = [("fault", fault.story), ("then", then)]
        died_right(point)
        if raised := point.operations[-1].raised:
            rows.append(("expected", "this save works: there is nothing wrong with the disk any more"))
            raise crashed(raised, rows)
        if point.found() != f"step {third + later}":
            rows += [
                ("expected", f"the checkpoint of step {third + later}"),
                ("means", "after one save that failed, no other is worth anything"),
                ("think", "what did the broken save leave, on the disk or in a variable, and who trips over it?"),
            ]
            raise fails("leftovers", point, rows, str(fault))


def first_save_killed(lab: Lab) -> None:
    step, later = steps_of_a_run(lab.shared, 2)
    events, size = events_and_size(_undisturbed(lab)["first save"])
    faults = kill_and_tear_points(lab, step, events, size)
    points = []
    for name, fault, late in cases(faults, events):
        points.append({"name": name, "ops": [under(fault, write(step), events, late)]})
        points.append({"name": f"{name} next", "at": name, "ops": [write(later)]})
    seen = observe(lab, points)
    for name, fault, _ in cases(faults, events):
        point, after = seen[name], seen[f"{name} next"]
        died_right(point)
        rows = [("fault", f"SIGKILL in the run's very first save, {moment(fault, events)}")]
        if point.found() not in ("none", f"step {step}"):
            rows += [
                ("expected", "None: no save has ever finished here, so the job may start fresh"),
                ("means", "a job that dies in its first save can never start again"),
                ("think", "how does a reader tell a finished checkpoint from the beginning of one?"),
            ]
            raise fails("first save", point, rows, str(fault))
        rows.append(("then", "the relaunched job saved"))
        if after.raised:
            raise crashed(after.raised, rows, str(fault))
        works(after)
        if after.found() != f"step {later}":
            rows += [
                ("expected", f"the checkpoint of step {later}"),
                ("think", "what did the killed save leave in the directory, and who trips over it?"),
            ]
            raise fails("leftovers", after, rows, str(fault))


def power_lost(lab: Lab) -> None:
    selected(lab, [])  # no fault is asked for
    events_and_size(_undisturbed(lab)["undisturbed"])  # what fails with nothing wrong is told as that
    power_loss.survives(lab, "crash_states.py", steps=steps_of_a_run(lab.shared, 3), saves="write_checkpoint", load="read_latest")
