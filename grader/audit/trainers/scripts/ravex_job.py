"""A plain loop under ravex, which saves and resumes by itself, as its documentation says.

    python ravex_job.py FOLDER

https://github.com/JHNMACHINE/ravex: one decorator, and the same command again to resume.
"""

import sys

import ravex
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, SAMPLES, BATCH, SAVE_EVERY = 3, 80, 8, 4


@ravex.train_loop(
    preemption_handler=True,
    checkpoint_every=SAVE_EVERY,
    keep_last=2,
    max_steps=EPOCHS * SAMPLES // BATCH,  # of all lives together: the loop below counts its own
    backend="torch_save",
    storage={"type": "local", "path": sys.argv[1]},
)
def train():
    torch.manual_seed(1)
    data = torch.Generator().manual_seed(2)
    x, y = torch.randn(SAMPLES, 16, generator=data), torch.randint(4, (SAMPLES,), generator=data)
    model = nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.8)
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    for _ in range(EPOCHS):
        for inputs, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            scheduler.step()


if __name__ == "__main__":
    train()
