"""Calls the functions of exercise 1 as no training run does, each question in its own process.

One life saves and another one loads. A life without student code reports on the same jobs: that
shows what must be restored.
"""

import argparse
import os
import pickle
import random
import signal

import numpy
import torch

from grader.harness.inside.digest import digest, optimizer_digests, rng_digests
from grader.workload import job as workload
from grader.workload import load_submission
from grader.workload.ex01.fake_cuda_rng import PretendGpus
from grader.workload.fake_cuda_tensors import living_on_gpu
from grader.workload.questions import answer_each, outcome

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", help="the student's checkpoint.py")
p.add_argument("--directory", required=True)
args = p.parse_args()

ELSEWHERE = "elsewhere"  # a working directory without files


def functions():
    """The student's module, loaded in the process that answers: its imports see its devices."""
    return load_submission.load(args.checkpoint, quiet=True)


# --- jobs
# ---------------------------------------------------------------------------------------------


def built(q: dict, seed: int) -> workload.Job:
    """A fresh job of the kind that the question asks for."""
    job = workload.build(seed, epochs=2, steps_per_epoch=6, randomness=False)
    if q.get("optimizer", "adamw") != "adamw":
        parameters = list(job.model.parameters())
        groups = [
            {"params": parameters[:3], "lr": 0.02},
            {"params": parameters[3:], "weight_decay": 0.01},
        ]
        if q["optimizer"] == "sgd":
            job.optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
        else:
            job.optimizer = torch.optim.Adam(groups, lr=1e-3, amsgrad=True)
        job.scheduler = of_two_parts(job.optimizer)
    if not q.get("scheduler", True):
        job.scheduler = None
    return job


def widen(q: dict, job: workload.Job) -> None:
    """Give one of its buffers more digits than a float32 holds; it trains no more steps."""
    if q.get("optimizer", "adamw") != "adamw":
        job.model.centre.mean = job.model.centre.mean.double() / 3


def of_two_parts(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """A scheduler whose state is more than a number of steps and a learning rate."""
    parts = [
        torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=1),
        torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=1, T_mult=2),
    ]
    return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[1])


def trained(q: dict, batches=None) -> workload.Job:
    """A job after some steps, partly frozen and in evaluation mode, as after fine-tuning."""
    job = built(q, q["seed"])
    job.epoch, job.best = q.get("at_epoch", 0), q.get("best", float("inf"))
    samples = [job.val_set[n] for n in range(workload.BATCH)]
    batch = [
        torch.tensor([i for i, _, _ in samples]),
        *(torch.stack(t) for t in list(zip(*samples, strict=False))[1:]),
    ]
    if q.get("optimizer", "adamw") != "adamw":  # a parameter that the optimizer has no state of
        job.model.letters.weight.requires_grad_(False)
    for _ in zip(range(q["steps"]), batches(job) if batches else range(q["steps"]), strict=False):
        job.train_step(batch)
    widen(q, job)
    job.model.block.dropout.eval()
    job.model.places.weight.requires_grad_(False)
    workload.seed_everything(q["seed"] + 1)
    return job


def parts(job: workload.Job, key: str) -> dict[str, str]:
    scheduler = {"scheduler": digest(job.scheduler.state_dict(), key)} if job.scheduler else {}
    return {
        "weights": digest(dict(job.model.named_parameters()), key),
        "buffers": digest(dict(job.model.named_buffers()), key),
        **optimizer_digests(job.optimizer, key),
        **scheduler,
    }


def looks(job: workload.Job, key: str) -> dict[str, str]:
    """Digests, also of changes in the job or torch that wouldn't affect the next step's loss."""
    return {
        **parts(job, key),
        "gradients": digest([p.grad for p in job.model.parameters()], key),
        **settings(job, key),
        **rng_digests(key),
    }


def process_settings() -> dict[str, str]:
    """What belongs to the whole process, to be compared before and after a call."""
    umask = os.umask(0)
    os.umask(umask)
    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    return {
        "default device": str(torch.get_default_device()),
        "deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
        "number of threads": str(torch.get_num_threads()),
        "umask": oct(umask),
        "signal handlers": str([signal.getsignal(number) for number in watched]),
    }


def settings(job: workload.Job, key: str) -> dict[str, str]:
    """Digests of what neither a save nor a load changes."""
    return {
        "training mode": digest([m.training for m in job.model.modules()], key),
        "requires_grad": digest([p.requires_grad for p in job.model.parameters()], key),
        "device or dtype": digest(
            [[str(t.device), str(t.dtype)] for t in job.model.state_dict().values()], key
        ),
        "gradient mode": digest(torch.is_grad_enabled(), key),
        "default dtype": digest(str(torch.get_default_dtype()), key),
        "working directory": digest(os.path.basename(os.getcwd()), key),
    }


def place(q: dict) -> str:
    """The question's file: relative to the working directory, or absolute and elsewhere."""
    here = args.directory if q.get("bare") else os.path.join(args.directory, ELSEWHERE)
    os.makedirs(here, exist_ok=True)
    os.chdir(here)
    return q["file"] if q.get("bare") else os.path.join(args.directory, q["file"])


# --- save_checkpoint and load_checkpoint
# ---------------------------------------------------------------


def save(q: dict) -> dict:
    ck, job, path = functions(), trained(q), place(q)
    tensors = [*job.model.state_dict().values()]
    tensors += [
        t for state in job.optimizer.state.values() for t in state.values() if torch.is_tensor(t)
    ]
    before = process_settings()
    with living_on_gpu(tensors if q.get("gpu") else []):
        ck.save_checkpoint(job.model, job.optimizer, job.scheduler, q["epoch"], path)
    return {"looks": looks(job, q["key"]), "before": before, "after": process_settings()}


def reference(q: dict) -> dict:
    """The job that is saved elsewhere, here without a save."""
    job, _ = trained(q), place(q)
    return {"looks": looks(job, q["key"]), "parts": parts(job, q["load_key"])}


def load(q: dict) -> dict:
    ck, path = functions(), place(q)
    job = built(q, q["seed"])
    widen(q, job)
    CHANGES[q.get("change", "nothing")](job.model)
    job.model.block.dropout.eval()
    job.model.places.weight.requires_grad_(False)
    if q.get("saves_first"):  # what this process saved last isn't what it loads
        ck.save_checkpoint(job.model, job.optimizer, job.scheduler, 0, path + ".other")
    before = settings(job, q["key"]) | process_settings()
    optimizer, scheduler = job.optimizer, job.scheduler
    if q.get("planted") == "optimizer":
        optimizer = Planted("")
    if q.get("planted") == "scheduler":
        scheduler = Planted("")
    said = outcome(lambda: repr(ck.load_checkpoint(job.model, optimizer, scheduler, path)))
    return said | {
        "parts": parts(job, q["key"]),
        "before": before,
        "after": settings(job, q["key"]) | process_settings(),
    }


def save_nowhere(q: dict) -> dict:
    """No file can be written where a folder lies; when that is gone, one can."""
    ck, job, path = functions(), trained(q), place(q)
    os.mkdir(path)
    said = outcome(
        lambda: repr(ck.save_checkpoint(job.model, job.optimizer, job.scheduler, 1, path))
    )
    os.rmdir(path)
    ck.save_checkpoint(job.model, job.optimizer, job.scheduler, q["epoch"], path)
    return said


def renamed(model: torch.nn.Module) -> None:
    model.final_norm = model.norm
    del model.norm


def without_layer(model: torch.nn.Module) -> None:
    del model.norm


def reshaped(model: torch.nn.Module) -> None:
    model.norm = torch.nn.LayerNorm((3, *model.norm.normalized_shape))


def without_buffer(model: torch.nn.Module) -> None:
    del model.centre.mean


CHANGES = {
    "nothing": lambda model: None,
    "layer more": lambda model: model.add_module("extra", torch.nn.Linear(2, 2)),
    "layer less": without_layer,
    "layer renamed": renamed,
    "layer reshaped": reshaped,
    "buffer more": lambda model: model.register_buffer("counts", torch.zeros(3)),
    "buffer less": without_buffer,
}


# --- a call hidden in the file
# -------------------------------------------------------------------------


class Payload:
    """Unpickled without weights_only, it creates a folder; an attacker could do anything."""

    def __init__(self, flag: str):
        self.flag = flag

    def __reduce__(self):
        return os.mkdir, (self.flag,)


class Planted:
    """An object to save, with a call hidden in its state."""

    def __init__(self, flag: str):
        self.flag = flag

    def state_dict(self) -> dict:
        return {"state": {}, "param_groups": [], "hidden": Payload(self.flag)}

    def load_state_dict(self, state: dict) -> None:
        pass


def plant(q: dict) -> dict:
    """A file with a hidden call, written by the student's own save: any digest in it is right."""
    ck, job, path = functions(), trained(q), place(q)
    planted = Planted(os.path.join(args.directory, q["flag"]))
    optimizer = planted if q["planted"] == "optimizer" else job.optimizer
    scheduler = planted if q["planted"] == "scheduler" else job.scheduler
    epoch = Payload(planted.flag) if q["planted"] == "epoch" else 1
    ck.save_checkpoint(job.model, job.optimizer, job.scheduler, 1, path)
    try:
        ck.save_checkpoint(job.model, optimizer, scheduler, epoch, path)
    except Exception as e:  # a format for plain data can't even write it
        return {"refused": type(e).__name__}
    return {"refused": None}


def plant_raw(q: dict) -> dict:
    """A file with a hidden call, written by torch or pickle."""
    value = {"epoch": 1, "model_state_dict": Payload(os.path.join(args.directory, q["flag"]))}
    with open(place(q), "wb") as f:
        (torch.save if q["planted"] == "torch" else pickle.dump)(value, f)
    return {}


def plant_newest(q: dict) -> dict:
    """The same in the newest checkpoint, or in the best state."""
    ck, folder = functions(), place(q)
    state = {"step": 1, "hidden": Payload(os.path.join(args.directory, q["flag"]))}
    if q["planted"] == "newest":
        return outcome(lambda: repr(ck.write_checkpoint(state, folder, 1)))
    return outcome(lambda: repr(ck.keep_best(state, 1.0, 2.0, folder)))


def load_newest(q: dict) -> dict:
    ck, folder = functions(), place(q)
    read = ck.read_latest if q["planted"] == "newest" else ck.read_best
    return outcome(lambda: type(read(folder)).__name__)


# --- get_rng_state and set_rng_state
# -------------------------------------------------------------------


def drawn(q: dict) -> None:
    """Draw from the generators. gauss and randn draw two numbers and keep one: state, too."""
    workload.seed_everything(q["seed"])
    for _ in range(q["gauss"]):
        random.gauss(0, 1), numpy.random.randn()
    numpy.random.rand(q["numbers"]), torch.rand(q["numbers"]), torch.randn(1 + q["gauss"])


def save_generators(q: dict) -> dict:
    path = place(q)
    drawn(q)
    with PretendGpus(q["gpus"], q["seed"]) as gpus:
        ck = (
            functions()
        )  # `from torch.cuda import get_rng_state_all` at its top must find the pretended devices
        state = ck.get_rng_state()
        after = rng_digests(q["key"]) | cuda_digests(gpus, q["key"])
        random.random(), numpy.random.rand(5), torch.rand(2)
        gpus.draw()
        ck.get_rng_state()  # a later state is another one, and changes none that was read before
        torch.save(state, path)
        return {"generators": after, "device": gpus.current}


def load_generators(q: dict) -> dict:
    path = place(q)
    workload.seed_everything(q["seed"])
    with PretendGpus(q["gpus"], q["seed"]) as gpus:
        ck = functions()
        state = torch.load(path, weights_only=True)
        ck.set_rng_state(state)
        random.random(), numpy.random.rand(3), torch.rand(3)
        ck.set_rng_state(state)  # a state may be restored more than once
        return {
            "generators": rng_digests(q["key"]) | cuda_digests(gpus, q["key"]),
            "device": gpus.current,
        }


def reference_generators(q: dict) -> dict:
    """The generators' states at the save, and those before loading, on other devices."""
    gpus, there = PretendGpus(q["gpus"], q["seed"]), PretendGpus(q["gpus_there"], q["seed_there"])
    drawn(q)
    return {
        "saved": rng_digests(q["key"]) | cuda_digests(gpus, q["key"]),
        "restored": rng_digests(q["load_key"]) | cuda_digests(gpus, q["load_key"]),
        "there": cuda_digests(there, q["load_key"]),
    }


def cuda_digests(gpus: PretendGpus, key: str) -> dict[str, str]:
    return {f"cuda:{n}": digest(state, key) for n, state in enumerate(gpus.states)}


# --- capture and restore
# ------------------------------------------------------------------------------


def capture(q: dict) -> dict:
    ck, path = functions(), place(q)
    job = trained(q, ck.batches)
    before = process_settings()
    torch.save(ck.capture(job), path)
    seen = looks(job, q["key"]) | counters(job, q["key"])
    return {"looks": seen, "before": before, "after": process_settings()}


def restore(q: dict) -> dict:
    ck, path = functions(), place(q)
    job = built(q, q["seed"])
    workload.estrange_wholly(job)
    job.model.block.dropout.eval()
    job.model.places.weight.requires_grad_(False)
    before = settings(job, q["key"]) | process_settings()
    ck.restore(job, torch.load(path, weights_only=True))
    return {
        "parts": parts(job, q["key"]) | counters(job, q["key"]),
        "before": before,
        "after": settings(job, q["key"]) | process_settings(),
    }


def reference_job(q: dict) -> dict:
    job, _ = trained(q), place(q)
    return {
        "looks": looks(job, q["key"]) | counters(job, q["key"]),
        "parts": parts(job, q["load_key"]) | counters(job, q["load_key"]),
    }


def counters(job: workload.Job, key: str) -> dict[str, str]:
    names = {
        "global step": "step",
        "epoch": "epoch",
        "position in the epoch": "batch",
        "best metric": "best",
    }
    return {name: digest(getattr(job, attribute), key) for name, attribute in names.items()}


ASKS = (
    save, save_nowhere, reference, load, plant, plant_raw, plant_newest, load_newest,
    save_generators, load_generators, reference_generators,
    capture, restore, reference_job,
)  # fmt: skip
answer_each(lambda q: {ask.__name__: ask for ask in ASKS}[q["ask"]](q))
