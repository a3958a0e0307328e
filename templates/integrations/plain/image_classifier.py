#!/usr/bin/env python3
"""An image classifier, trained as torchvision's references train: epochs, random crops and flips in
DataLoader workers, a moving average of the weights.
"""

import argparse
from pathlib import Path

import numpy
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

CLASSES, SIZE = 4, 16


class Shapes(Dataset):
    """Made-up pictures of a few classes; the training set is augmented."""

    def __init__(self, samples: int, seed: int, augment: bool):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(samples) % CLASSES
        self.images = 0.3 * torch.randn(samples, 3, SIZE, SIZE, generator=generator)
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            image[:, label::CLASSES] += 1
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.images[index]
        if self.augment:
            image = random_crop_and_flip(image, numpy.random.default_rng())
        return image, self.labels[index]


def random_crop_and_flip(image: torch.Tensor, rng: numpy.random.Generator) -> torch.Tensor:
    image = nn.functional.pad(image, (2, 2, 2, 2))
    top, left = rng.integers(5, size=2)
    image = image[:, top : top + SIZE, left : left + SIZE]
    return image.flip(-1) if rng.random() < 0.5 else image


def make_model() -> nn.Module:
    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, CLASSES)]
    return nn.Sequential(*block(3, 8), *block(8, 16), *head)


@torch.no_grad()
def evaluate(model, loader, device) -> float:
    model.eval()
    right = sum(
        (model(image.to(device)).argmax(1) == target.to(device)).sum().item()
        for image, target in loader
    )
    return right / len(loader.dataset)


def main(args):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(args.seed)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    train_set = Shapes(args.samples, args.seed, augment=True)
    val_set = Shapes(64, args.seed + 1, augment=False)
    # a generator of its own, as PyTorch's notes on reproducibility advise
    kwargs = {"num_workers": args.workers, "generator": torch.Generator().manual_seed(args.seed)}
    loader = DataLoader(train_set, args.batch_size, shuffle=True, drop_last=True, **kwargs)
    val_loader = DataLoader(val_set, args.batch_size)
    model = make_model().to(device)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)

    for epoch in range(args.epochs):
        model.train()
        for image, target in loader:
            image, target = image.to(device), target.to(device)
            loss = criterion(model(image), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update_parameters(model)
            print(f"step {ema.n_averaged.item()}: loss {loss.item():.6f}")
        scheduler.step()
        accuracy = evaluate(ema, val_loader, device)
        print(f"epoch {epoch}: accuracy {accuracy:.4f}")
        weights = {"model": model.state_dict(), "ema": ema.state_dict()}
        torch.save(weights, args.output_dir / "weights.pt")


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--output-dir", type=Path, required=True)
    p.add_argument("--epochs", type=int, default=10)
    p.add_argument("--samples", type=int, default=1024)
    p.add_argument("--batch-size", type=int, default=32)
    p.add_argument("--lr", type=float, default=0.05)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--seed", type=int, default=1)
    main(p.parse_args())
