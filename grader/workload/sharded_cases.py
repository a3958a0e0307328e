"""What save_sharded and load_sharded do beyond a training run: memory, and other numbers of ranks.

    --do save      train a few steps on these ranks, save into --directory; report the digest of the whole state
    --do load      a fresh job on these ranks (another number of them, perhaps) loads that; report the same
    --do together  does rank 0 leave the save before rank 1 has written? (rank 1 is held until that shows)
    --do export    one process, no ranks: export_model, and what torch.load finds in the file
    --do memory    a larger model: what save and load take of each rank's memory
"""

import argparse
import os

import torch
import torch.distributed as dist

from grader.harness import ranks, watch
from grader.harness.digest import digest
from grader.harness.memory import Peak
from grader.workload import job as workload
from grader.workload import rank_job, student
from grader.workload.hold import Hold
from grader.workload.model import Transformer

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's distributed.py")
p.add_argument("--directory", required=True)
p.add_argument("--do", choices=["save", "load", "together", "export", "memory"], required=True)
p.add_argument("--seed", type=int, default=0)
args = p.parse_args()
folder = os.path.join(args.directory, "sharded")
SLOW = 40.0  # s; the model of `memory` takes its time to reach the disk


def whole(job) -> dict[str, str]:
    """Digests of weights and moments, each tensor gathered from all ranks: the number of ranks makes no difference."""

    def full(t):
        return t.full_tensor() if hasattr(t, "full_tensor") else t

    out = {f"weights {name}": digest(full(p)) for name, p in job.model.named_parameters()}
    for name, p in job.model.named_parameters():
        for kind, value in sorted(job.optimizer.state[p].items()):
            out[f"optimizer {kind} {name}"] = digest(full(value))
    settings = [{k: v for k, v in g.items() if k != "params"} for g in job.optimizer.param_groups]
    return out | {"optimizer settings": digest(settings)}


def save(ck) -> None:
    job = rank_job.build_sharded(args.seed, 1, 4)
    for batch in job.loader:
        job.train_step(batch)
    with watch.saving(job.step, args.directory):
        ck.save_sharded(job.model, job.optimizer, folder)
    watch.emit("whole", digests=whole(job))


def load(ck) -> None:
    job = rank_job.build_sharded(args.seed, 1, 4)
    workload.estrange(job)
    ck.load_sharded(job.model, job.optimizer, folder)
    watch.emit("whole", digests=whole(job))


def together(ck) -> None:
    job = rank_job.build_sharded(args.seed, 1, 4)
    for batch, _ in zip(job.loader, range(1)):
        job.train_step(batch)
    hold = Hold(os.path.join(args.directory, "..", "says"))
    if job.rank == 1:
        hold.make(hold.pipe)
    dist.barrier()
    with hold.held(args.directory) if job.rank == 1 else hold.tells():
        ck.save_sharded(job.model, job.optimizer, folder)
    watch.emit("together", shown=hold.shown)


def export(ck) -> None:
    model = Transformer(dropout=0.1, running_mean=False)
    path = os.path.join(args.directory, "model.pt")
    ck.export_model(folder, model, path)
    found = torch.load(path, weights_only=True)
    plain = isinstance(found, dict) and all(type(v) is torch.Tensor for v in found.values())
    watch.emit(
        "exported",
        plain=plain,
        holds=f"{type(found).__name__} of {', '.join(map(str, found))[:100]}" if isinstance(found, dict) else type(found).__name__,
        digests={f"weights {k}": digest(v) for k, v in found.items()} if plain else {},
        filled={f"weights {k}": digest(v) for k, v in model.named_parameters()},
    )


LAYERS, SIDE = 16, 1024  # 64 MiB of weights


def memory(ck) -> None:
    """Peak of this rank's resident memory in save and in load, over what it held before, in bytes."""
    def build():
        with torch.device("meta"):
            model = torch.nn.Sequential(*(torch.nn.Linear(SIDE, SIDE, bias=False) for _ in range(LAYERS)))
        rank_job.shard(*model, model)
        model.to_empty(device="cpu")
        with torch.no_grad():
            for p in model.parameters():
                p.to_local().fill_(0.5)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    model, optimizer = build()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad()
    with Peak() as of_save:
        ck.save_sharded(model, optimizer, folder)
    del model, optimizer
    model, optimizer = build()
    with Peak() as of_load:
        ck.load_sharded(model, optimizer, folder)
    weights = LAYERS * SIDE * SIDE * 4
    watch.emit("memory", weights=weights, save=of_save.extra, load=of_load.extra)


def main() -> None:
    if args.do != "export":
        ranks.join_watched(patience=SLOW if args.do == "memory" else ranks.PATIENCE)
    ck = student.load(args.checkpoint)
    {"save": save, "load": load, "together": together, "export": export, "memory": memory}[args.do](ck)
    watch.emit("end", step=0, state={})
    ranks.leave()


if __name__ == "__main__":
    main()
