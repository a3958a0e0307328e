"""Plans of points for grader/workload/ex01/storage_plan.py, and what a relaunched job found at each
of them.

A point is a directory and what is done there. One life saves, under faults; between its operations
and afterwards, this process damages files; then another life, which doesn't know what was saved,
reads. Its digests have a key that the saving life never had; they are compared with those of a life
without student code.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grader.checks import directory_damage, foreign_files, power_loss
from grader.checks.crashes import crashed, slipped_at
from grader.checks.directory_damage import Harm
from grader.checks.endings import ended_early, finished
from grader.checks.fault_points import selected, under_way
from grader.checks.foreign_files import Stranger
from grader.harness import scratch
from grader.harness.faults import Fault
from grader.harness.inside.fsevents import FROM_OUTSIDE
from grader.harness.lab import Lab
from grader.verdicts import Finding, Found, Gist, Inconclusive, Struck

MAX_EVENTS = 40  # crash points of one save; a save with more events is sampled evenly
CALLS = (
    "write",
    "best",
    "prune",
    "due",
    "put",
)  # operations of the saving life; the others are done here
NO_ROOM = "No space left on device"  # ENOSPC, which no fault of these points raises
WHOSE = "which files are yours, and how do you tell?"  # asked about files of others


@dataclass
class Look:
    """What a relaunched job found in a directory, or in a copy of it that was damaged."""

    id: str
    path: Path
    reads: list[str]
    labels: dict[str, str] = field(default_factory=dict)  # digest -> what it is, as text
    parts: bool = False  # digests of each part of the state are wanted
    harm: list[Harm] = field(default_factory=list)
    in_place: bool = False  # the harm is done to the directory itself, and undone
    events: list[dict] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)  # what reading changed, or made
    gone: set[str] = field(default_factory=set)

    def all(self, event: str) -> list[dict]:
        return [e for e in self.events if e["event"] == event]

    def read(self, what: str = "latest") -> dict | None:
        return next((read for read in self.all("read") if read["what"] == what), None)

    def found(self, what: str = "latest") -> str:
        """'step 20', 'none', 'error', 'another state' or 'nothing' (the reader itself died)."""
        read = self.read(what)
        if read is None:
            return "nothing"
        return (
            self.labels.get(read["digest"], "another state")
            if read["outcome"] == "state"
            else read["outcome"]
        )

    @property
    def read_crash(self) -> dict | None:
        failed = [read["error"] for read in self.all("read") if read["outcome"] == "error"]
        return next(iter([*failed, *self.all("crash")]), None)


@dataclass
class Seen:
    """One point of a plan, after it ran: what was done there, and what was found afterwards."""

    point: dict
    events: list[dict] = field(default_factory=list)  # of the saving life
    looks: list[Look] = field(default_factory=list)  # the first one at the directory as it was left
    total: int = 0  # bytes that the directory held at the end
    entries: int = 0  # files and folders in it
    lost: list[str] = field(default_factory=list)  # files of others that changed
    labels: dict[tuple[int, ...], object] = field(
        default_factory=dict
    )  # file -> the call that wrote it last
    strangers: dict[str, Stranger] = field(default_factory=dict)  # what others put there
    parts: dict[int, dict[str, str]] = field(
        default_factory=dict
    )  # of a state: the digest of each part

    def all(self, event: str) -> list[dict]:
        return [e for e in self.events if e["event"] == event]

    def found(self, what: str = "latest") -> str:
        return self.looks[0].found(what)

    @property
    def raised(self) -> dict | None:
        """What the operations raised in the student's code."""
        return next(iter(self.all("crash")), None)

    @property
    def read_crash(self) -> dict | None:
        return self.looks[0].read_crash

    @property
    def operations(self) -> list[Operation]:
        """What was seen at each of the point's calls."""
        at = [n for n, e in enumerate(self.events) if e["event"] == "op"]
        parts = [self.events[a:b] for a, b in zip(at, [*at[1:], None], strict=False)]
        return [Operation(op, events) for op, events in zip(self.calls, parts, strict=False)]

    @property
    def calls(self) -> list[dict]:
        return [op for op in self.point["ops"] if op["op"] in CALLS]

    @property
    def harmed(self) -> list[Look]:
        """What was found after each damage."""
        return self.looks[1:]


@dataclass
class Operation:
    """One call, and what was reported of it."""

    op: dict
    events: list[dict]

    def all(self, event: str) -> list[dict]:
        return [e for e in self.events if e["event"] == event]

    @property
    def raised(self) -> dict | None:
        return next(iter(self.all("crash")), None)

    @property
    def wrote(self) -> dict[str, list[int]]:
        """Files that are new or changed."""
        return self.all("wrote")[0]["files"] if self.all("wrote") else {}

    @property
    def sizes(self) -> list[int]:
        return [size for _, _, size, _ in self.wrote.values()]


# --- running --------------------------------------------------------------------------------------


def observe(lab: Lab, points: list[dict]) -> dict[str, Seen]:
    """Run the points: one life saves (another one continues after what is done to the files in
    between), one reads."""
    defaults = {"at": "", "made": True, "reads": ["latest"], "harms": []}
    seen = {point["name"]: Seen(defaults | point) for point in points}
    for number, it in enumerate(seen.values()):
        # names that say nothing to a life
        it.point |= {
            "id": f"p{number}",
            "at": f"{_opaque(lab, it.point['name'])}/{it.point['at']}".rstrip("/"),
        }
    root = _save(lab, list(seen.values()))
    for it in seen.values():
        _settle(it, root / it.point["at"])
    states = _states(lab, points)
    for it in seen.values():
        it.looks = list(_looks(lab, it, root, states))
    _read(lab, root, [look for it in seen.values() for look in it.looks if look.reads])
    return dict(seen.items())


def observed(lab: Lab, name: str, points: Callable[[], list[dict]]) -> dict[str, Seen]:
    """Run `points()` once in a grading, for all checks that look at them under this name."""
    return lab.once(("storage", name, lab.bench.submission.key), lambda: observe(lab, points()))


def _opaque(lab: Lab, text: str) -> str:
    """A folder's name that says nothing to a life, and is the same when the grading is replayed."""
    return f"{_random(lab, text).getrandbits(32):08x}"


def _random(lab: Lab, text: str) -> random.Random:
    return random.Random(f"{payload(lab)} {text}")


def payload(lab: Lab) -> str:
    """The seed of all states that are saved: no life that reads can know it."""
    return f"{(lab.bench.salts.secret or b'').hex()} states"


def _save(lab: Lab, points: list[Seen]) -> Path:
    """Do what the points say; returns the directory that holds theirs."""
    root, left = None, {it.point["id"]: list(it.point["ops"]) for it in points}
    while any(left.values()) or root is None:
        plan = []
        for it in points:
            ops = left[it.point["id"]]
            now = [ops.pop(0) for _ in range(_until(ops))]
            if now or root is None:
                plan.append({key: it.point[key] for key in ("id", "at", "made")} | {"ops": now})
        given = {"payload": payload(lab), "plan": plan}
        run = lab.launch("ex01/storage_plan.py", given=given, directory=root)
        if not run.finished:
            raise ended_early(lab, run, run.last, under_way(plan, run.last.events))
        root, of = run.directory, {it.point["id"]: it for it in points}
        inside = None
        for event in run.last.events:
            inside = of.get(event["point"], inside) if event["event"] == "point" else inside
            if inside and event["event"] not in ("point", "end"):
                inside.events.append(event)
        for it in points:
            ops = left[it.point["id"]]
            while ops and ops[0]["op"] not in CALLS:
                _do(lab, it, root / it.point["at"], ops.pop(0))
    return root


def _until(ops: list[dict]) -> int:
    """How many of them come before the first that is done to the files."""
    return next((n for n, op in enumerate(ops) if op["op"] not in CALLS), len(ops))


def _do(lab: Lab, it: Seen, directory: Path, op: dict) -> None:
    """What happens to the files between two calls."""
    _label(it)
    own = _of(it, directory, op.get("of"))
    if op["op"] == "age":
        directory_damage.age(directory)
    elif op["op"] == "harm":
        for one in directory_damage.all_at_once(own, op["how"], op["to"]):
            directory_damage.do(directory, one)
    elif op["op"] == "strangers":
        it.strangers |= foreign_files.put(directory, list(own), _random(lab, it.point["name"]))
    elif op["op"] == "cleared":
        for name in {path.split("/")[0] for path in own}:
            (scratch.remove if (directory / name).is_dir() else os.remove)(directory / name)
    now = directory_damage.listing(directory)
    it.labels |= {now[path]: it.labels[identity] for path, identity in own.items() if path in now}


def _label(it: Seen) -> None:
    """Which call wrote each file last."""
    for operation in it.operations:
        op = operation.op
        for path, identity in operation.wrote.items():
            if op["op"] == "put":
                it.strangers[path] = Stranger(op["files"][path].encode())
            else:
                it.labels.setdefault(
                    tuple(identity), op["step"] if op["op"] == "write" else op["op"]
                )


def _of(it: Seen, directory: Path, labels: list | None) -> dict[str, directory_damage.Identity]:
    """The files that were last written by the calls of these labels; None: all of the submission's
    own."""
    files = directory_damage.listing(directory)
    return {
        path: i
        for path, i in files.items()
        if i in it.labels and (labels is None or it.labels[i] in labels)
    }


def _settle(it: Seen, directory: Path) -> None:
    """What the directory holds at the end, and which files of others are gone."""
    _label(it)
    it.lost = foreign_files.lost(directory, it.strangers)
    own = {
        path: i
        for path, i in directory_damage.listing(directory).items()
        if path not in it.strangers
    }
    it.total = sum(size for _, _, size, _ in directory_damage.each_once(own).values())
    below = (
        [path.relative_to(directory) for path in directory.rglob("*")] if directory.is_dir() else []
    )
    it.entries = sum(str(path) not in it.strangers for path in below)


# --- reading --------------------------------------------------------------------------------------


@dataclass
class States:
    """What a life without student code says of the states that were saved."""

    labels: dict[str, str]  # digest -> "step 20"
    values: dict[int, list[directory_damage.Value]]
    parts: dict[int, dict[str, str]]  # of some states: the digest of each part


def key_of(lab: Lab) -> str:
    """The key of a grading's digests: nobody knows it before the first life reads."""
    return lab.once(("key", lab.bench.submission.key), lambda: secrets.token_hex(16))


def _states(lab: Lab, points: list[dict]) -> States:
    """About the states that these points save. Most save the same few, which are asked for
    together, once a grading.
    """
    ops = [op for point in points for op in point["ops"] if "step" in op]
    labels = {number_of(op): label_of(op) for op in ops}
    numbers = {(number_of(op), op.get("kind", "plain")) for op in ops}
    values = {h["state"] for point in points for h in point.get("harms", []) if "state" in h}
    usual = _usual_numbers(lab)
    if numbers <= usual:
        numbers, values = usual, {number for number, _ in usual if number < AGAIN}
    given = {
        "payload": payload(lab),
        "key": key_of(lab),
        "numbers": sorted(numbers),
        "values": sorted(values),
    }
    run = lab.trusted("../yardstick/states.py", given=given)
    finished(lab, run)
    of = {
        d: labels[int(number)]
        for number, d in run.last.first("digests")["of"].items()
        if int(number) in labels
    }
    found = {
        e["number"]: [
            (name, bytes.fromhex(begins), length, places)
            for name, begins, length, places in e["values"]
        ]
        for e in run.last.all("values")
    }
    return States(of, found, {e["number"]: e["of"] for e in run.last.all("parts")})


def _usual_numbers(lab: Lab) -> set[tuple[int, str]]:
    """Those of a run's steps, saved once and again, and of best states."""
    steps = {
        *steps_of_a_run(lab.shared, 8),
        5,
        *(10 * n + more for n in range(1, 9) for more in (0, 1)),
    }
    return {(n, "plain") for n in steps} | {(n + AGAIN, "plain") for n in steps}


def crash_tested(lab: Lab, ops: list[dict], *flags: str, saves: str, load: str) -> None:
    """Every disk state that a crash may leave of these saves is read correctly."""
    labels = _states(lab, [{"ops": ops}]).labels
    digest_of = {label: digest for digest, label in labels.items()}
    power_loss.saves_survive(
        lab, *flags, key=key_of(lab), steps=[op["step"] for op in ops], saves=saves, load=load,
        given={"payload": payload(lab), "saves": [[op["step"], number_of(op)] for op in ops]},
        digests={n: digest_of[label_of(op)] for n, op in enumerate(ops, 1)},
    )  # fmt: skip


def label_of(op: dict) -> str:
    return f"step {op['step']}{op.get('version', '')}"


def number_of(op: dict) -> int:
    return op.get("of", op["step"])


def _looks(lab: Lab, it: Seen, root: Path, states: States) -> Iterable[Look]:
    """The directory as it was left, and with each of the harms done to it: to copies, if it can be
    copied."""
    point, directory = it.point, root / it.point["at"]
    parts = any(op.get("kind", "plain") != "plain" for op in it.calls)
    it.parts = states.parts
    yield Look(point["id"], directory, point["reads"], states.labels, parts)
    in_place = bool(point["harms"]) and directory_damage.knows_its_place(directory)
    for number, harms in enumerate(_harms(lab, it, directory, states), 1):
        look = Look(
            f"{point['id']}-{number}",
            directory,
            point["reads"],
            states.labels,
            parts,
            harms,
            in_place,
        )
        if not in_place:
            look.path = root / _opaque(lab, f"{it.point['name']} {number}") / directory.name
            directory_damage.copy(directory, look.path)
            for one in harms:
                directory_damage.do(look.path, one)
        yield look


def _harms(lab: Lab, it: Seen, directory: Path, states: States) -> Iterable[list[Harm]]:
    draw = _random(lab, f"{it.point['name']} harms")
    for one in it.point["harms"]:
        if "each" in one:
            files = _of(it, directory, one["each"])
            yield from (
                [h]
                for h in directory_damage.every_way(
                    directory, files, states.values[one["state"]], draw
                )
            )
        elif "far" in one:
            yield from (
                [h]
                for h in directory_damage.far_apart(_of(it, directory, one["of"]), one["far"], draw)
            )
        else:
            yield directory_damage.all_at_once(_of(it, directory, one["of"]), one["how"], one["to"])


def _read(lab: Lab, root: Path, looks: list[Look]) -> None:
    """One life looks everywhere; what can only be damaged in its place takes a life of its own."""
    batches = [
        [look for look in looks if not look.in_place],
        *([look] for look in looks if look.in_place),
    ]
    for batch in filter(None, batches):
        repairs = [
            directory_damage.do(look.path, one)
            for look in batch
            if look.in_place
            for one in look.harm
        ]
        before = [directory_damage.listing(look.path, links=True) for look in batch]
        asked = [
            {"id": look.id, "path": str(look.path), "reads": look.reads, "parts": look.parts}
            for look in batch
        ]
        run = lab.launch(
            "ex01/read_checkpoints.py", given={"key": key_of(lab), "looks": asked}, directory=root
        )
        finished(lab, run)
        for look, was in zip(batch, before, strict=False):
            look.events = [e for e in run.last.events if e.get("point") == look.id]
            now = directory_damage.listing(look.path, links=True)
            look.touched = [path for path in {**was, **now} if now.get(path) != was.get(path)]
            look.gone = set(look.touched) - now.keys()
        for repair in repairs:
            repair()


# --- what points are made of ----------------------------------------------------------------------


def write(step: int, **more) -> dict:
    return {"op": "write", "step": step} | more


AGAIN = 1_000_000  # added to a step's number: the state that is saved when the step is saved again


def again(step: int, **more) -> dict:
    """The same step saved once more, with another state; found() calls it 'step 20 again'."""
    return write(step, of=step + AGAIN, version=" again", **more)


def put(files: dict[str, str]) -> dict:
    """Somebody else's files."""
    return {"op": "put", "files": files}


FOREIGN = put({"notes.txt": "learning rate 3e-4 was too high\n", "logs/events.out": "\0\1"})
STRANGERS = {"op": "strangers"}  # files of others, with names like the submission's own


def cut(*steps: int, to: float = 0.5) -> dict:
    """The files that were last written by the saves of these steps, cut short; without any, all
    files."""
    return {"op": "harm", "how": "truncate", "to": to, "of": list(steps) or None}


def steps_of_a_run(draw, n: int) -> list[int]:
    """Steps as a run has them: growing, and not of equal length (9 before 10, 99 before 100)."""
    start = draw.choice([9, 98, 99])
    return [start + i for i in range(n)]


def works(seen: Seen) -> None:
    """Nothing was raised where no fault was injected."""
    for operation in seen.operations:
        if operation.op.get("fault") or operation.op.get("dies"):
            continue
        if operation.raised:
            room_enough(operation.raised)
            raise crashed(operation.raised, [])
        if bad := [e for e in operation.all("ended") if e["status"] != 0]:
            rows = [
                Gist("ended", f"your function ended the process, with status {bad[0]['status']}"),
                ("expected", "it returns, or raises"),
            ]
            raise Finding("exit", rows)
    for look in seen.looks:
        untouched(look)


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
    if not look.touched:
        return
    first = look.touched[0]
    done = "was deleted" if first in look.gone else "was changed or made"
    raise Finding(
        "reading-writes",
        [
            ("called", " and ".join(f"read_{what}" for what in dict.fromkeys(look.reads))),
            Found(f"{first} {done} by it"),
            ("expected", "reading changes nothing on the disk"),
        ],
        means="a job that only wants to look destroys what you could have rescued",
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
    return Finding(code, [*rows, Found(found), ("expected", expected)], fault, **advice)


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


# --- faults ---------------------------------------------------------------------------------------


def events_and_size(seen: Seen) -> tuple[list[str], int]:
    """Events and the largest file's size of an undisturbed last operation."""
    works(seen)
    last = seen.operations[-1]
    events = last.all("saved")[-1]["events"]
    if not last.wrote and last.op["op"] == "write":
        raise Finding(
            "nothing-written",
            [
                ("saved", f"step {last.op['step']}"),
                Found("no file in the directory was written or changed"),
                ("expected", "a checkpoint"),
            ],
            think="where does your write_checkpoint write to?",
        )
    if moved := [
        e for e in events if e.endswith(FROM_OUTSIDE) and e.startswith(("rename", "link"))
    ]:
        raise Finding(
            "another-file-system",
            [
                Found(f"a file is made outside the directory, and then: {moved[0]}"),
                ("expected", "temporary files are in `directory` itself"),
            ],
            means=(
                "on a cluster, /tmp is another file system than the checkpoints': the rename "
                "fails (EXDEV), or becomes a slow copy that a kill cuts short"
            ),
            think="in which folder is your temporary file, and which disk is that on?",
        )
    return events, max(
        (size for operation in seen.operations for size in operation.sizes), default=0
    )


def kill_points(lab: Lab, step: int, events: list[str]) -> list[Fault]:
    number = len(events)
    if not number:
        raise Inconclusive(
            "blind", [("watching", "the save caused no file-system event that Python can see")]
        )
    picked = (
        range(number)
        if number <= MAX_EVENTS
        else sorted(lab.draw.sample(range(number), MAX_EVENTS))
    )
    return [Fault("kill", step, event=k) for k in picked]


def kill_and_tear_points(
    lab: Lab, step: int, events: list[str], size: int, kinds: tuple[str, ...] = ("tear",)
) -> list[Fault]:
    """Kills between the events, and two in the middle of a file's bytes, which raise no event."""
    middle = [Fault(kind, step, byte=b) for kind in kinds for b in dict.fromkeys((size // 2, 0))]
    return selected(lab, [*kill_points(lab, step, events), *middle])


def cases(faults: list[Fault], events: list[str]) -> list[tuple[str, Fault, int | None]]:
    """(name, fault, late) of each point. If several files are written, a tear also strikes the last
    one alone: a temporary file that is *copied* to its final name is torn in the copy.
    """
    found: list[tuple[str, Fault, int | None]]
    found = [(str(fault), fault, None) for fault in faults]
    opened = _opened(events)
    if len(opened) > 1:
        found += [
            (f"{fault}, last file", fault, opened[-1])
            for fault in faults
            if fault.kind == "tear" and fault.byte
        ]
    return found


def _opened(events: Sequence[str]) -> list[int]:
    return [n for n, event in enumerate(events) if event.startswith(("open ", "torch.save begins"))]


def under(
    fault: Fault, op: dict, events: Sequence[str] = (), late: int | None = None, **more
) -> dict:
    """The operation under a fault. `events`: those of the same operation undisturbed; `late`: the
    one before which nothing is torn.
    """
    if any(event.endswith(FROM_OUTSIDE) for event in events) and late is None:
        late = next(
            iter(_opened(events)), None
        )  # what is copied in is torn here, not where it comes from
    return op | {"fault": fault.to_json() | {"step": op.get("step", 0), "late": late}} | more


def died_right(seen: Seen) -> None:
    """The fault struck: otherwise the point proves nothing."""
    for look in seen.looks:
        untouched(look)
    op = next(operation for operation in seen.operations if operation.op.get("fault"))
    fault, ended = op.op["fault"], op.all("ended")[0]
    if not op.all("fault"):
        if op.raised:
            room_enough(op.raised)
            raise crashed(op.raised, [])
        raise Inconclusive(
            "fault",
            [Struck(f"{seen.point['name']} never fired: two saves did different things")],
        )
    struck_all = (
        "byte" in fault and fault.get("late") is None
    )  # every file that the operation wrote
    if op.all("lifted") or (
        struck_all and ended["status"] == 0 and max(op.sizes, default=0) > fault["byte"]
    ):
        raise Finding(
            "limit-lifted",
            [
                Struck(f"no file may grow beyond byte {fault['byte']} (RLIMIT_FSIZE)"),
                Found("the save changed that limit, and kept writing"),
                ("expected", "the save fails, as it would on a full disk"),
            ],
            think="what would it do on a disk that really is full?",
        )


def struck(points: list[Seen]) -> None:
    """At least one of several torn or full saves met its limit."""
    if points and all(e["status"] == 0 for seen in points for e in seen.all("ended")):
        raise Inconclusive(
            "fault",
            [Struck("no file of the save reached the byte at which it should be torn")],
        )
