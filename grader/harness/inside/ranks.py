"""How the ranks of a life meet, wait for each other and leave; the training scripts call it."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.distributed import TCPStore

PATIENCE = 8.0  # s that a rank waits in a collective for the others; milliseconds are normal
MEETING = 60.0  # s in which all ranks of a life must have started


def rank_environment(rank: int, world: int, store: Path, nodes: int = 2) -> dict[str, str]:
    """What torchrun gives a worker on one of `nodes`, but RANKS_STORE instead of MASTER_ADDR.

    With two nodes, a rank's number on its node differs from its number among all ranks.
    """
    nodes = min(nodes, world)
    on_each = -(-world // nodes)
    node, place = divmod(rank, on_each)
    here = min(on_each, world - node * on_each)
    local = {
        "RANK": rank,
        "LOCAL_RANK": place,
        "GROUP_RANK": node,
        "ROLE_RANK": rank,
        "ROLE_NAME": "default",
    }
    sizes = {
        "WORLD_SIZE": world,
        "ROLE_WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": here,
        "GROUP_WORLD_SIZE": nodes,
    }
    elastic = {
        "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_MAX_RESTARTS": 0,
        "TORCHELASTIC_RUN_ID": "none",
    }
    loopback = {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    return {
        k: str(v) for k, v in (local | sizes | elastic | loopback | {"RANKS_STORE": store}).items()
    }


def join(backend: str, store: str | None = None, **options: Any) -> None:
    """Call init_process_group in a rank; in a life of one process, do nothing.

    The ranks meet at `store`, at the harness's meeting point, or through torchrun's variables.
    """
    import os

    import torch.distributed as dist

    meet = store or os.environ.get("RANKS_STORE")
    if "RANK" not in os.environ:
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    by = {}
    if meet:
        made = _store_of_this_group(store, rank, world) if store else dist.FileStore(meet, world)
        by = {"store": made, "rank": rank, "world_size": world}
    dist.init_process_group(backend, **by, **options)


def _store_of_this_group(path: str, rank: int, world: int) -> TCPStore:
    """Rank 0's store, at a port that the system chooses and rank 0 writes into the file `path`.

    A FileStore won't do: a limit on file sizes (telemetry.py) would also hold for it.
    """
    import os

    import torch.distributed as dist

    from grader.processes import wait_until

    if rank == 0:
        made = dist.TCPStore("127.0.0.1", 0, world, is_master=True, wait_for_workers=False)
        with open(f"{path}.new", "w") as f:
            f.write(str(made.port))
        os.replace(f"{path}.new", path)
        return made
    wait_until(lambda: os.path.exists(path), MEETING, at_most=0.001)
    with open(path) as f:
        return dist.TCPStore("127.0.0.1", int(f.read()), world, is_master=False)


def join_watched(store: str | None = None, patience: float = PATIENCE) -> None:
    """`join`, for a rank whose collectives are watched and wait at most `patience` seconds.

    That also holds for groups that the student's code makes with its own timeout.
    """
    import torch.distributed as dist
    from torch.distributed import distributed_c10d as c10d

    from grader.harness.inside import collectives, telemetry

    patience = telemetry.given("patience", patience)
    collectives.install()
    limit = timedelta(seconds=patience)
    join("gloo", store, timeout=timedelta(seconds=MEETING))
    dist.barrier()
    c10d._set_pg_timeout(limit, dist.group.WORLD)
    c10d.default_pg_timeout = limit
    # for ranks that wait for others in the store, outside a collective
    c10d._get_default_store().set_timeout(limit)
    make = dist.new_group

    def new_group(
        ranks: list[int] | None = None,
        timeout: timedelta | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        return make(ranks, min(timeout or limit, limit), *args, **kwargs)

    dist.new_group = c10d.new_group = new_group


def leave(status: int = 0) -> None:
    """Wait until all ranks are done: a rank that exits while others need it makes them fail.

    The group isn't destroyed: a DDP model that is freed after its group holds the GIL while it
    joins threads that may need it, and hangs (one time in ten on a busy machine). So a rank that
    isn't a life of the harness, as under torchrun, ends here with `status`, and frees nothing.
    """
    import torch.distributed as dist

    from grader.harness.inside import child

    if dist.is_initialized():
        dist.barrier()
        if not child.is_life():
            child.end(status)
