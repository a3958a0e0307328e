"""ex01.5: what is kept, and what is cleared away."""

from __future__ import annotations

from grader.checks.ex01.best import GOOD
from grader.checks.ex01.corruption import YOUR_BYTES
from grader.checks.ex01.interrupted_saves import ODD
from grader.checks.ex01.observations import Seen
from grader.checks.ex01.operations import (
    FOREIGN,
    SPOIL,
    STRANGERS,
    cut,
    flip,
    steps_of_a_run,
    write,
)
from grader.checks.ex01.storage_assertions import WHOSE, fails, others_untouched, works
from grader.checks.ex01.storage_faults import (
    died_right,
    events_and_size,
    kill_and_tear_points,
    under,
)
from grader.checks.ex01.storage_plan import observe, observed
from grader.checks.fault_points import moment
from grader.harness.faults import Fault
from grader.harness.lab import Lab
from grader.verdicts import Damaged, Finding, Found, Struck

LEFT = "which checkpoints are left after the prune?"
NUMBER = 7  # saves of the run whose directory is kept small
ROOM = 256  # bytes by which the sizes of equal checkpoints may differ: a time, a name


def prune(keep: int) -> dict:
    return {"op": "prune", "keep": keep}


def _drawn(lab: Lab) -> tuple[list[int], int]:
    return steps_of_a_run(lab.shared, NUMBER), lab.shared.choice([2, 3])


def _seen(lab: Lab) -> dict[str, Seen]:
    """Undisturbed calls, run once for all checks."""
    return observed(lab, "keeping", lambda: _points(*_drawn(lab)))


def _points(steps: list[int], keep: int) -> list[dict]:
    first, second, third, fourth, fifth, *_ = steps
    one_by_one = [op for s in steps for op in (write(s), prune(keep))]
    bad = [write(second), write(third), cut(second), cut(third)]
    three = [write(first), write(second), write(third)]
    rotten = [write(first), *bad[:2], cut(first), *bad[2:]]
    return [
        # the newest ones damaged one after another: each time the next older one must still be
        # there
        {"name": "pruned", "ops": one_by_one, "harms": [cut(*steps[-n:]) for n in range(1, keep)]},
        {"name": "unpruned", "ops": [*map(write, steps[-keep:])], "reads": []},
        {"name": "good, bad, bad", "ops": [write(first), *bad, prune(keep)]},
        {
            "name": "bad, bad, good",
            "ops": [write(first), *bad[:2], write(fourth), *bad[2:], prune(keep)],
            "harms": [cut(fourth)],
        },
        {"name": "bad, good", "ops": [write(second), write(third), cut(second), prune(5)]},
        # in one process: what it knew of the file isn't true any more
        {"name": "good, bad", "ops": [*three[:2], prune(2), SPOIL, prune(1)]},
        {
            "name": "good, good, good, bad, bad",
            "ops": [*three, write(fourth), write(fifth), cut(fourth), cut(fifth), prune(2)],
            "harms": [cut(third)],
        },
        {"name": "good, flipped", "ops": [*three[:2], flip(second), prune(1)]},
        {"name": "one", "ops": [write(fourth), prune(1)]},
        {"name": "two", "ops": [write(second), write(third)], "reads": []},
        {
            "name": "more than there are",
            "ops": [write(second), write(third), prune(5)],
            "harms": [cut(third)],
        },
        {"name": "four", "ops": [*three, write(fourth)], "reads": []},
        {
            "name": "aged",
            "ops": [*three, write(fourth), {"op": "age"}, prune(2)],
            "harms": [cut(fourth)],
        },
        {"name": "one of many", "ops": [*three, write(fourth), prune(1)]},
        {"name": "none good", "ops": [*rotten, prune(keep)], "reads": []},
        {"name": "none good, unpruned", "ops": rotten, "reads": []},
        {"name": "killed", "ops": [*map(write, steps[:4]), prune(2)]},
        {"name": "empty", "ops": [prune(keep)]},
        {"name": "gone", "at": "here", "made": False, "ops": [prune(keep)]},
        {"name": "foreign", "at": ODD, "ops": [FOREIGN, *three, write(fourth), prune(2)]},
        {
            "name": "strangers",
            "ops": [*three, STRANGERS, write(fourth), prune(2)],
            "harms": [cut(fourth)],
        },
    ]


def last_ones_stay(lab: Lab) -> None:
    steps, keep = _drawn(lab)
    seen = _seen(lab)
    pruned, unpruned = seen["pruned"], seen["unpruned"]
    works(unpruned)
    works(pruned)
    asked = ("asked for", f"prune(keep={keep}) after each of {NUMBER} saves")
    _no_more_than(
        "nothing-pruned",
        pruned,
        unpruned,
        [asked],
        means="the quota is full after a weekend, and then every save fails",
        think=LEFT,
    )
    if pruned.found() != f"step {steps[-1]}":
        raise fails("newest-pruned", pruned, [asked], f"the checkpoint of step {steps[-1]}")
    for broken, look in enumerate(pruned.harmed, 1):
        if not look.harm:
            raise _rewritten(asked, steps[-broken])
        if look.found() != f"step {steps[-1 - broken]}":
            damaged = f"{', '.join(h.file for h in look.harm)}: the newest {broken}, cut short"
            raise fails(
                "too-much-pruned",
                look,
                [asked, Damaged(damaged)],
                f"the checkpoint of step {steps[-1 - broken]}",
                means="if the newest one is damaged, there is nothing to fall back to",
                think="which of them does `keep` count?",
            )
    _few_or_many(seen, steps)


def _few_or_many(seen: dict[str, Seen], steps: list[int]) -> None:
    """keep=1 of several, and more than there are."""
    _, second, third, fourth, *_ = steps
    one, more = seen["one of many"], seen["more than there are"]
    for point in (one, more, seen["one"], seen["two"]):
        works(point)
    asked = ("asked for", "prune(keep=1), of four checkpoints")
    if one.found() != f"step {fourth}":
        raise fails("newest-pruned", one, [asked], f"the checkpoint of step {fourth}")
    _no_more_than("nothing-pruned", one, seen["one"], [asked], think=LEFT)
    asked = ("asked for", "prune(keep=5), of two checkpoints")
    for look, step in zip(more.looks, (third, second), strict=True):
        if look.found() != f"step {step}":
            raise fails("too-much-pruned", look, [asked], "both stay")
    aged = seen["aged"]
    works(aged)
    rows = [
        (
            "directory",
            "four checkpoints; their dates were changed, as a copy to another disk does: older "
            "ones look newer",
        ),
        ("asked for", "prune(keep=2)"),
    ]
    for look, step in zip(aged.looks, (fourth, third), strict=True):
        if look.found() != f"step {step}":
            raise fails("too-much-pruned", look, rows, "the two with the highest steps stay")


def _rewritten(asked: tuple[str, str], step: int) -> Finding:
    rows = [
        asked,
        Found(f"prune rewrote the files of step {step}"),
        ("expected", "what stays isn't touched"),
    ]
    return Finding(
        "rewritten",
        rows,
        means="if the job is killed in the middle, you lose checkpoints that should stay",
        think="why does a function that deletes open a file for writing?",
    )


def _no_more_than(
    code: str, seen: Seen, like: Seen, rows: list[tuple[str, str]], **advice: str
) -> None:
    """The directory holds no more than one with only the saves that should stay."""
    if seen.total <= like.total + ROOM and seen.entries <= like.entries:
        return
    found = f"the directory holds {seen.total} bytes in {seen.entries} files and folders"
    expected = (
        f"{like.total} bytes in {like.entries}, as if only the kept checkpoints had been saved"
    )
    raise Finding(code, [*rows, Found(found), ("expected", expected)], **advice)


def only_good_one_stays(lab: Lab) -> None:
    steps, keep = _drawn(lab)
    first, second, third, fourth, *_ = steps
    seen = _seen(lab)
    for name, kept, left in (
        ("good, bad, bad", keep, [first]),
        ("bad, bad, good", keep, [fourth, first]),
        ("bad, good", 5, [third]),
        ("good, bad", 1, [first]),
        ("good, good, good, bad, bad", 2, [third, second]),
    ):
        point = seen[name]
        works(point)
        asked = ("asked for", f"prune(keep={kept})")
        rows = [
            (
                "directory",
                "checkpoints, oldest first: "
                f"{'good, ' * (name == 'bad, bad, good')}{name.replace('bad', 'damaged')}",
            ),
            asked,
        ]
        for look, want in zip(point.looks, left, strict=True):
            if look.found() != f"step {want}":
                if look is not point.looks[0]:
                    if not look.harm:
                        raise _rewritten(asked, left[0])
                    rows.append(Damaged(f"then also {', '.join(h.file for h in look.harm)}"))
                raise fails(
                    "only-good-one-deleted",
                    look,
                    rows,
                    f"the good one of step {want} stays",
                    means=(
                        "prune deleted a checkpoint that could be loaded, and kept ones that can't"
                    ),
                    think=(
                        "what must be true of a checkpoint before it counts as one of those you "
                        "keep?"
                    ),
                )
        whole = seen["two" if len(left[:kept]) == 2 else "one"]
        works(whole)
        _no_more_than(
            "damaged-ones-stay",
            point,
            whole,
            rows,
            think="what happens to checkpoints that can't be loaded, when there are good ones?",
        )
    _flipped(seen["good, flipped"], first, second)
    _nothing_good(seen, keep)


def _flipped(point: Seen, first: int, second: int) -> None:
    """Many formats load a flipped bit; in some, that bit does no harm."""
    works(point)
    if point.found() not in (f"step {first}", f"step {second}"):
        rows = [
            ("directory", f"checkpoints of step {first} and {second}"),
            Damaged(f"the files of step {second}: one bit flipped"),
            ("asked for", "prune(keep=1)"),
        ]
        expected = f"the good one of step {first} stays"
        raise fails("only-good-one-deleted", point, rows, expected, think=YOUR_BYTES)


def _nothing_good(seen: dict[str, Seen], keep: int) -> None:
    for name in ("none good", "none good, unpruned"):
        works(seen[name])
    has, had = seen["none good"], seen["none good, unpruned"]
    if has.total < had.total - ROOM or has.entries < had.entries:
        rows = [
            ("directory", "damaged checkpoints only"),
            ("asked for", f"prune(keep={keep})"),
            Found(f"{has.total} bytes in {has.entries} files and folders are left"),
            ("expected", f"all {had.total} bytes in {had.entries}: none is deleted"),
        ]
        raise Finding(
            "evidence-deleted",
            rows,
            means="you can no longer rescue anything by hand",
            think="what do you keep when no checkpoint is intact?",
        )


def leftovers_go(lab: Lab) -> None:
    steps, keep = _drawn(lab)
    works(_seen(lab)["pruned"])
    sizes = _seen(lab)["pruned"].operations[0].sizes
    byte = max(1, int(lab.draw.choice([0.3, 0.6]) * max(sizes, default=2)))
    best = GOOD | {"step": steps[2]}
    torn = [
        under(Fault("tear", op["step"], byte=byte), op, goes_on=True)
        for op in [*map(write, steps[:3]), best]
    ]
    whole = [*map(write, steps[3:]), best]
    points: list[dict] = [
        {"name": "torn", "ops": [*torn, *whole, prune(keep)]},
        {"name": "torn, then best", "ops": [*torn[:3], *whole, torn[3], prune(keep)]},
        {"name": "torn in odd", "at": ODD, "made": False, "ops": [*torn, *whole, prune(keep)]},
        {"name": "torn, few", "ops": [torn[0], torn[3], write(steps[3]), best, prune(keep)]},
        {"name": "whole", "ops": [*whole, prune(keep)]},
        {"name": "few", "ops": [write(steps[3]), best]},
    ]
    seen = observe(lab, points)
    works(seen["few"])
    for name in ("whole", "torn", "torn, then best", "torn in odd", "torn, few"):
        works(seen[name])
        rows = [
            Struck(
                "a save and a keep_best killed half-way; one save and one keep_best finished"
                if "few" in name
                else "three saves and a keep_best killed half-way; the others finished"
            ),
            (
                "asked for",
                f"prune(keep={keep})"
                + (f" in a directory called '{ODD}'" if "odd" in name else ""),
            ),
        ]
        _no_more_than(
            "leftovers-stay",
            seen[name],
            seen["few" if "few" in name else "whole"],
            rows,
            means="every interrupted save leaves a file behind, until the quota is full",
            think="what does a killed save leave in the directory, and what deletes it?",
        )


def nothing_else_goes(lab: Lab) -> None:
    steps, keep = _drawn(lab)
    seen = _seen(lab)
    for name in ("gone", "empty"):
        works(seen[name])
        if seen[name].found() != "none":
            rows = [("directory", name), ("asked for", f"prune(keep={keep})")]
            raise fails("fresh-start", seen[name], rows, "nothing happens")
    point = seen["foreign"]
    works(point)
    rows = [
        (
            "directory",
            f"'{ODD}'; it also holds notes.txt and a folder logs, which somebody else put there",
        ),
        ("asked for", "prune(keep=2)"),
    ]
    others_untouched(point, rows)
    if point.found() != f"step {steps[3]}":
        raise fails("newest-pruned", point, rows, f"the checkpoint of step {steps[3]}")
    if point.total > seen["killed"].total + ROOM:
        raise Finding(
            "nothing-pruned",
            [
                *rows,
                Found(f"the directory holds {point.total} bytes"),
                ("expected", f"{seen['killed'].total}, as in another directory"),
            ],
            think=(
                "which characters of a directory's name mean something else to glob or to a shell?"
            ),
        )
    _strangers_stay(seen["strangers"], seen["killed"], steps)


def _strangers_stay(point: Seen, like: Seen, steps: list[int]) -> None:
    works(point)
    rows = [
        (
            "directory",
            "it also holds copies, links and folders of others, with names like your files'",
        ),
        ("asked for", "prune(keep=2), of four checkpoints"),
    ]
    others_untouched(point, rows)
    for look, step in zip(point.looks, (steps[3], steps[2]), strict=True):
        if look.found() != f"step {step}":
            expected = f"the checkpoint of step {step}"
            raise fails("newest-pruned", look, rows, expected, think=WHOSE)
    _no_more_than("nothing-pruned", point, like, rows, think=WHOSE)


def prune_killed_at_every_event(lab: Lab) -> None:
    steps, _ = _drawn(lab)
    steps = steps[:4]
    undisturbed = _seen(lab)["killed"]
    events, size = events_and_size(undisturbed)
    if not events and undisturbed.total >= _seen(lab)["four"].total - ROOM:
        raise Finding(
            "nothing-pruned",
            [
                ("asked for", "prune(keep=2), of four checkpoints"),
                Found("nothing was deleted"),
                ("expected", "the two oldest are"),
            ],
            think=LEFT,
        )
    faults = kill_and_tear_points(lab, 0, events, size)
    seen = observe(
        lab, [{"name": str(f), "ops": [*map(write, steps), under(f, prune(2))]} for f in faults]
    )
    for fault in faults:
        point = seen[str(fault)]
        died_right(point)
        if point.found() != f"step {steps[-1]}":
            raise fails(
                "newest-pruned",
                point,
                [Struck(f"SIGKILL in prune, {moment(fault, events)}")],
                f"the newest checkpoint, of step {steps[-1]}",
                str(fault),
                means="a job that is killed while it cleans up has nothing left to start from",
                think=(
                    "in which order does prune delete, and what is on disk between two deletions?"
                ),
            )
