"""Runs a training script as it is, with one thing happening to it.

    --watch DIR                             the directory whose file-system events count
    --at event:7 | step:12                  before the event, or after the optimizer's step; both
                                            are counted in this life
    --do kill | term | term-group | term-twice | full       as in template.py

The script and its arguments follow --.
"""

import argparse
import os
import runpy
import sys
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook

from grader.harness.inside import fsevents, telemetry
from grader.tests.templates.jobs.template import TEMPLATES, happen

p = argparse.ArgumentParser()
p.add_argument("--watch", required=True)
p.add_argument("--at", default="")
p.add_argument("--do", default="kill")
p.add_argument("script", nargs="+")


def main() -> None:
    args = p.parse_args()
    kind, _, number = args.at.partition(":")
    events: list[str] = []
    steps = 0

    def on_event(name: str) -> None:
        if kind == "event" and len(events) == int(number):
            happen(args, name)
        events.append(name)

    def on_step(*_: object) -> None:
        nonlocal steps
        steps += 1
        if kind == "step" and steps == int(number):
            happen(args, args.at)

    register_optimizer_step_post_hook(on_step)
    os.makedirs(args.watch, exist_ok=True)
    sys.path[:0] = [str(TEMPLATES), str(Path(args.script[0]).parent)]
    sys.argv[:] = args.script
    try:
        with fsevents.watching(args.watch, on_event):
            runpy.run_path(args.script[0], run_name="__main__")
    finally:
        telemetry.emit("events", names=events, steps=steps)


if __name__ == "__main__":
    main()
