"""Popular savers, used as their documentation describes: three saves into a directory, one load."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from grader.course.catalog import ROOT
from grader.crash.recorder import mark

SAVES = 3


@dataclass
class Saver:
    """`run(directory)` saves SAVES times and marks when; `load(directory)` gives a digest.

    The digest is that of what a job would resume.
    """

    title: str
    packages: tuple[str, ...]
    use: str  # how it is used
    make: Callable[[], tuple[Callable[[str], None], Callable[[str], str | None]]]


def _plain(save: Callable[[str, int, dict], None], load: Callable[[str], object]):
    """For savers of a dictionary."""
    import torch

    from grader.harness.inside.digest import digest

    def state(n: int) -> dict:
        return {
            "weight": torch.randn(40, 40, generator=torch.Generator().manual_seed(n)),
            "step": torch.tensor(n),
        }

    def run(directory: str) -> None:
        for n in range(1, SAVES + 1):
            mark("began", n, digest(state(n)))
            save(directory, n, state(n))
            mark("returned", n)

    def loaded(directory: str) -> str | None:
        found = load(directory)
        return None if found is None else digest(found)

    return run, loaded


def _newest(directory: str, pattern: str) -> list[str]:
    """Paths whose names match, highest number first."""
    found = [
        (int(m[1]), name) for name in os.listdir(directory) if (m := re.fullmatch(pattern, name))
    ]
    return [os.path.join(directory, name) for _, name in sorted(found, reverse=True)]


def torch_save():
    import torch

    return _plain(lambda d, n, state: torch.save(state, f"{d}/checkpoint.pt"), _load_checkpoint_pt)


def torch_save_renamed():
    import torch

    def save(directory, n, state):
        torch.save(state, f"{directory}/checkpoint.pt.tmp")
        os.replace(f"{directory}/checkpoint.pt.tmp", f"{directory}/checkpoint.pt")

    return _plain(save, _load_checkpoint_pt)


def _load_checkpoint_pt(directory):
    import torch

    path = f"{directory}/checkpoint.pt"
    return torch.load(path, weights_only=True) if os.path.exists(path) else None


def safetensors():
    from safetensors.torch import load_file, save_file

    def load(directory):
        path = f"{directory}/model.safetensors"
        return load_file(path) if os.path.exists(path) else None

    return _plain(lambda d, n, state: save_file(state, f"{d}/model.safetensors"), load)


def dcp():
    import torch
    import torch.distributed.checkpoint as dcp

    def load(directory):
        # DCP's own rule: a directory without .metadata is unfinished
        whole = [p for p in _newest(directory, r"step-(\d+)") if os.path.exists(f"{p}/.metadata")]
        if not whole:
            return None
        state = {"weight": torch.zeros(40, 40), "step": torch.tensor(0)}
        dcp.load(state, checkpoint_id=whole[0], no_dist=True)
        return state

    return _plain(
        lambda d, n, state: dcp.save(state, checkpoint_id=f"{d}/step-{n}", no_dist=True), load
    )


def lightning():
    from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

    io = TorchCheckpointIO()

    def load(directory):
        files = _newest(directory, r"step-(\d+)\.ckpt")
        return io.load_checkpoint(files[0]) if files else None

    return _plain(lambda d, n, state: io.save_checkpoint(state, f"{d}/step-{n}.ckpt"), load)


def accelerate():
    import torch
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration, set_seed

    from grader.harness.inside.digest import digest, rng_digests

    _import_what_optimizers_need()

    def job(directory):
        accelerator = Accelerator(
            cpu=True,
            project_config=ProjectConfiguration(
                project_dir=directory, automatic_checkpoint_naming=True, total_limit=2
            ),
        )
        set_seed(0)
        model = torch.nn.Linear(40, 40)
        return accelerator, *accelerator.prepare(model, torch.optim.AdamW(model.parameters()))

    def of(model, optimizer):
        return digest([model.state_dict(), optimizer.state_dict(), rng_digests()])

    def run(directory):
        accelerator, model, optimizer = job(directory)
        for n in range(1, SAVES + 1):
            accelerator.backward(model(torch.randn(2, 40)).square().sum())
            optimizer.step()
            optimizer.zero_grad()
            mark("began", n, of(model, optimizer))
            accelerator.save_state()
            mark("returned", n)

    def load(directory):
        accelerator, model, optimizer = job(directory)
        if not os.path.isdir(f"{directory}/checkpoints") or not os.listdir(
            f"{directory}/checkpoints"
        ):
            return None  # a first start; load_state() would raise
        accelerator.load_state()
        return of(model, optimizer)

    return run, load


def transformers():
    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers.trainer_utils import get_last_checkpoint

    from grader.harness.inside.digest import digest, rng_digests

    _import_what_optimizers_need()
    config = GPT2Config(
        n_layer=1, n_embd=8, n_head=1, vocab_size=16, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    data = [
        {"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(2 * (SAVES + 1))
    ]

    class Resumed(Exception):
        """Everything is loaded; the message is its digest."""

    def of(model, optimizer, scheduler, state):
        return digest(
            [
                model.state_dict(),
                optimizer.state_dict(),
                scheduler.state_dict(),
                state.global_step,
                rng_digests(),
            ]
        )

    class Marks(TrainerCallback):
        def on_step_end(self, args, state, control, model, optimizer, lr_scheduler, **_):
            mark("began", state.global_step, of(model, optimizer, lr_scheduler, state))

        def on_save(self, args, state, control, **_):
            mark("returned", state.global_step)
            control.should_training_stop = state.global_step == SAVES

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, model, optimizer, lr_scheduler, **_):
            raise Resumed(of(model, optimizer, lr_scheduler, state))

    def trainer(directory, callback):
        args = TrainingArguments(
            directory,
            max_steps=SAVES + 1,
            save_strategy="steps",
            save_steps=1,
            save_total_limit=2,
            per_device_train_batch_size=2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        torch.manual_seed(0)
        return Trainer(GPT2LMHeadModel(config), args, train_dataset=data, callbacks=[callback])

    def run(directory):
        trainer(directory, Marks()).train()

    def load(directory):
        last = get_last_checkpoint(directory)
        if last is None:
            return None
        try:
            trainer(directory, Look()).train(resume_from_checkpoint=last)
        except Resumed as resumed:
            return str(resumed)
        raise RuntimeError("nothing was left to train")

    return run, load


def _small_job():
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(40, 40)
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        model(torch.randn(2, 40)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, step


def minimal():
    sys.path.insert(0, str(ROOT / "templates"))
    from minimal_checkpoint import Checkpoints

    _import_what_optimizers_need()

    def job(directory):
        model, optimizer, step = _small_job()
        return Checkpoints(directory, {"model": model, "optimizer": optimizer}), step

    def run(directory):
        checkpoints, step = job(directory)
        mark("began", 0, _of_job(checkpoints.parts))
        checkpoints.resume()  # saves step 0
        mark("returned", 0)
        for n in range(1, SAVES):
            step()
            mark("began", n, _of_job(checkpoints.parts))
            checkpoints.save(n)
            mark("returned", n)

    def load(directory):
        checkpoints, _ = job(directory)
        if not checkpoints.paths():
            return None  # resume() would save step 0
        checkpoints.resume()
        return _of_job(checkpoints.parts)

    return run, load


def _of_job(parts) -> str:
    from grader.harness.inside.digest import digest, rng_digests

    return digest([*(part.state_dict() for part in parts.values()), rng_digests()])


def torch_checkpointing():
    import torch
    from torch_checkpointing import CheckpointManager
    from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig

    config = CheckpointManager.Config.with_sync_save()
    config.storage_config = LocalFileSystemStorageConfig(use_direct_io=False)
    manager = CheckpointManager(config)

    def save(directory, n, state):
        manager.save(f"{directory}/step_{n}", {"model": {"weight": state["weight"]}, "step": n})

    def load(directory):
        found = _newest(directory, r"step_(\d+)")
        if not found:
            return None
        into = {"model": {"weight": torch.zeros(40, 40)}, "step": 0}
        restored = manager.load(found[0], into=into)
        return {"weight": into["model"]["weight"], "step": torch.tensor(restored["step"])}

    return _plain(save, load)


def torch_atomic_save():
    import torch
    from torch_atomic_save import SlurmAtomicManager

    class Holder:
        def __init__(self, state):
            self.state_dict = lambda: state

    manager = SlurmAtomicManager()

    def save(directory, n, state):
        with tempfile.TemporaryDirectory() as staging:
            manager.save(Holder(state), f"{directory}/model.pt", tmp_dir=staging)
            manager.wait_for_all()

    def load(directory):
        path = f"{directory}/model.pt"
        return torch.load(path, weights_only=True) if os.path.exists(path) else None

    return _plain(save, load)


def _import_what_optimizers_need():
    """Import torch._dynamo (800 modules, a second) once, here.

    Otherwise the first optimizer of each process that judges a state imports it.
    """
    import torch._dynamo  # noqa: F401


SAVERS = {
    "torch-save": Saver("torch.save", ("torch",), "over the same file", torch_save),
    "torch-save-renamed": Saver(
        "torch.save, then rename",
        ("torch",),
        "to another name, then os.replace",
        torch_save_renamed,
    ),
    "safetensors": Saver(
        "safetensors.torch.save_file", ("safetensors",), "over the same file", safetensors
    ),
    "dcp": Saver(
        "torch.distributed.checkpoint.save",
        ("torch",),
        "a directory for each save; one without .metadata is skipped. It syncs its files "
        "(sync_files=True): the data, and .metadata before its bytes have left Python's buffer "
        "(filesystem.py, finish)",
        dcp,
    ),
    "lightning": Saver(
        "Lightning, TorchCheckpointIO",
        ("lightning",),
        "a file for each save; the newest is loaded",
        lightning,
    ),
    "accelerate": Saver(
        "Accelerate, save_state",
        ("accelerate",),
        "automatic_checkpoint_naming, total_limit=2; load_state() takes the folder of the "
        "highest number, whole or not (accelerator.py), and continues with fresh random numbers "
        "if it can't read the saved ones (checkpointing.py, load_accelerator_state). The "
        "random numbers are compared, too",
        accelerate,
    ),
    "transformers": Saver(
        "Transformers, Trainer",
        ("transformers", "accelerate"),
        "save_steps=1, save_total_limit=2; trained on from get_last_checkpoint, which takes the "
        "folder of the highest number, whole or not (trainer_utils.py), while _save_checkpoint "
        "fills it under that name. Without optimizer.pt, scheduler.pt or rng_state.pth it "
        "continues with fresh ones (trainer.py, _load_optimizer_and_scheduler, _load_rng_state). "
        "All these are compared before the first step",
        transformers,
    ),
    "torch-checkpointing": Saver(
        "torch_checkpointing, synchronous",
        ("torch_checkpointing",),
        "Config.with_sync_save(), a directory for each save; the newest by number is loaded, as in "
        "the library's tutorial. use_direct_io=False, because with the default of 0.1.1 a save "
        "raises on ext4 (EINVAL: its last write isn't aligned)",
        torch_checkpointing,
    ),
    "torch-atomic-save": Saver(
        "torch-atomic-save",
        ("torch_atomic_save",),
        "save(model, path, tmp_dir=...) with tmp_dir on the same file system, then wait_for_all()",
        torch_atomic_save,
    ),
    "minimal": Saver(
        "templates/minimal_checkpoint.py",
        ("torch",),
        "resume(), which saves step 0, then save() after each step. Model, optimizer and random "
        "numbers are compared",
        minimal,
    ),
}
