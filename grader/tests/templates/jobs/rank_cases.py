"""Two ranks do one thing with the manager, and report what came out: rank_cases.py CASE
DIRECTORY.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from grader.harness.inside import ranks, telemetry
from grader.harness.inside.digest import digest

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "templates"))
import checkpoint_utils as cu

CASE, DIRECTORY = sys.argv[1:]


def built(sharded: bool, layers: int = 2):
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(layers)))
    if sharded:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def step(model, optimizer) -> None:
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def manager(model, optimizer, **options):
    return cu.CheckpointManager(
        DIRECTORY, {"model": model, "optimizer": optimizer}, timeout=20, **options
    )


def saved(ckpt, at: int) -> None:
    ckpt.steps = at
    ckpt.save()


def local(t):
    return t.to_local() if hasattr(t, "to_local") else t


def moments(optimizer) -> str:
    return digest([[local(v) for v in s.values()] for s in optimizer.state.values()])


def damaged_for_one_rank() -> dict:
    """What one rank can't read is no checkpoint for any, and mustn't displace one that is."""
    job = built(False)
    ckpt = manager(*job, keep=9)
    saved(ckpt, 90)
    saved(ckpt, 100)
    if ckpt.rank == 0:
        with open(os.path.join(DIRECTORY, "step-000000000100-1", "rank-1.ckpt"), "r+b") as f:
            f.seek(-40, os.SEEK_END)
            byte = f.read(1)[0]
            f.seek(-40, os.SEEK_END)
            f.write(bytes([byte ^ 1]))
    dist.barrier()
    again = manager(*job, keep=1)
    again.resume()
    at = again.steps
    saved(again, 95)
    last = manager(*job)
    last.resume()
    return {"resumed": [at, last.steps]}


def gradients_left() -> dict:
    """A backward pass before resume(), whose gradients nobody cleared."""
    model, optimizer = built(True)
    for _ in range(3):
        step(model, optimizer)
    saved(manager(model, optimizer), 3)
    other, fresh = built(True)
    other(torch.ones(2, 4)).sum().backward()
    manager(other, fresh).resume()
    return {"moments": [moments(optimizer), moments(fresh)]}


def a_layer_less() -> dict:
    model, optimizer = built(True)
    step(model, optimizer)
    saved(manager(model, optimizer), 1)
    try:
        manager(*built(True, layers=1)).resume()
    except cu.Mismatch:
        return {"raised": "Mismatch"}
    return {"raised": None}


def before_the_first_step() -> dict:
    """A save before any step leaves no trace in the steps that follow."""
    weights = []
    for save in (False, True):
        model, optimizer = built(True)
        if save:
            saved(manager(model, optimizer), 0)
        step(model, optimizer)
        weights.append(digest([local(p) for p in model.parameters()]))
    return {"weights": weights}


def another_sharded_part() -> dict:
    model, optimizer = built(True)
    try:
        cu.CheckpointManager(
            DIRECTORY, {"model": model, "optimizer": optimizer, "average": built(True)[0]}
        )
    except TypeError:
        return {"raised": "TypeError"}
    return {"raised": None}


def running_means(sharded: bool) -> dict:
    """Each rank's own, where nothing makes them equal."""

    def job():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
        if sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        else:
            model = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    model, optimizer = job()
    model(torch.randn(8, 4) + dist.get_rank()).sum().backward()
    optimizer.step()
    saved(manager(model, optimizer), 1)
    other, fresh = job()
    manager(other, fresh).resume()
    return {"buffers": [digest(list(m.buffers())) for m in (model, other)]}


def running_means_ddp() -> dict:
    return running_means(sharded=False)


def running_means_fsdp2() -> dict:
    return running_means(sharded=True)


def a_rank_that_never_comes() -> dict:
    """Only rank 0 calls step(): an error that says so, not a hang."""
    model, optimizer = built(False)
    ckpt = cu.CheckpointManager(DIRECTORY, {"model": model, "optimizer": optimizer}, timeout=2)
    told = None
    if ckpt.rank == 0:
        try:
            ckpt.step()
        except cu.CheckpointError as e:
            told = str(e)
    return {"told": told}


def staged_on_the_cpu() -> dict:
    model, optimizer = built(True)
    step(model, optimizer)
    ckpt = manager(model, optimizer, asynchronous=True)
    ckpt.steps = 1
    ckpt.save()
    before = moments(optimizer)
    step(model, optimizer)
    ckpt.flush()
    other, fresh = built(True)
    manager(other, fresh).resume()
    return {"moments": [before, moments(fresh)], "staged": len(ckpt.staging.buffers)}


ranks.join("gloo")
result = globals()[CASE]()
telemetry.emit("result", **result)
ranks.leave()
