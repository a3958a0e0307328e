"""Drives the storage functions of exercise 1 through a plan of points.

A point prepares a directory, does something under a fault, and then asks, in a process that has seen no
write, what a relaunched job would find. The student's functions run in processes forked here, in a life
that has loaded torch once: a whole matrix of crashes costs little more than one launch, plainly or forked.

--plan FILE holds JSON: [{"name", "at", "made", "ops": [op...], "harms": [harm...], "reads": ["latest"]}]
`at`: points of one name there share a directory, "a/b" is b in a directory that they share. `made`: whether
the directory exists at first. The names of the directories tell nothing about what will happen in them.

What the student's functions do, in one process until it dies: {"op": "write", "step": n}, {"op": "best",
"step": n, "loss": x, "best": y}, {"op": "prune", "keep": k}, {"op": "due", "asks": [[step, epoch, ...]...]}.
"fault" adds a fault, "dies" kills the process as soon as the call has returned. The point ends with an
operation that fails, unless "goes_on".

What befalls the directory: {"op": "age"} (older files get newer dates), {"op": "foreign"} (somebody else's files
lie there), {"op": "file"} (a file lies where the directory should be), {"op": "harm", ...}. A harm is {"how":
"truncate" | "flip", "to": 0..1, "of": steps | null} for all files last written by the saves of these steps (null:
all files), or {"each": steps, "state": step} for one after another in many ways. Those in `harms` are undone
after each look.
"""

import argparse
import gc
import hashlib
import json
import os
import random
import sys
from contextlib import suppress

from grader.harness import child, watch
from grader.harness.digest import digest
from grader.workload import damage, student
from grader.workload.forked import Helper
from grader.workload.states import made_state

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's checkpoint.py")
p.add_argument("--directory", required=True, help="holds the points' directories")
p.add_argument("--plan", required=True)
p.add_argument("--seed", type=int, default=0)


class Writer:
    """Calls the student's functions, in a process that may die of it."""

    def __init__(self, load, seed: int):
        self.load, self.seed = load, seed

    def __call__(self, asked: dict) -> None:
        if asked["fresh"]:
            self.ck = self.load()
        op, directory = asked["op"], asked["directory"]
        step = op.get("step", 0)
        fault = op.get("fault") or {}
        state = made_state(self.seed, step) if "step" in op else None
        with watch.saving(step, directory, fault | {"step": step if fault else -1}):
            if op["op"] == "write":
                self.ck.write_checkpoint(state, directory, step)
            elif op["op"] == "best":
                value = self.ck.keep_best(state, op["loss"], op["best"], directory)
                watch.emit("best", point=asked["name"], value=repr(value))
            elif op["op"] == "prune":
                self.ck.prune(directory, op["keep"])
            elif op["op"] == "due":
                watch.emit("due", point=asked["name"], answers=[repr(self.ck.should_save(*ask)) for ask in op["asks"]])
        if op.get("dies"):
            watch.die(step, after="the call returned")


def look(module, asked: dict) -> None:
    """What a relaunched job would find, in a process that has seen no write."""
    for what in asked["reads"]:
        read = module.read_latest if what == "latest" else module.read_best
        try:
            state = read(asked["directory"])
        except Exception as e:
            watch.emit("read", point=asked["name"], what=what, outcome="error", error=child.describe(e))
            continue
        outcome = "none" if state is None else "state"
        watch.emit("read", point=asked["name"], what=what, outcome=outcome, digest=digest(state))


class Place:
    """A directory, and which operation wrote each of its files last: "best", "prune", or the step of a save."""

    FOREIGN = {"notes.txt": b"learning rate 3e-4 was too high\n", os.path.join("logs", "events.out"): b"\x00\x01"}

    def __init__(self, path: str):
        self.path = path
        self.written: dict[damage.Identity, object] = {}
        self.foreign: dict[str, bytes] = {}  # what others put there

    def files(self) -> dict[str, damage.Identity]:
        return {path: i for path, i in damage.listing(self.path).items() if path not in self.foreign}

    def of(self, labels: list | None) -> dict[str, damage.Identity]:
        return {path: i for path, i in self.files().items() if labels is None or self.written.get(i) in labels}

    def put(self, relative: str, data: bytes) -> None:
        path = os.path.join(self.path, relative)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(data)
        self.foreign[path] = data

    def lost(self) -> list[str]:
        """Files of others that aren't as they were."""

        def intact(path, data):
            try:
                with open(path, "rb") as f:
                    return f.read() == data
            except OSError:
                return False

        return [os.path.relpath(path, self.path) for path, data in self.foreign.items() if not intact(path, data)]

    def settle(self, label) -> dict:
        """Whatever is new or changed was written by `label`. Returns what the directory holds."""
        files = self.files()
        changed = [path for path, i in files.items() if i not in self.written]
        self.written |= {files[path]: label for path in changed}
        sizes = {path: i[2] for path, i in damage.each_once(files).items()}
        entries = sum(len(folders) + len(names) for _, folders, names in os.walk(self.path)) - len(self.foreign)
        return {
            "total": sum(sizes.values()),
            "entries": entries,
            "changed": [files[path][2] for path in changed],
            "lost": self.lost(),
        }


class Driver:
    def __init__(self, directory: str, seed: int, load):
        self.directory, self.seed = directory, seed
        self.writer = Helper("write", Writer(load, seed))
        self.reader = Helper("read", lambda asked: look(load(), asked))
        self.places: dict[str, Place] = {}

    def run(self, point: dict) -> None:
        name, place = point["name"], self.place(point)
        watch.emit("point", point=name)
        fresh = True
        for op in point["ops"]:
            watch.emit("op", point=name, op=op)
            status = 0
            if op["op"] in ("age", "foreign", "file", "harm"):
                getattr(self, op["op"])(name, place, op)
            else:
                asked = {"op": op, "directory": place.path, "fresh": fresh or not self.writer.pid}
                status, fresh = self.writer.ask(name, asked), False
            watch.emit("did", point=name, **place.settle(op["step"] if op["op"] == "write" else op["op"]))
            if status and not op.get("goes_on"):
                break
        if any(op.get("fault") for op in point["ops"]):
            self.writer.close()  # what a fault changed in the process harms no other point
        if self.look(point, place):
            for harm in point["harms"]:
                if not all(self.harmed(point, place, harms) for harms in self.chosen(point, place, harm)):
                    break

    def place(self, point: dict) -> Place:
        """The point's directory; its name tells nothing."""
        if point["at"] not in self.places:
            shared, _, name = point["at"].partition("/")
            opaque = hashlib.sha256(f"{self.seed} {shared}".encode()).hexdigest()[:6]
            path = os.path.join(self.directory, opaque, name).rstrip("/")
            os.makedirs(path if point["made"] else os.path.dirname(path), exist_ok=True)
            self.places[point["at"]] = Place(path)
        return self.places[point["at"]]

    # --- what befalls a directory

    def age(self, name: str, place: Place, op: dict) -> None:
        for old, new in damage.age(place.files()).items():
            place.written[new] = place.written.get(old)

    def foreign(self, name: str, place: Place, op: dict) -> None:
        for relative, data in Place.FOREIGN.items():
            place.put(relative, data)

    def file(self, name: str, place: Place, op: dict) -> None:
        with open(place.path, "wb") as f:
            f.write(b"not a directory")
        place.foreign[place.path] = b"not a directory"

    def harm(self, name: str, place: Place, op: dict) -> None:
        labels = {path: place.written.get(i) for path, i in place.files().items()}
        for harm in self.all_at_once(place, op):
            damage.do(harm)
        place.written |= {i: labels[path] for path, i in place.files().items()}

    def all_at_once(self, place: Place, harm: dict) -> list[damage.Harm]:
        out = []
        for path, (_, _, size, _) in damage.each_once(place.of(harm["of"])).items():
            if size:
                at = min(int(harm["to"] * size), size - 1)
                out.append(damage.Harm(path, harm["how"], at, at % 8))
        return out

    def chosen(self, point: dict, place: Place, harm: dict):
        if "each" not in harm:
            yield self.all_at_once(place, harm)
            return
        draw = random.Random(f"{self.seed} {point['name']}")
        for one in damage.every_way(place.of(harm["each"]), made_state(self.seed, harm["state"]), draw):
            yield [one]

    # --- what a relaunched job finds

    def harmed(self, point: dict, place: Place, harms: list[damage.Harm]) -> bool:
        sizes = {harm.file: os.lstat(harm.file).st_size for harm in harms}
        told = [vars(h) | {"file": os.path.relpath(h.file, place.path), "size": sizes[h.file]} for h in harms]
        watch.emit("harmed", point=point["name"], files=told)
        repairs = [damage.do(harm) for harm in harms]
        if not self.look(point, place):
            return False
        for repair in repairs:
            repair()
        return True

    def look(self, point: dict, place: Place) -> bool:
        """Read, and see whether that left everything as it was."""
        before = damage.listing(place.path)
        if point["reads"]:
            self.reader.ask(point["name"], {"directory": place.path, "reads": point["reads"]})
        after = damage.listing(place.path)
        touched = [os.path.relpath(path, place.path) for path in before if after.get(path) != before[path]]
        if touched:
            gone = [path for path in touched if os.path.join(place.path, path) not in after]
            watch.emit("touched", point=point["name"], files=touched, gone=gone)
        return not touched

    def close(self) -> None:
        self.writer.close()
        self.reader.close()


def main() -> None:
    args = p.parse_args()
    with open(args.plan) as f:
        plan = json.load(f)
    with suppress(OSError):  # the student's code gets no glimpse of what is coming
        os.remove(args.plan)
    del sys.argv[1:]
    student.load(args.checkpoint)

    def again():
        """The student's module, executed anew: what it remembered from another point is gone."""
        return student.load(args.checkpoint, quiet=True)

    gc.freeze()  # the forked processes share what is here: don't let their collector copy it
    driver = Driver(args.directory, args.seed, again)
    for point in plan:
        driver.run(point)
    driver.close()
    steps = {op["step"] for point in plan for op in point["ops"] if "step" in op}
    watch.emit("digests", of={step: digest(made_state(args.seed, step)) for step in sorted(steps)})
    watch.emit("end", step=0, state={})


main()
