"""Runs templates/train_with_checkpoint.py as it is, with things happening to it at given steps,
each once in all lives.

HAPPEN="hold:6 kill:10"; hold: every rank waits at that step until a signal has come, and rank 0
says so by a file HAPPENED/hold-6. The process is the training script itself to whoever signals it.
"""

import os
import runpy
import signal
import sys
import time
from pathlib import Path

TEMPLATES = Path(__file__).resolve().parents[4] / "templates"
PATIENCE = 120  # s that nothing may come for

sys.path.insert(0, str(TEMPLATES))
import checkpoint_utils as cu  # noqa: E402

happenings = {
    int(step): what
    for what, _, step in (h.partition(":") for h in os.environ.get("HAPPEN", "").split())
}
place, rank = Path(os.environ["HAPPENED"]), os.environ.get("RANK", "0")
real = cu.CheckpointManager.step


def step(self):
    what = happenings.get(self.steps + 1)
    mark = place / f"{what}-{self.steps + 1}{'' if rank == '0' else f'.{rank}'}"
    if what and not mark.exists():
        # what was due before is on disk, as it would be in a training of seconds per step
        self.flush()
        mark.touch()
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        patience = time.monotonic() + PATIENCE
        while not self.signal.received and time.monotonic() < patience:
            time.sleep(0.02)
    return real(self)


cu.CheckpointManager.step = step
sys.argv[0] = str(TEMPLATES / "train_with_checkpoint.py")
runpy.run_path(sys.argv[0], run_name="__main__")
