"""ex01.5: when to save, and what to keep."""

from __future__ import annotations

from grader.checks.crash_points import (
    died_right,
    events_and_size,
    fails,
    kill_and_tear_points,
    moment,
    observe,
    steps_of_a_run,
    under_faults,
    works,
    write,
)
from grader.checks.expect import finished
from grader.harness.faults import Fault
from grader.harness.lab import Lab
from grader.verdicts import Finding


def saved_when_due(lab: Lab) -> None:
    per_epoch, epochs = 4, 3
    every_steps, every_epochs = lab.draw.choice([2, 3, 5]), lab.draw.choice([1, 2])
    for steps, by_epoch in ((every_steps, None), (None, every_epochs), (every_steps, every_epochs)):
        args = [("--every-steps", steps), ("--every-epochs", by_epoch)]
        flags = [str(word) for pair in args if pair[1] for word in pair]
        run = lab.undisturbed(
            "train.py", "--seed", lab.seed, "--epochs", epochs, "--steps-per-epoch", per_epoch, *flags
        )
        finished(lab, run)
        total = per_epoch * epochs
        due = [s for s in range(1, total + 1) if steps and s % steps == 0]
        due += [e * per_epoch for e in range(1, epochs + 1) if by_epoch and e % by_epoch == 0]
        saved = [e["step"] for e in run.last.all("saved")]
        if sorted(saved) != sorted(due):
            rows = [
                (
                    "asked for",
                    " and ".join(_every(n, w) for n, w in ((steps, "step"), (by_epoch, "epoch")) if n),
                ),
                ("saved", f"after steps {', '.join(map(str, saved)) or 'none'}; an epoch has {per_epoch}"),
                ("expected", f"after steps {', '.join(map(str, sorted(due)))}"),
                ("think", "what do step and epoch count at the moment when you are asked?"),
            ]
            raise Finding("when", rows)


def _every(number: int, what: str) -> str:
    return f"every {what}" if number == 1 else f"every {number} {what}s"


def best_kept_apart(lab: Lab) -> None:
    nan, inf = float("nan"), float("inf")
    losses = [3.0, 2.0, 2.5, nan, 2.0, 1.5, 1.7, 0.0]
    steps = [10 * (i + 1) for i in range(len(losses))]
    best, want, expected = inf, [], []
    points = []
    for i, loss in enumerate(losses):
        ops = [
            {"op": "best", "step": steps[i], "loss": loss, "best": best},
            write(steps[i] + 1),
            {"op": "prune", "keep": 1},
        ]
        if loss < best:
            best, at = loss, steps[i]
        want.append(at)
        expected.append(best)
        points.append({"name": f"loss {i}", "directory": "best", "ops": ops, "reads": ["latest", "best"]})
    empty = {"name": "empty", "ops": [{"op": "age"}], "reads": ["latest", "best"]}
    only = {
        "name": "only best",
        "ops": [{"op": "best", "step": 10, "loss": 1.0, "best": inf}],
        "reads": ["latest", "best"],
    }
    seen = observe(lab, [*points, empty, only])
    for i in range(len(losses)):
        point = seen[f"loss {i}"]
        works(point)
        history = (
            "losses",
            ", ".join(map(str, losses[: i + 1])) + "; after each, one more checkpoint and prune(keep=1)",
        )
        value = point.all("best")[0]["value"]
        if value != repr(expected[i]):
            raise Finding(
                "best value",
                [
                    history,
                    ("returned", f"keep_best returned {value}"),
                    ("expected", repr(expected[i])),
                    ("think", "what do comparisons with NaN give, and which of two equal losses is the best?"),
                ],
            )
        if point.found("best") != f"step {want[i]}":
            rows = [
                history,
                ("expected", f"the state of loss {expected[i]}, bit for bit"),
                ("means", "the model that you'd deploy isn't the best one"),
                ("think", "who may overwrite or delete the best, and when is a loss lower?"),
            ]
            raise fails("best lost", point, rows, what="best")
        if point.found() != f"step {steps[i] + 1}":
            rows = [
                history,
                ("expected", f"read_latest gives the checkpoint of step {steps[i] + 1}"),
                ("think", "does the best look like one more checkpoint to read_latest or prune?"),
            ]
            raise fails("best is taken for newest", point, rows)
    if seen["empty"].found("best") != "none":
        raise fails(
            "no best",
            seen["empty"],
            [("directory", "empty"), ("expected", "None: there is no best yet")],
            what="best",
        )
    if seen["only best"].found() != "none":
        raise fails(
            "best is taken for newest",
            seen["only best"],
            [("saved", "a best, and no checkpoint yet"), ("expected", "read_latest gives None")],
        )


def best_killed_at_every_event(lab: Lab) -> None:
    good = {"op": "best", "step": 10, "loss": 2.0, "best": float("inf")}
    better = {"op": "best", "step": 20, "loss": 1.0, "best": 2.0}
    undisturbed = observe(lab, [{"name": "undisturbed", "ops": [good, better], "reads": ["best"]}])[
        "undisturbed"
    ]
    works(undisturbed)
    events = undisturbed.all("saved")[-1]["events"]
    if not events:
        raise Finding(
            "nothing written", [("losses", "2.0, then 1.0"), ("happened", "keep_best wrote nothing")]
        )
    size = undisturbed.all("did")[-1]["changed"]
    faults = kill_and_tear_points(lab, 20, events, size)
    seen = under_faults(lab, [good], better, faults, reads=["best"])
    for fault in faults:
        point = seen[str(fault)]
        died_right(point)
        if point.found("best") not in ("step 10", "step 20"):
            rows = [
                ("fault", f"SIGKILL while keep_best replaced the best, {moment(fault, events)}"),
                ("expected", "the old best or the new one, whole"),
                ("think", "is the best saved as carefully as the other checkpoints?"),
            ]
            raise fails("best lost", point, rows, str(fault), what="best")
    if lab.only is None:
        _first_best_and_full_disk(lab, good, better, size)


def _first_best_and_full_disk(lab: Lab, good: dict, better: dict, size: int) -> None:
    """The very first best, killed half-way; and a better one that no longer fits on the disk."""
    torn, full = (Fault(kind, op["step"], byte=size // 2) for kind, op in (("tear", good), ("full", better)))
    first = {"name": "first", "ops": [good], "fault": torn.to_json(), "reads": ["best"]}
    later = {"name": "later", "ops": [good, better], "fault": full.to_json(), "reads": ["best"]}
    seen = observe(lab, [first, later])
    think = ("think", "is the best saved as carefully as the other checkpoints?")
    if seen["first"].found("best") not in ("none", "step 10"):
        rows = [
            ("fault", "SIGKILL while keep_best saved the very first best"),
            ("expected", "None, or that best, whole"),
            think,
        ]
        raise fails("best lost", seen["first"], rows, what="best")
    if seen["later"].found("best") not in (("step 10", "step 20") if seen["later"].raised else ("step 20",)):
        rows = [
            ("fault", "disk full while keep_best replaced the best"),
            ("expected", "an error, and the old best still there"),
            think,
        ]
        raise fails("best lost", seen["later"], rows, what="best")


def last_ones_stay(lab: Lab) -> None:
    keep, number = lab.draw.choice([2, 3]), 7
    steps = steps_of_a_run(lab, number)
    ops = [op for s in steps for op in (write(s), {"op": "prune", "keep": keep})]
    points = [{"name": "pruned", "ops": ops}, {"name": "one", "ops": [write(steps[0])]}]
    # the newest ones damaged one after another: each time the next older one must still be there
    for broken in range(1, keep):
        tail = steps[number - broken :]
        damaged: list[dict] = []
        for s in steps[: number - broken]:
            damaged += [write(s)]
        for s in tail:
            damaged += [
                write(s),
                {"op": "damage", "how": "truncate", "at": 0.5, "files": "newest", "pick": 0},
            ]
        whole = steps[: number - broken]
        points.append(
            {
                "name": f"{broken} damaged",
                "ops": [*map(write, whole), {"op": "prune", "keep": keep}, *damaged[len(whole) :]],
            }
        )
    # what interrupted saves leave behind goes too
    torn = lab.draw.choice([0.3, 0.6])
    points.append({"name": "size", "ops": [write(steps[0])], "reads": []})
    seen = observe(lab, points)
    one = seen["one"].totals[0]
    for point in seen.values():
        works(point)
    total = seen["pruned"].totals[-1]
    held = total / one
    asked = ("asked for", f"prune(keep={keep}) after each of {number} saves")
    if held > keep + 0.5:
        raise Finding(
            "nothing pruned",
            [
                asked,
                ("found", f"the directory holds {held:.1f} times the bytes of one checkpoint"),
                ("means", "the quota is full after a weekend, and then every save fails"),
                ("think", "which checkpoints are left after the prune?"),
            ],
        )
    if held < keep - 0.5:
        raise Finding(
            "too much pruned",
            [
                asked,
                ("found", f"the directory holds {held:.1f} times the bytes of one checkpoint"),
                ("means", "when the newest turns out to be damaged, there is nothing to go back to"),
                ("think", "which of them does `keep` count?"),
            ],
        )
    if seen["pruned"].found() != f"step {steps[-1]}":
        raise fails(
            "newest pruned", seen["pruned"], [asked, ("expected", f"the checkpoint of step {steps[-1]}")]
        )
    for broken in range(1, keep):
        want = steps[number - broken - 1]
        if seen[f"{broken} damaged"].found() != f"step {want}":
            rows = [
                asked,
                ("then", f"the newest {broken} damaged"),
                ("expected", f"the checkpoint of step {want}"),
            ]
            raise fails("too much pruned", seen[f"{broken} damaged"], rows)
    _leftovers_go(lab, steps, keep, one, torn)


def _leftovers_go(lab: Lab, steps: list[int], keep: int, one: int, torn: float) -> None:
    points = []
    for s in steps[:3]:
        fault = Fault("tear", s, byte=max(1, int(torn * one)))
        points.append(
            {
                "name": f"torn {s}",
                "directory": "leftovers",
                "ops": [write(s)],
                "fault": fault.to_json(),
                "reads": [],
            }
        )
    ops = [*map(write, steps[3:]), {"op": "prune", "keep": keep}]
    seen = observe(lab, [*points, {"name": "after", "directory": "leftovers", "ops": ops}])["after"]
    works(seen)
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
    first, second, third, fourth = steps_of_a_run(lab, 4)
    keep = lab.draw.choice([1, 2])
    tear = {
        "op": "damage",
        "how": lab.draw.choice(["truncate", "flip"]),
        "at": 0.5,
        "files": "newest",
        "pick": 0,
    }
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
        works(point)
        if point.found() != f"step {want}":
            rows = [
                (
                    "directory",
                    f"checkpoints, oldest first: good, damaged, damaged{'' if want == first else ', good'}",
                ),
                ("asked for", f"prune(keep={keep})"),
                ("expected", f"the good one of step {want} stays"),
                ("means", "cleaning up deleted the only checkpoint that could be loaded"),
                ("think", "what must be true of a checkpoint before it may count as one of those you keep?"),
            ]
            raise fails("only good one deleted", point, rows)
        size = point.all("did")[-1]["total"] / max(point.totals[0], 1)
        if size > (1 if want == first else keep) + 0.5:
            rows = [
                ("asked for", f"prune(keep={keep}), with two damaged checkpoints among the others"),
                ("found", f"the directory holds {size:.1f} times the bytes of one"),
                ("think", "what becomes of checkpoints that can't be loaded, when there are good ones?"),
            ]
            raise Finding("damaged ones stay", rows)
    for name in ("none good", "none good, unpruned"):
        works(seen[name])
    if seen["none good"].totals[-1] < seen["none good, unpruned"].totals[-1] * 0.9:
        rows = [
            ("directory", "damaged checkpoints only"),
            ("asked for", f"prune(keep={keep})"),
            ("happened", "some were deleted"),
            ("think", "what could still be rescued by hand?"),
        ]
        raise Finding("evidence deleted", rows)


def prune_killed_at_every_event(lab: Lab) -> None:
    steps = steps_of_a_run(lab, 4)
    prune = {"op": "prune", "keep": 2}
    events, size = events_and_size(lab, [*steps, 0], last=prune)
    if not events:
        raise Finding(
            "nothing pruned",
            [("asked for", "prune(keep=2), of four checkpoints"), ("happened", "nothing was deleted")],
        )
    faults = kill_and_tear_points(lab, 0, events, size)
    seen = under_faults(lab, [*map(write, steps)], prune, faults)
    for fault in faults:
        point = seen[str(fault)]
        died_right(point)
        if point.found() != f"step {steps[-1]}":
            rows = [
                ("fault", f"SIGKILL in prune, {moment(fault, events)}"),
                ("expected", f"the newest checkpoint, of step {steps[-1]}"),
                ("think", "in which order does prune delete, and what is on disk between two deletions?"),
            ]
            raise fails("newest pruned", point, rows, str(fault))
