"""Questions to the functions of tasks 1.1 and 1.2 that a training run doesn't ask. One event each.

Every probe runs in a process of its own, forked before torch has done anything.
"""

import argparse
import os
import pickle
import random

import numpy
import torch

from grader.harness import watch
from grader.harness.digest import digest, optimizer_digests, rng_digests
from grader.workload import job as workload
from grader.workload import student
from grader.workload.forked import Helper

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's checkpoint.py")
p.add_argument("--directory", required=True)
p.add_argument("--seed", type=int, default=0)
p.add_argument("--probe", action="append", required=True)
args = p.parse_args()
ck = student.load(args.checkpoint)
path = os.path.join(args.directory, "checkpoint.pt")


def trained(seed: int, steps: int, scheduler: bool = True) -> workload.Job:
    job = workload.build(seed, epochs=2, steps_per_epoch=6)
    if not scheduler:
        job.scheduler = None
    for _, batch in zip(range(steps), job.loader):
        job.train_step(batch)
    return job


def parts(job) -> dict[str, str]:
    scheduler = {"scheduler": digest(job.scheduler.state_dict())} if job.scheduler else {}
    return {"weights": digest(job.model.state_dict())} | optimizer_digests(job.optimizer) | scheduler


def answer(name: str, **fields) -> None:
    watch.emit("answer", probe=name, **fields)


def without_scheduler() -> None:
    job = trained(args.seed, 3, scheduler=False)
    ck.save_checkpoint(job.model, job.optimizer, None, 7, path)
    fresh = trained(args.seed + 1, 0, scheduler=False)
    epoch = ck.load_checkpoint(fresh.model, fresh.optimizer, None, path)
    got, want = parts(fresh), parts(job)
    answer("without_scheduler", epoch=repr(epoch), different=[k for k in want if got.get(k) != want[k]])


def other_device() -> None:
    """The file of a GPU node, without one: what lives in the job is tagged as living on cuda:0.

    A copy that the student makes on the CPU isn't tagged, as it wouldn't be on a real GPU node.
    """
    job = trained(args.seed, 3)
    tensors = [*job.model.state_dict().values()]
    tensors += [t for state in job.optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    on_gpu = {t.untyped_storage().data_ptr() for t in tensors if t.numel()}
    real_cpu, real_to = torch.Tensor.cpu, torch.Tensor.to

    def to(tensor, *a, **k):
        moved = real_to(tensor, *a, **k)
        aims_at_cpu = any(isinstance(x, (str, torch.device)) and str(x) == "cpu" for x in (*a, *k.values()))
        return moved.clone() if aims_at_cpu and moved.data_ptr() == tensor.data_ptr() else moved

    torch.Tensor.cpu, torch.Tensor.to = (lambda t, *a, **k: real_cpu(t, *a, **k).clone()), to
    torch.serialization.register_package(
        0, lambda storage: "cuda:0" if storage.data_ptr() in on_gpu else None, lambda *_: None
    )
    ck.save_checkpoint(job.model, job.optimizer, job.scheduler, 2, path)
    torch.Tensor.cpu, torch.Tensor.to = real_cpu, real_to
    torch.serialization._package_registry[:] = [e for e in torch.serialization._package_registry if e[0] != 0]
    fresh = trained(args.seed + 1, 0)
    ck.load_checkpoint(fresh.model, fresh.optimizer, fresh.scheduler, path)
    got, want = parts(fresh), parts(job)
    answer("other_device", different=[k for k in want if got.get(k) != want[k]])


class Payload:
    """Unpickled without weights_only, it creates a file: what it could do instead is up to its author."""

    def __init__(self, flag: str):
        self.flag = flag

    def __reduce__(self):
        return os.mkdir, (self.flag,)


def hidden_code() -> None:
    flag = os.path.join(args.directory, "code-from-the-file-ran")
    job = trained(args.seed, 1)
    ck.save_checkpoint(job.model, job.optimizer, job.scheduler, 1, path)
    for write in (_torch_file, _pickle_file):
        write(flag)
        try:
            ck.load_checkpoint(job.model, job.optimizer, job.scheduler, path)
            raised = None
        except Exception as e:
            raised = type(e).__name__
        if os.path.exists(flag):
            break
    answer("hidden_code", ran=os.path.exists(flag), raised=raised)


def _torch_file(flag: str) -> None:
    torch.save({"epoch": 1, "model_state_dict": Payload(flag)}, path)


def _pickle_file(flag: str) -> None:
    with open(path, "wb") as f:
        pickle.dump({"epoch": 1, "model_state_dict": Payload(flag)}, f)


def wrong_model() -> None:
    """A model with a layer more, and one with a layer less than the checkpoint: both must be refused."""
    job = trained(args.seed, 2)
    ck.save_checkpoint(job.model, job.optimizer, job.scheduler, 1, path)
    raised = {}
    for name in ("more", "less"):
        other = trained(args.seed, 0)
        if name == "more":
            other.model.extra = torch.nn.Linear(2, 2)
        else:
            del other.model.norm
        try:
            ck.load_checkpoint(other.model, trained(args.seed, 0).optimizer, other.scheduler, path)
            raised[name] = None
        except Exception as e:
            raised[name] = type(e).__name__
    answer("wrong_model", raised=raised)


def round_trip_rng() -> None:
    """Save after some draws, draw on, go back: the same numbers must come again. And saving draws none."""
    workload.seed_everything(args.seed)
    # gauss and randn each draw two numbers and keep one back: that is state, too
    random.gauss(0, 1), numpy.random.rand(3), numpy.random.randn(), torch.rand(3)
    before = rng_digests()
    state = ck.get_rng_state()
    quiet = rng_digests()
    torch.save(state, path)
    random.random(), numpy.random.rand(5), torch.rand(2)
    ck.set_rng_state(torch.load(path, weights_only=True))
    after = rng_digests()
    answer(
        "round_trip_rng",
        drew=[k for k in before if quiet[k] != before[k]],
        lost=[k for k in before if after[k] != quiet[k]],
    )


class PretendGpus:
    """Two CUDA devices, as far as their random generators go."""

    def __init__(self, count: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.states = [torch.randint(256, (16,), dtype=torch.uint8, generator=generator) for _ in range(count)]

    def __enter__(self):
        self.real = {name: getattr(torch.cuda, name) for name in self.fakes()}
        for name, fake in self.fakes().items():
            setattr(torch.cuda, name, fake)
            if hasattr(torch.cuda.random, name):
                setattr(torch.cuda.random, name, fake)
        return self

    def __exit__(self, *_):
        for name, real in self.real.items():
            setattr(torch.cuda, name, real)
            if hasattr(torch.cuda.random, name):
                setattr(torch.cuda.random, name, real)

    def fakes(self) -> dict:
        return {
            "is_available": lambda: bool(self.states),
            "device_count": lambda: len(self.states),
            "current_device": lambda: 0,
            "is_initialized": lambda: bool(self.states),
            "get_rng_state": lambda device="cuda": self.states[self.index(device)].clone(),
            "get_rng_state_all": lambda: [s.clone() for s in self.states],
            "set_rng_state": self.set,
            "set_rng_state_all": lambda states: [self.set(s, i) for i, s in enumerate(states)] and None,
        }

    def index(self, device) -> int:
        index = device if isinstance(device, int) else torch.device(device).index or 0
        if index >= len(self.states):
            raise RuntimeError(f"CUDA error: invalid device ordinal {index}")
        return index

    def set(self, state, device="cuda") -> None:
        if state.dtype != torch.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")
        self.states[self.index(device)] = state.clone()


def cuda_rng() -> None:
    with PretendGpus(2, args.seed) as gpus:
        saved = [digest(s) for s in gpus.states]
        state = ck.get_rng_state()
        torch.save(state, path)
    with PretendGpus(2, args.seed + 1) as gpus:
        ck.set_rng_state(torch.load(path, weights_only=True))
        restored = [digest(s) for s in gpus.states]
    answer("cuda_rng", lost=[i for i in range(2) if saved[i] != restored[i]])


def other_number_of_gpus() -> None:
    lost = []
    for there, here in ((2, 1), (2, 0), (1, 2), (0, 2)):
        with PretendGpus(there, args.seed) as gpus:
            saved = [digest(s) for s in gpus.states]
            torch.save(ck.get_rng_state(), path)
        with PretendGpus(here, args.seed + 1) as gpus:
            ck.set_rng_state(torch.load(path, weights_only=True))
            restored = [digest(s) for s in gpus.states]
        if saved[:here] != restored[:there]:
            lost.append([there, here])
    answer("other_number_of_gpus", lost=lost)


for name in args.probe:
    helper = Helper("probe", lambda question: globals()[question["name"]]())
    helper.ask(name, {})
    helper.close()
watch.emit("end", step=0, state={})
