"""Questions to the functions of exercise 1 that a training run doesn't ask. One event each.

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
from grader.workload.pretend_gpus import PretendGpus
from grader.workload.tagged import living_on_gpu

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
    model = {"weights": digest(dict(job.model.named_parameters())), "buffers": digest(dict(job.model.named_buffers()))}
    return model | optimizer_digests(job.optimizer) | scheduler


def answer(name: str, **fields) -> None:
    watch.emit("answer", probe=name, **fields)


def lost(got, want) -> list[str]:
    """Names of the parts of job `want` that job `got` doesn't have."""
    got, want = parts(got), parts(want)
    return [k for k in want if got.get(k) != want[k]]


def without_scheduler() -> None:
    """Saved without a scheduler, into a bare file name: in the working directory."""
    os.chdir(args.directory)
    job, fresh = trained(args.seed, 3, scheduler=False), trained(args.seed + 1, 0, scheduler=False)
    ck.save_checkpoint(job.model, job.optimizer, None, 7, "here.pt")
    epoch = ck.load_checkpoint(fresh.model, fresh.optimizer, None, "here.pt")
    answer("without_scheduler", epoch=repr(epoch), different=lost(fresh, job))


def scheduler_on_one_side() -> None:
    """Saved with a scheduler and loaded without: fine, to evaluate. The other way round nothing is there to load."""
    job, fresh = trained(args.seed, 3), trained(args.seed + 1, 0, scheduler=False)
    ck.save_checkpoint(job.model, job.optimizer, job.scheduler, 7, path)
    ck.load_checkpoint(fresh.model, fresh.optimizer, None, path)
    different = [name for name in lost(fresh, job) if name != "scheduler"]
    bare = trained(args.seed, 3, scheduler=False)
    ck.save_checkpoint(bare.model, bare.optimizer, None, 7, path)
    try:
        ck.load_checkpoint(job.model, job.optimizer, job.scheduler, path)
        raised = None
    except Exception as e:
        raised = type(e).__name__
    answer("scheduler_on_one_side", different=different, raised=raised)


def only_looks() -> None:
    """What a save could change in the job or in torch without a trace in the next step's loss."""
    job = trained(args.seed, 3)
    job.model.block.dropout.eval()  # as fine-tuning does with part of a model
    job.model.places.weight.requires_grad_(False)

    def looks() -> dict[str, str]:
        return {
            **parts(job),
            "training mode": str([m.training for m in job.model.modules()]),
            "gradients": digest([p.grad for p in job.model.parameters()]),
            "requires_grad": str([p.requires_grad for p in job.model.parameters()]),
            "device or dtype": str([(t.device, t.dtype) for t in job.model.state_dict().values()]),
            "gradient mode": str(torch.is_grad_enabled()),
            "default dtype": str(torch.get_default_dtype()),
            "working directory": os.getcwd(),
            **rng_digests(),
        }

    before = looks()
    ck.save_checkpoint(job.model, job.optimizer, job.scheduler, 1, path)
    after = looks()
    answer("only_looks", changed=[k for k in before if before[k] != after[k]])


def other_device() -> None:
    """The file of a GPU node, without one."""
    job = trained(args.seed, 3)
    tensors = [*job.model.state_dict().values()]
    tensors += [t for state in job.optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    with living_on_gpu(tensors):
        ck.save_checkpoint(job.model, job.optimizer, job.scheduler, 2, path)
    fresh = trained(args.seed + 1, 0)
    ck.load_checkpoint(fresh.model, fresh.optimizer, fresh.scheduler, path)
    answer("other_device", different=lost(fresh, job))


class Payload:
    """Unpickled without weights_only, it creates a file: what it could do instead is up to its author."""

    def __init__(self, flag: str):
        self.flag = flag

    def __reduce__(self):
        return os.mkdir, (self.flag,)


class Planted:
    """An object to be saved, in whose state somebody has hidden a call."""

    def __init__(self, flag: str):
        self.flag = flag

    def state_dict(self) -> dict:
        return {"state": {}, "param_groups": [], "hidden": Payload(self.flag)}

    def load_state_dict(self, state: dict) -> None:
        pass


def hidden_code() -> None:
    """Calls hidden in the file, by whoever wrote it: with the student's own save (its digest, if there is
    one, is right), with torch.save, and with pickle."""
    flag = os.path.join(args.directory, "code-from-the-file-ran")
    job, planted, raised = trained(args.seed, 1), Planted(flag), []
    attempts = [
        lambda: ck.save_checkpoint(job.model, job.optimizer, planted, 1, path),
        lambda: ck.save_checkpoint(job.model, planted, job.scheduler, 1, path),
        lambda: ck.save_checkpoint(job.model, job.optimizer, job.scheduler, Payload(flag), path),
        lambda: torch.save({"epoch": 1, "model_state_dict": Payload(flag)}, path),
        lambda: _pickle_file(flag),
    ]
    for n, attempt in enumerate(attempts):
        ck.save_checkpoint(job.model, job.optimizer, job.scheduler, 1, path)
        try:
            attempt()
        except Exception:
            pass  # a format for plain data can't even write it
        if os.path.exists(flag):
            os.rmdir(flag)  # a copy was made of the state before it was saved: nobody else's code ran
        try:
            ck.load_checkpoint(job.model, planted if n == 1 else job.optimizer, job.scheduler if n else planted, path)
        except Exception as e:
            raised.append(type(e).__name__)
        if os.path.exists(flag):
            break
    answer("hidden_code", ran=os.path.exists(flag), raised=raised)


def _pickle_file(flag: str) -> None:
    with open(path, "wb") as f:
        pickle.dump({"epoch": 1, "model_state_dict": Payload(flag)}, f)


def wrong_model() -> None:
    """A layer more than in the checkpoint, one less, and one that has another name: all must be refused."""
    job = trained(args.seed, 2)
    ck.save_checkpoint(job.model, job.optimizer, job.scheduler, 1, path)
    raised = {}
    for name in ("with one layer more than it", "with one layer less", "in which one layer has another name"):
        other = trained(args.seed, 0)
        if "more" in name:
            other.model.extra = torch.nn.Linear(2, 2)
        else:
            norm = other.model.norm
            del other.model.norm
            if "name" in name:
                other.model.final_norm = norm
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


def cuda_rng() -> None:
    with PretendGpus(2, args.seed) as gpus:
        saved = [digest(s) for s in gpus.states]
        torch.save(_fresh_module().get_rng_state(), path)
    with PretendGpus(2, args.seed + 1) as gpus:
        _fresh_module().set_rng_state(torch.load(path, weights_only=True))
        restored = [digest(s) for s in gpus.states]
    answer("cuda_rng", lost=[i for i in range(2) if saved[i] != restored[i]])


def _fresh_module():
    """Loaded anew: `from torch.cuda import get_rng_state_all` at its top finds the pretended devices."""
    return student.load(args.checkpoint, quiet=True)


def other_number_of_gpus() -> None:
    lost = []
    for there, here in ((2, 1), (2, 0), (1, 2), (0, 2)):
        with PretendGpus(there, args.seed) as gpus:
            saved = [digest(s) for s in gpus.states]
            torch.save(_fresh_module().get_rng_state(), path)
        with PretendGpus(here, args.seed + 1) as gpus:
            _fresh_module().set_rng_state(torch.load(path, weights_only=True))
            restored = [digest(s) for s in gpus.states]
        if saved[:here] != restored[:there]:
            lost.append([there, here])
    answer("other_number_of_gpus", lost=lost)


def job_without_scheduler() -> None:
    """capture and restore of a job whose scheduler is None, in the middle of its first epoch."""
    job = workload.build(args.seed, epochs=2, steps_per_epoch=6)
    job.scheduler = None
    for _, batch in zip(range(3), ck.batches(job)):
        job.train_step(batch)
    before = rng_digests()
    torch.save(ck.capture(job), path)
    drew = [k for k, v in rng_digests().items() if v != before[k]]
    fresh = workload.build(args.seed + 1, epochs=2, steps_per_epoch=6)
    fresh.scheduler = None
    ck.restore(fresh, torch.load(path, weights_only=True))
    answer("job_without_scheduler", different=lost(fresh, job), drew=drew)


for name in args.probe:
    helper = Helper("probe", lambda question: globals()[question["name"]]())
    helper.ask(name, {})
    helper.close()
watch.emit("end", step=0, state={})
