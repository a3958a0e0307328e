"""templates/README.md: its samples, in scripts that are killed."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from pathlib import Path

import pytest
import torch

from grader.tests.templates.test_templates_utils import cu

TEMPLATES = Path(cu.__file__).parent
README = (TEMPLATES / "README.md").read_text()

BEFORE = """
import os
import signal
import sys

import torch
from checkpoint_utils import CheckpointManager, ResumableSampler, ignore_signals
from torch.utils.data import DataLoader

torch.manual_seed(0)
data, epochs, total = torch.randn(96, 4), 3, 9
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
calls = 0


def train_step(batch):
    global calls
    calls += 1
    if calls == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    loss = model(batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()


@torch.no_grad()
def validate():
    return model.eval()(data).square().mean().item() * model.train().training
"""
AFTER = """
print(ckpt.steps, ckpt.best, [p.tolist() for p in model.parameters()])
"""


def sample(heading: str) -> str:
    """The first sample below a heading, saving each 3 steps and evaluating each 2."""
    text = README.split(f"\n{heading}\n")[1]
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    ends = "sys.exit(ckpt.exit_status)\n"
    assert code.endswith(ends)
    for was, now in {"=1000": "=3", "500": "2", "num_workers=4": "num_workers=0"}.items():
        code = code.replace(was, now)
    return BEFORE + code.removesuffix(ends) + AFTER + ends


def life(folder: Path, code: str, kill_at: int = 0) -> tuple[int, str, str]:
    """Its exit status, and what it printed; a fork, because importing torch takes long."""
    folder.mkdir(exist_ok=True)
    pid = os.fork()
    if not pid:
        status: object = 1
        try:
            os.chdir(folder)
            sys.stdout, sys.stderr = open("out", "w"), open("err", "w")
            torch.set_num_threads(1)
            exec(code, {"__name__": "__main__", "kill_at": kill_at})
        except SystemExit as e:
            status = e.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status if isinstance(status, int) else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status, (folder / "out").read_text(), (folder / "err").read_text()


@pytest.mark.parametrize("heading", ["## In ten lines", "### A loop without epochs"])
def test_a_sample_ends_where_it_ends_undisturbed_though_it_is_killed(tmp_path, heading):
    code = sample(heading)
    status, whole, told = life(tmp_path / "whole", code)
    assert status == 0 and whole, told
    for kill_at in (5, 3):
        status, _, told = life(tmp_path / "killed", code, kill_at)
        assert status == -signal.SIGKILL, told
    status, last, told = life(tmp_path / "killed", code)
    assert status == 0 and "resumed from" in told, told
    assert last == whole
    names = [
        sorted(p.name.rpartition("-")[0] for p in (tmp_path / f).glob("checkpoints/best-*"))
        for f in ("whole", "killed")
    ]
    assert names[0] == names[1] != []
