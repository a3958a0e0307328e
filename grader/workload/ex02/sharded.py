"""What save_sharded, load_sharded and export_model do beyond a training run, one action a life.

    --do save      save a drawn job on these ranks into --directory
    --do several   save drawn jobs one after another, each into a new folder, "saved-0" and so on
                   (a relative path); then load the first two
    --do load      load that into a fresh job on these ranks (perhaps another number)
    --do whole     the digests of the drawn job, without student code
    --do export    export_model in one process without ranks, and what torch.load finds
    --do hold      saves in which one rank is held before each event of its own
    --do memory    a larger model: how much memory save and load need on each rank

Jobs are drawn from telemetry.given("payload"); telemetry.given("key") is the digests' key.
"""

import argparse
import os
import random
import warnings
from functools import partial

import torch
import torch.distributed as dist

from grader.harness.inside import ranks, telemetry
from grader.harness.inside.digest import digest, rng_digests
from grader.harness.inside.memory import Peak
from grader.workload import load_submission, rank_job
from grader.workload.ex02.pause_rank import holding
from grader.workload.questions import outcome

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", help="the student's distributed.py")
p.add_argument("--directory", required=True)
DO = ["save", "several", "load", "whole", "export", "hold", "memory"]
p.add_argument("--do", choices=DO, required=True)
p.add_argument("--folder", default="sharded", help="of the checkpoint, below --directory")
p.add_argument("--seed", type=int, default=0)
args = p.parse_args()
folder = os.path.join(args.directory, args.folder)
SLOW = 40.0  # s; the model of `memory` is slow to write
MOST = 24  # the most events of one save before which a rank is held


class Uneven(torch.nn.Module):
    """Parameters that no number of ranks divides, some with fewer rows than there are ranks; and
    buffers, which aren't sharded.
    """

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(29, 6)
        self.wide = torch.nn.Linear(6, 5)
        self.narrow = torch.nn.Linear(5, 1)  # one row: most ranks hold nothing of it
        self.thin = torch.nn.Linear(7, 3, bias=False, dtype=torch.bfloat16)
        self.cube = torch.nn.Parameter(torch.zeros(3, 2, 7))
        self.tail = torch.nn.Sequential(
            torch.nn.Linear(6, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 13)
        )
        self.register_buffer("mean", torch.zeros(7, dtype=torch.float64))
        self.register_buffer("batches", torch.tensor(0))  # as BatchNorm counts them


def built(sharded: bool):
    model = Uneven()
    if sharded:
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .*")
        rank_job.shard(model.tail, model)
    grown = [p for p in model.parameters() if p.dim() > 1]
    groups = [
        {"params": grown, "amsgrad": True},  # one moment more than the other group's
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return model, torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1, foreach=True)


MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
ODD = [float("nan"), float("inf"), -0.0, 1e-45]  # what a comparison by value misses


def fill(model, optimizer, payload: int) -> None:
    """Every rank draws each whole tensor (they are small) and keeps its part."""
    draw = torch.Generator().manual_seed(payload)

    def drawn(like):
        whole = torch.randn(like.shape, generator=draw)
        whole.view(-1)[:: max(5, whole.numel() // 3)] = random.Random(
            payload + whole.numel()
        ).choice(ODD)
        return part(whole.to(like.dtype), like)

    def part(whole, like):
        if not hasattr(like, "to_local"):
            return whole
        return torch.distributed.tensor.distribute_tensor(
            whole, like.device_mesh, like.placements, src_data_rank=None
        )

    numbers = random.Random(payload)
    with torch.no_grad():
        model.mean.copy_(drawn(model.mean))
        model.batches.fill_(numbers.randint(3, 10**6))
        more = set(optimizer.param_groups[0]["params"])
        for p in model.parameters():
            p.copy_(drawn(p))
            step = torch.tensor(float(numbers.randint(3, 10**6)))  # layers were frozen for a while
            moments = {name: drawn(p) for name in (MOMENTS if p in more else MOMENTS[:2])}
            optimizer.state[p] = {"step": step} | moments
    for group in optimizer.param_groups:
        group["maximize"] = True  # the fresh one's is False
        group["betas"] = numbers.random(), numbers.random()
        for setting in ("lr", "eps", "weight_decay"):
            group[setting] = numbers.random()


def gathered(t):
    """The whole tensor, gathered from all ranks, whatever their number."""
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def this_ranks(t):
    return t.to_local() if hasattr(t, "to_local") else t


def tensors(model):
    yield from model.named_parameters()
    yield from model.named_buffers()


def whole(model, optimizer, full=gathered) -> dict[str, str]:
    """Digests of weights, moments and the optimizer's settings."""
    key = telemetry.given("key", "")

    out = {f"weights {name}": digest(full(t), key) for name, t in tensors(model)}
    for name, p in model.named_parameters():
        for kind, value in sorted(optimizer.state[p].items()):
            out[f"optimizer {kind} {name}"] = digest(full(value), key)
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    return out | {"optimizer settings": digest(settings, key)}


def looks(model) -> dict[str, str]:
    """Digests of what a save could change without a difference in the checkpoint."""
    grads = {name: p.grad for name, p in model.named_parameters()}
    modes = [[m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]]
    return (
        {
            f"gradient {name}": digest(None if g is None else this_ranks(g))
            for name, g in grads.items()
        }
        | {"modes": digest(modes)}
        | rng_digests()
    )


def save(ck) -> None:
    model, optimizer = built(sharded=True)
    fill(model, optimizer, telemetry.given("payload", 1))
    for p in model.parameters():
        p.grad = torch.ones_like(p)  # those of a step that isn't complete
    model.tail.eval()
    model.narrow.requires_grad_(False)
    before = whole(model, optimizer) | looks(model)
    with telemetry.saving(0, args.directory):
        ck.save_sharded(model, optimizer, folder)
    digests = whole(model, optimizer)
    now = digests | looks(model)
    changed = [name for name in now if now[name] != before[name]]
    telemetry.emit("whole", digests=digests, changed=changed)


SEVERAL = 3


def several(ck) -> None:
    os.chdir(args.directory)
    places = [f"saved-{n}" for n in range(SEVERAL)]
    holds = []
    for n, place in enumerate(places):
        model, optimizer = built(sharded=True)
        fill(model, optimizer, telemetry.given("payload", 1) + n)
        holds.append(whole(model, optimizer, full=this_ranks))
        with telemetry.saving(n, args.directory):
            ck.save_sharded(model, optimizer, place)
    for place, saved in list(zip(places, holds, strict=True))[:2]:
        compare(ck, saved, place)


def load(ck) -> None:
    model, optimizer = built(sharded=True)
    with torch.no_grad():
        for p in model.parameters():
            p.to_local().fill_(7)
        model.mean.fill_(7)
        model.batches.fill_(7)
    ck.load_sharded(model, optimizer, folder)
    telemetry.emit("whole", digests=whole(model, optimizer))


def show(ck) -> None:
    model, optimizer = built(sharded=False)
    fill(model, optimizer, telemetry.given("payload"))
    telemetry.emit("whole", digests=whole(model, optimizer))


def hold(ck) -> None:
    """Save into a new folder for each event, and load it at once."""
    rank, events = dist.get_rank(), []
    for held in range(dist.get_world_size()):
        for event in range(MOST + 2):  # 0: no hold; 1: before its call
            model, optimizer = built(sharded=True)
            fill(model, optimizer, event)
            into = os.path.join(args.directory, f"held-{held}-{event}")
            if event == 0:
                around = telemetry.saving(event, args.directory)
            else:
                around = holding(
                    f"{args.directory}-{held}-{event}", args.directory, held, event - 2
                )
            with around as found:
                did = outcome(partial(ck.save_sharded, model, optimizer, into))
            if event == 0:
                events = [None] * dist.get_world_size()
                dist.all_gather_object(events, list(found))
            elif rank == held:
                telemetry.emit("held", rank=held, before=found.before, shown=found.shown)
            telemetry.emit("saved held", raised=did.get("raised"))
            if "raised" in did:
                return
            compare(ck, whole(model, optimizer, full=this_ranks), into)
            dist.barrier()
            if event > len(events[held]):
                break


def compare(ck, saved: dict[str, str], folder: str) -> None:
    """Load the folder into a fresh job: in which parts isn't it what was saved?"""
    model, optimizer = built(sharded=True)
    ck.load_sharded(model, optimizer, folder)
    now = whole(model, optimizer, full=this_ranks)
    telemetry.emit("loaded", different=[name for name in saved if now.get(name) != saved[name]])


def export(ck) -> None:
    model = Uneven()
    os.chdir(args.directory)
    path = "model.pt"  # relative, and without a folder
    ck.export_model(folder, model, path)
    key = telemetry.given("key", "")
    found = torch.load(path, weights_only=True)
    kinds = (
        {k: type(v).__name__ for k, v in found.items()}
        if isinstance(found, dict)
        else type(found).__name__
    )
    plain = isinstance(found, dict) and all(
        isinstance(k, str) and type(v) is torch.Tensor for k, v in found.items()
    )
    telemetry.emit(
        "exported",
        kinds=kinds,
        digests={f"weights {k}": digest(v, key) for k, v in found.items()} if plain else {},
        filled={f"weights {k}": digest(v, key) for k, v in tensors(model)},
    )


LAYERS, SIDE = 16, 1024  # 64 MiB of weights


def memory(ck) -> None:
    """Bytes by which save and load raise this rank's resident memory at its peak."""
    warm_up(ck)
    model, optimizer = large(LAYERS)
    with Peak() as of_save:
        ck.save_sharded(model, optimizer, folder)
    del model, optimizer
    model, optimizer = large(LAYERS, steps=False)
    with Peak() as of_load:
        ck.load_sharded(model, optimizer, folder)
    weights = LAYERS * SIDE * SIDE * 4
    telemetry.emit("memory", weights=weights, save=of_save.extra, load=of_load.extra)


def large(layers: int, steps: bool = True):
    with torch.device("meta"):
        model = torch.nn.Sequential(
            *(torch.nn.Linear(SIDE, SIDE, bias=False) for _ in range(layers))
        )
    rank_job.shard(*model, model)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for p in model.parameters():
            p.to_local().fill_(0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if steps:
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def warm_up(ck) -> None:
    """A small save and load first: what a process needs only once isn't the model's."""
    model, optimizer = built(sharded=True)
    fill(model, optimizer, 1)
    ck.save_sharded(model, optimizer, f"{folder}-small")
    ck.load_sharded(*built(sharded=True), f"{folder}-small")


def main() -> None:
    if "RANK" in os.environ:
        ranks.join_watched(patience=SLOW if args.do == "memory" else ranks.PATIENCE)
    ck = load_submission.load(args.checkpoint) if args.checkpoint else None
    do = {
        "save": save,
        "several": several,
        "load": load,
        "whole": show,
        "export": export,
        "hold": hold,
        "memory": memory,
    }
    do[args.do](ck)
    telemetry.emit("end", step=0, state={})
    ranks.leave()


if __name__ == "__main__":
    main()
