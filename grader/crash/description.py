"""A crash test's result, as data and as text."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from grader.crash import enumeration, operations
from grader.crash.crashtest import Report
from grader.crash.enumeration import PROCESS, TITLES
from grader.crash.judge import Outcome
from grader.crash.operations import Mark, Op, Write
from grader.crash.promise import KINDS, Failure, Remedy

SHOWN = 14  # most operations before the crash that a story shows
MISSING = 4  # most missing calls that it names


def as_data(report: Report) -> dict[str, Any]:
    """Everything that was found, as JSON has it."""
    failed = report.failed
    return {
        "passed": report.passed,
        "recorded": {
            "saves": len(report.digests),
            "operations": len(report.record.ops),
            "moments": report.space.moments,
            "states": len(report.space.states),
            "trees": len(report.space.trees),
            "left_out": report.left_out,
            "bounded_moments": report.space.bounded,
        },
        "models": {
            m: {"title": TITLES[m], "states": n, "kept": n - failed[m]}
            for m, n in report.tried.items()
        },
        "errors": {
            "tried": report.errors,
            "failed": [vars(b) | {"outcome": vars(b.outcome)} for b in report.error_failures],
        },
        "flips": {
            "tried": report.flips,
            "failed": [vars(b) | {"outcome": vars(b.outcome)} for b in report.flip_failures],
        },
        "failing_states": len(report.failing),
        "smallest": story(report, report.failing[0]) if report.failing else None,
        "missing": [
            {
                "call": r.text,
                "before": _text(_next(report.record.ops, r.at)),
                "too_late": r.late,
                "too_early": r.early,
                "prevents": r.prevents,
            }
            for r in report.remedies
        ],
        "seconds": report.seconds,
    }


def story(report: Report, failure: Failure) -> dict[str, Any]:
    """One failing state: what happened, when it crashed, what the disk held, what load did, what
    was promised.
    """
    state = failure.state
    done = report.record.ops[: state.moment]
    promise = state.promise
    return {
        "events": [_text(op) for op in done],
        "torn": state.torn,
        "crash": "the process is killed" if PROCESS in state.models else "the power fails",
        "on": [TITLES[m] for m in TITLES if m in state.models],
        "lost": list(state.lost),
        "disk": held(state.tree),
        # the same as data, next to what was promised and what the calls had left
        "files": {
            "returned": contents(
                enumeration.final(report.record.disk, _until(done, promise.durable))
            ),
            "as_called": contents(enumeration.final(report.record.disk, done)),
            "on_disk": contents(state.tree),
        },
        "load": did(failure),
        "stack": failure.outcome.stack,
        "kind": failure.kind,
        "means": KINDS[failure.kind],
        "promised": f"save {promise.durable}, which had returned"
        if promise.durable
        else "nothing yet: no save had returned",
        "under_way": sorted(promise.under_way),
    }


def _until(ops: list[Op], save: int) -> list[Op]:
    """The operations up to this save's return; none of them for save 0."""
    ends = [n for n, op in enumerate(ops, 1) if isinstance(op, Mark) and op.save == save]
    return ops[: max(ends, default=0)]


def held(tree: operations.Tree) -> list[str]:
    """What a directory holds, a line each."""
    out = []
    for path, content in tree.items():
        if content is None:
            out.append(f"{path}/")
        elif isinstance(content, str):
            out.append(f"{path} -> {content}")
        else:
            out.append(f"{path}  {_size(content)}")
    return out


def contents(tree: operations.Tree) -> list[list[str]]:
    """What a directory holds: [path, what is there, a digest if it is a file's content]."""
    return [
        [path, "directory", ""]
        if content is None
        else [path, f"link to {content}", ""]
        if isinstance(content, str)
        else [path, _size(content), hashlib.sha256(content).hexdigest()[:12]]
        for path, content in tree.items()
    ]


def _size(content: bytes) -> str:
    zeros = ", all zeros" if content and not content.strip(b"\0") else ""
    return f"{_bytes(len(content))}{zeros}"


def did(failure: Failure) -> str:
    return _answer(failure.outcome, failure.kind)


def _answer(outcome: Outcome, kind: str) -> str:
    if outcome.kind == "state":
        return (
            "returned an older state"
            if kind == "old state"
            else "returned a state that was never saved"
        )
    if outcome.kind == "none":
        return "returned None"
    if outcome.kind == "error":
        return f"raised {outcome.text}"
    return outcome.text


def _tally(title: str, number: int, bad: int) -> str:
    """One row: how many states were tried, and how many were read as promised."""
    return f"{title:28}{number:8}{number - bad:8}{'   BROKEN' if bad else ''}"


def text(report: Report) -> list[str]:
    """For a terminal, a line each."""
    recorded, failed = report.record, report.failed
    lines = [
        (
            f"recorded   {len(report.digests)} saves: "
            f"{sum(not isinstance(op, Mark) for op in recorded.ops)} operations on files and names"
        ),
        f"tried      {sum(report.tried.values())} disk states ({len(report.space.trees)} "
        "different directories)"
        + (f"; {report.left_out} more were left out" if report.left_out else "")
        + (
            f", not every combination at {report.space.bounded} of {report.space.moments} moments"
            if report.space.bounded
            else ""
            if report.left_out
            else ", every one"
        ),
        "",
        f"{'':28}{'states':>8}{'kept':>8}",
    ]
    for model, number in report.tried.items():
        lines.append(_tally(TITLES[model], number, failed[model]))
    if report.errors:
        bad = len(report.error_failures)
        lines.append(_tally("disk full, I/O error", report.errors, bad))
    if report.flips:
        bad = len(report.flip_failures)
        lines.append(_tally("a flipped bit", report.flips, bad))
    if report.failing:
        lines += ["", *smallest_failure(report)]
    for title, broken in (
        ("a disk error", report.error_failures),
        ("a flipped bit", report.flip_failures),
    ):
        if broken:
            first = broken[0]
            lines += [
                "",
                f"{title}: {first.what}",
                f"  load       {_answer(first.outcome, first.kind)}",
                f"  means      {KINDS[first.kind]}",
            ]
    return lines


def smallest_failure(report: Report) -> list[str]:
    """The smallest failing state, and the calls that would have prevented the failures."""
    failure = report.failing[0]
    ops, it = report.record.ops, story(report, failure)
    at = failure.state.moment
    lines = ["The smallest state that breaks the promise:"]
    begin = max(0, at - SHOWN)
    if begin:
        lines.append(f"  ...        {begin} earlier operations")
    numbered = [f"  {n + 1:4}  {_text(op)}" for n, op in enumerate(ops[begin:at], begin)]
    if it["torn"] is not None:
        numbered[-1] += f": {_bytes(it['torn'])} of it"
    lines += numbered
    lines.append(
        f"  crash      {it['crash']}"
        + (
            f" ({', '.join(it['on'])})"
            if PROCESS not in failure.state.models
            else " (the files are as the calls left them)"
        )
    )
    lines += [f"  {'lost' if n == 0 else '':10} {what}" for n, what in enumerate(it["lost"])]
    lines += [
        f"  {'on disk' if n == 0 else '':10} {what}"
        for n, what in enumerate(it["disk"] or ["nothing"])
    ]
    lines += [
        f"  load       {it['load']}",
        f"  promised   {it['promised']}",
        f"  means      {it['means']}",
    ]
    lines += [f"  {label:10} {text}" for label, text in advice(report)]
    return lines


def advice(report: Report) -> list[tuple[str, str]]:
    """Which calls are missing; or that no sync helps. (label, text), a line each."""
    ops = report.record.ops
    out = []
    calls = Counter((_missing(ops, r), _mistimed(r)) for r in report.remedies)
    for (what, mistimed), number in list(calls.items())[:MISSING]:
        out.append(
            (
                "missing",
                what + mistimed + (f" ({number} times)" if number > 1 else ""),
            )
        )
    if len(calls) > MISSING:
        out.append(("missing", f"and {len(calls) - MISSING} more calls like these"))
    if any(PROCESS in f.state.models for f in report.failing):
        out.append(
            (
                "order",
                "a killed process is enough, so no fsync helps: the old checkpoint is touched, "
                "or the new one found, before the new one is whole",
            )
        )
    copied = [
        op.text
        for op in ops
        if "Invalid cross-device link" in op.text or "cross-device" in op.text.lower()
    ]
    if copied:
        out.append(
            ("note", f"{copied[0]}: what follows is a copy, written in place under the final name")
        )
    return out


def _mistimed(remedy: Remedy) -> str:
    if remedy.late:
        return " (it comes later, which is too late)"
    if remedy.early:
        return " (it came before these bytes were written: they hadn't left Python's buffer)"
    return ""


def _missing(ops: list[Op], remedy: Remedy) -> str:
    following = _next(ops, remedy.at)
    if following is None or (isinstance(following, Mark) and following.kind == "returned"):
        return f"{remedy.text} before the save returns"
    return f"{remedy.text} before `{_text(following)}`"


def _next(ops: list[Op], at: int) -> Op | None:
    return ops[at] if at < len(ops) else None


def _text(op: Op | None) -> str:
    if op is None:
        return ""
    who = f"[{op.who}] " if op.who else ""
    if isinstance(op, Mark):
        return f"{who}save {op.save} {'begins' if op.kind == 'began' else 'has returned'}"
    if isinstance(op, Write):
        at = f" at {op.offset}" if op.offset else ""
        return f"{who}{op.text}, {_bytes(len(op.data))}{at}"
    return who + op.text


def _bytes(n: int) -> str:
    return f"{n} byte{'' if n == 1 else 's'}"
