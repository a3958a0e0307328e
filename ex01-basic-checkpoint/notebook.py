"""The source of notebook.ipynb, in percent format. Edit here, then: grade dev notebook ex01"""
# ruff: noqa: E402  (cells import what they need, where they need it)

# %% [markdown]
# # Lab 1: PyTorch model checkpointing
#
# In this lab you break a training run in every way that exercise 1 covers, and look at what is
# left. Nothing here is simulated. Each run is a real process, killed with a real SIGKILL and
# started again. Like the grader, you compare its losses bit for bit with those of an undisturbed
# run.
#
# The pictures show three runs: an undisturbed one, one that resumes from a *naive* checkpoint
# (you'll see its code in a minute), and **yours**, with the functions in `starter/checkpoint.py`.
# The outputs stored in this notebook come from the reference solution: that's where you are
# heading. Run all cells to see where you are now. Nothing in here is graded, so change whatever
# makes you curious.

# %% tags=["nbval-ignore-output"]
import matplotlib.pyplot as plt

from grader import notebooks
from grader.harness.faults import Kill, Tear

GREY, RED, BLUE = "#8c8c8c", "#d55e00", "#0072b2"  # safe for color-blind readers
plt.rcParams.update(
    {
        "figure.dpi": 120,
        "font.size": 10.5,
        "axes.titlesize": 11.5,
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
)

# %% [markdown]
# ## 1. Code that looks right
#
# The training script (`grader/workload/ex01/train.py`) calls the five functions below to save and
# to resume. They save what most checkpointing tutorials name: weights, optimizer, scheduler, epoch.
# This run saves in the middle of epochs, so they also save the step and how many batches of the
# epoch are done. After a resume, the loader gives as many batches as the epoch still needs. Read it
# as if a colleague had asked you for a review. Would you approve it?

# %%
import itertools
import os

import torch


def capture(job):
    return {
        "epoch": job.epoch,
        "step": job.step,
        "batch": job.batch,
        "model_state_dict": job.model.state_dict(),
        "optimizer_state_dict": job.optimizer.state_dict(),
        "scheduler_state_dict": job.scheduler.state_dict(),
    }


def restore(job, checkpoint):
    job.model.load_state_dict(checkpoint["model_state_dict"])
    job.optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    job.scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
    job.epoch, job.step, job.batch = checkpoint["epoch"], checkpoint["step"], checkpoint["batch"]


def batches(job):
    yield from itertools.islice(job.loader, len(job.loader) - job.batch)


def write_checkpoint(state, directory, step):
    torch.save(state, os.path.join(directory, "checkpoint.pt"))


def read_latest(directory):
    path = os.path.join(directory, "checkpoint.pt")
    return torch.load(path, weights_only=True) if os.path.exists(path) else None


# %% [markdown]
# The next cell makes a module of these functions, and trains with it for three epochs of ten steps,
# with a checkpoint after every fourth step and no fault. This is our baseline. (Naive functions are
# good enough here: without a fault, nothing loads what they saved.)

# %%
naive = notebooks.module("naive", capture, restore, batches, write_checkpoint, read_latest)

SAVE_EVERY = 4
undisturbed = notebooks.train(naive, "--save-every", SAVE_EVERY)
print("finished:", undisturbed.finished, "  steps:", len(undisturbed.trajectory.steps))

# %% [markdown]
# ## 2. Kill it
#
# Now the grader sends SIGKILL after step 18, in the middle of the second epoch. At that moment, the
# newest checkpoint is the one of step 16. The job is launched again, finds that checkpoint, and
# continues: first with the naive functions, then with yours. `notebooks.yours` reads your file each
# time, so after an edit just run this cell and the ones below it again.


# %%
def second_life(run):
    """What happened to a run after its fault."""
    if len(run.lives) == 1:
        return "ended before the fault (section 2 shows its last output)"
    killed, after = run.lives
    if after.first("life") is None:
        return f"{killed.fault.story}; relaunched, it crashed while resuming"
    continued = (
        f"continued after step {after.resumed_at}" if after.resumed_at else "started over at step 0"
    )
    return (
        f"{killed.fault.story}; relaunched, it {continued} and "
        f"{'finished' if run.finished else 'crashed later'}"
    )


KILL_AFTER = 18
fault = Kill(after_step=KILL_AFTER)
killed = {
    "naive": notebooks.train(naive, "--save-every", SAVE_EVERY, faults=[fault]),
    "yours": notebooks.train(notebooks.yours("ex01"), "--save-every", SAVE_EVERY, faults=[fault]),
}
for name, run in killed.items():
    print(f"{name}: {second_life(run)}")

# %% [markdown]
# The naive run gives no exception and no warning. Its log says `starting at step 16, epoch 1,
# batch 6`, and every number in that line is right. Here is the loss of every step; the resumed runs
# start at their checkpoint.


# %% tags=["nbval-ignore-output"] jupyter={"source_hidden": true}
def losses(life):
    return {record["step"]: float.fromhex(record["loss"]) for record in life.steps}


baseline = losses(undisturbed.lives[0])
looks = {"naive": (RED, "s", 4.5, 2), "yours": (BLUE, "o", 4, 3)}
fig, (top, bottom) = plt.subplots(
    2, 1, figsize=(9, 6.4), sharex=True, height_ratios=[3, 2], layout="constrained"
)

top.plot(
    baseline.keys(),
    baseline.values(),
    color="#c4c4c4",
    lw=7,
    solid_capstyle="round",
    label="undisturbed",
    zorder=1,
)
for name, run in killed.items():
    color, marker, size, z = looks[name]
    for life in run.lives[1:]:
        mine = losses(life)
        style = {
            "color": color,
            "marker": marker,
            "ms": size,
            "lw": 1.4,
            "zorder": z,
            "clip_on": False,
        }
        top.plot(mine.keys(), mine.values(), label=f"{name}, resumed", **style)
        apart = {
            step: abs(loss - baseline[step]) for step, loss in mine.items() if step in baseline
        }
        bottom.plot(apart.keys(), apart.values(), **style)
        if apart:
            last = max(apart)
            where = (
                {"xytext": (9, 0), "va": "center"}
                if last == max(baseline)
                else {"xytext": (0, 7), "ha": "center"}
            )
            bottom.annotate(
                name, (last, apart[last]), textcoords="offset points", color=color, **where
            )

resumed = KILL_AFTER // SAVE_EVERY * SAVE_EVERY
for ax in (top, bottom):
    ax.axvspan(resumed, KILL_AFTER, color="#f3e3b3", lw=0, zorder=0)
    ax.axvline(resumed, color="#333333", lw=1, ls=(0, (4, 3)), zorder=0)
    ax.axvline(KILL_AFTER, color="#333333", lw=1.4, zorder=0)
top.text(
    resumed - 0.2,
    1.0,
    f"newest checkpoint: step {resumed}",
    transform=top.get_xaxis_transform(),
    ha="right",
    va="top",
    fontsize=9.5,
)
top.text(
    KILL_AFTER + 0.2,
    1.0,
    f"SIGKILL after step {KILL_AFTER}",
    transform=top.get_xaxis_transform(),
    ha="left",
    va="top",
    fontsize=9.5,
)
top.set(title="Training loss of each step", ylabel="loss")
top.legend(loc="upper right", bbox_to_anchor=(1, 0.93))
bottom.set_yscale("symlog", linthresh=1e-4, linscale=0.6)
bottom.set(
    title="Distance from the undisturbed run (0: bit-identical)",
    xlabel="step",
    ylabel="|difference of the losses|",
)
bottom.set_ylim(-4e-5, 6)
if resumed < KILL_AFTER:
    bottom.text(
        (resumed + KILL_AFTER) / 2,
        0.5,
        "done\nagain",
        transform=bottom.get_xaxis_transform(),
        ha="center",
        va="center",
        fontsize=9,
    )
bottom.set_yticks([0, 1e-4, 1e-3, 1e-2, 1e-1, 1], ["0", "0.0001", "0.001", "0.01", "0.1", "1"])
bottom.minorticks_off()
bottom.set_xlim(0, max(baseline) + 1)
bottom.set_xticks([1, *range(5, max(baseline) + 1, 5)])
plt.show()

# %% [markdown]
# Cover the lower panel with your hand. Does the upper one alone show that something is wrong with
# the naive run? Its curve is as noisy and as low as the undisturbed one, and on a cluster you
# wouldn't have the gray line to compare with. That is why this course compares bits: "close" needs
# a threshold, and people argue about thresholds. "Equal" needs none.
#
# If one of your lives crashed, the next cell shows its last output.

# %%
if words := notebooks.last_words(killed["yours"]):
    print(words)

# %% [markdown]
# ## 3. Look inside
#
# Each loss depends on the state that its step started from. The grader takes a digest of every
# component before every step. So it can name the first step at which two runs diverge, and what was
# different at that moment.

# %%
for name, run in killed.items():
    parting = run.trajectory.diverges_from(undisturbed.trajectory)
    if parting is None:
        print(f"{name}: never diverges from the undisturbed run")
        continue
    print(f"{name}: diverges from the undisturbed run at step {parting.step}")
    print(f"    same       {', '.join(parting.same)}")
    print(f"    different  {', '.join(parting.different)}")

# %% [markdown]
# The naive checkpoint kept all that the run had learned, down to the optimizer's running averages.
# It lost everything random, including which batch comes next. (It also lost the best validation
# loss.) To see what that means for the data, look at the samples. An epoch promises to show each of
# its 80 samples once. The next picture shows which samples each run really learned from in the
# second epoch. It counts only the steps that are part of the final weights.


# %% tags=["nbval-ignore-output"]
def trained_on(run, epoch):
    """The batches of `epoch` in the final weights: (number of the life, sample indices)."""
    found = []
    for number, life in enumerate(run.lives):
        now = (life.first("life") or {"epoch": 0})["epoch"]
        if now == 0 and life.resumed_at == 0:
            found = []  # from scratch: what an earlier life learned is gone
        survives = number == len(run.lives) - 1
        last = float("inf") if survives else max((e["step"] for e in life.all("saved")), default=0)
        for event in life.events:
            if event["event"] == "validated":
                now += 1
            elif event["event"] == "step" and now == epoch and event["step"] <= last:
                found.append((number, event["indices"]))
    return found


EPOCH = 1  # the second: they count from 0
shown = {"undisturbed": undisturbed, **killed}
samples = sorted(index for _, batch in trained_on(undisturbed, EPOCH) for index in batch)
times = {}
for name, run in shown.items():
    seen = [index for _, batch in trained_on(run, EPOCH) for index in batch]
    times[name] = [seen.count(index) for index in samples]
    print(
        f"{name:12} once: {times[name].count(1):2}   more often: "
        f"{sum(n > 1 for n in times[name]):2}   never: {times[name].count(0):2}"
    )

# %% tags=["nbval-ignore-output"] jupyter={"source_hidden": true}
longest = max(len(trained_on(run, EPOCH)) for run in shown.values())
never_at = 1.2 * longest
fig, axes = plt.subplots(1, 3, figsize=(10, 5.2), sharey=True, layout="constrained")
for ax, (name, run) in zip(axes, shown.items(), strict=True):
    seen = set()
    trained = trained_on(run, EPOCH)
    for x, (_, batch) in enumerate(trained, 1):
        for again, color, marker, size in ((False, GREY, "o", 13), (True, RED, "D", 24)):
            ys = [index for index in batch if (index in seen) == again]
            ax.scatter([x] * len(ys), ys, s=size, c=color, marker=marker, lw=0)
        seen.update(batch)
    never = [index for index in samples if index not in seen]
    ax.scatter([never_at] * len(never), never, s=24, facecolors="none", edgecolors=BLUE, lw=1.2)
    ax.axvspan(1.11 * longest, 1.29 * longest, color="#eef4f9", lw=0, zorder=0)
    if len(run.lives) > 1:
        done = sum(number == 0 for number, _ in trained)
        ax.axvline(done + 0.5, color="#333333", lw=1, ls=(0, (4, 3)))
        ax.text(done + 0.5, 81.5, "resumed", ha="center", va="bottom", fontsize=9)
    ax.set_title(name, pad=18)
    ax.set(xlabel="batch of the epoch, as trained", xlim=(0.2, 1.3 * longest), ylim=(-1.5, 81))
    ticks = range(1, longest + 1, 3 if longest > 10 else 1)
    ax.set_xticks([*ticks, never_at], [*ticks, "never"])
axes[0].set_ylabel("sample of the training set")
handles = [
    plt.Line2D([], [], ls="", marker="o", ms=4, color=GREY, label="seen for the first time"),
    plt.Line2D([], [], ls="", marker="D", ms=5, color=RED, label="seen again"),
    plt.Line2D(
        [], [], ls="", marker="o", ms=5, mfc="none", mec=BLUE, label="never seen in this epoch"
    ),
]
fig.legend(handles=handles, loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# The naive run did train the four batches that the epoch still needed. But they were the *first*
# four of a different order. For each sample that was used twice, another one was never used. Every
# preemption makes the data a little more lopsided, and no log shows it.

# %%
for name, counts in times.items():
    print(f"{name:12} every sample exactly once: {set(counts) == {1}}")

# %% [markdown]
# ## 4. Who draws random numbers?
#
# Where does the order of an epoch come from? Let's break something smaller first. The function
# below seeds torch. If `look` is set, it then looks at one batch of a validation loader (which
# doesn't even shuffle). Last, it draws three numbers, as dropout would.

# %%
from torch.utils.data import DataLoader


def next_numbers(look, generator=None):
    torch.manual_seed(0)
    validation = DataLoader(range(8), batch_size=4, shuffle=False, generator=generator)
    if look:
        next(iter(validation))
    return torch.rand(3).tolist()


print(
    "the same numbers with and without looking:",
    next_numbers(look=True) == next_numbers(look=False),
)
own = torch.Generator()
print(
    "... if the loader has its own generator:",
    next_numbers(look=True, generator=own) == next_numbers(look=False),
)

# %% [markdown]
# Looking at unshuffled data changed all random numbers that came after it. A `DataLoader` without
# its own generator draws from torch's *global* one, as your model's dropout and your augmentation
# do. When exactly?


# %%
def moments(shuffle):
    """At which moments of a loader's life the global generator moves."""

    def moved(act):
        before = torch.get_rng_state()
        result = act()
        return result, not torch.equal(before, torch.get_rng_state())

    loader, made = moved(lambda: DataLoader(range(8), batch_size=4, shuffle=shuffle))
    iterator, begun = moved(lambda: iter(loader))
    _, first = moved(lambda: next(iterator))
    _, second = moved(lambda: next(iterator))
    return made, begun, first, second


print("                 DataLoader(...)   iter(loader)   1st batch   2nd batch")
for shuffle in (False, True):
    made, begun, first, second = ("moves" if moved else "-" for moved in moments(shuffle))
    print(f"shuffle={shuffle!s:5}    {made:15}   {begun:12}   {first:9}   {second}")

# %% [markdown]
# So the order of a whole epoch depends on the state of one generator at the moment when the epoch
# began. By the time of your save, that generator has moved on. You will need this table for task
# 1.4. (It holds for `num_workers=0`. With workers, `iter` already asks them for the first batches.
# Try it.)

# %% [markdown]
# ## 5. Damage the file
#
# So far the file was complete. Task 1.3 is about files that aren't. The first way to get one is to
# die while writing it. Here the process is killed in the save of step 16, when the file reaches
# 4096 bytes.

# %%
torn = {
    "naive": notebooks.train(naive, "--save-every", SAVE_EVERY, faults=[Tear(16, 4096)]),
    "yours": notebooks.train(
        notebooks.yours("ex01"), "--save-every", SAVE_EVERY, faults=[Tear(16, 4096)]
    ),
}
for name, run in torn.items():
    print(f"{name}: {second_life(run)}")

# %% [markdown]
# The naive job can't recover. It had a good checkpoint of step 12, but overwrote it with the bad
# one. No relaunch will ever get further than this:

# %% tags=["nbval-ignore-output"]
print(notebooks.last_words(torn["naive"]).splitlines()[-1])

# %% [markdown]
# At least that failure is loud. The second way to damage a file is silent: a disk, a cable or a
# memory module flips one bit. Below, we save 2000 weights, all of them 0.5. Then we flip one bit of
# one weight, and let `torch.load` read the file.

# %%
import io


def file_of(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def flipped(data, position, bit=6):
    """`data` with one bit of the byte at `position` flipped."""
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


newest = {"step": 16, "weights": torch.full((2000,), 0.5)}
data = file_of(newest)
start = data.index(newest["weights"].numpy().tobytes())  # where the weights lie in the file
loaded = torch.load(io.BytesIO(flipped(data, start + 3)), weights_only=True)
print("step:", loaded["step"])
print("the first weights:", loaded["weights"][:4].tolist())

# %% [markdown]
# The file is complete, its keys and shapes fit, and `load_state_dict` will accept it. But one
# weight is 10³⁸ times too large. The zip format that `torch.save` writes has a checksum for every
# record. Was this flip an exception, or does `torch.load` never compare them? The next cell flips
# one bit at 60 places all over the file, one at a time. It also cuts the file off at 60 lengths. It
# tries `torch.load` first. Then it tries your `write_checkpoint` and `read_latest`, with an intact
# checkpoint of step 12 (weights of 0.25) next to the damaged one of step 16.

# %% tags=["nbval-ignore-output"]
import contextlib
import tempfile
import warnings
from pathlib import Path

from grader.workload import load_submission

previous = {"step": 12, "weights": torch.full((2000,), 0.25)}
PLACES = 60


def equal(a, b):
    return (
        isinstance(a, dict)
        and a.keys() == b.keys()
        and a["step"] == b["step"]
        and torch.equal(a["weights"], b["weights"])
    )


def outcome(read):
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            state = read()
    except (Exception, SystemExit):
        return "refused"
    if state is None:
        return "starts over"
    return "newest" if equal(state, newest) else "previous" if equal(state, previous) else "wrong"


def experiment(data, read):
    """What `read` returns for `data` with damage in one place at a time: {damage: [outcome]}."""
    places = [len(data) * (2 * n + 1) // (2 * PLACES) for n in range(PLACES)]
    return {
        "one bit flipped": [outcome(lambda p=p: read(flipped(data, p))) for p in places],
        "file cut off": [outcome(lambda p=p: read(data[:p])) for p in places],
    }


def your_experiment():
    work = notebooks.yours("ex01")
    checkpoint = load_submission.load(str(work.folder / work.module), quiet=True)
    with tempfile.TemporaryDirectory() as directory:

        def files():
            return {
                path: path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()
            }

        checkpoint.write_checkpoint(previous, directory, 12)
        before = files()
        checkpoint.write_checkpoint(newest, directory, 16)
        written = {path: data for path, data in files().items() if before.get(path) != data}
        target = max(
            written, key=lambda path: len(written[path])
        )  # the largest file of the save of step 16

        def read(damaged):
            target.write_bytes(damaged)
            return checkpoint.read_latest(directory)

        return experiment(written[target], read)


results = {
    "torch.load": experiment(
        data, lambda damaged: torch.load(io.BytesIO(damaged), weights_only=True)
    ),
    "your read_latest": your_experiment(),
}
for name, damages in results.items():
    for damage, outcomes in damages.items():
        print(
            f"{name:17} {damage:16} "
            f"{', '.join(f'{outcomes.count(what)} {what}' for what in dict.fromkeys(outcomes))}"
        )

# %% tags=["nbval-ignore-output"] jupyter={"source_hidden": true}
meanings = {  # outcome: color, marker, size, label
    "newest": ("#b0b0b0", "o", 16, "loads the right values (the bit meant nothing)"),
    "refused": (BLUE, "s", 26, "refused with an error"),
    "previous": ("#009e73", "D", 26, "noticed, and the checkpoint before it is used"),
    "wrong": (RED, "X", 52, "silently loads WRONG VALUES"),
    "starts over": ("#cc79a7", "v", 42, "silently starts over from step 0"),
}
fig, ax = plt.subplots(figsize=(9.5, 3.7), layout="constrained")
rows = [
    (name, damage, outcomes)
    for name, damages in results.items()
    for damage, outcomes in damages.items()
]
for y, (_, _, outcomes) in enumerate(rows):
    for what, (color, marker, size, _) in meanings.items():
        xs = [100 * (n + 0.5) / PLACES for n, found in enumerate(outcomes) if found == what]
        ax.scatter(
            xs, [y + 0.35 * (y > 1)] * len(xs), s=size, c=color, marker=marker, lw=0, zorder=3
        )
ax.set_yticks(
    [y + 0.35 * (y > 1) for y in range(4)], [f"{name}, {damage}" for name, damage, _ in rows]
)
ax.invert_yaxis()
ax.margins(y=0.16)
ax.set(
    title="What each reader returns for a file that is damaged in one place",
    xlabel="where the file was damaged (% of its length)",
    xlim=(0, 100),
)
ax.spines["left"].set_visible(False)
ax.tick_params(axis="y", length=0)
met = {what for _, _, outcomes in rows for what in outcomes}
handles = [
    plt.Line2D([], [], ls="", marker=m, ms=size**0.5, mec="none", color=c, label=label)
    for what, (c, m, size, label) in meanings.items()
    if what in met
]
fig.legend(handles=handles, loc="outside lower center", ncols=2)
plt.show()

# %%
cut, flips = results["torch.load"]["file cut off"], results["torch.load"]["one bit flipped"]
mine = [what for outcomes in results["your read_latest"].values() for what in outcomes]
print("torch.load notices every cut:                    ", set(cut) == {"refused"})
print("torch.load takes some flipped bits for your data:", "wrong" in flips)
print("your read_latest never gives wrong values:       ", "wrong" not in mine)
print("your read_latest always gives step 16 or step 12:", set(mine) <= {"newest", "previous"})

# %% [markdown]
# `torch.load` notices every cut, because a zip file's table of contents is at its end. It hardly
# ever notices a flipped bit: nearly all of a checkpoint is numbers, any bits make a number, and
# `torch.load` verifies no checksum. If you want to know that the bytes you read are the bytes you
# wrote, you have to verify them yourself.

# %% [markdown]
# ## 6. The power fails
#
# So far only processes died. What they had written survived: the kernel keeps it in memory and
# writes it to the disk seconds later. When the *machine* dies, the last seconds are lost. The
# kernel also writes in any order: a file's new name may be on the disk before its bytes are. Here
# is a careful saver. It never touches the old checkpoint, and gives the new one its name in one
# step. Would you approve it?

# %%
RENAMED = """
import os
import torch


def save(directory, state):
    path = os.path.join(directory, "checkpoint.pt")
    torch.save(state, path + ".tmp")
    os.replace(path + ".tmp", path)


def load(directory):
    path = os.path.join(directory, "checkpoint.pt")
    return torch.load(path, weights_only=True) if os.path.exists(path) else None
"""
YOURS = """
from checkpoint import read_latest as load, write_checkpoint


def save(directory, state):
    write_checkpoint(state, directory, state["step"])
"""

# %% [markdown]
# No kill shows what is wrong with it, and you don't want to pull the plug a thousand times. So the
# next cell records what each saver asks of the kernel in three saves. From that, it derives every
# state of the disk that a crash may leave, on several file systems, and lets the saver's own `load`
# read each one (`grade crashtest` does the same with any code; it needs Linux).

# %% tags=["nbval-ignore-output"]
reports = {
    "temporary file, rename": notebooks.crash_test(RENAMED),
    "your write_checkpoint": notebooks.crash_test(YOURS, notebooks.yours("ex01")),
}
for name, report in reports.items():
    print(
        f"{name:24}",
        report["why"]
        or f"{report['failing_states']} of {report['recorded']['states']} states break the promise",
    )

# %% tags=["nbval-ignore-output"] jupyter={"source_hidden": true}
known = {name: report for name, report in reports.items() if not report["why"]}
if known:
    fig, axes = plt.subplots(
        1, len(known), figsize=(9.5, 2.9), sharey=True, layout="constrained", squeeze=False
    )
    for ax, (name, report) in zip(axes[0], known.items(), strict=True):
        models = list(report["models"].values())
        kept, lost = [m["kept"] for m in models], [m["states"] - m["kept"] for m in models]
        ax.barh(range(len(models)), kept, color=BLUE, label="the state that was promised")
        ax.barh(
            range(len(models)),
            lost,
            left=kept,
            color=RED,
            label="broken: an older one, nothing, or an error at every start",
        )
        ax.set_yticks(range(len(models)), [m["title"] for m in models])
        ax.set(title=name, xlabel="states of the disk that a crash may leave")
        ax.tick_params(axis="y", length=0)
    axes[0][0].invert_yaxis()
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    plt.show()

# %% [markdown]
# A kill can show only what is in the first bar. The next picture is the smallest state that breaks
# the promise: what the first saver did, when the power failed, what was on the disk then, and which
# calls would have prevented it.

# %% tags=["nbval-ignore-output"]
from IPython.display import Image

worst = next((report for report in reports.values() if report["picture"]), None)
Image(worst["picture"]) if worst else print("nothing to show")

# %% tags=["nbval-ignore-output"]
renamed, mine = reports.values()
print("a rename alone survives every power loss:", None if renamed["why"] else renamed["passed"])
print("your write_checkpoint does:              ", None if mine["why"] else mine["passed"])

# %% [markdown]
# Note that the save *had returned* before that crash. By then, the job may have deleted the
# previous checkpoint, or reported the new one as safe. So a safe save waits for the disk twice: for
# the bytes, before they get their name, and for the name, before it returns.
#
# ## Your turn
#
# Change something above and predict the picture before you look. Kill after step 20 instead: the
# checkpoint is then exactly at the end of an epoch. Will the naive run still diverge from the
# undisturbed one, and in which component? Or add one component to the naive `capture` and `restore`
# and watch it move from *different* to *same* in section 3. How many do you have to add until the
# runs diverge at a later step?
#
# Then write your own functions in `starter/checkpoint.py` and grade them in a terminal:
#
# ```
# grade ex01              all tasks
# grade ex01 --task 3     one of them
# grade hint ex01.3       if you are stuck: one step at a time
# ```
