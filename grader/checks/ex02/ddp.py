"""ex02.1 and ex02.2: checkpoints under DistributedDataParallel."""

from __future__ import annotations

import shutil
from pathlib import Path

from grader.checks import endings, trajectories
from grader.checks.crashes import crashed
from grader.checks.ex02 import rank_plan, sweeps
from grader.checks.ex02.hangs import nobody_hung
from grader.checks.ex02.observations import Seen
from grader.checks.ex02.rank_assertions import works
from grader.checks.ex02.rank_plan import place, saves
from grader.checks.questions import Answer, ask
from grader.harness.lab import Lab
from grader.harness.run import Run
from grader.verdicts import Finding, Gist

# --- training runs --------------------------------------------------------------------------------


def resumes(lab: Lab, args: tuple, schedule: tuple, ranks: int, kept=None) -> None:
    """The run with these faults rejoins the one without; that one first: what hangs there would
    hang here as well.

    kept   as Lab.launch has it
    """
    undisturbed = lab.undisturbed(*args, ranks=ranks)
    endings.finished(lab, undisturbed)
    trajectories.rejoins(
        lab, lab.launch(*args, faults=schedule, ranks=ranks, kept=kept), undisturbed
    )


def basic(lab: Lab) -> tuple:
    """The arguments of task 2.1's run; the same for all of its checks."""
    flags = ("--seed", lab.seed, "--steps-per-epoch", lab.shared.randint(4, 6))
    return ("ex02/train_ddp.py", "--functions", "save_checkpoint_ddp", *flags)


def trains_as_without_checkpoints(lab: Lab) -> None:
    """A checkpoint changes nothing in this run, so its course is that of a run without student
    code."""
    script, *argv = basic(lab)
    argv[argv.index("save_checkpoint_ddp")] = "none"
    trajectories.quiet(
        lab,
        lab.undisturbed(*basic(lab), ranks=2),
        lab.trusted(script, *argv, ranks=2),
        "a run that saves, and the same run that never saves",
    )


def mid_epoch(lab: Lab, save_every: int = 3) -> tuple[int, tuple]:
    """(steps per epoch, the arguments of task 2.2's run). The run that saves after every step
    reports what it trains on."""
    per_epoch = lab.shared.choice([7, 8])
    flags = (
        "--seed",
        lab.seed,
        "--steps-per-epoch",
        per_epoch,
        "--save-every",
        save_every,
    )
    return per_epoch, (
        "ex02/train_ddp.py",
        "--functions",
        "save_job",
        *flags,
        *(["--record"] if save_every == 1 else []),
    )


def of_save_step(lab: Lab) -> tuple:
    """The arguments of the same run, with task 2.5's functions."""
    return tuple("save_step" if word == "save_job" else word for word in mid_epoch(lab)[1])


def trains_what_it_says(lab: Lab) -> None:
    """From the batches that the ranks report, and their generators, a run without student code
    takes the same course."""
    run = lab.undisturbed(*mid_epoch(lab, 1)[1], ranks=2)
    endings.finished(lab, run)
    batches = [[e for e in life.events if e["event"] == "batch"] for life in run.last.processes]
    script, *argv = mid_epoch(lab, 1)[1]
    argv[argv.index("save_job")] = "replay"
    argv.remove("--record")
    again = lab.trusted(script, *argv, ranks=2, given={"batches": batches})
    trajectories.quiet(
        lab, run, again, "the undisturbed run, and one that trains on the batches that it reported"
    )


def every_sample_once(run: Run, steps_per_epoch: int) -> None:
    """All ranks together see every sample once an epoch, in an order of that epoch's own."""
    world = run.world
    orders: dict[int, list[list[int]]] = {}
    for rank in range(world):
        for number, step in sorted(run.of(rank).trajectory.steps.items()):
            orders.setdefault((number - 1) // steps_per_epoch, [[] for _ in range(world)])[
                rank
            ] += step["indices"]
    for epoch, of_ranks in orders.items():
        seen = sorted(i for order in of_ranks for i in order)
        if seen != list(range(len(seen))):
            rows = [
                (
                    "epoch",
                    f"{epoch}, undisturbed: {len(seen) - len(set(seen))} samples were seen "
                    "more than once",
                ),
            ]
            raise Finding(
                "not-a-partition",
                rows,
                means="several ranks train on the same samples, and no rank trains on others",
                think="which part of the data is this rank's, and what decides that?",
            )
    for epoch in range(1, len(orders)):
        if orders[epoch] == orders[epoch - 1]:
            rows = [
                (
                    "order",
                    f"epochs {epoch - 1} and {epoch} of an undisturbed run show the samples "
                    "in the same order",
                ),
            ]
            raise Finding(
                "same-order",
                rows,
                means=(
                    "the model sees the same batches again and again; DistributedSampler "
                    "shuffles by seed and epoch, and believes that it's always the same epoch"
                ),
                think="which line tells the sampler the epoch?",
            )


# --- one save -------------------------------------------------------------------------------------

FILES = {"plain": "checkpoint.pt", "gpu": "checkpoint"}  # the second one is named alone
OF = dict(zip(FILES, rank_plan.EPOCHS, strict=True))
GPU = 3  # a launcher may give rank 0 any of a node's
BEFORE = 7  # the epoch of a file that is saved before each of them, and loaded again afterwards


def _saved(lab: Lab) -> tuple[dict[str, Seen], Path]:
    """Two files that two ranks wrote; the tensors in one of them lived on a GPU."""

    def make(lab: Lab) -> tuple[dict[str, Seen], Path]:
        folder = place(lab)
        points = [
            {
                "name": name,
                "call": "save_checkpoint_ddp",
                "relative": "above" if name == "plain" else "inside",
                "file": file,
                "ops": [
                    {"op": "save", "step": BEFORE, "apart": True},
                    {"op": "save", "step": BEFORE},
                    {"op": "save", "step": OF[name], "gpu": GPU if name == "gpu" else None},
                    {"op": "load", "of": BEFORE},
                ],
            }
            for name, file in FILES.items()
        ]
        return saves(lab, points, folder, judged=False), folder

    return lab.once(("ddp files",), make)


def loads_alone(lab: Lab, name: str) -> None:
    seen, folder = _saved(lab)
    works(seen[name], "save_checkpoint_ddp")
    if not (folder / name / FILES[name]).is_file():
        raise Finding(
            "no-file",
            [("saved", "the save returned, and there is no file at `path`")],
            think="where did save_checkpoint_ddp write to?",
        )
    sweeps.loads_what_was_saved(seen[name], "then the same ranks saved another file")
    key = rank_plan.secrets(lab)["key"]

    def answered(lab: Lab) -> list[Answer]:
        alone = place(lab)  # only the files, without their surroundings
        for which, file in FILES.items():
            if (saved := folder / which / file).is_file():
                shutil.copyfile(saved, alone / f"{which}.copy")
        questions = [{"ask": "load", "file": f"{which}.copy", "key": key} for which in FILES]
        return ask(lab, "ex02/ddp.py", questions, directory=alone)

    answers = lab.once(("ddp alone",), answered)
    loaded, means, think = {
        "plain": (
            "a copy of the file that 2 ranks saved, by one process alone, into a bare network",
            "the checkpoint of a training job can't be evaluated, exported or debugged "
            "without starting ranks",
            "which prefix do DDP's state_dict keys have, and does the file hold all of it?",
        ),
        "gpu": (
            f"a copy of a file whose tensors lived on cuda:{GPU}",
            "on a node with GPUs every rank's tensors land on rank 0's GPU, which runs out "
            "of memory; on a machine without them the file can't be opened",
            f"where does torch.load put a tensor that was saved on cuda:{GPU}?",
        ),
    }[name]
    answer = answers[name == "gpu"]
    if answer.crash:
        finding = crashed(answer.crash, [("loaded", loaded)])
        finding.means = finding.means or means
        finding.think = finding.think or think
        raise finding
    given, epoch = answer.given(think, ("loaded", loaded)), OF[name]
    if given["epoch"] != str(epoch):
        raise Finding(
            "epoch",
            [
                ("saved", f"epoch {epoch}"),
                Gist("returned", f"load_checkpoint_ddp returned {given['epoch']}"),
            ],
        )
    want = rank_plan.shown(lab, epoch)
    if different := sweeps.compared(want, given["holds"], "save_checkpoint_ddp"):
        raise Finding(
            "state-lost",
            [("loaded", loaded), Gist("different", ", ".join(different))],
            about=different[0].split()[0],
            means=means,
            think=think,
        )


def rank_0_alone_writes(lab: Lab) -> None:
    run = lab.undisturbed(*basic(lab), ranks=2)
    endings.finished(lab, run)
    of_runs = [(e["step"], e["events"]) for e in run.lives[-1].processes[1].all("saved")]
    of_points = [
        (e["step"], e["events"])
        for point in _saved(lab)[0].values()
        for e in point.all(1, "saved point")
    ]
    for step, events in of_runs + of_points:
        if events:
            rows = [
                (
                    "rank 1",
                    f"touches the file system in the save of step {step}: {', '.join(events[:4])}",
                ),
                ("expected", "only rank 0 writes"),
            ]
            raise Finding(
                "all-ranks-write",
                rows,
                means=(
                    "several processes write one file at the same time: it ends up as a mixture"
                ),
                think="which lines of your save run on every rank?",
            )


# --- a rank is held, or fails ---------------------------------------------------------------------


def nobody_leaves_early(lab: Lab, function: str, held: tuple[int, ...]) -> None:
    points = [
        {
            "name": f"rank {rank}",
            "call": function,
            "ops": [{"op": "hold", "rank": rank, "step": 100}],
        }
        for rank in held
    ]
    seen = saves(lab, points, place(lab), judged=False)
    what = (
        "the checkpoint is complete"
        if function == "save_checkpoint_ddp"
        else "every rank's part is complete"
    )
    sweeps.nobody_left_early_of(list(seen.values()), function, what)


def failure_reaches_all(lab: Lab, function: str, failing: tuple[int, ...]) -> None:
    """With three ranks, so that one of them neither fails nor collects the others' reports."""
    points = [
        {"name": f"rank {op['rank']}", "call": function, "ops": [op]}
        for op in rank_plan.failing_saves(lab, failing)
    ]
    seen = saves(lab, points, place(lab), ranks=3, judged=False)
    sweeps.all_hear_of_failures_of(list(seen.values()), function)


def each_folder_is_whole(lab: Lab) -> None:
    """Each folder of three checkpoints of one run is copied elsewhere by itself, and loaded
    there."""
    saved, numbers = place(lab), rank_plan.steps(lab)
    ops = [*({"op": "save", "step": step} for step in numbers), {"op": "load", "of": numbers[0]}]
    point = {"name": "saved", "call": "save_job", "relative": "above", "ops": ops}
    seen = saves(lab, [point], saved, judged=False)["saved"]
    works(seen, "save_job")
    sweeps.loads_what_was_saved(seen, "then the same ranks saved others")
    folder, points = place(lab), []
    for step in numbers:
        rank_plan.alone(saved / "saved" / f"after-{step}", folder / f"copy of {step}", "save_job")
        relative = "above" if step == numbers[0] else None
        name = f"copy of {step}"
        ops = [{"op": "load"}]
        points.append({"name": name, "call": "save_job", "relative": relative, "ops": ops})
    copies = rank_plan.loads(lab, points, folder)
    for step in numbers:
        copy = copies[f"copy of {step}"]
        nobody_hung(copy, [("called", "load_job, of a copy of a folder")])
        for rank in copy.ranks:
            if different := copy.loaded_as(rank, f"step {step}"):
                raise rank_plan.not_whole(different, copy.loaded(rank), "save_job", rank)
