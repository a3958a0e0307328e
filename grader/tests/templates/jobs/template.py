"""Runs templates/train_with_checkpoint.py as it is, with one thing happening to it.

    --at event:7 | step:12 | evaluation | resume      when
    --do kill | term | term-group | term-twice | full what (full: no file can grow any more)

What follows -- goes to the script.
"""

import argparse
import os
import resource
import runpy
import signal
import sys
from pathlib import Path

from grader.harness.inside import fsevents, ranks, telemetry

TEMPLATES = Path(__file__).resolve().parents[4] / "templates"

p = argparse.ArgumentParser()
p.add_argument("--checkpoints", required=True)
p.add_argument("--at", default="")
p.add_argument("--do", default="kill")
p.add_argument("script", nargs="*")


def happen(args, where: str) -> None:
    telemetry.emit("happened", at=where)
    if args.do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if args.do == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
        return
    for _ in range(2 if args.do == "term-twice" else 1):
        (os.killpg if args.do == "term-group" else os.kill)(os.getpid(), signal.SIGTERM)


def _once(real):
    """init_process_group as torchrun's workers call it, meeting through the harness's file."""
    import torch.distributed as dist

    def init(backend):
        dist.init_process_group = real
        ranks.join(backend)

    return init


def main() -> None:
    args = p.parse_args()
    kind, _, number = args.at.partition(":")
    sys.path.insert(0, str(TEMPLATES))
    import checkpoint_utils as cu

    seen = []

    def on_event(name: str) -> None:
        if kind == "event" and len(seen) == int(number):
            seen.append(name)
            happen(args, name)
        seen.append(name)

    step, stop, resume = (
        cu.CheckpointManager.step,
        cu.CheckpointManager.should_stop,
        cu.CheckpointManager.resume,
    )

    def watched_step(self):
        if kind == "step" and self.steps + 1 == int(number):
            happen(args, args.at)
        return step(self)

    def watched_stop(self):
        if kind == "evaluation" and self.steps and not self.state["model"].training:
            happen(args, args.at)
        return stop(self)

    def watched_resume(self):
        if kind == "resume":
            happen(args, args.at)
        return resume(self)

    cu.CheckpointManager.step, cu.CheckpointManager.should_stop = watched_step, watched_stop
    cu.CheckpointManager.resume = watched_resume
    if "RANKS_STORE" in os.environ:
        import torch.distributed as dist

        dist.init_process_group = _once(dist.init_process_group)
    os.makedirs(args.checkpoints, exist_ok=True)
    sys.argv[:] = ["train_with_checkpoint.py", "--directory", args.checkpoints, *args.script]
    try:
        with fsevents.watching(args.checkpoints, on_event):
            runpy.run_path(str(TEMPLATES / "train_with_checkpoint.py"), run_name="__main__")
    finally:
        telemetry.emit("events", names=seen)


if __name__ == "__main__":
    main()
