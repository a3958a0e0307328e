"""Several ranks as one life: the same script in N processes, each with the variables that torchrun sets.

They meet through a file in a folder of their own: no port is chosen, so no two groups can collide, and gloo's
connections stay on loopback. A fault is aimed at one rank.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from grader.harness.launcher import Limits
from grader.harness.life import run_life


def rank_environment(rank: int, world: int, store: Path) -> dict[str, str]:
    """What torchrun gives a worker on one node, but for MASTER_ADDR and MASTER_PORT: RANKS_STORE is met at."""
    local = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "ROLE_RANK": rank, "ROLE_NAME": "default"}
    sizes = {f"{name}WORLD_SIZE": world for name in ("", "LOCAL_", "ROLE_")} | {"GROUP_WORLD_SIZE": 1}
    elastic = {"TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_MAX_RESTARTS": 0, "TORCHELASTIC_RUN_ID": "none"}
    loopback = {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    return {k: str(v) for k, v in (local | sizes | elastic | loopback | {"RANKS_STORE": store}).items()}


def join(backend: str, **options) -> None:
    """In a rank: init_process_group. Does nothing in a life of one process."""
    import os

    import torch.distributed as dist

    if "RANKS_STORE" in os.environ:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(backend, store=dist.FileStore(os.environ["RANKS_STORE"], world), rank=rank, world_size=world, **options)


def run_ranks(
    launcher, folder: Path, script: Path, argv: list[list[str]], limits: Limits, may_write=(), faults=None
) -> list[dict]:
    """One life of len(argv) ranks, each with arguments of its own, to the end of all; the guardians' results.

    `faults`: {rank: fault}. Rank r lives in folder/r. Raises what run_life raises, when all have ended.
    """
    folder.mkdir(parents=True)
    ended: list = [None] * len(argv)

    def live(rank: int) -> None:
        env = rank_environment(rank, len(argv), folder / "store")
        try:
            fault = (faults or {}).get(rank)
            ended[rank] = run_life(launcher, folder / str(rank), script, argv[rank], fault, limits, [folder, *may_write], env)
        except BaseException as e:
            ended[rank] = e

    threads = [threading.Thread(target=live, args=(rank,)) for rank in range(len(argv))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in ended:
        if isinstance(result, BaseException):
            raise result
    return ended
