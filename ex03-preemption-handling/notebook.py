"""The source of notebook.ipynb, in percent format. Edit here, then: grade dev notebook ex03"""
# ruff: noqa: E402  (cells import what they need, where they need it)

# %% [markdown]
# # Lab 3: signal handling, graceful shutdown
#
# In this lab you send signals to a training job at moments of your choice. You take apart a
# checkpoint that a handler wrote in the middle of a step, draw what happens between a signal and
# the end of the grace period, and look at what one signal does to two ranks.
#
# Anything called **yours** runs `starter/preemption.py`. The outputs stored here come from the
# reference solution. The grader provides the clock. Its time passes only while the job works, so it
# is the same on every machine. Nothing in here is graded: change whatever makes you curious.

# %% tags=["nbval-ignore-output"]
import matplotlib.pyplot as plt

from grader import notebooks
from grader.harness.preemption import both, send

BLUE, ORANGE, GREEN, RED, GREY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#8c8c8c",
)  # safe for color-blind readers
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
SCRIPT = {"script": "ex03/train_preempt.py"}

# %% [markdown]
# ## 1. The handler of many tutorials
#
# The handler saves, then exits. Between which two lines of the training loop does it run?

# %%
import signal


def main(make_job, directory, clock, grace):
    job = make_job()
    job.resume()

    def handler(number, frame):
        print(f"Received signal {number}, saving checkpoint...")
        job.save()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, handler)
    while job.epoch < job.epochs:
        for batch in job.batches():
            job.train_step(batch)
        job.end_epoch([job.validate(part) for part in job.validation_parts()])
    job.save()
    return 0


def worker_init(worker):
    pass


tutorial = notebooks.module("tutorial", main, worker_init)
stopped = notebooks.train(tutorial, faults=[send("term", 4)], **SCRIPT)
life = stopped.lives[0]
print(f"saved {len(life.all('saved'))} time, exit status {life.process.status}")

# %% [markdown]
# Exit status 0 tells the scheduler that this job is done. That alone costs the rest of the
# training. Now look at the checkpoint. An undisturbed run reports the value of every tensor after
# every step. So for each tensor of the checkpoint, we can say after which step it had that value.

# %%
whole = notebooks.train(tutorial, **SCRIPT).last
trained = {e["step"]: e["tensors"] for e in whole.all("trained")}
saving = life.all("saving")[0]
print(f"a checkpoint that says it is of step {saving['step']}\n")
for name, digest in saving["tensors"].items():
    after = next((step for step, tensors in trained.items() if tensors[name] == digest), None)
    print(f"  {name:<22} as after step {after}")

# %% tags=["nbval-ignore-output"]
fig, axis = plt.subplots(figsize=(8, 4.4), layout="constrained")
names = list(saving["tensors"])
for row, name in enumerate(names):
    for step in (3, 4):
        held = trained[step][name] == saving["tensors"][name]
        axis.scatter(
            step,
            row,
            s=70,
            color=(ORANGE if step == 4 else BLUE) if held else "white",
            edgecolor=GREY if not held else "none",
            linewidth=0.8,
        )
axis.set_yticks(range(len(names)), names, fontsize=7.5)
axis.set_xticks([3, 4], ["after step 3", "after step 4"])
axis.set_xlim(2.6, 4.4)
axis.invert_yaxis()
axis.set_title("The state in which each tensor was saved")
axis.spines[["left", "bottom"]].set_visible(False)
axis.tick_params(length=0)
plt.show()

# %% [markdown]
# The optimizer updates one group of parameters after the other, and the handler ran in between.
# This file isn't damaged: it loads, it has every tensor, and a checksum would match. But it holds
# a model that no step of training ever produced. (It also claims to be of step 3. So the resumed
# job trains step 4 again, and applies half of its update twice.)
#
# A better save function doesn't help. In the handler, only note that the signal came. Save later,
# where nothing is half done.
#
# ## 2. Yours: from the signal to the exit
#
# The job gets the same signal, now with your `main`. Every bar is something that the job does. The
# grace period (grace for short) is the four seconds from the signal to SIGKILL.


# %% tags=["nbval-ignore-output"]
def spans(life, rank=None):
    """(what, begin, end) of steps, evaluation parts and saves, in seconds of the job's clock."""
    found, at = [], None
    for e in life.events:
        if e["event"] == "saving":
            at = e["clock"]
        elif e["event"] == "saved":
            found.append(("save", at, e["clock"]))
        elif e["event"] in ("trained", "part"):
            found.append(
                ({"trained": "step", "part": "evaluation"}[e["event"]], e["clock"] - 1, e["clock"])
            )
    return found


def draw(axis, life, grace, title, row=0):
    sent = [e["clock"] for e in life.all("signal")]
    gone = (
        life.first("killed")
        or life.first("left")
        or {"clock": max(e["clock"] for e in life.events if "clock" in e)}
    )["clock"]
    begin = sent[0] - 4
    for what, a, b in spans(life):
        if b > begin:
            color = {"step": BLUE, "evaluation": GREEN, "save": ORANGE}[what]
            axis.barh(row, b - a, left=a, height=0.5, color=color, edgecolor="white", label=what)
    for n, at in enumerate(sent):
        axis.plot(
            [at],
            [row + 0.42],
            marker="v",
            color="black",
            clip_on=False,
            label="signal" if n == 0 else None,
        )
    killed = life.first("killed")
    axis.plot(
        [gone],
        [row],
        marker="X" if killed else "o",
        ms=9,
        color=RED if killed else "black",
        label="SIGKILL" if killed else "exits",
    )
    if row == 0:
        axis.axvspan(sent[0], sent[0] + grace, color="#eeeeee", zorder=0, label="grace")
        axis.axvline(sent[0] + grace, color=RED, lw=1, ls=":")
        axis.set_xlim(begin, sent[0] + grace + 0.7)
    axis.set_title(title)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)


def legend(fig, *axes):
    entries = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    order = [
        n
        for n in ("step", "evaluation", "save", "signal", "exits", "SIGKILL", "grace")
        if n in entries
    ]
    fig.legend(
        [entries[n] for n in order], order, loc="outside lower center", ncols=len(order), fontsize=9
    )


where = {
    "in the middle of step 4": send("term", 4),
    "in an evaluation, before its part 3": send("usr1", 6, "evaluation", 3),
    "in a regular save, and again": both(send("usr1", 4, "event", 1), send("term", 4, "event", 2)),
}
mine = {
    title: notebooks.train(notebooks.yours("ex03"), faults=[fault], **SCRIPT)
    for title, fault in where.items()
}
fig, axes = plt.subplots(len(where), 1, figsize=(8, 5), layout="constrained")
for axis, (title, run) in zip(axes, mine.items(), strict=True):
    draw(axis, run.lives[0], 4, f"A signal {title}")
axes[-1].set_xlabel("seconds since the job began")
legend(fig, *axes)
plt.show()

# %%
undisturbed = notebooks.train(notebooks.yours("ex03"), **SCRIPT)
for title, run in mine.items():
    first, same = run.lives[0], run.trajectory == undisturbed.trajectory
    print(
        f"{title}: exit status {first.process.status}, then "
        f"{'equal' if same else 'not equal'} to the undisturbed run"
    )

# %% [markdown]
# The next life repeats the whole evaluation. A part of an evaluation is cheap to lose. What would
# you have to save to keep it?
#
# ## 3. No check during the evaluation
#
# The most common mistake: the loop checks the flag after every step, and nowhere else.


# %% tags=["nbval-ignore-output"]
def main(make_job, directory, clock, grace):
    came = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    job = make_job()
    job.resume()
    while job.epoch < job.epochs:
        for batch in job.batches():
            job.train_step(batch)
            if came:
                job.save()
                return 75
        job.end_epoch([job.validate(part) for part in job.validation_parts()])
    job.save()
    return 0


after_steps = notebooks.module("after_steps", main, worker_init)
deaf = notebooks.train(after_steps, faults=[send("term", 6, "evaluation", 1)], **SCRIPT)
fig, axis = plt.subplots(figsize=(8, 2.2), layout="constrained")
draw(axis, deaf.lives[0], 4, "A signal in an evaluation that doesn't check the flag")
axis.set_xlabel("seconds since the job began")
legend(fig, axis)
plt.show()
print(
    f"steps trained: {max(e['step'] for e in deaf.lives[0].all('trained'))}, saved: "
    f"{len(deaf.lives[0].all('saved'))} times"
)

# %% [markdown]
# ## 4. Two ranks, one signal
#
# The signal reaches rank 1 only. First comes the loop of section 3, in which each rank acts on what
# it alone knows. Then comes yours, in which the ranks ask each other after every step.

# %%
alone = notebooks.train(after_steps, faults=[send("term", 4, rank=1)], ranks=2, **SCRIPT)
print(notebooks.finding(alone))

# %%
together = notebooks.train(
    notebooks.yours("ex03"), faults=[send("term", 4, rank=1)], ranks=2, **SCRIPT
)
for rank, life in enumerate(together.lives[0].processes):
    last = max(e["step"] for e in life.all("trained"))
    print(
        f"rank {rank}: {len(life.all('signal'))} signals, stopped after step {last}, exit "
        f"status {life.status}"
    )

# %% [markdown]
# ## 5. When the grace is short
#
# A save takes ten seconds, and the grace is six. Your `main` knows how long the grace is, and has
# measured a save.

# %% tags=["nbval-ignore-output"]
flags = ("--costs", "save=10", "--tell-grace", "--grace")
short = notebooks.train(notebooks.yours("ex03"), *flags, 6, faults=[send("term", 5)], **SCRIPT)
enough = notebooks.train(notebooks.yours("ex03"), *flags, 20, faults=[send("term", 5)], **SCRIPT)
fig, axes = plt.subplots(2, 1, figsize=(8, 3.8), layout="constrained")
draw(axes[0], short.lives[0], 6, "Six seconds: too short for a save, so none is begun")
draw(axes[1], enough.lives[0], 20, "Twenty seconds: saved")
axes[1].set_xlabel("seconds since the job began")
legend(fig, *axes)
plt.show()
for seconds, run in ((6, short), (20, enough)):
    print(
        f"{seconds} s: stopped after step {max(e['step'] for e in run.lives[0].all('trained'))}, "
        f"resumed at step {run.last.resumed_at}"
    )

# %% [markdown]
# ## Questions to think about
#
# - In section 1, the signal came in the middle of `optimizer.step()`. Name three other places in a
#   training loop where a save would be wrong, even though every tensor is whole.
# - In section 4, what would each rank do if the ranks asked each other only every ten steps?
# - A cluster gives 30 seconds of grace, and your checkpoint takes 40 to write. What are your
#   options?
