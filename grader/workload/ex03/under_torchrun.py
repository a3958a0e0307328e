"""Runs a training script under torchrun, on two ranks. This process is the launcher itself."""

import argparse
import json
import os
import sys
from pathlib import Path

from grader.harness.inside import telemetry

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True)
p.add_argument("--directory", required=True)
p.add_argument("--script", required=True)
p.add_argument("--events", required=True)
p.add_argument("--fault", required=True)
p.add_argument("flags", nargs="*")

# s that a worker waits for another: a hang is ended long before. If a collective failed, torchrun
# would first wait half a minute for the other workers
PATIENCE = 60.0


def main() -> None:
    args = p.parse_args()
    from torch.distributed.run import main as torchrun

    workload = Path(__file__).resolve().parents[1]
    # the ranks meet through a file, as in the grader's other runs, and so does torchrun: no port is
    # opened
    os.environ["RANKS_STORE"] = os.path.join(os.getcwd(), "store")
    given = {"salts": telemetry.given("salts", {}), "patience": PATIENCE}
    os.environ["GIVEN"] = json.dumps(given)  # to the workers
    torchrun(
        [
            "--nnodes",
            "1",
            "--nproc-per-node",
            "2",
            "--rdzv-backend",
            "c10d",
            "--rdzv-conf",
            "store_type=file",
            "--rdzv-endpoint",
            os.path.join(os.getcwd(), "rdzv"),
            "--rdzv-id",
            "grader",
            str(workload / args.script),
            "--checkpoint",
            args.checkpoint,
            "--directory",
            args.directory,
            "--events",
            args.events,
            "--fault",
            args.fault,
            *args.flags,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
