"""Lightning's Trainer, as its documentation saves and resumes.

    python lightning_job.py FOLDER

ModelCheckpoint(every_n_train_steps=..., save_last=True) saves, and fit(ckpt_path="last") resumes:
https://lightning.ai/docs/pytorch/stable/common/checkpointing_basic.html
"""

import sys

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, SAMPLES, BATCH, SAVE_EVERY = 3, 80, 8, 4


class Classifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4)
        )

    def training_step(self, batch, batch_index):
        x, y = batch
        return nn.functional.cross_entropy(self.layers(x), y)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.8)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def main(folder):
    L.seed_everything(1)
    data = torch.Generator().manual_seed(2)
    x, y = torch.randn(SAMPLES, 16, generator=data), torch.randint(4, (SAMPLES,), generator=data)
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    saver = ModelCheckpoint(
        dirpath=folder, every_n_train_steps=SAVE_EVERY, save_top_k=2, monitor="step", mode="max",
        save_last=True,
    )  # fmt: skip
    trainer = L.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", devices=1, callbacks=[saver], logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Classifier(), loader, ckpt_path="last")


if __name__ == "__main__":
    main(sys.argv[1])
