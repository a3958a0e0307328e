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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from grader.checks import directory_damage, foreign_files, power_loss
from grader.checks.directory_damage import Harm
from grader.checks.endings import ended_early, finished
from grader.checks.ex01.observations import CALLS, MADE, Look, Seen
from grader.checks.ex01.operations import AGAIN, label_of, number_of, steps_of_a_run
from grader.checks.fault_points import under_way
from grader.checks.foreign_files import Stranger
from grader.harness import scratch
from grader.harness.lab import Lab, too_large

LARGEST_COPY = 128 << 20  # bytes of a directory that is copied for each harm, of which are dozens


def observe(lab: Lab, points: list[dict]) -> dict[str, Seen]:
    """Run the points: one life saves (another one continues after what is done to the files in
    between), one reads."""
    defaults = {
        "at": "",
        "made": True,
        "relative": False,
        "reads": ["latest"],
        "harms": [],
        "refusals": [],
    }
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
    return lab.once(("storage", name), lambda lab: observe(lab, points()))


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
                plan.append(
                    {key: it.point[key] for key in ("id", "at", "made", "relative")} | {"ops": now}
                )
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


@dataclass
class States:
    """What a life without student code says of the states that were saved."""

    labels: dict[str, str]  # digest -> "step 20"
    values: dict[int, list[directory_damage.Value]]
    parts: dict[int, dict[str, str]]  # of some states: the digest of each part


def key_of(lab: Lab) -> str:
    """The key of a grading's digests: nobody knows it before the first life reads."""
    return lab.once(("key",), lambda _: secrets.token_hex(16))


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


def _looks(lab: Lab, it: Seen, root: Path, states: States) -> Iterable[Look]:
    """The directory as it was left, and with each of the harms done to it: to copies, if it can be
    copied."""
    point, directory = it.point, root / it.point["at"]
    parts = any(op.get("kind", "plain") != "plain" for op in it.calls)
    it.parts = states.parts
    yield Look(point["id"], directory, point["reads"], states.labels, parts)
    for number, labels in enumerate(point["refusals"], 1):
        files = ["."] if labels == ["."] else list(_of(it, directory, labels))
        yield Look(
            f"{point['id']}-refused-{number}",
            directory,
            point["reads"],
            states.labels,
            refused=files or ["nothing of these"],
        )
    if point["harms"] and scratch.size_to_copy(directory) > LARGEST_COPY:
        raise too_large(LARGEST_COPY)
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
        missing = [look.path for look in batch if not look.path.exists()]
        asked = [
            {
                "id": look.id,
                "path": str(look.path),
                "reads": look.reads,
                "parts": look.parts,
                "refused": look.refused,
            }
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
            if look.path in missing and look.path.exists():
                look.touched.append(MADE)
        for repair in repairs:
            repair()
