"""ex01.5: when to save, and the best kept apart."""

from __future__ import annotations

import math

from grader.checks.crashes import crashed
from grader.checks.endings import finished
from grader.checks.ex01.corruption import YOUR_BYTES, in_words
from grader.checks.ex01.observations import Seen
from grader.checks.ex01.operations import READ_BEST, STRANGERS, cut, write
from grader.checks.ex01.storage_assertions import (
    WHOSE,
    fails,
    others_untouched,
    reads_while_saving,
    same_parts,
    works,
)
from grader.checks.ex01.storage_faults import (
    cases,
    died_right,
    events_and_size,
    kill_and_tear_points,
    under,
)
from grader.checks.ex01.storage_plan import crash_tested, observe, observed
from grader.checks.fault_points import moment, selected
from grader.harness.faults import Fault
from grader.harness.lab import Lab
from grader.verdicts import Damaged, Finding, Found, Gist, Struck

INF, NAN = float("inf"), float("nan")
REMEMBERED = "what is the best so far in a process that has just been relaunched?"
AS_CAREFULLY = "is the best state saved as carefully as the other checkpoints?"
STEP_AND_EPOCH = "what do step and epoch count when should_save is called?"
GOOD: dict = {"op": "best", "step": 10, "loss": 2.0, "best": INF}
WORSE: dict = {"op": "best", "step": 30, "loss": 3.0, "best": 2.0}
BETTER: dict = {"op": "best", "step": 20, "loss": 1.0, "best": 2.0}


def _seen(lab: Lab) -> dict[str, Seen]:
    """Undisturbed calls, run once for all checks."""
    return observed(
        lab, "best", lambda: [_due_point(lab.shared), *_best_points(_losses(lab.shared))]
    )


def _losses(draw) -> list[float]:
    """Some fall, some rise, some are equal to the best, some are NaN. The first two are NaN and
    inf: still no best.
    """
    best, losses = INF, []
    kinds = [
        *draw.sample(["nan", "equal"], 2),
        *draw.sample(["lower", "lower", "higher", "equal", "nan"], 5),
    ]
    for kind, after in (("barely", "lower"), ("negative", "barely")):
        kinds.insert(draw.randint(kinds.index(after) + 1, len(kinds)), kind)
    for kind in kinds:
        top = best if best < INF else 9.0
        value = {
            "lower": top - draw.random(),
            "barely": math.nextafter(top, -INF),
            "higher": top + draw.random(),
            "equal": best,
            "nan": NAN,
        }.get(kind, -draw.random() - abs(top))
        losses.append(value)
        best = value if value < best else best
    return losses


# --- should_save


def _due_point(draw) -> dict:
    """Each of a run's questions, in the order in which they are asked."""
    every, per_epoch = draw.sample([2, 3, 4, 5], 2), draw.choice([3, 4, 7])
    schemes = [
        (every[0], None),
        (None, every[1]),
        (every[0], every[1]),
        (1, None),
        (None, 1),
        (None, None),
    ]
    asks = []
    for every_steps, every_epochs in schemes:
        for step in range(1, 6 * per_epoch + 1):
            asks.append([step, (step - 1) // per_epoch, False, every_steps, every_epochs])
            if step % per_epoch == 0:
                asks.append([step, step // per_epoch, True, every_steps, every_epochs])
    # a resumed job begins somewhere, and asks nothing twice
    resumed = draw.randint(per_epoch + 1, 3 * per_epoch)
    asks += [ask for ask in asks if ask[3:] == list(schemes[2]) and ask[0] > resumed]
    return {"name": "due", "ops": [{"op": "due", "asks": asks}], "reads": []}


def saved_when_due(lab: Lab) -> None:
    seen = _seen(lab)["due"]
    works(seen)
    for ask, answer in zip(
        seen.point["ops"][0]["asks"], seen.all("due")[0]["answers"], strict=False
    ):
        step, epoch, end_of_epoch, every_steps, every_epochs = ask
        count, every = (epoch, every_epochs) if end_of_epoch else (step, every_steps)
        want = every is not None and count % every == 0
        if answer != repr(want):
            raise Finding(
                "not-when-due",
                [
                    ("asked for", _asked(every_steps, every_epochs)),
                    (
                        "asked",
                        f"should_save({step}, {epoch}, {end_of_epoch}, {every_steps}, "
                        f"{every_epochs})",
                    ),
                    Gist("returned", answer),
                    ("expected", repr(want)),
                ],
                means="you save too often, or a killed job loses more than it must",
                think=STEP_AND_EPOCH,
            )
    _saved_in_a_run(lab)


def _saved_in_a_run(lab: Lab) -> None:
    per_epoch, epochs, by_epoch = 3, 4, 2
    steps = lab.draw.choice([2, 4, 5])
    args = (
        "--epochs",
        epochs,
        "--steps-per-epoch",
        per_epoch,
        "--every-steps",
        steps,
        "--every-epochs",
        by_epoch,
    )
    run = lab.undisturbed("ex01/train.py", "--seed", lab.seed, *args)
    finished(lab, run)
    due = [s for s in range(1, per_epoch * epochs + 1) if s % steps == 0]
    due += [e * per_epoch for e in range(1, epochs + 1) if e % by_epoch == 0]
    saved = [e["step"] for e in run.last.all("saved")]
    if sorted(saved) != sorted(due):
        rows = [
            ("asked for", _asked(steps, by_epoch)),
            (
                "saved",
                (
                    f"after steps {', '.join(map(str, saved)) or 'none'}; an epoch has "
                    f"{per_epoch} steps"
                ),
            ),
            ("expected", f"after steps {', '.join(map(str, sorted(due)))}"),
        ]
        raise Finding("not-when-due", rows, think=STEP_AND_EPOCH)


def _asked(every_steps: int | None, every_epochs: int | None) -> str:
    asked = [(every_steps, "step"), (every_epochs, "epoch")]
    words = [f"every {what}" if n == 1 else f"every {n} {what}s" for n, what in asked if n]
    return " and ".join(words) or "no saves: every_steps and every_epochs are None"


# --- keep_best and read_best


def _best_points(losses: list[float]) -> list[dict]:
    both = {"reads": ["latest", "best"]}
    points: list[dict] = []
    ops: list[dict] = []
    best = INF
    for i, loss in enumerate(losses):
        step = 10 * (i + 1)
        call = {"op": "best", "step": step, "loss": loss, "best": best}
        ops = [*ops, call, write(step + 1), {"op": "prune", "keep": 1}]
        points.append({"name": f"loss {i}", "ops": ops} | both)
        best = loss if loss < best else best
    return [
        *points,
        {"name": "empty", "ops": []} | both,
        {"name": "only best", "at": "here", "made": False, "ops": [GOOD]} | both,
        {"name": "undisturbed", "ops": [GOOD, BETTER], "reads": ["best"]},
        {
            "name": "damaged",
            "ops": [write(5), GOOD],
            "harms": [{"each": ["best"], "state": GOOD["step"]}],
            "refusals": [["best"]],
            "reads": ["best"],
        },
        {
            "name": "values",
            "ops": [GOOD | {"step": 33, "kind": "drawn"}],
            "harms": [{"far": 4, "of": ["best"]}],
            "reads": ["best"],
        },
        {
            "name": "strangers",
            "ops": [write(5), GOOD, STRANGERS, BETTER, {"op": "prune", "keep": 1}],
        }
        | both,
        {
            "name": "relaunched",
            "ops": [GOOD, write(5), {"op": "age"}, WORSE, {"op": "prune", "keep": 1}],
        }
        | both,
        {
            "name": "damaged, pruned",
            "ops": [write(5), GOOD, cut("best"), {"op": "prune", "keep": 1}],
        }
        | both,
        {"name": "cleared", "ops": [GOOD, STRANGERS, {"op": "cleared"}]} | both,
        {
            "name": "read while saving",
            "ops": [READ_BEST, GOOD, READ_BEST, READ_BEST, BETTER, READ_BEST],
            "reads": [],
        },
    ]


def best_kept_apart(lab: Lab) -> None:
    seen, losses = _seen(lab), _losses(lab.shared)
    best, at = INF, 0
    for i, loss in enumerate(losses):
        best, at = (loss, 10 * (i + 1)) if loss < best else (best, at)
        _after_each_loss(seen[f"loss {i}"], losses[: i + 1], best, at)
    if seen["empty"].found("best") != "none":
        raise fails(
            "no-best",
            seen["empty"],
            [("directory", "empty")],
            "None: there is no best yet",
            what="best",
        )
    only = seen["only best"]
    works(only)
    if only.found("best") != "step 10":
        saved = ("saved", "a best state, into a directory that didn't exist yet")
        raise fails("best-lost", only, [saved], "read_best returns it", what="best")
    if only.found() != "none":
        saved = ("saved", "a best state, and no checkpoint yet")
        raise fails("best-taken-for-newest", only, [saved], "read_latest returns None")
    _among_strangers(seen["strangers"], seen["cleared"])
    _after_a_relaunch(seen["relaunched"])
    reads_while_saving(seen["read while saving"], "best-lost", about="")


def _after_a_relaunch(point: Seen) -> None:
    """The best so far is what the script passes, whatever this process has seen."""
    works(point)
    value, rows = point.all("best")[-1]["value"], [("losses", "2.0; after a relaunch, 3.0")]
    if value != "2.0":
        rows += [Gist("returned", f"keep_best returned {value}"), ("expected", "2.0")]
        raise Finding("best-value", rows, think=REMEMBERED)
    if point.found("best") != "step 10":
        raise fails(
            "best-lost", point, rows, "the state of loss 2.0", what="best", think=REMEMBERED
        )


def _among_strangers(point: Seen, cleared: Seen) -> None:
    rows = [
        (
            "directory",
            "holds copies, links and folders of others, with names like your files'",
        )
    ]
    works(point)
    others_untouched(point, rows)
    for what, want in (("best", "step 20"), ("latest", "step 5")):
        if point.found(what) != want:
            expected = f"read_{what} returns the state of {want}"
            raise fails("strangers-taken", point, rows, expected, what=what, think=WHOSE)
    works(cleared)
    if cleared.found("best") != "none":
        expected = "None: none of your files is there"
        raise fails("strangers-taken", cleared, rows, expected, what="best", think=WHOSE)


def _in_digits(losses: list[float]) -> list[str]:
    """In few digits, or in all where two of them differ by the last one."""
    few = [f"{x:.4g}" for x in losses]
    alike = {
        a
        for a, x in zip(few, losses, strict=True)
        for b, y in zip(few, losses, strict=True)
        if a == b and x < y
    }
    return [repr(x) if text in alike else text for text, x in zip(few, losses, strict=True)]


def _after_each_loss(point: Seen, losses: list[float], best: float, at: int) -> None:
    works(point)
    history = (
        "losses",
        f"{', '.join(_in_digits(losses))}; after each, one more checkpoint and prune(keep=1)",
    )
    value = point.all("best")[-1]["value"]
    if value != repr(best):
        raise Finding(
            "best-value",
            [
                history,
                Gist("returned", f"keep_best returned {value}"),
                ("expected", repr(best)),
            ],
            think="what do comparisons with NaN give, and which of two equal losses is the best?",
        )
    if point.found("best") != (f"step {at}" if at else "none"):
        raise fails(
            "best-lost",
            point,
            [history],
            f"the state of loss {best:.4g}, bit for bit" if at else "None: there is no best yet",
            what="best",
            means="the model that you'd deploy isn't the best one",
            think="who may overwrite or delete the best, and when is a loss lower?",
        )
    if point.found() != f"step {10 * len(losses) + 1}":
        raise fails(
            "best-taken-for-newest",
            point,
            [history],
            f"read_latest returns the checkpoint of step {10 * len(losses) + 1}",
            think="does the best look like one more checkpoint to read_latest or prune?",
        )


def damaged_best(lab: Lab) -> None:
    _pruned(_seen(lab)["damaged, pruned"])
    point, values = _seen(lab)["damaged"], _seen(lab)["values"]
    works(point)
    works(values)
    same_parts(values, "best")
    for look in point.refused:
        if look.found("best") not in ("error", "step 10"):
            raise fails(
                "damage-unnoticed",
                look,
                [Damaged("no file of the best can be opened: an input/output error")],
                "an error",
                what="best",
                means="an error of the disk looks as if there had never been a best",
            )
    for look in (*point.harmed, *values.harmed):
        # or the damage does no harm to this format
        if look.found("best") not in ("error", "step 10", "step 33"):
            harm = look.harm[0]
            raise fails(
                "damage-unnoticed",
                look,
                [Damaged(f"{harm.file}, of the best: {in_words(harm)}")],
                "an error",
                what="best",
                means="you deploy a model with wrong values, or none, without a warning",
                think=YOUR_BYTES,
            )


def _pruned(point: Seen) -> None:
    works(point)
    if point.found("best") not in ("error", "step 10"):
        rows = [
            Damaged("the best, cut short"),
            ("asked for", "prune(keep=1)"),
        ]
        raise fails(
            "damage-unnoticed",
            point,
            rows,
            "an error: prune never deletes the best",
            what="best",
            means="a damaged best disappears, and nobody learns that there was one",
            think="which of your files may prune delete?",
        )


def best_killed_at_every_event(lab: Lab) -> None:
    undisturbed = _seen(lab)["undisturbed"]
    events, size = events_and_size(undisturbed)
    if not events and not undisturbed.operations[-1].wrote:
        raise Finding(
            "nothing-written",
            [
                ("losses", "2.0, then 1.0"),
                Found("keep_best wrote nothing"),
                ("expected", "the state of loss 1.0 is saved"),
            ],
            think="when is a loss lower?",
        )
    faults = kill_and_tear_points(lab, BETTER["step"], events, size)
    reads = {"reads": ["best"]}
    points = [
        {"name": name, "ops": [GOOD, under(fault, BETTER, events, late)]} | reads
        for name, fault, late in cases(faults, events)
    ]
    torn, full = (
        Fault(kind, op["step"], byte=size // 2) for kind, op in (("tear", GOOD), ("full", BETTER))
    )
    if lab.only is None:
        points.append({"name": "first", "ops": [under(torn, GOOD, events)]} | reads)
        points.append(
            {"name": "full", "ops": [GOOD, under(full, BETTER, events, goes_on=True), BETTER]}
            | reads
        )
        points.append({"name": "full, read", "ops": [GOOD, under(full, BETTER, events)]} | reads)
    seen = observe(lab, points)
    for name, fault, _ in cases(faults, events):
        point = seen[name]
        died_right(point)
        if point.found("best") not in ("step 10", "step 20"):
            raise fails(
                "best-lost",
                point,
                [Struck(f"SIGKILL while keep_best replaced the best, {moment(fault, events)}")],
                "the old best or the new one, whole",
                str(fault),
                what="best",
                think=AS_CAREFULLY,
            )
    if lab.only is None:
        _first_best_and_full_disk(seen)


def _first_best_and_full_disk(seen: dict[str, Seen]) -> None:
    """The very first keep_best, killed half-way; and a better state that doesn't fit on the disk
    until there is room.
    """
    if seen["first"].found("best") not in ("none", "step 10"):
        raise fails(
            "best-lost",
            seen["first"],
            [Struck("SIGKILL while keep_best saved the very first best")],
            "None, or that best, whole",
            what="best",
            think=AS_CAREFULLY,
        )
    full = Struck("disk full while keep_best replaced the best")
    read = seen["full, read"]
    died_right(read)
    if read.found("best") not in (("step 10", "step 20") if read.raised else ("step 20",)):
        raise fails(
            "best-lost",
            read,
            [full],
            "an error, and the old best still there",
            what="best",
            think=AS_CAREFULLY,
        )
    rows = [full, ("then", "there was room again, and the same process called keep_best again")]
    if raised := seen["full"].operations[-1].raised:
        raise crashed(raised, rows)
    if seen["full"].found("best") != "step 20":
        raise fails(
            "best-lost", seen["full"], rows, "the new best", what="best", think=AS_CAREFULLY
        )


def power_lost(lab: Lab) -> None:
    selected(lab, [])  # no fault is asked for
    works(_seen(lab)["undisturbed"])  # a failure without a fault is reported as such
    crash_tested(lab, [GOOD, BETTER], "--best", saves="keep_best", load="read_best")
