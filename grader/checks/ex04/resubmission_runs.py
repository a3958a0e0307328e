"""Jobs with planned faults on a cluster, and whether what was recorded of them can be believed."""

from __future__ import annotations

from random import Random

from grader.checks.ex04 import cluster_runs
from grader.checks.ex04.cluster_runs import Refused
from grader.checks.ex04.job_record import ClusterRun
from grader.checks.ex04.witness import TEARS
from grader.harness.lab import Lab
from grader.slurm import Cluster
from grader.verdicts import Finding, Found, Gist, Inconclusive, Struck
from grader.workload.ex04 import train

SAVE_EVERY = 5
REQUEUE, CHAIN = "auto_resume.sbatch", "chain.sbatch"
STORY = {
    "preempt": "preempted at step {step}: SIGTERM to what srun has started, "
    "SIGKILL after {grace:g} s",
    "limit": "its time limit came near at step {step}: warned as the script asks, SIGTERM at "
    "the limit, SIGKILL {kill_wait:g} s later",
    "kill": "the training was killed by SIGKILL at step {step}",
    "torn": "the training was killed by SIGKILL at step {step}, "
    "and its newest checkpoint was damaged",
    "lost": "the whole job, its script included, was killed by SIGKILL at step {step}",
    "exit": "the training ended with exit status {status} at step {step}",
}

KILL: dict[str, object] = {"do": "kill"}
STATUSES = (1, 2, 126, 127, 134, 143, 255)  # of trainings that crashed

AFTER_ALL = 1.5  # s by which the cluster's whole seconds may differ from the clock here


def exit_with(status: int) -> dict[str, object]:
    return {"do": "exit", "status": status}


def preempted_and_out_of_time(lab: Lab) -> ClusterRun:
    """A preemption and a time limit, with saves that take longer than from SIGTERM to SIGKILL."""
    draw = lab.shared
    kinds = draw.sample(["preempt", "limit"], 2)
    steps = draw.choice([6, 7, 8]), draw.choice([17, 18, 19])
    return _ran(
        lab,
        REQUEUE,
        plan=tuple(
            {"step": n, "do": do, "save": "long"} for n, do in zip(steps, kinds, strict=False)
        ),
    )


def killed_then_requeued_when_done(lab: Lab) -> ClusterRun:
    def again(cluster: Cluster, job: str) -> None:
        cluster.run(["scontrol", "requeue", job])

    ends = [KILL, *map(exit_with, (127, 143))]
    lab.shared.shuffle(ends)
    plan = tuple(end | {"step": n} for end, n in zip(ends, (3, 8, 13), strict=True))
    return _ran(lab, REQUEUE, plan=plan, uses="lives", then=again)


TRIES = 2


def crash_loop(lab: Lab) -> ClusterRun:
    """It crashes at step 12 each time, in different ways. The first life saves on its way there;
    the others begin at step 10.
    """
    statuses = [1, 2, lab.shared.choice([134, 139, 255])]
    lab.shared.shuffle(statuses)
    plan = tuple({"step": 12, "do": "exit", "status": status} for status in statuses)
    plan += ({"step": 12, "do": "exit", "status": 1, "every": True},)
    return _ran(lab, REQUEUE, "--tries", TRIES, plan=plan, uses="lives")


def chained(lab: Lab) -> ClusterRun:
    draw = lab.shared
    faults = [{"do": "limit", "save": "long"}, {"do": "kill"}, {"do": "lost"}]
    draw.shuffle(faults)
    steps = draw.choice([6, 7, 8]), draw.choice([17, 18, 19]), draw.choice([27, 28, 29])
    return _ran(
        lab,
        CHAIN,
        plan=tuple(fault | {"step": n} for n, fault in zip(steps, faults, strict=True)),
        uses="lock",
    )


def hopeless_chain(lab: Lab) -> ClusterRun:
    plan = (
        {"step": lab.shared.randint(2, 9), "do": "exit", "status": train.GAVE_UP, "every": True},
    )
    return _ran(lab, CHAIN, plan=plan, uses="lock", most=1)


def chaos(lab: Lab) -> ClusterRun:
    return _ran(lab, REQUEUE, plan=chaos_plan(lab.draw), uses="checkpoint,lives")


def chaos_plan(draw: Random) -> tuple[dict, ...]:
    """Every fault once. The newest checkpoint isn't torn while there is no other."""
    faults = ["preempt", "limit", "kill"]
    draw.shuffle(faults)
    faults.insert(draw.randint(1, 3), "torn")
    steps = [8 + 8 * n + draw.choice([-1, 0, 1, 3]) for n in range(4)]
    how = draw.choice(TEARS)
    return tuple(
        {"step": step, "do": do}
        | ({"how": how} if do == "torn" else {} if do == "kill" else {"save": "short"})
        for step, do in zip(steps, faults, strict=True)
    )


def many_lives(lab: Lab, script: str) -> ClusterRun:
    """A job that is killed a dozen times, or a chain of which nine jobs end before they are done:
    it gets further each time.
    """
    number, uses = (
        (lab.shared.randint(11, 13), "checkpoint,lives") if script == REQUEUE else (9, "")
    )
    # in the chain, each of these ends comes once
    ends = [KILL] * number if script == REQUEUE else [KILL, KILL, *map(exit_with, STATUSES)]
    lab.shared.shuffle(ends)
    plan = tuple(end | {"step": 3 * n} for n, end in enumerate(ends, 1))
    return _ran(
        lab, script, "--save-every", 2, plan=plan, uses=uses, most=len(plan) + 2, quick=True
    )


def _ran(lab: Lab, script: str, *flags, **options) -> ClusterRun:
    try:
        run = cluster_runs.ran(lab, script, *flags, **options)
    except Refused as e:
        rows = [("sbatch", f"refuses {script}"), Gist("error", str(e)[:300])]
        if cluster_runs.DIFFERS in str(e):
            but = "this isn't Slurm, which may take it: nothing was proved"
            raise Inconclusive("sbatch", [*rows, ("but", but)]) from e
        raise Finding("sbatch", rows) from e
    _witnessed(run)
    return run


def _witnessed(run: ClusterRun) -> None:
    """The witness recorded a training, in jobs that the cluster has on record."""
    if run.trouble:
        raise Inconclusive("cluster", [*story(run), ("cluster", run.trouble)])
    if strange := next((e["what"] for e in run.all("strange")), None):
        if strange == "outside":
            rows = [
                *story(run),
                Found("the training ran outside every running job of the cluster"),
            ]
            raise Finding("outside", rows)
        raise Finding(
            "strange",
            [
                *story(run),
                Found(f"something other than $TRAIN reported in its name: {strange}"),
            ],
        )
    if run.where.chosen == "site":
        return
    cancelled = [i for i, state in run.others.items() if state == "CANCELLED"]
    if cancelled:
        rows = [*story(run), ("but", "the job that preempts it was cancelled: nothing was proved")]
        raise Inconclusive("fault", rows)
    for life in run.lives:
        began, job = life[0]["t"], life[0]["job"]
        ran = [
            r
            for r in run.record
            if r["job"] == job and r["start"] - AFTER_ALL <= began <= r["end"] + AFTER_ALL
        ]
        if not ran and not run.late and not run.stuck:
            rows = [
                *story(run),
                ("but", f"the cluster has no record that job {job} ran then: nothing was proved"),
            ]
            raise Inconclusive("record", rows)
    # a script that lifts its own limits finishes in one run of the job, although the faults should
    # end it
    ends = sum(fault["do"] in ("preempt", "limit", "lost") for fault in run.all("fault"))
    if run.finished and len(run.record) <= ends:
        but = (
            f"the cluster has a record of {len(run.record)} runs of the job, but should have "
            f"ended {ends}"
        )
        raise Inconclusive("record", [*story(run), ("but", f"{but}: nothing was proved")])


def story(run: ClusterRun, until: int | None = None) -> list[tuple[str, str]]:
    faults, times = run.all("fault")[:until], vars(run.where.pace)
    texts = [STORY[f["do"]].format(**times, **f) for f in faults]
    return [("", text) if n else Struck(text) for n, text in enumerate(texts)]
