"""What must hold at every point of a plan: what was saved is read, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Sequence

from grader.checks.crashes import crashed, slipped_at
from grader.checks.ex01.observations import MADE, Look, Seen
from grader.checks.ex01.operations import label_of
from grader.checks.left_open import nothing_left_open
from grader.checks.questions import cwd_changed, window
from grader.verdicts import Finding, Found, Gist, Inconclusive

NO_ROOM = "No space left on device"  # ENOSPC, which no fault of these points raises
REMEMBERED = "what does a second call remember of the first, and is it still true?"
WHOSE = "which files are yours, and how do you tell?"  # asked about files of others


FUNCTIONS = {
    "write": "write_checkpoint",
    "best": "keep_best",
    "prune": "prune",
    "due": "should_save",
    "read": "read_latest",
    "read best": "read_best",
}  # by operation


def works(seen: Seen) -> None:
    """Nothing was raised where no fault was injected, and nothing else changed."""
    for operation in seen.operations:
        if operation.op.get("fault") or operation.op.get("dies"):
            continue
        if operation.raised:
            room_enough(operation.raised)
            finding = crashed(operation.raised, [])
            finding.data |= window(operation.events)
            raise finding
        if bad := [e for e in operation.all("ended") if e["status"] != 0]:
            rows = [
                Gist("ended", f"your function ended the process, with status {bad[0]['status']}"),
                ("expected", "it returns, or raises"),
            ]
            raise Finding("exit", rows)
        if operation.all("moved"):
            raise cwd_changed(FUNCTIONS[operation.op["op"]])
        if operation.all("argument changed"):
            raise Finding(
                "state-changed",
                [
                    ("called", FUNCTIONS[operation.op["op"]]),
                    Found("after the call, the caller's `state` isn't what it was"),
                    ("expected", "it stays as it is: training continues with these tensors"),
                ],
            )
    for kind in dict.fromkeys(op["op"] for op in seen.calls):
        held = [e for o in seen.operations if o.op["op"] == kind for e in o.all("held")]
        nothing_left_open(held, FUNCTIONS.get(kind, ""))
    for look in seen.looks:
        untouched(look)


def reads_while_saving(seen: Seen, code: str = "newest-not-read", about: str = "read") -> None:
    """The process that saves also reads, as a job does that goes back to its last checkpoint.

    Each best state that `seen` saves is better than the one before.
    """
    works(seen)
    intact, did = [], []
    for operation in seen.operations:
        op = operation.op
        if op["op"] in ("write", "best"):
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
                    Found(f"{FUNCTIONS[op['op']]}, called by the process that saves: {found}"),
                    ("expected", want),
                ]
                raise Finding(code, rows, about=about, think=REMEMBERED)
            did.append("read it")


def room_enough(crash: dict) -> None:
    """The machine's own disk isn't full."""
    if crash["type"] == "OSError" and NO_ROOM in crash["message"]:
        raise Inconclusive(
            "disk",
            [
                (
                    "disk",
                    "the machine's disk is full, or has no inodes left: "
                    "make room, or set TMPDIR to a disk that has some",
                )
            ],
        )


def untouched(look: Look) -> None:
    """Reading changed nothing."""
    if look.all("moved"):
        raise cwd_changed(" and ".join(f"read_{what}" for what in dict.fromkeys(look.reads)))
    if not look.touched:
        return
    first = look.touched[0]
    done = "was deleted" if first in look.gone else "was changed or made"
    means = "a job that only reads destroys files that you could have rescued"
    if first == MADE:
        means = "a mistyped path looks like a run that hasn't saved yet, and stays on the disk"
    raise Finding(
        "reading-writes",
        [
            ("called", " and ".join(f"read_{what}" for what in dict.fromkeys(look.reads))),
            Found(f"{first} {done} by it"),
            ("expected", "reading changes nothing on the disk"),
        ],
        means=means,
        think="what does your reader do with a file that it can't use?",
    )


def others_untouched(seen: Seen, rows: list[tuple[str, str]]) -> None:
    """Other people's files in the directory are as they were."""
    if seen.lost:
        raise Finding(
            "foreign-files",
            [
                *rows,
                Found(f"{seen.lost[0]} was changed or deleted"),
                ("expected", "other people's files stay as they are"),
            ],
            think=WHOSE,
        )


def fails(
    code: str,
    seen: Seen | Look,
    rows: Sequence[tuple[str, str]],
    expected: str,
    fault: str | None = None,
    *,
    what: str = "latest",
    **advice: str,
) -> Finding:
    """A reader didn't return what was expected.

    rows    what was done before it read
    advice  about, means and think of the Finding
    """
    read = "read_best" if what == "best" else "read_latest"
    found = {
        "none": f"{read} returned None, as if nothing had ever been saved",
        "error": f"{read} raised {_error(seen)}",
        "nothing": f"the process that called {read} ended",
        "another state": f"{read} returned a state that was never saved",
    }.get(seen.found(what), f"{read} returned the state of {seen.found(what)}")
    finding = Finding(code, [*rows, Found(found), ("expected", expected)], fault, **advice)
    finding.data |= window((seen.looks[0] if isinstance(seen, Seen) else seen).events)
    return finding


def _error(seen: Seen | Look) -> str:
    crash = seen.read_crash
    if not crash:
        return "an error"
    first = next((line.strip() for line in crash["message"].splitlines() if line.strip()), "")
    error = f"{crash['type']}: {first[:120]}" if first else crash["type"]
    return f"{error}{slipped_at(crash)}"


def same_parts(seen: Seen, what: str = "latest") -> None:
    """Each part of the state came back as it was saved."""
    step = seen.point["ops"][-1]["step"]
    if seen.found(what) == f"step {step}":
        return
    rows = [("saved", "a state with every kind of value")]
    read = seen.looks[0].read(what)
    got = read["parts"] if read and read["outcome"] == "state" else {}
    want = seen.parts[step]
    if lost := [name for name, digest in want.items() if got.get(name) != digest]:
        rows.append(
            Gist(
                "different",
                ", ".join(lost[:5]) + (f", and {len(lost) - 5} more" if len(lost) > 5 else ""),
            )
        )
    raise fails(
        "values-changed",
        seen,
        rows,
        "the same state, bit for bit",
        what=what,
        means="training doesn't continue from the values that were saved, or can't continue at all",
        think="which values, types and layouts of a tensor can your file format hold?",
    )
