"""One program's save and load under every crash: record, enumerate, judge, explain.

A program is anything with `save(directory, state)` and `load(directory)`. When a save returns, it
promises that its state is durable.
"""

from __future__ import annotations

import errno
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from grader.crash import enumeration, judge, operations, promise, recorder
from grader.crash.enumeration import PROCESS, TITLES, Key, Promise, Space
from grader.crash.judge import Outcome
from grader.crash.operations import ROOT, Mark, Op, Tree
from grader.crash.outside import read_outside
from grader.crash.promise import Failure, Remedy, broken
from grader.crash.recorder import Incomplete, Record, mark

# calls of one run that are refused, one after another; of more, this many are drawn evenly
MOST_ERRORS = 40
FLIPS = 64  # bits of the newest checkpoint that are flipped, one after another
# different directories of one record that are judged; of more, this many are drawn evenly
MOST_TREES = 1500
SECONDS = 60  # for all saves of one run


FlipKey = tuple[str, int, int]
AnyKey = Key | FlipKey  # of the trees that are judged together


@dataclass
class Program:
    """What is tested.

    saves    what one process does: labels and functions of a directory; each calls mark("began", n,
             digest) and mark("returned", n), and lets an error out. Several are ranks.
    load     directory -> the digest of the state that lies there; None if it finds nothing
    fresh    what load must do where no save has returned: "any", or "none": return None, never
             raise
    """

    saves: dict[str, Callable[[str], None]]
    load: Callable[[str], str | None]
    fresh: str = "any"


@dataclass
class Broken:
    """A call that was refused, or a bit that was flipped, and what became of it."""

    what: str
    kind: str
    outcome: Outcome


@dataclass
class Report:
    record: Record
    space: Space
    digests: dict[int, str]  # save -> digest of its state
    tried: dict[str, int]  # model -> states
    failing: list[Failure]
    remedies: list[Remedy]
    errors: int = 0  # calls that were refused
    error_failures: list[Broken] = field(default_factory=list)
    flips: int = 0
    flip_failures: list[Broken] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: int = 0  # different directories that weren't tried: there were too many

    @property
    def failed(self) -> dict[str, int]:
        return {model: sum(model in f.state.models for f in self.failing) for model in self.tried}

    @property
    def passed(self) -> bool:
        return not (self.failing or self.error_failures or self.flip_failures)


def saves(
    save: Callable[[str, object], None],
    state: Callable[[int], object],
    digest: Callable[[object], str],
    number: int,
) -> Callable[[str], None]:
    """What a process does that saves states 1 to `number`, one after another."""

    def run(directory: str) -> None:
        for n in range(1, number + 1):
            value = state(n)
            mark("began", n, digest(value))
            save(directory, value)
            mark("returned", n)

    return run


def test(
    program: Program,
    models: list[str] | None = None,
    errors: bool = True,
    flips: bool = True,
    seed: int = 0,
    workers: int = 2,
    seconds: float = SECONDS,
    folder: Path | None = None,
    prepare: Callable[[Path], None] | None = None,
    most_trees: int = MOST_TREES,
    patience: float = judge.SECONDS,
    since: int = 1,
    where: Callable[[int], str] = lambda pid: "",
    on_answer: Callable[[], None] = lambda: None,
) -> Report:
    """Everything above. `prepare` fills the directory before the first save; what it puts there is
    durable. A load may take `patience` seconds. States are judged once save `since` began. `where`
    and `on_answer` are judge.judge's.

    Raises   recorder.Unavailable, recorder.Incomplete: there is no verdict.
             RuntimeError: the program's own saves fail, with nothing wrong with the disk.
    """
    with tempfile.TemporaryDirectory(prefix="crash-", dir=folder) as made:
        here = Path(made)
        began = time.perf_counter()
        record = _run(program, here / "disk", seconds, None, prepare)
        _went_well(record)
        if record.outside:
            path = read_outside(program.load, here / "disk", record.outside, patience)
            if path:
                raise Incomplete(
                    f"load reads {path}, which the saves wrote outside of the directory: what a "
                    "power failure leaves of it isn't known; save into the directory"
                )
        timed = {"record": time.perf_counter() - began}

        began = time.perf_counter()
        skipped = _began(record.ops, since) if since > 1 else 0
        found = enumeration.space(record.disk, record.ops, models, since=skipped)
        timed["enumerate"] = time.perf_counter() - began
        digests = _digests(record)

        left_out = enumeration.thin(found, most_trees)
        flipped = _flips(record, seed) if flips else {}
        timed["judge"] = 0.0

        def judged(trees: dict[AnyKey, Tree]) -> dict[AnyKey, Outcome]:
            began = time.perf_counter()
            # with the name that it had
            places = [here / f"judge{n}" / "disk" for n in range(workers)]
            if _knows_its_place(here, trees):
                places = [here / "disk"]  # an absolute path in it is valid only in this place
            outcomes = judge.judge(trees, program.load, places, patience, where, on_answer)
            timed["judge"] += time.perf_counter() - began
            return outcomes

        outcomes = judged(found.trees | {key: tree for key, (_, tree) in flipped.items()})
        left_out += enumeration.keep(found, set(outcomes))
        failing = promise.failures(found, outcomes, digests, program.fresh)

        # what a power loss breaks anyway isn't due to the error; and it may be thousands of states
        kept = [
            m
            for m in models or TITLES
            if m == PROCESS or not any(m in f.state.models for f in failing)
        ]
        broken_runs = (
            _errors(program, here, record.calls, kept, seed, seconds, prepare, found.interned)
            if errors
            else []
        )
        left: dict[AnyKey, Tree] = {
            key: tree
            for run in broken_runs
            for key, tree in run.space.trees.items()
            if key not in outcomes
        }
        if left:
            outcomes |= judged(left)

    began = time.perf_counter()
    remedies = promise.remedies(record.disk, record.ops, failing, found.trees) if failing else []
    timed["explain"] = time.perf_counter() - began
    report = Report(
        record,
        found,
        digests,
        {m: sum(m in s.models for s in found.states) for m in models or TITLES},
        failing,
        remedies,
    )
    report.left_out = left_out
    report.errors, report.flips, report.seconds = len(broken_runs), len(flipped), timed
    report.error_failures = [b for run in broken_runs for b in run.broken(outcomes, program.fresh)]
    last = Promise(max(digests))
    for key, (what, _) in flipped.items():
        if key not in outcomes:
            continue
        kind = broken(outcomes[key], last, digests, program.fresh)
        if kind in ("wrong state", "nothing", "died", "late"):
            report.flip_failures.append(Broken(what, kind, outcomes[key]))
    return report


def _run(
    program: Program,
    directory: Path,
    seconds: float,
    refuse: int | None,
    prepare: Callable[[Path], None] | None,
) -> Record:
    directory.mkdir()
    if prepare:
        prepare(directory)
    doing = {label: partial(do, str(directory)) for label, do in program.saves.items()}
    return recorder.record(directory, doing, seconds, refuse)


def _went_well(record: Record) -> None:
    for ended in record.ended:
        if ended.late:
            raise RuntimeError("the saves didn't end in time")
        if ended.status != 0:
            raise RuntimeError(
                f"the saves failed on a healthy disk (exit status {ended.status}; their message "
                "is above)"
            )
    if not any(isinstance(op, Mark) and op.kind == "returned" for op in record.ops):
        raise RuntimeError("no save returned")


def _began(ops: list[Op], save: int) -> int:
    """How many operations there are up to the begin of this save."""
    return next(
        n
        for n, op in enumerate(ops, 1)
        if isinstance(op, Mark) and (op.kind, op.save) == ("began", save)
    )


def _digests(record: Record) -> dict[int, str]:
    return {
        op.save: op.digest
        for op in record.ops
        if isinstance(op, Mark) and op.kind == "began" and op.digest
    }


def _knows_its_place(here: Path, trees: Mapping[AnyKey, Tree]) -> bool:
    path = str(here).encode()
    contents = {
        c if isinstance(c, bytes) else c.encode()
        for tree in trees.values()
        for c in tree.values()
        if c is not None
    }
    return any(path in content for content in contents)


# --- errors of the disk ---------------------------------------------------------------------------


@dataclass
class _ErrorRun:
    what: str
    record: Record
    space: Space

    def broken(self, outcomes: Mapping[AnyKey, Outcome], fresh: str) -> list[Broken]:
        if self.record.ended[0].late:
            return [Broken(self.what, "late", Outcome("late"))]
        digests = _digests(self.record)
        for state, key in zip(self.space.states, self.space.keys, strict=False):
            if key in outcomes and (kind := broken(outcomes[key], state.promise, digests, fresh)):
                return [Broken(self.what, kind, outcomes[key])]
        return []


def _errors(
    program: Program,
    here: Path,
    calls: int,
    models: list[str],
    seed: int,
    seconds: float,
    prepare: Callable[[Path], None] | None,
    interned: dict[bytes, int],
) -> list[_ErrorRun]:
    """Each write and each sync refused once. If the program continues normally after that, its
    state must be there, even if the power fails at the end.
    """
    chosen = list(range(1, calls + 1))
    if calls > MOST_ERRORS:
        chosen = sorted(
            {round(1 + n * (calls - 1) / (MOST_ERRORS - 1)) for n in range(MOST_ERRORS)}
        )
    runs = []
    for k in chosen:
        place = here / "disk"
        place.rename(here / f"before{k}")
        try:
            record = _run(program, place, seconds, k, prepare)
        except Incomplete:
            continue  # it took another path than the recorded run
        errors = tuple(os.strerror(n) for n in (errno.ENOSPC, errno.EIO))
        what = next(
            (op.text for op in record.ops if op.text.endswith(errors)), f"call {k} is refused"
        )
        runs.append(
            _ErrorRun(
                what,
                record,
                enumeration.space(
                    record.disk, record.ops, models, since=len(record.ops), interned=interned
                ),
            )
        )
    return runs


# --- flipped bits ---------------------------------------------------------------------------------


def _flips(record: Record, seed: int) -> dict[FlipKey, tuple[str, Tree]]:
    """{key: (what, tree)}: the final tree, with one bit flipped in a file of the newest save."""
    draw = random.Random(seed)
    last = enumeration.final(record.disk, record.ops)
    began = max(n for n, op in enumerate(record.ops) if isinstance(op, Mark) and op.kind == "began")
    newest = _written_since(record, began)
    files = [
        (path, content)
        for path, content in last.items()
        if isinstance(content, bytes) and content and path in newest
    ]
    out: dict[FlipKey, tuple[str, Tree]] = {}
    for number, (path, content) in enumerate(files):
        share = max(8, FLIPS // max(1, len(files)))
        for n in range(share):
            at = min(len(content) - 1, int((n + draw.random()) / share * len(content)))
            bit = draw.randrange(8)
            changed = bytearray(content)
            changed[at] ^= 1 << bit
            out["flip", number, n] = (
                f"bit {bit} of byte {at} of {path} ({len(content)} bytes) is flipped",
                last | {path: bytes(changed)},
            )
    return out


def _written_since(record: Record, began: int) -> set[str]:
    """Paths of the files that the operations since then have written or named."""
    entries = dict(record.disk.before)
    touched: set[int] = set()
    for n, op in enumerate(record.ops):
        if isinstance(op, operations.Names):
            operations.apply(entries, op)
            if n >= began:
                touched |= {after for _, _, _, after in op.changes if after is not None}
        elif n >= began and isinstance(op, (operations.Write, operations.Truncate)):
            touched.add(op.inode)
    touched.discard(ROOT)
    return {
        path for path, inode in operations.paths(entries, record.disk).items() if inode in touched
    }
