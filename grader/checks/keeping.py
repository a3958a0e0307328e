"""ex01.5: what is kept, and what is cleared away."""

from __future__ import annotations

from grader.checks.best import GOOD
from grader.checks.crash_points import (
    Seen,
    cut,
    died_right,
    events_and_size,
    fails,
    kill_and_tear_points,
    moment,
    observe,
    observed,
    others_untouched,
    steps_of_a_run,
    under,
    works,
    write,
)
from grader.checks.saves import ODD
from grader.harness.faults import Fault
from grader.harness.lab import Lab
from grader.verdicts import Finding

NUMBER = 7  # saves of the run whose directory is kept small
ROOM = 256  # bytes by which the sizes of equal checkpoints may differ: a time, a name


def prune(keep: int) -> dict:
    return {"op": "prune", "keep": keep}


def _drawn(lab: Lab) -> tuple[list[int], int]:
    return steps_of_a_run(lab.shared, NUMBER), lab.shared.choice([2, 3])


def _seen(lab: Lab) -> dict[str, Seen]:
    """What nothing disturbs, seen once for all checks."""
    return observed(lab, "keeping", lambda: _points(*_drawn(lab)))


def _points(steps: list[int], keep: int) -> list[dict]:
    first, second, third, fourth, fifth, *_ = steps
    one_by_one = [op for s in steps for op in (write(s), prune(keep))]
    bad = [write(second), cut(second), write(third), cut(third)]
    three = [write(first), write(second), write(third)]
    rotten = [write(first), cut(first), *bad]
    return [
        # the newest ones damaged one after another: each time the next older one must still be there
        {"name": "pruned", "ops": one_by_one, "harms": [cut(*steps[-n:]) for n in range(1, keep)]},
        {"name": "unpruned", "ops": [*map(write, steps[-keep:])], "reads": []},
        {"name": "good, bad, bad", "ops": [write(first), *bad, prune(keep)]},
        {"name": "bad, bad, good", "ops": [write(first), *bad, write(fourth), prune(keep)]},
        {
            "name": "good, good, good, bad, bad",
            "ops": [*three, write(fourth), cut(fourth), write(fifth), cut(fifth), prune(2)],
            "harms": [cut(third)],
        },
        {"name": "two", "ops": [write(second), write(third)], "reads": []},
        {"name": "none good", "ops": [*rotten, prune(keep)], "reads": []},
        {"name": "none good, unpruned", "ops": rotten, "reads": []},
        {"name": "killed", "ops": [*map(write, steps[:4]), prune(2)]},
        {"name": "empty", "ops": [prune(keep)]},
        {"name": "gone", "at": "gone/here", "made": False, "ops": [prune(keep)]},
        {"name": "foreign", "at": f"foreign/{ODD}", "ops": [{"op": "foreign"}, *three, write(fourth), prune(2)]},
    ]


def last_ones_stay(lab: Lab) -> None:
    steps, keep = _drawn(lab)
    seen = _seen(lab)
    pruned, unpruned = seen["pruned"], seen["unpruned"]
    works(unpruned)
    works(pruned)
    asked = ("asked for", f"prune(keep={keep}) after each of {NUMBER} saves")
    _no_more_than(
        pruned,
        unpruned,
        "nothing pruned",
        [
            asked,
            ("means", "the quota is full after a weekend, and then every save fails"),
            ("think", "which checkpoints are left after the prune?"),
        ],
    )
    if pruned.found() != f"step {steps[-1]}":
        raise fails("newest pruned", pruned, [asked, ("expected", f"the checkpoint of step {steps[-1]}")])
    for broken, look in enumerate(pruned.harmed, 1):
        if not look.harm:
            raise _rewritten(asked, steps[-broken])
        if look.found() != f"step {steps[-1 - broken]}":
            rows = [
                asked,
                ("damaged", f"{', '.join(h['file'] for h in look.harm)}: the newest {broken}, cut short"),
                ("expected", f"the checkpoint of step {steps[-1 - broken]}"),
                ("means", "when the newest turns out to be damaged, there is nothing to go back to"),
                ("think", "which of them does `keep` count?"),
            ]
            raise fails("too much pruned", look, rows)


def _rewritten(asked: tuple[str, str], step: int) -> Finding:
    rows = [
        asked,
        ("found", f"prune has written the files of step {step} anew"),
        ("expected", "what stays isn't touched"),
        ("means", "a job that is killed meanwhile loses the very checkpoints that were to stay"),
        ("think", "why does a function that deletes open a file for writing?"),
    ]
    return Finding("rewritten", rows)


def _no_more_than(seen: Seen, like: Seen, cause: str, rows: list[tuple[str, str]]) -> None:
    """The directory holds no more than one in which nothing happened but the saves that are to stay."""
    has, may = seen.did, like.did
    if has["total"] <= may["total"] + ROOM and has["entries"] <= may["entries"]:
        return
    at = next(i for i, (label, _) in enumerate(rows) if label in ("means", "think"))
    told = [
        ("found", f"the directory holds {has['total']} bytes in {has['entries']} files and folders"),
        ("expected", f"{may['total']} bytes in {may['entries']}, as when only those to be kept were ever saved"),
    ]
    raise Finding(cause, [*rows[:at], *told, *rows[at:]])


def only_good_one_stays(lab: Lab) -> None:
    steps, keep = _drawn(lab)
    first, second, third, fourth, *_ = steps
    seen = _seen(lab)
    for name, kept, left in (
        ("good, bad, bad", keep, [first]),
        ("bad, bad, good", keep, [fourth, first]),
        ("good, good, good, bad, bad", 2, [third, second]),
    ):
        point = seen[name]
        works(point)
        rows = [
            ("directory", f"checkpoints, oldest first: {'good, ' * (name[0] == 'b')}{name.replace('bad', 'damaged')}"),
            ("asked for", f"prune(keep={kept})"),
        ]
        for look, want in zip([point, *point.harmed], left):
            if look.found() != f"step {want}":
                if look is not point:
                    if not look.harm:
                        raise _rewritten(rows[1], left[0])
                    rows.append(("damaged", f"then also {', '.join(h['file'] for h in look.harm)}"))
                rows += [
                    ("expected", f"the good one of step {want} stays"),
                    ("means", "cleaning up deleted a checkpoint that could be loaded, and kept what can't be"),
                    ("think", "what must be true of a checkpoint before it may count as one of those you keep?"),
                ]
                raise fails("only good one deleted", look, rows)
        think = ("think", "what becomes of checkpoints that can't be loaded, when there are good ones?")
        _no_more_than(point, _whole(point, seen["two"], len(left[:kept])), "damaged ones stay", [*rows, think])
    _nothing_good(seen, keep)


def _whole(point: Seen, two: Seen, number: int) -> Seen:
    """What `number` checkpoints hold that were saved without anything else."""
    works(two)
    return two if number == 2 else Seen(point.point, point.operations[0].all("did")[:1], {})


def _nothing_good(seen: dict[str, Seen], keep: int) -> None:
    for name in ("none good", "none good, unpruned"):
        works(seen[name])
    has, had = seen["none good"].did, seen["none good, unpruned"].did
    if has["total"] < had["total"] - ROOM or has["entries"] < had["entries"]:
        rows = [
            ("directory", "damaged checkpoints only"),
            ("asked for", f"prune(keep={keep})"),
            ("found", f"{has['total']} bytes in {has['entries']} files and folders are left"),
            ("expected", f"all {had['total']} bytes in {had['entries']}: none is deleted"),
            ("means", "what could have been rescued by hand is gone"),
            ("think", "what do you keep when nothing is left that could be kept?"),
        ]
        raise Finding("evidence deleted", rows)


def leftovers_go(lab: Lab) -> None:
    steps, keep = _drawn(lab)
    works(_seen(lab)["pruned"])
    sizes = _seen(lab)["pruned"].operations[0].did["changed"]
    byte = max(1, int(lab.draw.choice([0.3, 0.6]) * max(sizes, default=2)))
    best = GOOD | {"step": steps[2]}
    torn = [under(Fault("tear", op["step"], byte=byte), op, goes_on=True) for op in [*map(write, steps[:3]), best]]
    whole = [*map(write, steps[3:]), best]
    points = [
        {"name": "torn", "ops": [*torn, *whole, prune(keep)]},
        {"name": "torn, then best", "ops": [*torn[:3], *whole, torn[3], prune(keep)]},
        {"name": "torn in odd", "at": f"torn/{ODD}", "made": False, "ops": [*torn, *whole, prune(keep)]},
        {"name": "whole", "ops": [*whole, prune(keep)]},
    ]
    seen = observe(lab, points)
    for name in ("whole", "torn", "torn, then best", "torn in odd"):
        works(seen[name])
        rows = [
            ("fault", "three saves and a keep_best killed half-way; others that were whole"),
            ("asked for", f"prune(keep={keep})" + (f" in a directory called '{ODD}'" if "odd" in name else "")),
            ("means", "every interrupted save leaves a file behind, until the quota is full"),
            ("think", "what does a save that is killed leave in the directory, and who clears it away?"),
        ]
        _no_more_than(seen[name], seen["whole"], "leftovers stay", rows)


def nothing_else_goes(lab: Lab) -> None:
    steps, keep = _drawn(lab)
    seen = _seen(lab)
    for name in ("gone", "empty"):
        works(seen[name])
        if seen[name].found() != "none":
            rows = [("directory", name), ("asked for", f"prune(keep={keep})"), ("expected", "nothing happens")]
            raise fails("fresh start", seen[name], rows)
    point = seen["foreign"]
    works(point)
    rows = [("directory", f"'{ODD}'; it also holds notes.txt and a folder logs, which somebody else put there")]
    rows.append(("asked for", "prune(keep=2)"))
    others_untouched(point, rows)
    if point.found() != f"step {steps[3]}":
        raise fails("newest pruned", point, [*rows, ("expected", f"the checkpoint of step {steps[3]}")])
    if point.did["total"] > seen["killed"].did["total"] + ROOM:
        think = ("think", "which characters of a directory's name mean something else to glob or to a shell?")
        raise Finding(
            "nothing pruned",
            [
                *rows,
                ("found", f"the directory holds {point.did['total']} bytes"),
                ("expected", f"{seen['killed'].did['total']}, as in another directory"),
                think,
            ],
        )


def prune_killed_at_every_event(lab: Lab) -> None:
    steps, _ = _drawn(lab)
    steps = steps[:4]
    undisturbed = _seen(lab)["killed"]
    events, size = events_and_size(undisturbed)
    if not events:
        raise Finding(
            "nothing pruned",
            [
                ("asked for", "prune(keep=2), of four checkpoints"),
                ("found", "nothing was deleted"),
                ("expected", "the two oldest are"),
                ("think", "which checkpoints are left after the prune?"),
            ],
        )
    faults = kill_and_tear_points(lab, 0, events, size)
    seen = observe(lab, [{"name": str(f), "ops": [*map(write, steps), under(f, prune(2))]} for f in faults])
    for fault in faults:
        point = seen[str(fault)]
        died_right(point)
        if point.found() != f"step {steps[-1]}":
            rows = [
                ("fault", f"SIGKILL in prune, {moment(fault, events)}"),
                ("expected", f"the newest checkpoint, of step {steps[-1]}"),
                ("means", "a job that is killed while it cleans up has nothing left to start from"),
                ("think", "in which order does prune delete, and what is on disk between two deletions?"),
            ]
            raise fails("newest pruned", point, rows, str(fault))
