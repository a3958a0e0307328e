"""ex02.1 and ex02.2: checkpoints under DistributedDataParallel."""

from __future__ import annotations

from grader.checks.expect import crashed, finished
from grader.checks.rank_runs import deadlock, ended_early, leaving, left_early
from grader.checks.rank_runs import finished as all_finished
from grader.harness.lab import Lab
from grader.harness.run import Run
from grader.verdicts import Finding, Inconclusive


def basic(lab: Lab) -> tuple:
    """The arguments of task 2.1's run; the same for all of its checks."""
    return ("train_ddp.py", "--functions", "save_checkpoint_ddp", "--seed", lab.seed, "--steps-per-epoch", lab.shared.randint(4, 6))


def case(lab: Lab, ask: str, ranks: int | None, *more: object) -> Run:
    return lab.undisturbed("ddp_cases.py", "--ask", ask, "--seed", lab.seed, *more, ranks=ranks)


def one_process_loads(lab: Lab) -> None:
    run = lab.undisturbed(*basic(lab), ranks=2)
    all_finished(lab, run)
    file = run.directory / "checkpoint.pt"
    if not file.exists():
        raise Finding("no file", [("saved", "the run ended, and there is no file at `path`"), ("think", "where did save_checkpoint_ddp write to?")])
    alone = case(lab, "alone", None, "--file", file)
    means = ("means", "the checkpoint of a training job can't be evaluated, exported or debugged without starting ranks")
    think = ("think", "which prefix do DDP's state_dict keys have, and whose state_dict has none?")
    if crash := alone.last.first("crash"):
        finding = crashed(crash, [("loaded", "what 2 ranks saved, by one process alone, into a bare network")], life=alone.last)
        finding.rows += [means, think]
        raise finding
    finished(lab, alone)
    answer, end = alone.last.first("alone"), run.lives[-1].ranks[0].first("end")["state"]
    if answer["epoch"] != "2":
        raise Finding("epoch", [("saved", "epoch 2"), ("returned", f"load_checkpoint_ddp returned {answer['epoch']}")])
    different = [name for name, value in answer["state"].items() if name.startswith("optimizer ") and name != "optimizer settings" and value != end[name]]
    if answer["state"]["weights"] != run.lives[-1].ranks[0].first("network")["weights"]:
        different.insert(0, "weights")
    if different:
        rows = [("loaded", "what 2 ranks saved, by one process alone, into a bare network"), ("different", ", ".join(different)), means, think]
        raise Finding(f"component:{different[0].split()[0]}", rows)


def rank_0_alone_writes(lab: Lab) -> None:
    run = lab.undisturbed(*basic(lab), ranks=2)
    all_finished(lab, run)
    wrote = [e for e in run.lives[-1].ranks[1].all("saved") if e["events"]]
    if wrote:
        rows = [
            ("rank 1", f"touches the file system in the save of step {wrote[0]['step']}: {', '.join(wrote[0]['events'][:4])}"),
            ("expected", "rank 0 writes, nobody else"),
            ("means", "several processes write one file at a time: what lies there in the end is a mixture"),
            ("think", "which lines of your save run on every rank?"),
        ]
        raise Finding("all ranks write", rows)


def nobody_leaves_early(lab: Lab) -> None:
    run = case(lab, "together", 2)
    shown = run.lives[-1].ranks[0].first("together")
    if shown is None:
        raise ended_early(lab, run, run.lives[-1])
    if shown["shown"] is None:
        raise Inconclusive("blind", [("watching", "rank 0's save raised no file-system event that Python can see")])
    if shown["shown"] == "returned":
        think = "what do the other ranks wait for, and does rank 0 come to that point before or after it has written?"
        raise left_early("rank 0 stands still just before it writes", "rank 1", "save_checkpoint_ddp", think)
    all_finished(lab, run)


def failure_reaches_all(lab: Lab) -> None:
    run = case(lab, "fails", 2)
    lives = run.lives[-1].ranks
    asked = ("happened", "rank 0 couldn't write: the directory of `path` is a file")
    told = [life.first("fails") for life in lives]
    hung = [life.all("collective failed") for life in lives]
    if any(hung) or any(t is None for t in told):
        finding = deadlock(lives, [asked]) if any(hung) else ended_early(lab, run, run.lives[-1])
        raise leaving(finding, "save_checkpoint_ddp", {r: t["raised"] for r, t in enumerate(told) if t and t["raised"] and not hung[r]})
    silent = [f"rank {rank}" for rank, t in enumerate(told) if t["raised"] is None]
    if silent:
        rows = [
            asked,
            ("found", f"save_checkpoint_ddp returned on {' and '.join(silent)} as if all were well"),
            ("expected", "an error on every rank"),
            ("means", "ranks that don't know of the failure train on, and wait in their next collective for one that has left"),
            ("think", "how does rank 1 get to know what befell rank 0?"),
        ]
        raise Finding("error on one rank", rows)


def file_of_another_device(lab: Lab) -> None:
    run = case(lab, "device", None)
    means = ("means", "on a node with GPUs every rank's tensors land on rank 0's GPU, which runs out of memory; on a machine without them the file can't be opened")
    think = ("think", "where does torch.load put a tensor that was saved on cuda:0?")
    if crash := run.last.first("crash"):
        finding = crashed(crash, [("loaded", "a file whose tensors lived on cuda:0")], life=run.last)
        finding.rows += [means, think]
        raise finding
    finished(lab, run)
    if not run.last.first("device")["same"]:
        raise Finding("component:weights", [("different", "after loading a GPU node's file: weights or optimizer"), means, think])


def every_sample_once(run: Run, steps_per_epoch: int) -> None:
    """All ranks together see every sample once an epoch, in an order of that epoch's own."""
    world = run.world
    orders: dict[int, list[list[int]]] = {}
    for rank in range(world):
        for number, step in sorted(run.of(rank).trajectory.steps.items()):
            orders.setdefault((number - 1) // steps_per_epoch, [[] for _ in range(world)])[rank] += step["indices"]
    for epoch, of_ranks in orders.items():
        seen = sorted(i for order in of_ranks for i in order)
        if seen != list(range(len(seen))):
            rows = [
                ("epoch", f"{epoch}, undisturbed: {len(seen) - len(set(seen))} samples were seen more than once"),
                ("means", "several ranks train on the same samples, and nobody on others"),
                ("think", "which part of the data is this rank's, and who decides that?"),
            ]
            raise Finding("not a partition", rows)
    if len(orders) > 1 and orders[0] == orders[1]:
        rows = [
            ("order", "two epochs of an undisturbed run show the samples in the same order"),
            ("means", "the model sees the same batches again and again; DistributedSampler shuffles by seed and epoch, and believes that it's always epoch 0"),
            ("think", "who tells the sampler which epoch it is?"),
        ]
        raise Finding("same order", rows)
