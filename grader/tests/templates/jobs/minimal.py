"""The loop in the docstring of templates/minimal_checkpoint.py, as it stands there.

    minimal.py FOLDER WORKERS [--persistent]         --persistent: its workers stay to the end

It trains a model that draws from every generator, and writes each step's loss and the final weights
into FOLDER.
"""

import json
import random
import sys
import textwrap
from pathlib import Path

import minimal_checkpoint
import numpy
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

top, workers = Path(sys.argv[1]), int(sys.argv[2])
random.seed(1)
numpy.random.seed(1)
torch.manual_seed(1)


class Noisy(Dataset):
    """Its noise depends on the index, the epoch and a seed."""

    def __len__(self):
        return 38

    def __getitem__(self, index):
        own = torch.Generator().manual_seed(1000 * index + scope["sampler"].epoch)
        return torch.randn(8, generator=own)


model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)


def train_step(batch):
    noise = random.random() + numpy.random.rand()
    loss = (model(batch) - noise).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    with open(top / "losses", "a") as f:
        line = [scope["step"] + 1, loss.item().hex(), batch.sum().item().hex()]
        f.write(json.dumps(line) + "\n")
    optimizer.step()
    scheduler.step()


persistent = ", persistent_workers=True" if "--persistent" in sys.argv else ""
loop = textwrap.dedent(minimal_checkpoint.__doc__.split("\n\n")[1])
for shown, here in (
    ('Checkpoints("checkpoints"', f"Checkpoints({str(top / 'ck')!r}"),
    ("num_workers=4", f"num_workers={workers}{persistent}"),
    ("batch_size=32", "batch_size=4"),
    ("% 1000", "% 4"),
):
    assert shown in loop
    loop = loop.replace(shown, here)
names = {"DataLoader": DataLoader, "data": Noisy(), "epochs": 2}
scope = vars(minimal_checkpoint) | globals() | names
try:
    exec(compile(loop, minimal_checkpoint.__file__, "exec"), scope)
finally:
    torch.save({"model": model.state_dict(), "epoch": scope["sampler"].epoch}, top / "final.pt")
