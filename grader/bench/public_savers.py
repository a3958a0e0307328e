"""Popular savers under every crash: makes the table in SAVERS.md.

    python -m grader.bench.public_savers [--only NAME] [--write]

Seven popular savers, used as their documentation describes, each saving three times into one
directory. After a crash, the program loads the newest checkpoint as that library finds it. Except
for DCP, which syncs its files, none of them promises that a save is durable when it returns: what a
power loss destroys isn't their bug, but what you must add if you need durability.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from grader.course.catalog import ROOT
from grader.crash.enumeration import TITLES
from grader.crash.recorder import mark

SAVES = 3
MOST_TREES = 300  # for each saver
TABLE = ROOT / "grader" / "crash" / "SAVERS.md"


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
}


def one(name: str) -> dict:
    """Test one saver in this process."""
    import torch

    from grader.crash import crashtest, description

    torch.set_num_threads(1)
    run, load = SAVERS[name].make()
    report = crashtest.test(crashtest.Program({"": run}, load), seconds=120, most_trees=MOST_TREES)
    return description.as_data(report) | {"text": description.text(report)}


# --- the table ------------------------------------------------------------------------------------


def _versions(saver: Saver) -> str | None:
    try:
        return ", ".join(f"{p} {version(p)}" for p in saver.packages)
    except PackageNotFoundError:
        return None


def _in_its_own_process(name: str) -> dict:
    with tempfile.TemporaryDirectory(prefix="g-") as made:
        env = os.environ | {
            "TMPDIR": made,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
        }
        out = Path(made, "result.json")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "grader.bench.public_savers",
                "--child",
                name,
                "--out",
                str(out),
            ],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=1800,
            start_new_session=True,
        )
        if not out.exists():
            raise click.ClickException(
                f"{name}: {done.stderr.strip().splitlines()[-1:] or done.returncode}"
            )
        return json.loads(out.read_text())


def _short(title: str) -> str:
    return (
        title.replace("the process dies", "process dies")
        .replace("ext4, data=ordered", "ext4")
        .replace("ext4, data=writeback", "ext4 writeback")
        .replace("network file system", "network FS")
        .replace("POSIX, no more", "POSIX")
    )


def rows(results: dict[str, dict]) -> list[str]:
    """The table's lines."""
    head = ["saver", *(_short(t) for t in TITLES.values()), "disk errors", "flipped bits"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, found in results.items():
        cells = [f"{m['kept']}/{m['states']}" for m in found["models"].values()]
        for what in ("errors", "flips"):
            cells.append(
                f"{found[what]['tried'] - len(found[what]['failed'])}/{found[what]['tried']}"
            )
        cells = [c if c.split("/")[0] == c.split("/")[1] else f"**{c}**" for c in cells]
        lines.append(f"| {SAVERS[name].title} | " + " | ".join(cells) + " |")
    return lines


def written(results: dict[str, dict], today: str) -> str:
    """When, by what and with which versions the table was made."""
    installed = [v for n in results if (v := _versions(SAVERS[n]))]
    versions = dict.fromkeys(v for text in installed for v in text.split(", "))
    return (
        f"Written by `python -m grader.bench.public_savers --write` on {today}: "
        f"{'; '.join(versions)}. States kept / states tried;"
    )


def page(results: dict[str, dict], today: str) -> str:
    """The text of SAVERS.md."""
    out = [
        "# Savers that people use, under every crash",
        "",
        written(results, today),
        "[README.md](README.md) says what they are and what is promised.",
        "",
        __doc__.strip().split("\n\n", 2)[2].replace("\n", " "),
        "",
        *rows(results),
        "",
        "The smallest failing state of each:",
    ]
    for name, found in results.items():
        out += [
            "",
            f"## {SAVERS[name].title}",
            "",
            f"Used: {SAVERS[name].use}.",
            "",
            "```",
            *[line.rstrip() for line in found["text"]],
            "```",
        ]
    return "\n".join(out) + "\n"


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(list(SAVERS)))
@click.option("--write", is_flag=True, help="Write SAVERS.md.")
@click.option("--child", hidden=True)
@click.option("--out", hidden=True)
def main(only, write, child, out):
    if child:
        Path(out).write_text(json.dumps(one(child)))
        return
    results = {}
    for name in only or SAVERS:
        if _versions(SAVERS[name]) is None:
            click.echo(f"{name}: not installed (pip install -e '.[bench]')", err=True)
            continue
        results[name] = _in_its_own_process(name)
        click.echo(
            f"--- {SAVERS[name].title} ({_versions(SAVERS[name])})\n"
            + "\n".join(results[name]["text"])
        )
    if write:
        TABLE.write_text(page(results, date.today().isoformat()))


if __name__ == "__main__":
    main()
