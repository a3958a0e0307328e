"""What save_checkpoint_ddp and load_checkpoint_ddp do when something is in the way; one question each.

    --ask together    does any rank leave the save before rank 0 has written? (rank 0 is held until that shows)
    --ask fails       rank 0 can't write: what does every rank see?
    --ask device      one process, no ranks: a file whose tensors lived on rank 0's GPU
    --ask alone       one process, no ranks: the file that DDP ranks wrote (--file), into a bare network
"""

import argparse
import os
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from grader.harness import child, ranks, watch
from grader.harness.digest import digest, optimizer_digests
from grader.workload import job as workload
from grader.workload import rank_job, student
from grader.workload.hold import Hold
from grader.workload.model import Transformer
from grader.workload.tagged import living_on_gpu

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's distributed.py")
p.add_argument("--directory", required=True)
p.add_argument("--ask", choices=["together", "fails", "device", "alone"], required=True)
p.add_argument("--file")
p.add_argument("--seed", type=int, default=0)
args = p.parse_args()


def state(model, optimizer) -> dict[str, str]:
    network = getattr(model, "module", model)
    return {"weights": digest(network.state_dict()), **optimizer_digests(optimizer)}


def trained(steps: int) -> rank_job.RankJob:
    job = rank_job.build_ddp(args.seed, 1, 4, randomness=False)
    for batch, _ in zip(job.loader, range(steps)):
        job.train_step(batch)
    return job


def together(ck) -> None:
    """Rank 0 stands still before its first file-system event until rank 1 waits for it, or has left the function."""
    job = trained(2)
    path = os.path.join(args.directory, "checkpoint.pt")
    hold = Hold(os.path.join(args.directory, "..", "says"))
    if job.rank == 0:
        hold.make(hold.pipe)
    dist.barrier()
    with hold.held(args.directory) if job.rank == 0 else hold.tells():
        ck.save_checkpoint_ddp(job.model, job.optimizer, 7, job.rank, path)
    watch.emit("together", shown=hold.shown)
    ranks.leave()


def fails(ck) -> None:
    job = trained(2)
    blocker = os.path.join(args.directory, "a-file")
    if job.rank == 0:
        open(blocker, "w").close()
    dist.barrier()
    raised = None
    try:
        ck.save_checkpoint_ddp(job.model, job.optimizer, 7, job.rank, os.path.join(blocker, "checkpoint.pt"))
    except Exception as e:
        raised = child.describe(e)
    watch.emit("fails", raised=raised)
    # nobody leaves before all have come back: a rank that left would end the waiting of those that hang
    told = dist.FileStore(os.path.join(args.directory, "..", "told"), job.world)
    told.set(str(job.rank), "back")
    with suppress(RuntimeError):
        told.wait([str(rank) for rank in range(job.world)], timedelta(seconds=ranks.PATIENCE + 4))


def device(ck) -> None:
    """Written by a group of one rank, whose tensors are tagged as living on cuda:0; loaded where there is none."""
    os.environ |= ranks.rank_environment(0, 1, os.path.join(args.directory, "..", "store"))
    ranks.join_watched()
    job = trained(2)
    path = os.path.join(args.directory, "checkpoint.pt")
    tensors = [*job.model.state_dict().values()]
    tensors += [t for s in job.optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
    with living_on_gpu(tensors):
        ck.save_checkpoint_ddp(job.model, job.optimizer, 7, 0, path)
    fresh = trained(0)
    workload.estrange(fresh, generators=False)
    ck.load_checkpoint_ddp(fresh.model, fresh.optimizer, path)
    watch.emit("device", same=state(fresh.model, fresh.optimizer) == state(job.model, job.optimizer))


def alone(ck) -> None:
    network = Transformer(dropout=0.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.0, foreach=True)
    epoch = ck.load_checkpoint_ddp(network, optimizer, args.file)
    watch.emit("alone", epoch=repr(epoch), state=state(network, optimizer))


def main() -> None:
    if args.ask in ("together", "fails"):
        ranks.join_watched()
    ck = student.load(args.checkpoint)
    {"together": together, "fails": fails, "device": device, "alone": alone}[args.ask](ck)
    watch.emit("end", step=0, state={})


if __name__ == "__main__":
    main()
