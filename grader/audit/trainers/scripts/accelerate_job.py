"""A plain loop with Accelerate, as its documentation saves and resumes.

    python accelerate_job.py FOLDER

save_state() saves after every few steps, into a folder of its own. load_state() resumes, and
skip_first_batches() goes to where the epoch was left:
https://huggingface.co/docs/accelerate/main/en/usage_guides/checkpoint
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, SAMPLES, BATCH, SAVE_EVERY = 3, 80, 8, 4


def main(folder):
    accelerator = Accelerator(cpu=True)
    set_seed(1)
    data = torch.Generator().manual_seed(2)
    x, y = torch.randn(SAMPLES, 16, generator=data), torch.randint(4, (SAMPLES,), generator=data)
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    model = nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.8)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    step = 0
    saved = sorted(folder.glob("step_*"), key=lambda path: int(path.name[5:]))
    if saved:
        accelerator.load_state(saved[-1])
        step = int(saved[-1].name[5:])
    first, skipped = divmod(step, len(loader))
    for epoch in range(first, EPOCHS):
        loader.set_epoch(epoch)
        batches = loader
        if epoch == first and skipped:
            batches = accelerator.skip_first_batches(loader, skipped)
        for inputs, labels in batches:
            loss = nn.functional.cross_entropy(model(inputs), labels)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            step += 1
            if step % SAVE_EVERY == 0:
                accelerator.save_state(folder / f"step_{step}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
