"""Drives the storage functions of exercise 1 through a plan of points, each in processes of its own.

A point prepares a directory, does something under a fault, and then asks, in a process that has seen no
write, what a relaunched job would find. Those processes are forked here, in a life that has loaded torch
once: a whole matrix of crashes costs little more than one launch, plainly or forked.

--plan FILE holds JSON: [{"name", "directory", "ops": [op...], "fault": {...} | null, "reads": ["latest"]}]
An op: {"op": "write", "step": n}, {"op": "best", "step": n, "loss": x, "best": y}, {"op": "prune", "keep": k},
{"op": "damage", "how": "truncate" | "flip", "at": 0..1, "files": "newest" | "all", "pick": n},
{"op": "age"} (gives older files newer dates). The fault falls into the last op.
"""

import argparse
import json
import os
import random

import torch

from grader.harness import child, watch
from grader.harness.digest import digest
from grader.workload import student
from grader.workload.forked import Helper

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's checkpoint.py")
p.add_argument("--directory", required=True, help="holds the points' directories")
p.add_argument("--plan", required=True)
p.add_argument("--seed", type=int, default=0)


def made_state(seed: int, step: int) -> dict:
    """A state as a training job would save it, different in every value for another step."""
    draw = random.Random(f"{seed} {step}")
    generator = torch.Generator().manual_seed(draw.getrandbits(60))

    def tensor(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        "model": {"weight": tensor(96, 64), "half": tensor(32, dtype=torch.bfloat16), "mask": tensor(9) > 0},
        "optimizer": {
            "state": {0: {"step": tensor(), "exp_avg": tensor(96, 64)}, 1: {"step": tensor()}},
            "param_groups": [{"lr": draw.random(), "betas": (0.9, draw.random()), "params": [0, 1], "foreach": None}],
        },
        "rng": (3, tuple(draw.getrandbits(32) for _ in range(20)), None),
        "counts": torch.tensor([step, draw.getrandbits(40)]),
        "step": step,
        "best": float("inf"),
        "note": f"after step {step}",
    }


class Point:
    """One point's operations, in the process that may die of them."""

    def __init__(self, module, point: dict, seed: int):
        self.ck, self.point, self.seed = module, point, seed
        self.directory = point["directory"]
        self.newest: list[str] = []  # files that the last write made or changed

    def run(self) -> None:
        *before, last = self.point["ops"]
        for op in before:
            self.do(op, None)
        self.do(last, self.point.get("fault"))

    def do(self, op: dict, fault: dict | None) -> None:
        had = self.listing()
        if op["op"] in ("damage", "age"):
            getattr(self, op["op"])(op)
        else:
            self.call(op, fault)
        has = self.listing()
        changed = [path for path in has if had.get(path) != has[path]]
        if op["op"] == "write":
            self.newest = changed
        total = sum(size for size, *_ in has.values())
        sizes = [has[path][0] for path in self.newest if path in has]
        largest = max((has[path][0] for path in changed), default=0)
        watch.emit("did", point=self.point["name"], op=op, total=total, newest=sizes, changed=largest)

    def call(self, op: dict, fault: dict | None) -> None:
        step = op.get("step", 0)
        if fault:
            fault = fault | {"step": step}
        with watch.saving(step, self.directory, fault or {"step": -1}):
            if op["op"] == "write":
                self.ck.write_checkpoint(made_state(self.seed, step), self.directory, step)
            elif op["op"] == "best":
                value = self.ck.keep_best(made_state(self.seed, step), op["loss"], op["best"], self.directory)
                watch.emit("best", point=self.point["name"], value=repr(value))
            elif op["op"] == "prune":
                self.ck.prune(self.directory, op["keep"])

    def listing(self) -> dict[str, tuple]:
        out = {}
        for folder, _, names in os.walk(self.directory):
            for name in sorted(names):
                path = os.path.join(folder, name)
                st = os.lstat(path)
                out[path] = (st.st_size, st.st_mtime_ns, st.st_ino)
        return out

    def damage(self, op: dict) -> None:
        files = sorted(self.newest) if op["files"] == "newest" else sorted(self.listing())
        files = [path for path in files if os.path.getsize(path)]
        if op["files"] == "newest" and files:
            files = [sorted(files, key=os.path.getsize, reverse=True)[op["pick"] % len(files)]]
        for path in files:
            size = os.path.getsize(path)
            at = min(int(op["at"] * size), size - 1)
            if op["how"] == "truncate":
                os.truncate(path, at)
            else:
                with open(path, "r+b") as f:
                    f.seek(at)
                    byte = f.read(1)[0]
                    f.seek(at)
                    f.write(bytes([byte ^ (1 << op.get("bit", at % 8))]))
            name = os.path.relpath(path, self.directory)
            watch.emit("damaged", point=self.point["name"], file=name, at=at, size=size)

    def age(self, op: dict) -> None:
        paths = sorted(self.listing(), key=lambda path: os.lstat(path).st_mtime_ns)
        for n, path in enumerate(paths):
            os.utime(path, (1_700_000_000 - 60 * n,) * 2)


def look(module, point: dict) -> None:
    """What a relaunched job would find, in a process that has seen no write."""
    for what in point["reads"]:
        read = module.read_latest if what == "latest" else module.read_best
        try:
            state = read(point["directory"])
        except Exception as e:
            watch.emit("read", point=point["name"], what=what, outcome="error", error=child.describe(e))
            continue
        outcome = "none" if state is None else "state"
        watch.emit("read", point=point["name"], what=what, outcome=outcome, digest=digest(state))


def main() -> None:
    args = p.parse_args()
    student.load(args.checkpoint)
    with open(args.plan) as f:
        plan = json.load(f)

    def again():
        """The student's module, executed anew: what it remembered from another point is gone."""
        return student.load(args.checkpoint, quiet=True)

    writer = Helper("write", lambda point: Point(again(), point, args.seed).run())
    reader = Helper("read", lambda point: look(again(), point))
    for point in plan:
        point["directory"] = os.path.join(args.directory, point["directory"])
        os.makedirs(point["directory"], exist_ok=True)
        watch.emit("point", point=point["name"])
        writer.ask(point["name"], point)
        if point["fault"]:
            writer.close()  # what a fault changed in the process harms no other point
        reader.ask(point["name"], point)
    writer.close()
    reader.close()
    steps = {op["step"] for point in plan for op in point["ops"] if "step" in op}
    watch.emit("digests", of={step: digest(made_state(args.seed, step)) for step in sorted(steps)})
    watch.emit("end", step=0, state={})


main()
