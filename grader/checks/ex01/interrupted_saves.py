"""ex01.3: an interrupted save costs nothing."""

from __future__ import annotations

from grader.checks.crashes import crashed
from grader.checks.ex01.corruption import WRONG_VALUES
from grader.checks.ex01.observations import Seen
from grader.checks.ex01.operations import (
    FOREIGN,
    READ,
    SPOIL,
    STRANGERS,
    again,
    cut,
    label_of,
    put,
    steps_of_a_run,
    write,
)
from grader.checks.ex01.storage_assertions import WHOSE, fails, others_untouched, same_parts, works
from grader.checks.ex01.storage_faults import (
    cases,
    died_right,
    events_and_size,
    kill_and_tear_points,
    kill_points,
    struck,
    under,
)
from grader.checks.ex01.storage_plan import crash_tested, observe, observed
from grader.checks.fault_points import moment, selected
from grader.harness.faults import Fault
from grader.harness.lab import Lab
from grader.verdicts import Damaged, Finding, Found, Gist, Struck

BELIEVES = "training continues for days, and you believe that it is being saved"
REMEMBERED = "what does a second call remember of the first, and is it still true?"
ODD = "run[1] of 3"  # a directory's name, full of characters that glob and shells interpret


def _undisturbed(lab: Lab) -> dict[str, Seen]:
    """Undisturbed saves, run once for all checks."""
    return observed(lab, "saves", lambda: _undisturbed_points(lab.shared))


def _undisturbed_points(draw) -> list[dict]:
    first, second, third = steps_of_a_run(draw, 3)
    three = [write(first), write(second), write(third)]
    points: list[dict] = [
        {"name": "undisturbed", "ops": three},
        {"name": "first save", "ops": [write(first)]},
        {"name": "again", "ops": [write(first), write(second), again(second)]},
        {
            "name": "relaunched",
            "ops": [write(first), write(second, dies=True, goes_on=True), again(second)],
        },
        {"name": "dates", "ops": [*three, {"op": "age"}]},
        {"name": "odd", "at": ODD, "made": False, "ops": three},
        {"name": "deep", "at": "runs/today/here", "made": False, "ops": three},
        {"name": "relative", "at": "here", "made": False, "relative": True, "ops": three},
        {"name": "foreign", "ops": [FOREIGN, *three]},
        {"name": "strangers", "ops": [write(first), write(second), STRANGERS, write(third)]},
        {"name": "cleared", "ops": [write(first), write(second), STRANGERS, {"op": "cleared"}]},
        {"name": "zero", "ops": [write(0)]},
        {
            "name": "read",
            "at": "here",
            "made": False,
            "ops": [
                *(READ, write(first), READ, write(second), READ, READ),
                *(SPOIL, READ, again(second), READ),
            ],
        },
        {"name": "returned", "ops": [write(first), write(second, dies=True)]},
        {
            "name": "file",
            "at": "here",
            "made": False,
            "ops": [put({".": "no directory\n"}), write(first, goes_on=True)],
            "reads": [],
        },
    ]
    # across every number of digits: compared as text, 99 is newer than 100, and 999 than 1000
    for digits in range(1, 9):
        start = 10**digits - draw.choice([1, 2])
        points.append(
            {"name": f"steps {start}", "ops": [write(start), write(start + 1), write(start + 2)]}
        )
    for number, kind in enumerate(("drawn", "drawn", "large")):
        step = draw.randint(1, 10**6)
        harms = [{"far": 2, "of": [first + step]}] if number else []
        points.append(
            {
                "name": f"values {number}",
                "ops": [write(first), write(first + step, kind=kind)],
                "harms": harms,
            }
        )
    return points


def newest_wins(lab: Lab) -> None:
    special = {
        "again": "the last step was saved twice, with different states",
        "relaunched": (
            "the job was killed after the last save, relaunched, and saved that step "
            "again, with another state"
        ),
        "dates": (
            "the files' dates were changed, as a copy to another disk does: older files look newer"
        ),
        "odd": f"the directory is called '{ODD}'",
        "deep": "neither the directory nor its parent folder existed",
        "relative": "`directory` is a relative path, 'here', and didn't exist",
        "foreign": (
            "the directory also holds notes.txt and a folder logs, which somebody else put there"
        ),
        "strangers": (
            "the directory also holds copies, links and folders of others, with names like your "
            "files'"
        ),
        "returned": "the process was killed as soon as write_checkpoint had returned",
    }
    for name, seen in _undisturbed(lab).items():
        if name in ("first save", "file", "cleared", "read") or name.startswith("values"):
            continue
        works(seen)
        saves = [op for op in seen.point["ops"] if op["op"] == "write"]
        rows = [("saved", f"steps {', '.join(str(op['step']) for op in saves)}, in this order")]
        if name in special:
            rows.append(("but", special[name]))
        want = f"step {saves[-1]['step']}{saves[-1].get('version', '')}"
        if seen.found() != want:
            think = (
                "what is on disk when write_checkpoint returns, and what is still being written?"
                if name == "returned"
                else "what is compared when the newest is chosen, and does every value survive "
                "the file format?"
            )
            raise fails(
                "newest-not-read",
                seen,
                rows,
                f"the state of {want}, bit for bit",
                about=name if name in special else "steps",
                think=think,
            )
        others_untouched(seen, rows)
    _read_while_saving(_undisturbed(lab)["read"])
    _nothing_of_its_own(_undisturbed(lab)["cleared"])


def _read_while_saving(seen: Seen) -> None:
    """The process that saves also reads, as a job does that goes back to its last checkpoint."""
    works(seen)
    intact, did = [], []
    for operation in seen.operations:
        op = operation.op
        if op["op"] == "write":
            intact.append(label_of(op))
            did.append(f"saved {intact[-1]}")
        elif op["op"] == "spoil":
            did.append(f"the files of {intact.pop()} were cut short")
        else:
            found = operation.all("read here")[0]["found"]
            want = intact[-1] if intact else "none"
            if found != want:
                rows = [
                    ("happened", "; ".join(did) or "nothing was saved yet"),
                    Found(f"read_latest, called by the process that saves: {found}"),
                    ("expected", want),
                ]
                raise Finding("newest-not-read", rows, about="read", think=REMEMBERED)
            did.append("read it")


def _nothing_of_its_own(seen: Seen) -> None:
    works(seen)
    if seen.found() != "none":
        directory = (
            "holds copies, links and folders of others, with names like your files', and none "
            "of your files"
        )
        raise fails(
            "newest-not-read",
            seen,
            [("directory", directory)],
            "None: there is no checkpoint",
            about="strangers",
            think=WHOSE,
        )


def every_value_survives(lab: Lab) -> None:
    for name, seen in _undisturbed(lab).items():
        if not name.startswith("values"):
            continue
        works(seen)
        same_parts(seen)
        step = seen.point["ops"][-1]["step"]
        for look in seen.harmed:
            if look.found() in ("step " + str(seen.point["ops"][0]["step"]), f"step {step}"):
                continue  # or the damage does no harm to this format
            harm = look.harm[0]
            damaged = (
                f"{harm.file}, of the newest checkpoint: one bit flipped in byte {harm.at} "
                f"of {harm.size}"
            )
            raise fails(
                "damage-unnoticed",
                look,
                [Damaged(damaged)],
                "the checkpoint before it, bit for bit",
                means=WRONG_VALUES,
                think="which bytes of a large file does your digest cover?",
            )


def no_place_to_save(lab: Lab) -> None:
    seen = _undisturbed(lab)["file"]
    directory = ("directory", "there is a file where the directory should be")
    expected = ("expected", "write_checkpoint raises, and leaves the file as it is")
    if seen.raised is None:
        raise Finding(
            "error-swallowed",
            [directory, Found("it returned normally"), expected],
            means=BELIEVES,
            think="which errors do you ignore when you make the directory and its files?",
        )
    if seen.lost:
        raise Finding("foreign-files", [directory, Found("the file was changed"), expected])


def killed_at_every_event(lab: Lab) -> None:
    first, second, third = steps_of_a_run(lab.shared, 3)
    events, _ = events_and_size(_undisturbed(lab)["undisturbed"])
    faults = selected(lab, kill_points(lab, third, events))
    before = [write(first), write(second)]
    seen = observe(
        lab, [{"name": str(f), "ops": [*before, under(f, write(third))]} for f in faults]
    )
    for fault in faults:
        point = seen[str(fault)]
        died_right(point)
        if point.found() not in (f"step {second}", f"step {third}"):
            raise fails(
                "last-good-lost",
                point,
                [Struck(f"SIGKILL in the save of step {third}, {moment(fault, events)}")],
                f"the checkpoint of step {second} (or {third}), bit for bit",
                str(fault),
                means=(
                    "a job that is killed while it saves loses its last good checkpoint, too"
                    + _consequence(point)
                ),
                think=(
                    "at that moment, which file holds the last good checkpoint, and what has "
                    "touched it?"
                ),
            )


def saved_again_under_every_fault(lab: Lab) -> None:
    """A step that is saved a second time: until the new checkpoint is whole, the old one counts."""
    first, second, _ = steps_of_a_run(lab.shared, 3)
    events, size = events_and_size(_undisturbed(lab)["again"])
    faults = kill_and_tear_points(lab, second, events, size, ("tear", "full"))
    before = [write(first), write(second)]
    points = [
        {"name": name, "ops": [*before, under(fault, again(second), events, late)]}
        for name, fault, late in cases(faults, events)
    ]
    seen = observe(lab, points)
    for name, fault, _ in cases(faults, events):
        point = seen[name]
        died_right(point)
        returned = fault.kind == "full" and point.raised is None
        allowed = (
            (f"step {second} again",) if returned else (f"step {second}", f"step {second} again")
        )
        if point.found() not in allowed:
            saved = f"steps {first} and {second}, and then step {second} again, with another state"
            what = "disk full" if fault.kind == "full" else "SIGKILL"
            rows = [
                ("saved", saved),
                Struck(f"{what} in the second save of step {second}, {moment(fault, events)}"),
            ]
            raise fails(
                "saved-again-lost",
                point,
                rows,
                "an error, or the new checkpoint"
                if returned
                else f"one of the two checkpoints of step {second}, bit for bit",
                str(fault),
                means="saving a step again destroys its good checkpoint" + _consequence(point),
                think=(
                    "how long must the old files of this step stay, and under which name do you "
                    "write the new ones?"
                ),
            )


def _consequence(seen: Seen) -> str:
    return {
        "none": ", and silently starts over",
        "error": ", and crashes at every relaunch",
    }.get(seen.found(), "")


def torn_at_bytes(lab: Lab) -> None:
    first, second, third = steps_of_a_run(lab.shared, 3)
    events, size = events_and_size(_undisturbed(lab)["undisturbed"])
    places = [max(size // 2, 1), lab.draw.randrange(2, max(3, size // 2)), max(size - 1, 1), 1, 0]
    sized = [
        Fault(kind, third, byte=at) for kind in ("tear", "full") for at in dict.fromkeys(places)
    ]
    errors = [Fault("error", third, event=f.event) for f in kill_points(lab, third, events)]
    faults = selected(lab, [*sized, *errors])
    before = [write(first), write(second)]
    points = [
        {
            "name": str(f),
            "ops": [*before, under(f, write(third), events)],
            "harms": [cut(second, third)] if f.kind == "full" else [],
        }
        for f in faults
    ]
    if lab.only is None:
        points += _next_saves(before, third, size, events)
    seen = observe(lab, points)
    for fault in faults:
        point = seen[str(fault)]
        died_right(point)
        told = fault.story
        if fault.kind == "error" and fault.event is not None:
            told = f"disk full in the save of step {third}, at: {events[fault.event]}"
        if fault.kind != "tear" and _swallowed(point, fault, third):
            raise fails(
                "error-swallowed",
                point,
                [
                    Struck(told),
                    Gist("happened", "write_checkpoint returned normally"),
                ],
                "it raises: the checkpoint isn't there"
                if point.found() != f"step {third}"
                else "it raises: a power loss may destroy what couldn't be synced",
                str(fault),
                means=BELIEVES,
                think="how does the caller learn that a checkpoint couldn't be written?",
            )
        if point.found() not in (f"step {second}", f"step {third}"):
            event = (
                "before its file was whole" if fault.kind == "tear" else "because the disk was full"
            )
            raise fails(
                "last-good-lost",
                point,
                [Struck(told)],
                f"the checkpoint of step {second}, bit for bit",
                str(fault),
                means="a failed save destroys the last good checkpoint" + _consequence(point),
                think=(
                    f"when the save stopped {event}, which name did the half-written file have?"
                ),
            )
        for look in point.harmed:
            if look.found() != f"step {first}":
                raise fails(
                    "last-good-lost",
                    look,
                    [Struck(told), Damaged(f"then also the files of step {second}, cut short")],
                    f"the checkpoint of step {first}, bit for bit",
                    str(fault),
                    means="a save that failed deletes older checkpoints: there is no way back",
                    think="what may a save do when there is no room for it?",
                )
    if lab.only is None:
        for kind in ("tear", "full"):
            struck([seen[str(f)] for f in faults if f.kind == kind])
        _next_saves_work(seen, third)


def _swallowed(point: Seen, fault: Fault, step: int) -> bool:
    """The save returned normally, although it isn't there or may not outlast a power loss."""
    if point.raised is not None:
        return False
    if fault.event is not None:
        events = point.operations[-1].all("saved")[-1]["events"]
        failed = events[fault.event]
        if failed.startswith(("fsync ", "fdatasync ")) and failed not in events[fault.event + 1 :]:
            return True
    return point.found() != f"step {step}"


NEXT = {
    "again": ("tear", 0, "a relaunched job saved the same step again"),
    "later": ("tear", 1, "a relaunched job saved the step after it"),
    "room": ("full", 1, "the same process continued, with room again for its next save"),
}


def _next_saves(before: list[dict], third: int, size: int, events: list[str]) -> list[dict]:
    """The leftovers of a broken save block no other save, in this process or in the next."""
    points = []
    for name, (kind, later, _) in NEXT.items():
        broken = under(
            Fault(kind, third, byte=max(size // 2, 1)), write(third), events, goes_on=True
        )
        points.append({"name": name, "ops": [*before, broken, write(third + later)]})
    return points


def _next_saves_work(seen: dict[str, Seen], third: int) -> None:
    for name, (_, later, then) in NEXT.items():
        point, fault = (
            seen[name],
            Fault(NEXT[name][0], third, byte=seen[name].point["ops"][2]["fault"]["byte"]),
        )
        rows = [Struck(fault.story), ("then", then)]
        died_right(point)
        if raised := point.operations[-1].raised:
            rows.append(("expected", "this save works: the disk is healthy again"))
            raise crashed(raised, rows)
        if point.found() != f"step {third + later}":
            raise fails(
                "leftovers-block",
                point,
                rows,
                f"the checkpoint of step {third + later}",
                str(fault),
                means="after one failed save, no later one works",
                think=(
                    "what did the failed save leave behind, on disk or in a variable, and what "
                    "does it break?"
                ),
            )


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
        killed = Struck(f"SIGKILL in the run's very first save, {moment(fault, events)}")
        if point.found() not in ("none", f"step {step}"):
            raise fails(
                "first-save-blocks",
                point,
                [killed],
                "None: no save has ever finished here, so the job may start fresh",
                str(fault),
                means="a job that dies in its first save can never start again",
                think="how does a reader tell a finished checkpoint from a half-written one?",
            )
        rows = [killed, ("then", "the relaunched job saved")]
        if after.raised:
            raise crashed(after.raised, rows, str(fault))
        works(after)
        if after.found() != f"step {later}":
            raise fails(
                "leftovers-block",
                after,
                rows,
                f"the checkpoint of step {later}",
                str(fault),
                think="what did the killed save leave in the directory, and what does it break?",
            )


def power_lost(lab: Lab) -> None:
    """Two steps are saved, and the second of them again."""
    selected(lab, [])  # no fault is asked for
    # a failure without a fault is reported as such
    events_and_size(_undisturbed(lab)["undisturbed"])
    first, second, _ = steps_of_a_run(lab.shared, 3)
    crash_tested(
        lab,
        [write(first), write(second), again(second)],
        saves="write_checkpoint",
        load="read_latest",
    )
