"""The training job of exercise 4, as a cluster runs it: a walk of sixteen numbers, which starts in milliseconds.

    python auto_job.py --directory D --events FILE [--plan FILE] [--code auto_resume.py [--uses lives]]

It behaves as exercise 3 taught it: SIGUSR1 and SIGTERM are noted; the step in progress is finished and saved; exit status 0
done, 75 preempted, 70 a crash loop (don't run me again), 1 failed. With --code, your functions decide what it resumes
from, whether it may start, and that it is alone; else the grader's do.

At the steps of its plan, it stands still until the cluster has done to it what is due there.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import select
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from grader.workload import auto_checkpoints as checkpoints

DONE, PREEMPTED, GAVE_UP, FAILED = 0, 75, 70, 1
PATIENCE = 900.0  # s that it stands still at most: a site looks at time limits every 30 s, and warns when it likes
WOKEN, WAKES = os.pipe()  # readable when a signal has come

p = argparse.ArgumentParser()
p.add_argument("--directory", required=True, help="where checkpoints go")
p.add_argument("--events", required=True, help="what it reports: a line of JSON each")
p.add_argument("--plan", help='[{"step": 7, "do": "preempt", "save": 2}, ...]: once each, in this order; the save that follows takes so many s')
p.add_argument("--code", help="the student's auto_resume.py")
p.add_argument("--uses", default="checkpoint,lives,lock", help="what of it: newest_intact, begin_life and end_life, only_one")
p.add_argument("--seed", type=int, default=0)
p.add_argument("--steps", type=int, default=40)
p.add_argument("--save-every", type=int, default=5)
p.add_argument("--crashes-at", type=int, help="every life that comes to this step crashes")
p.add_argument("--tries", type=int, default=3)


class Walk:
    """Sixteen numbers, and the generator that moves them."""

    def __init__(self, seed: int):
        self.draw, self.step = random.Random(seed), 0
        self.x = [self.draw.random() for _ in range(16)]

    def advance(self) -> None:
        self.x = [0.9 * a + 0.1 * self.draw.gauss(0, 1) * b for a, b in zip(self.x, [*self.x[1:], self.x[0]])]
        self.step += 1

    def state(self) -> dict:
        return {"step": self.step, "x": [v.hex() for v in self.x], "rng": self.draw.getstate()}

    def restore(self, state: dict) -> None:
        self.step, self.x = state["step"], [float.fromhex(v) for v in state["x"]]
        version, numbers, gauss = state["rng"]
        self.draw.setstate((version, tuple(numbers), gauss))

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.state()).encode()).hexdigest()[:16]


def undisturbed(seed: int, steps: int) -> dict[int, str]:
    """Step -> digest of a walk that nothing disturbs."""
    walk, course = Walk(seed), {}
    for _ in range(steps):
        walk.advance()
        course[walk.step] = walk.digest()
    return course


def main() -> int:
    args = p.parse_args()
    log = os.open(args.events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def emit(event: str, **fields) -> None:
        job = {"job": os.environ.get("SLURM_JOB_ID"), "restart": int(os.environ.get("SLURM_RESTART_COUNT", 0))}
        os.write(log, json.dumps({"event": event, "t": round(time.time(), 3), "pid": os.getpid(), **job, **fields}).encode() + b"\n")

    came: list[int] = []
    os.set_blocking(WAKES, False)
    signal.set_wakeup_fd(WAKES)

    def note(number, frame) -> None:
        came.append(number)
        emit("signal", signal=signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, note)
    os.makedirs(args.directory, exist_ok=True)
    ck = _student(args.code) if args.code else None
    uses = args.uses.split(",") if ck else []
    emit("life")
    print(f"life of job {os.environ.get('SLURM_JOB_ID')}, restart {os.environ.get('SLURM_RESTART_COUNT', 0)}", flush=True)
    try:
        with ck.only_one(args.directory) if "lock" in uses else nullcontext():
            emit("alone")
            lives, finds = ck if "lives" in uses else None, ck if "checkpoint" in uses else checkpoints
            status = _live(args, lives, finds.newest_intact, emit, came)
            emit("leaving")
    except BaseException as e:
        if ck and isinstance(e, (ck.CrashLoop, ck.Busy)):
            print(f"{type(e).__name__}: {e}", flush=True)
            status = GAVE_UP if isinstance(e, ck.CrashLoop) else FAILED
        else:
            emit("crash", type=type(e).__name__, message=str(e)[:500])
            raise
        emit("refused", type=type(e).__name__)
    emit("left", status=status)
    return status


def _live(args, ck, newest_intact, emit, came: list[int]) -> int:
    walk = Walk(args.seed)
    found = newest_intact(args.directory)
    if found is not None:
        walk.restore(checkpoints.read(found))
    if ck and not ck.begin_life(args.directory, walk.step, args.tries):
        emit("nothing to do", step=walk.step)
        return DONE
    if not ck and walk.step == args.steps:
        emit("nothing to do", step=walk.step)
        return DONE
    emit("resumed", step=walk.step)
    print(f"starting at step {walk.step}", flush=True)

    def save() -> None:
        emit("saving", step=walk.step)
        if came:
            time.sleep(slow)  # a large checkpoint, a busy file system: what is simulated is the time that it takes
        checkpoints.write(args.directory, walk.step, walk.state())
        emit("saved", step=walk.step)

    outcome, slow = "failed", 0.0
    try:
        while walk.step < args.steps:
            if came:
                save()
                outcome = "preempted"
                print(f"told to stop at step {walk.step}, saved", flush=True)
                return PREEMPTED
            walk.advance()
            emit("step", step=walk.step, digest=walk.digest())
            if walk.step == args.crashes_at:
                raise RuntimeError(f"step {walk.step} crashes")
            if walk.step % args.save_every == 0:
                save()
            slow = _due(args, emit, came, walk.step)
        save()
        outcome = "done"
        print(f"done at step {walk.step}", flush=True)
        return DONE
    finally:
        if ck:
            ck.end_life(args.directory, outcome)


def _due(args, emit, came: list[int], step: int) -> float:
    """What the plan has for this step: once in the run. s that the save after it takes."""
    plan = json.loads(Path(args.plan).read_text()) if args.plan else []
    done = sum(json.loads(line)["event"] == "fault" for line in Path(args.events).read_bytes().splitlines())
    if done >= len(plan) or plan[done]["step"] != step:
        return 0.0
    do = plan[done]["do"]
    emit("fault", do=do, step=step, number=done)
    if do == "torn":  # and killed: the newest checkpoint isn't what it was any more
        newest = checkpoints.newest_intact(args.directory)
        data = (newest / "state.json").read_bytes()
        (newest / "state.json").write_bytes(data[: len(data) // 2])
    if do in ("kill", "torn"):
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "crash":
        raise RuntimeError(f"step {step} crashes")
    if not came:
        select.select([WOKEN], [], [], PATIENCE)
    if not came:
        raise TimeoutError(f"nothing happened to the job at step {step} for {PATIENCE:g} s")
    return plan[done].get("save", 0.5)


def _student(path: str):
    spec = importlib.util.spec_from_file_location("auto_resume", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["auto_resume"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
