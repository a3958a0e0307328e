"""load_checkpoint_ddp in a single process, without a process group, into a bare network.

A question: {"ask": "load", "file": below --directory, "key"}.
"""

import argparse
import os

import torch

from grader.workload import load_submission, rank_job
from grader.workload.ex02.sample_jobs import digests, vary
from grader.workload.model import Transformer
from grader.workload.questions import answer_each

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's distributed.py")
p.add_argument("--directory", required=True)
args = p.parse_args()


def load(question: dict) -> dict:
    ck = load_submission.load(args.checkpoint)
    network = Transformer(dropout=0.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05, foreach=True)
    vary(optimizer)
    epoch = ck.load_checkpoint_ddp(
        network, optimizer, os.path.join(args.directory, question["file"])
    )
    job = rank_job.RankJob(network, optimizer, None, None, 1)
    return {"epoch": repr(epoch)[:100], "holds": digests(job, network, question["key"])}


if __name__ == "__main__":
    answer_each(load)
