"""The source of notebook.ipynb, in percent format. Edit here, then: grade dev notebook ex04"""


# %% [markdown]
# # Lab 4: automatic job resubmission
#
# In this lab you submit job scripts to a Slurm cluster: real daemons, started for each run and
# ended after it. You watch a tutorial's script lose work, then send your own through four
# disasters. You draw what happened from the cluster's records and from what the training reported.
#
# Anything called **yours** runs the files in `starter/`. The outputs stored here come from the
# reference solution. Times are real: Slurm waits about six seconds before it starts a requeued job
# again (on a site, two minutes). Nothing in here is graded: change whatever makes you curious.

# %% tags=["nbval-ignore-output"]
import matplotlib.pyplot as plt

from grader import notebooks

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

# %% [markdown]
# ## 1. A script that looks careful
#
# The script asks to be requeued, traps the signal, passes it on, and requeues the job. Read it as
# if a colleague had asked you for a review. At step 17, the time limit is near. The training saves
# every five steps, and also on a signal; that save takes seven seconds.

# %% tags=["nbval-ignore-output"]
careful = """#!/bin/bash
#SBATCH --job-name=train
#SBATCH --output=train.log
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

trap 'kill -TERM "$training"' USR1 TERM
srun $TRAIN &
training=$!
wait "$training"
[ $? = 0 ] || scontrol requeue "$SLURM_JOB_ID"
"""
run = notebooks.on_cluster(
    notebooks.files("careful", {"careful.sbatch": careful}),
    "careful.sbatch",
    plan=[{"step": 17, "do": "limit", "save": "long"}],
)
for life in run.lives:
    steps = [e["step"] for e in life if e["event"] == "step"]
    saved = max((e["step"] for e in life if e["event"] == "saved"), default="none")
    resumed = next(e["step"] for e in life if e["event"] == "resumed")
    print(f"resumed at step {resumed}, trained up to step {max(steps)}, last save: step {saved}")
print()
print("what is left of the log:")
print(
    "\n".join(
        f"    {line}"
        for line in run.log.splitlines()
        if line.startswith(("life", "starting", "done"))
    )
)

# %% [markdown]
# At step 17, Slurm warned the shell that the time limit was near, and the trap ran. But the save of
# step 17 never finished, and the next life repeated finished steps. SIGTERM *to srun* asks srun to
# end its tasks, and it ends them with SIGKILL. One word in the trap (`USR1`, which srun passes on)
# makes the difference between a save and a loss. The log of the first life is gone, too.
#
# ## 2. Yours, through four disasters
#
# Now run your `auto_resume.sbatch` with your `auto_resume.py`. The job is preempted, its time runs
# out, its training is killed, and killed again with its newest checkpoint cut in half.

# %% tags=["nbval-ignore-output"]
plan = [
    {"step": 7, "do": "preempt", "save": "short"},
    {"step": 16, "do": "limit", "save": "short"},
    {"step": 24, "do": "kill"},
    {"step": 33, "do": "torn", "how": "state cut"},
]
mine = notebooks.on_cluster(
    notebooks.yours("ex04"), "auto_resume.sbatch", plan=plan, uses="checkpoint,lives,lock"
)


def draw(axis, run):
    """Progress against time: the cluster's record of runs, and the training's events.

    The cluster notes whole seconds.
    """
    zero = min(e["t"] for e in run.events)
    for n, ran in enumerate(run.record):
        axis.axvspan(
            ran["start"] - zero,
            ran["end"] + 1 - zero,
            color="#e8eef4",
            zorder=0,
            label="running (the cluster's record)" if n == 0 else None,
        )
    for n, life in enumerate(run.lives):
        steps = [(e["t"] - zero, e["step"]) for e in life if e["event"] in ("resumed", "step")]
        last = life[-1]["t"] - zero
        axis.plot(
            [t for t, _ in steps] + [last],
            [s for _, s in steps] + [steps[-1][1]],
            color=(BLUE, GREEN)[n % 2],
            lw=2,
            label="progress, a color for each life" if n == 0 else None,
        )
        axis.text(
            steps[0][0], 47, f"life {n + 1}", color=(BLUE, GREEN)[n % 2], fontsize=9, ha="left"
        )
    saves = [(e["t"] - zero, e["step"]) for e in run.all("saved")]
    axis.plot(*zip(*saves, strict=True), ls="none", marker="o", ms=4, color=ORANGE, label="save")
    heard = [
        (e["t"] - zero, max(s["step"] for s in life if s["event"] in ("step", "resumed")))
        for life in run.lives
        for e in life
        if e["event"] == "signal"
    ]
    if heard:
        axis.plot(
            *zip(*heard, strict=True),
            ls="none",
            marker="v",
            ms=8,
            color="black",
            label="signal received",
        )
    for e in run.all("fault"):
        text = {
            "preempt": "preempted",
            "limit": "time limit",
            "kill": "SIGKILL",
            "torn": "SIGKILL,\ntorn checkpoint",
        }[e["do"]]
        axis.annotate(
            text,
            (e["t"] - zero, e["step"]),
            xytext=(4, 10),
            textcoords="offset points",
            fontsize=8.5,
            color=RED,
        )
    axis.set_xlabel("seconds since the job first ran")
    axis.set_ylabel("step")
    axis.set_ylim(0, 51)


fig, axis = plt.subplots(figsize=(10, 4.4), layout="constrained")
draw(axis, mine)
axis.set_title(f"One job, {len(mine.lives)} lives")
axis.legend(loc="upper left", bbox_to_anchor=(0, 0.9), fontsize=9)
plt.show()

# %%
print("done" if mine.finished else "not done")
print("equal" if mine.course == mine.undisturbed else "not equal", "to the undisturbed run")
for fault, steps in mine.lost:
    print(f"  {fault['do']:<8} at step {fault['step']}: {steps} steps done again")

# %% [markdown]
# Where a life begins at a lower step than the previous life reached, the job repeats work. After a
# SIGKILL it repeats the steps since the last save. After a torn checkpoint it repeats the steps
# since the checkpoint before that one. A preemption and a time limit cost only waiting time. (On a
# site, Slurm checks time limits every 30 seconds; here, every two.)
#
# ## 3. The cluster's record
#
# The cluster recorded each run of the job, and the state in which it ended. PENDING means that the
# job went back into the queue.

# %%
for number, ran in enumerate(mine.record, 1):
    print(f"run {number}: {ran['state']}")

# %% [markdown]
# ## Questions to think about
#
# - In section 1, Slurm warned the shell two minutes before the limit. What should the training have
#   done in these two minutes? And what if its save takes three?
# - In section 2, which of the four would have ended the job if `begin_life` counted every life as a
#   crash?
# - Suppose that your site allows ten requeues per job. Where would you count them, and what would
#   you do at the tenth?
