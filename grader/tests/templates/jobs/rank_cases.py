"""Two ranks do one thing with the manager, and report what came out: rank_cases.py CASE
DIRECTORY.
"""

import os
import shutil
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from grader.harness.inside import ranks, telemetry
from grader.harness.inside.digest import digest

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "templates"))
import checkpoint_utils as cu

CASE, DIRECTORY = sys.argv[1:]
PATIENCE = 90  # s; on a loaded machine, one rank may import for half a minute what another has


def built(sharded: bool, layers: int = 2):
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(layers)))
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def step(model, optimizer) -> None:
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def manager(model, optimizer, **options):
    return cu.CheckpointManager(
        DIRECTORY, {"model": model, "optimizer": optimizer}, timeout=PATIENCE, **options
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
        with open(os.path.join(DIRECTORY, "step-000000000100-1", "rank-1.json"), "r+b") as f:
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


def several_sharded_models() -> dict:
    """Two with an optimizer each, one optimizer for both, and an average without one."""

    def job():
        (generator, first), (critic, second), (average, _) = (built(True) for _ in range(3))
        both = torch.optim.SGD([*critic.parameters(), *generator.parameters()], 0.1, momentum=0.9)
        parts = {"generator": generator, "model": critic, "average": average}
        return parts | {"first": first, "second": second, "both": both}

    def train(parts) -> None:
        for n, name in enumerate(("generator", "model")):
            parts[name](torch.full((2, 4), n + 1.0)).square().sum().backward()
        for name in ("first", "second", "both"):
            parts[name].step()
        for p, q in zip(*(parts[n].parameters() for n in ("average", "generator")), strict=True):
            p.data.lerp_(q.data, 0.5)
        parts["both"].zero_grad()

    def everything(parts) -> str:
        models = [parts[n] for n in ("generator", "model", "average")]
        weights = [local(p) for m in models for p in m.parameters()]
        return digest([weights, *(moments(parts[n]) for n in ("first", "second", "both"))])

    parts = job()
    train(parts)
    saved(cu.CheckpointManager(DIRECTORY, parts, timeout=PATIENCE), 1)
    train(parts)
    again = job()
    cu.CheckpointManager(DIRECTORY, again, timeout=PATIENCE).resume()
    train(again)
    try:
        less = {n: p for n, p in job().items() if n != "both"}
        cu.CheckpointManager(DIRECTORY, less, timeout=PATIENCE).resume()
    except cu.Mismatch as e:
        return {"moments": [everything(parts), everything(again)], "less": str(e)}
    return {"moments": [0, 1]}


def running_means(sharded: bool) -> dict:
    """Each rank's own, where nothing makes them equal."""

    def job():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
        if sharded:
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


def running_means_of_others() -> dict:
    """Modules of any name, registered for all ranks or for each one."""

    def job():
        torch.manual_seed(0)
        parts = {n: torch.nn.BatchNorm1d(4) for n in ("generator", "critic", "mine")}
        for part in parts.values():
            part.register_buffer("cache", torch.zeros(1), persistent=False)
        return parts

    def ckpt_of(parts):
        state = {n: p for n, p in parts.items() if n != "mine"}
        return cu.CheckpointManager(
            DIRECTORY, state, per_rank={"mine": parts["mine"]}, timeout=PATIENCE
        )

    parts, again = job(), job()
    for part in parts.values():
        part(torch.randn(8, 4) + dist.get_rank())
        part.cache += 1 + dist.get_rank()
    saved(ckpt_of(parts), 1)
    ckpt_of(again).resume()
    buffers = [[list(p.buffers()) for p in ps.values()] for ps in (parts, again)]
    return {"buffers": [digest(b) for b in buffers]}


def no_gradient_yet() -> dict:
    """Of the last layer, whose parameters have no moments, then."""
    model, optimizer = built(True, layers=3)
    for _ in range(2):
        for n, p in enumerate(list(model.parameters())[:4]):
            p.grad = torch.full_like(p, n + 1.0)
        optimizer.step()
        optimizer.zero_grad()
    saved(manager(model, optimizer), 2)
    other, fresh = built(True, layers=3)
    manager(other, fresh).resume()
    return {"moments": [moments(optimizer), moments(fresh)]}


def after_an_evaluation() -> dict:
    """After a forward pass, the root holds parameters that the optimizer doesn't know."""
    model, optimizer = built(True)
    step(model, optimizer)
    with torch.no_grad():
        model(torch.ones(2, 4))
    saved(manager(model, optimizer), 1)
    other, fresh = built(True)
    with torch.no_grad():
        other(torch.ones(2, 4))
    manager(other, fresh).resume()
    return {"moments": [moments(optimizer), moments(fresh)]}


def moments_of_another_type() -> dict:
    """float32 for a model in bfloat16, and a row of them, and a number."""

    def job():
        model, _ = built(True)
        return model.bfloat16(), torch.optim.AdamW(model.parameters())

    model, optimizer = job()
    for p in model.parameters():
        optimizer.state[p] = {
            "step": torch.tensor(3.0),
            "exp_avg": torch.randn_like(p, dtype=torch.float32),
            "row": torch.arange(3.0),
            "name": "x",
        }
    saved(manager(model, optimizer), 1)
    other, fresh = job()
    manager(other, fresh).resume()
    return {"moments": [moments(optimizer), moments(fresh)]}


def another_order() -> dict:
    model, optimizer = built(True)
    for n, p in enumerate(model.parameters()):
        p.grad = torch.full_like(p, n + 1.0)
    optimizer.step()
    saved(manager(model, optimizer), 1)
    other, _ = built(True)
    fresh = torch.optim.AdamW(reversed(list(other.parameters())), lr=0.1)
    manager(other, fresh).resume()
    mine = [
        digest([{k: local(v) for k, v in o.state[p].items()} for p in m.parameters()])
        for m, o in ((model, optimizer), (other, fresh))
    ]
    return {"moments": mine}


def another_type() -> dict:
    model, optimizer = built(True)
    saved(manager(model, optimizer), 1)
    other, _ = built(True)
    other.bfloat16()
    try:
        manager(other, torch.optim.AdamW(other.parameters())).resume()
    except cu.Mismatch as e:
        return {"told": str(e)}
    return {"told": ""}


def refused_on_one_rank() -> dict:
    """What one rank can't save is known to all before the first step."""
    ckpt = cu.CheckpointManager(DIRECTORY, {}, per_rank={"part": Part()}, timeout=PATIENCE)
    try:
        ckpt.step()
    except cu.CheckpointError as e:
        return {"told": str(e), "steps": ckpt.steps}
    return {"told": ""}


class Part:
    def state_dict(self):
        return {"value": {1} if dist.get_rank() else 1}

    def load_state_dict(self, state):
        raise NotImplementedError


def the_first_versions() -> dict:
    """A sharded checkpoint of another number of ranks."""
    shutil.copytree(Path(__file__).parents[1] / "kept" / "sharded", DIRECTORY, dirs_exist_ok=True)
    torch.manual_seed(dist.get_rank())
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    ckpt = manager(model, optimizer := torch.optim.AdamW(model.parameters()))
    resumed = ckpt.resume()
    steps = {s["step"].item() for s in optimizer.state.values()}
    return {"found": [resumed, ckpt.steps, len(optimizer.state), *steps]}


def a_rank_that_never_comes() -> dict:
    """Only rank 0 calls step(): an error that says so, not a hang."""
    model, optimizer = built(False)
    dist.barrier()  # both are here, so neither is late for the manager
    ckpt = cu.CheckpointManager(DIRECTORY, {"model": model, "optimizer": optimizer}, timeout=2)
    told = None
    if ckpt.rank == 0:
        try:
            ckpt.step()
        except cu.CheckpointError as e:
            told = str(e)
    return {"told": told}


def a_manager_on_rank_0_alone() -> dict:
    """An error that names the other rank, not a wait for the whole time limit of a collective."""
    told = None
    if dist.get_rank() == 0:
        try:
            cu.CheckpointManager(DIRECTORY, {}, timeout=2)
        except cu.CheckpointError as e:
            told = str(e)
    dist.barrier()
    return {"told": told}


def staged_on_the_cpu() -> dict:
    return staged(overlap=False)


def staged_beside_the_training() -> dict:
    cu._LATER_FROM = 0  # so that small shards are copied later, too
    return staged(overlap=True)


def staged(overlap: bool) -> dict:
    model, optimizer = built(True)
    step(model, optimizer)
    ckpt = manager(model, optimizer, asynchronous=True, overlap=overlap)
    finish, later = cu._Staging.finish, []

    def counted(staging):
        later.append(len(staging.later))
        finish(staging)

    cu._Staging.finish = counted
    ckpt.steps = 1
    ckpt.save()
    before = moments(optimizer)
    step(model, optimizer)
    ckpt.flush()
    other, fresh = built(True)
    manager(other, fresh).resume()
    buffers = len(ckpt.saver.staging.buffers)
    return {"moments": [before, moments(fresh)], "staged": buffers, "later": sum(later)}


def disk_full_on_one_rank() -> dict:
    """It finds no room twice: both ranks wait and write again, and the third try holds."""
    real, tries = cu._write_files, []

    def write(*args):
        tries.append(args)
        if dist.get_rank() and len(tries) < 3:
            raise OSError(cu.errno.ENOSPC, "no space left")
        return real(*args)

    cu._write_files, cu.time.sleep = write, lambda _: None
    ckpt = cu.CheckpointManager(DIRECTORY, {}, timeout=PATIENCE, wait_for_space=60)
    saved(ckpt, 3)
    full, ckpt.saver.config = [], cu.Config()
    tries.clear()
    try:
        ckpt.save()
    except cu.DiskFull as e:
        full.append(str(e))
    dist.barrier()
    return {"tries": len(tries), "names": ckpt.directory.names(), "full": full}


ranks.join("gloo")
result = globals()[CASE]()
telemetry.emit("result", **result)
ranks.leave()
