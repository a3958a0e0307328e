"""The source of notebook.ipynb, in percent format. Edit here, then: grade dev notebook ex02"""
# ruff: noqa: E402  (cells import what they need, where they need it)

# %% [markdown]
# # Lab 2: DDP and FSDP checkpoints
#
# In this lab you start several ranks from a cell: real processes on this machine that talk through
# gloo. You watch six lines from a tutorial deadlock, and look at where each rank waits. You open
# the files of a DDP checkpoint and of a sharded one, draw which rank holds which part of the model,
# and load what four ranks saved on two ranks.
#
# Anything called **yours** runs the functions in `starter/distributed.py`. The outputs stored here
# come from the reference solution. Nothing in here is graded: change whatever makes you curious.

# %% tags=["nbval-ignore-output"]
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from grader import notebooks
from grader.harness.faults import Kill

COLORS = [
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
]  # of ranks 0 to 3; safe for color-blind readers
GREY = "#8c8c8c"
plt.rcParams.update(
    {
        "figure.dpi": 120,
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
)
scratch = tempfile.TemporaryDirectory()  # removed when the kernel ends

# %% [markdown]
# ## 1. Six lines from a tutorial
#
# Rank 0 saves, then it waits for the others. Read it as if a colleague had asked you for a review.
# Where is each rank after the first call?

# %%
import torch
import torch.distributed as dist


def save_checkpoint_ddp(model, optimizer, epoch, rank, path):
    if rank == 0:
        state = {
            "epoch": epoch,
            "model": model.module.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        torch.save(state, path)
        dist.barrier()


naive = notebooks.module("naive", save_checkpoint_ddp)
run = notebooks.train(
    naive, "--functions", "save_checkpoint_ddp", script="ex02/train_ddp.py", ranks=2
)
print(notebooks.finding(run))

# %% [markdown]
# Only rank 0 calls that barrier. Rank 1 continues to train, and waits in DDP's forward pass for
# rank 0. Here a collective gives up after eight seconds, so you see the deadlock soon. With NCCL it
# takes half an hour by default, and then every rank dies with a stack trace that doesn't name the
# cause.
#
# So move the barrier out of the `if`. Is it right now? Let the save fail on rank 0, and ask what
# rank 1 knows:


# %%
def save_checkpoint_ddp(model, optimizer, epoch, rank, path):
    if rank == 0:
        raise OSError("No space left on device")
    dist.barrier()


full = notebooks.train(
    notebooks.module("full", save_checkpoint_ddp),
    "--functions",
    "save_checkpoint_ddp",
    script="ex02/train_ddp.py",
    ranks=2,
)
print(notebooks.finding(full))

# %% [markdown]
# Rank 0 exited with the exception. Rank 1 waited at the barrier, and noticed only because its
# connection broke. In a job of 64 ranks, 63 ranks hold their GPUs until their connections break,
# too. An error has to travel *through* a collective, as a value.
#
# ## 2. What is in a DDP checkpoint
#
# Now yours: two ranks train and save every four steps with your `save_job`; rank 1 is killed after
# step 9. Here are the files of the newest checkpoint. Which of them would be the same if another
# rank had written it, and which wouldn't?


# %% tags=["nbval-ignore-output", "output-not-for-students"]
def contents(value, depth=0, name=""):
    """A saved value in a few lines: names, shapes, sizes."""
    pad = "    " + "  " * depth
    if isinstance(value, torch.Tensor):
        return [f"{pad}{name}: {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"]
    if isinstance(value, dict) and depth < 1:
        return [f"{pad}{name}"] * bool(name) + [
            line for k, v in value.items() for line in contents(v, depth + 1, k)
        ]
    if isinstance(value, (dict, list, tuple)):
        return [f"{pad}{name}: {type(value).__name__} of {len(value)}"]
    return [f"{pad}{name}: {value}"]


folder = Path(scratch.name, "ddp", "checkpoints")
folder.mkdir(parents=True)
ddp = notebooks.train(
    notebooks.yours("ex02"),
    "--functions",
    "save_job",
    script="ex02/train_ddp.py",
    ranks=2,
    faults=[Kill(9, rank=1)],
    directory=folder,
)
for path in sorted(p for p in folder.glob("after-8/**/*") if p.is_file()):
    print(f"{path.relative_to(folder)}  {path.stat().st_size / 1024:.0f} KiB")
    try:
        saved = torch.load(path, weights_only=True)
    except Exception as e:
        print(f"    (not torch.save's format: {type(e).__name__})")
    else:
        print("\n".join(contents(saved)))

# %%
killed, after = ddp.lives[0], ddp.lives[-1]
print("the second life resumed at step", after.resumed_at)
undisturbed = notebooks.train(
    notebooks.yours("ex02"), "--functions", "save_job", script="ex02/train_ddp.py", ranks=2
)
for rank in range(2):
    same = ddp.of(rank).trajectory == undisturbed.of(rank).trajectory
    print(f"rank {rank}: {'never diverges' if same else 'diverges'} from the undisturbed run")

# %% [markdown]
# ## 3. Which rank holds what
#
# `fully_shard` cuts every parameter along its first dimension and gives each rank a piece.
# `save_sharded` writes one file per rank, and `.metadata`, which says where each part of each
# tensor is. torch.distributed.checkpoint (DCP) writes `.metadata` last: a folder without it is
# unfinished. The picture below is drawn from `.metadata`. Each bar is a tensor, and each color is
# the rank that wrote that part.

# %% tags=["nbval-ignore-output"]
from torch.distributed.checkpoint import FileSystemReader


def save_on(ranks):
    """A folder that `ranks` ranks saved with your save_sharded, and what they reported."""
    folder = Path(scratch.name, f"saved-by-{ranks}", "checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    return folder, notebooks.train(
        notebooks.yours("ex02"),
        "--do",
        "save",
        script="ex02/sharded.py",
        ranks=ranks,
        directory=folder,
    )


def owners(folder):
    """{tensor: [(first row, rows, rank)]} of the weights, from DCP's metadata, or None."""
    try:
        metadata = FileSystemReader(folder / "sharded").read_metadata()
    except Exception:
        return None
    parts = {}
    for where, stored in metadata.storage_data.items():
        entry = metadata.state_dict_metadata[where.fqn]
        if (
            not hasattr(entry, "chunks")
            or not entry.size
            or "exp_avg" in where.fqn
            or where.fqn.endswith("step")
        ):
            continue
        offset = tuple(where.offset or ())
        chunk = (
            next(c for c in entry.chunks if tuple(c.offsets) == offset)
            if offset
            else entry.chunks[0]
        )
        rank = int(stored.relative_path.split("_")[2])
        parts.setdefault(where.fqn, []).append(
            (chunk.offsets[0] / entry.size[0], chunk.sizes[0] / entry.size[0], rank)
        )
    return parts


def draw(axis, parts, title):
    axis.set_title(title)
    axis.set_xlim(0, 1)
    axis.spines["left"].set_visible(False)
    axis.tick_params(left=False)
    axis.set_xlabel("rows of the tensor")
    axis.set_xticks([0, 1], ["first", "last"])
    if parts is None:
        axis.text(
            0.5,
            0.5,
            "no .metadata here:\nnot saved in shards",
            ha="center",
            va="center",
            color=GREY,
        )
        axis.set_yticks([])
        return
    for row, name in enumerate(parts):
        for start, size, rank in parts[name]:
            axis.barh(
                row,
                size,
                left=start,
                height=0.72,
                color=COLORS[rank],
                edgecolor="white",
                linewidth=0.8,
            )
    axis.set_yticks(range(len(parts)), [name.split(".", 1)[1] for name in parts], fontsize=7.5)


saved = {ranks: save_on(ranks) for ranks in (4, 2)}
fig, axes = plt.subplots(1, 2, figsize=(10, 5.6), sharey=True, layout="constrained")
for axis, (ranks, (folder, _)) in zip(axes, saved.items(), strict=True):
    draw(axis, owners(folder), f"saved by {ranks} ranks")
axes[0].invert_yaxis()
handles = [plt.Rectangle((0, 0), 1, 1, color=c) for c in COLORS]
fig.legend(handles, [f"rank {r}" for r in range(4)], loc="outside upper right", ncols=4)
plt.show()

# %% [markdown]
# Look at `embed.weight`: its 29 rows don't divide by four, so the last piece is smaller. And look
# at `narrow.weight`: it has one row, so three ranks hold nothing of it.
#
# ## 4. Reshard, live
#
# First two ranks load what four ranks saved, then one rank, then four again. Each tensor, moments
# included, is gathered from all ranks and compared bit for bit with what was saved. (Only the
# comparison gathers tensors; `load_sharded` must not.)

# %%
folder, by_four = saved[4]
report = by_four.last.first("whole")
for ranks in (2, 1, 4):
    loaded = notebooks.train(
        notebooks.yours("ex02"),
        "--do",
        "load",
        script="ex02/sharded.py",
        ranks=ranks,
        directory=folder,
    )
    whole = loaded.last.first("whole")
    if report is None or whole is None:
        print(f"4 ranks -> {ranks}: crashed")
        continue
    equal = sum(whole["digests"].get(name) == value for name, value in report["digests"].items())
    print(f"4 ranks -> {ranks}: {equal} of {len(report['digests'])} tensors and settings are equal")

# %% [markdown]
# ## 5. Bonus: how long does training stall?
#
# A synchronous save keeps all ranks from training until the last byte is durable. `dcp.async_save`
# copies the state into memory, returns, and writes from another thread. That thread needs
# collectives, too, because all ranks must know that all parts are there. These must not mix with
# the collectives of training. So the save gets its own process group; without one, it hung or
# aborted every time we tried.
#
# Two ranks train a model of 32 MiB (with momentum: 64 MiB to save) and save after every sixth step.
# The gray part of a bar is training, the colored part the save.

# %% tags=["nbval-ignore-output"]
fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True, layout="constrained")
stalls = {}
for axis, (how, title) in zip(
    axes, (("sync", "dcp.save"), ("async", "dcp.async_save")), strict=True
):
    timed = (
        notebooks.train(naive, "--how", how, script="ex02/save_stall.py", ranks=2)
        .last.processes[0]
        .all("timed")
    )
    steps = [t["step"] for t in timed]
    trained, in_save = ([1000 * t[part] for t in timed] for part in ("trained", "saved"))
    axis.bar(steps, trained, color="#c4c4c4", label="training")
    axis.bar(steps, in_save, bottom=trained, color=COLORS[0], label="stalled by the save")
    axis.set_title(title)
    axis.set_xlabel("step")
    stalls[how] = [s for s, step in zip(in_save, steps, strict=True) if step % 6 == 0]
axes[0].set_ylabel("ms")
axes[1].legend(loc="upper right")
plt.show()
for how, of in stalls.items():
    print(f"{how}: " + ", ".join(f"{s:.0f}" for s in of) + " ms in the save")

# %% [markdown]
# Only the copy still stalls training (and, in the first save, allocating memory for it). The
# picture doesn't show the price. While the writer works, it competes with training for the disk and
# the memory bandwidth and, on a machine with two cores, for the cores. And until the writer has
# finished, there is no checkpoint: don't announce one when `async_save` returns.
#
# ## Questions to think about
#
# - In section 2, which file would you lose if rank 1's disk were full, and who would have to know?
# - In section 3, suppose that all four files are there but `.metadata` isn't. Is that a checkpoint?
#   And the other way around?
# - A rank is killed between two collectives of a save. At which of them do the others notice?
