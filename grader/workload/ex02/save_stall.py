"""How long saving a sharded model stalls training, synchronously and asynchronously (the bonus).

No student code runs here. Reports the duration of every step and of its save.
"""

import argparse
import os
import time

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict

from grader.harness.inside import ranks, telemetry
from grader.workload import rank_job

p = argparse.ArgumentParser()
p.add_argument("--checkpoint")
p.add_argument("--directory", required=True)
p.add_argument("--how", choices=["sync", "async"], required=True)
p.add_argument("--steps", type=int, default=24)
p.add_argument("--save-every", type=int, default=6)
p.add_argument("--layers", type=int, default=8)
p.add_argument("--width", type=int, default=1024)


def main() -> None:
    args = p.parse_args()
    ranks.join_watched(patience=60)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Linear(args.width, args.width, bias=False) for _ in range(args.layers))
    )
    rank_job.shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    # for the writing thread: on the default group, its collectives would mix with training's
    group = dist.new_group(backend="gloo")
    pending = None
    batch = torch.randn(32, args.width)
    for step in range(1, args.steps + 1):
        began = time.monotonic()
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        trained = time.monotonic()
        if step % args.save_every == 0:
            folder = os.path.join(args.directory, f"after-{step}")
            state = dict(
                zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=False)
            )
            if args.how == "sync":
                dcp.save(state, checkpoint_id=folder)
            else:
                if pending:
                    pending.result()  # one at a time; here the last one's failure is raised
                pending = dcp.async_save(state, checkpoint_id=folder, process_group=group)
        telemetry.emit(
            "timed", step=step, trained=trained - began, saved=time.monotonic() - trained
        )
    if pending:
        pending.result()
    telemetry.emit("end", step=args.steps, state={})
    ranks.leave()


if __name__ == "__main__":
    main()
