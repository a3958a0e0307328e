"""Jobs on a cluster that are run again until they are done."""

from __future__ import annotations

from random import Random

from grader.checks import cluster_runs
from grader.checks.cluster_runs import STEPS, ClusterRun, Refused
from grader.harness.lab import Lab
from grader.slurm import Cluster
from grader.verdicts import Finding, Inconclusive
from grader.workload import auto_job

SAVE_EVERY = 5
REQUEUE, CHAIN = "auto_resume.sbatch", "chain.sbatch"
STORY = {
    "preempt": "preempted at step {step}: SIGTERM to what srun has started, SIGKILL after {grace:g} s",
    "limit": "its time limit came near at step {step}: warned as the script asks for, SIGTERM at the limit, SIGKILL {kill_wait:g} s later",
    "kill": "the training was killed by SIGKILL at step {step}",
    "torn": "the training was killed by SIGKILL at step {step}, and its newest checkpoint was cut short",
}


# --- the runs ---------------------------------------------------------------------------------------------


def preempted_and_out_of_time(lab: Lab) -> ClusterRun:
    """A preemption, then a time limit, with saves that take longer than Slurm waits between SIGTERM and SIGKILL."""
    first, second = lab.shared.choice([6, 7, 8]), lab.shared.choice([17, 18, 19])
    return _ran(lab, REQUEUE, plan=({"step": first, "do": "preempt", "save": "long"}, {"step": second, "do": "limit", "save": "long"}))


def killed_then_requeued_when_done(lab: Lab) -> ClusterRun:
    def again(cluster: Cluster, job: str) -> None:
        cluster.run(["scontrol", "requeue", job])

    return _ran(lab, REQUEUE, plan=({"step": lab.shared.choice([8, 13]), "do": "kill"},), uses="lives", then=again)


def crash_loop(lab: Lab) -> ClusterRun:
    return _ran(lab, REQUEUE, "--crashes-at", 12, "--tries", 2, uses="lives")


def chained(lab: Lab) -> ClusterRun:
    first, second = lab.shared.choice([6, 7, 8]), lab.shared.choice([17, 18, 19])
    return _ran(lab, CHAIN, plan=({"step": first, "do": "limit", "save": "short"}, {"step": second, "do": "kill"}), uses="lock")


def chaos(lab: Lab) -> ClusterRun:
    return _ran(lab, REQUEUE, plan=chaos_plan(lab.draw), uses="checkpoint,lives")


def chaos_plan(draw: Random) -> tuple[dict, ...]:
    """Every fault once. The newest checkpoint isn't torn while there is no other: nobody could go on from that."""
    faults = ["preempt", "limit", "kill"]
    draw.shuffle(faults)
    faults.insert(draw.randint(1, 3), "torn")
    steps = [8 + 8 * n + draw.choice([-1, 0, 1, 3]) for n in range(4)]
    return tuple({"step": step, "do": do, "save": "short"} for step, do in zip(steps, faults))


def _ran(lab: Lab, script: str, *flags, **options) -> ClusterRun:
    try:
        return cluster_runs.ran(lab, script, *flags, **options)
    except Refused as e:
        raise Finding("sbatch", [("sbatch", f"refuses {script}"), ("error", str(e)[:300]), ("think", "what does the line that it names mean to sbatch?")])


# --- what is asked of them ----------------------------------------------------------------------------------


def story(run: ClusterRun, until: int | None = None) -> list[tuple[str, str]]:
    faults, times = run.all("fault")[:until], vars(run.where.pace)
    return [("fault" if n == 0 else "", STORY[f["do"]].format(step=f["step"], **times)) for n, f in enumerate(faults)]


def finished(run: ClusterRun) -> None:
    """It came to its end by itself, and nothing of it is left in the queue."""
    if run.stuck:
        rows = [
            *story(run),
            ("queue", f"a job of the chain waits for ever: {run.stuck}"),
            ("means", "its dependency asks for an end that the job before it didn't have: the chain is broken, and nobody is told"),
            ("think", "which dependency is fulfilled however a job ended?"),
        ]
        raise Finding("dependency", rows)
    if run.finished and not run.late:
        if len(run.all("fault")) < run.planned:
            raise Inconclusive("fault", [*story(run), ("but", f"of {run.planned} faults, {len(run.all('fault'))} fired: nothing was proved")])
        return
    rows = [*story(run), *_standing(run), ("log", _last_words(run))]
    if run.endless:
        rows[-1:-1] = [("found", f"the job is run again without end: more than {cluster_runs.MOST_LIVES} times, and it's in the queue again")]
        raise Finding("endless", [*rows, ("think", "after which of the training's exit statuses is the job to be run again?")])
    if run.late:
        rows[-1:-1] = [("found", f"still in the queue after {run.where.pace.seconds:g} s")]
        raise Finding("late", [*rows, ("think", "what does your script wait for?")])
    rows[-1:-1] = [("found", f"nothing of the job is in the queue any more, and it isn't done: step {_reached(run)} of {STEPS}")]
    means = ("means", "the job is never run again, and whoever trusted it finds out days later")
    raise Finding("not run again", [*rows, means, ("think", "who puts the job back into the queue, and does your script come to that line?")])


def _standing(run: ClusterRun) -> list[tuple[str, str]]:
    """How the last life ended, as far as the training could tell."""
    if not run.lives:
        return [("ended", f"the training never began ({_states(run)})")]
    last = run.lives[-1]
    if left := next((e for e in last if e["event"] == "left"), None):
        return [("ended", f"the training left with exit status {left['status']}; {_states(run)}")]
    return [("ended", f"the training was killed; {_states(run)}")]


def _states(run: ClusterRun) -> str:
    said = [f"{s['JobState']}, exit code {s['ExitCode'].split(':')[0]}" for s in run.jobs.values() if "JobState" in s]
    return f"the cluster says of the job: {'; '.join(said) or 'nothing'}"


def _reached(run: ClusterRun) -> int:
    return max([0, *(e["step"] for e in run.all("step"))])


def _last_words(run: ClusterRun) -> str:
    lines = [line.strip() for line in run.log.splitlines() if line.strip() and "DUE TO JOB REQUEUE" not in line]
    return lines[-1][:200] if lines else "empty"


def kept(run: ClusterRun, do: str, think: str) -> None:
    """The fault `do` cost no finished step: the training was told in time, saved, and left by itself."""
    number, fault = next(((n, f) for n, f in enumerate(run.all("fault")) if f["do"] == do), (None, None))
    if fault is None:  # an earlier one has ended it
        finished(run)
        raise Finding("fault", [("but", f"'{do}' never came")])
    life = next(life for life in run.lives if fault in life)
    left = next((e for e in life if e["event"] == "left"), None)
    if left and left["status"] == auto_job.PREEMPTED:
        return
    signals = [e for e in life if e["event"] == "signal"]
    saving = any(e["event"] == "saving" and e["t"] >= fault["t"] for e in life)
    heard = ", ".join(f"{s['signal']} after {s['t'] - fault['t']:.0f} s" for s in signals) or "no signal at all"
    before = run.events[: run.events.index(fault)]  # in their order: a save and a fault may have the same millisecond
    saved = max([0, *(e["step"] for e in before if e["event"] == "saved")])
    rows = [
        *story(run, number + 1),
        ("heard", f"the training got {heard}"),
        ("ended", "it was killed while it saved" if saving else "it was killed before it could save"),
        ("means", f"the work since the last regular save is lost: steps {saved + 1} to {fault['step']}"),
        ("think", think),
    ]
    raise Finding(f"lost:{do}", rows)


def undisturbed_saves(run: ClusterRun) -> None:
    """While it saved, nobody sent it SIGTERM: a requeue that comes too early does."""
    for life in run.lives:
        saving = None
        for e in life:
            if e["event"] == "saving":
                saving = e
            elif e["event"] == "saved":
                saving = None
            elif e["event"] == "signal" and e["signal"] == "SIGTERM" and saving:
                rows = [
                    *story(run),
                    ("found", "SIGTERM came to the training while it was saving: of a requeue, or of the time limit itself"),
                    ("means", "SIGKILL follows, whether or not the save is through"),
                    ("think", "what must have happened before the job may be requeued? And how early was the training told to save?"),
                ]
                raise Finding("save disturbed", rows)


def log_goes_on(run: ClusterRun) -> None:
    lives, told = len(run.lives), run.log.count("life of job")
    if lives < 2:
        finished(run)
    if not run.log:
        rows = [("log", "there is no train.log where the job was submitted from"), ("expected", "the script's --output says train.log, for all lives"), ("think", "where do its outputs go now, and who will look there?")]
        raise Finding("no log", rows)
    if told < lives:
        rows = [
            ("log", f"train.log tells of {told} of {lives} lives"),
            ("means", "each new life truncates it: what the one before said, its error perhaps, is gone"),
            ("think", "in which mode does Slurm open the log of a job that is requeued?"),
        ]
        raise Finding("log truncated", rows)


def same_course(lab: Lab, run: ClusterRun) -> None:
    want, got = auto_job.undisturbed(lab.seed, STEPS), run.course
    if wrong := [n for n in want if got.get(n) != want[n]]:
        rows = [
            *story(run),
            ("diverged", f"at step {wrong[0]}"),
            ("resumed", ", ".join(str(e["step"]) for e in run.all("resumed"))),
            ("think", "which checkpoint did each life resume from?"),
        ]
        raise Finding("course", rows)


def ended_well(run: ClusterRun) -> None:
    """The cluster says COMPLETED of the last job."""
    last = list(run.jobs.values())[-1]
    if run.finished and last.get("JobState") not in ("COMPLETED", None):
        rows = [("done", "the training left with exit status 0"), ("found", _states(run)), ("expected", "COMPLETED: whoever asks the cluster is told that the job is done"), ("think", "which exit status does your script leave with when the training is done?")]
        raise Finding("final state", rows)


def does_nothing_when_done(run: ClusterRun) -> None:
    """The life that began after the job was done trained nothing, and the job wasn't run again."""
    finished(run)
    done = next(n for n, life in enumerate(run.lives) if any(e["event"] == "left" and e["status"] == 0 for e in life))
    after = run.lives[done + 1 :]
    if any(e["event"] in ("step", "saved") for life in after for e in life):
        raise Finding("done twice", [("requeued", "when it was done"), ("found", "it trained again"), ("think", "how does a life get to know that an earlier one has finished?")])
    if len(after) > 1 or any(life[-1]["event"] != "left" for life in after):
        raise Finding("done twice", [("requeued", "when it was done"), ("found", f"{len(after)} more lives; {_states(run)}"), ("think", "what does your script do after exit status 0?")])


def gives_up(run: ClusterRun, tries: int) -> None:
    """A job that crashes at the same step every time: the first life saves on its way there, and `tries` more begin at that
    save; then it ends as failed."""
    what = ("crashes", f"at step 12, every time; the newest checkpoint is step 10; tries={tries}")
    crashed = [life for life in run.lives if any(e["event"] == "step" and e["step"] == 12 for e in life)]
    began = sum(e["step"] == 10 for life in crashed for e in life if e["event"] == "resumed")
    if not run.late and began < tries:
        rows = [
            what,
            ("found", f"{began} lives began at step 10; {_states(run)}"),
            ("log", _last_words(run)),
            ("means", "a node that fails once ends the run"),
            ("think", "is a crash always the job's fault?"),
        ]
        raise Finding("not tried again", rows)
    if run.late or began > tries:
        rows = [
            what,
            ("found", f"more than {tries} lives began at step 10" if began > tries else f"after {began} lives that began at step 10, the training left with 70, and was run again"),
            ("means", "a job that burns its account's hours all weekend, and gets nowhere"),
            ("think", "who counts the crashes, and what does your script do with the exit status that says so?"),
        ]
        raise Finding("crash loop", rows)
    if list(run.jobs.values())[-1].get("JobState") == "COMPLETED":
        rows = [
            what,
            ("found", _states(run)),
            ("expected", "FAILED: nobody looks for an error in a job that says it's done"),
            ("think", "which exit status does your script leave with?"),
        ]
        raise Finding("final state", rows)


def one_at_a_time(run: ClusterRun) -> None:
    for life, after in zip(run.lives, run.lives[1:]):
        if after[0]["t"] < life[-1]["t"]:
            rows = [("found", f"job {after[0]['job']} began to train while job {life[0]['job']} was training"), ("means", "two lives write into one directory, each over what the other has written"), ("think", "when may the next job of the chain begin?")]
            raise Finding("two at once", rows)


def generations(run: ClusterRun) -> None:
    """A chain: each life was a job of its own."""
    ids = [life[0]["job"] for life in run.lives]
    if len(set(ids)) != len(ids):
        raise Finding("no chain", [("lives", f"of jobs {', '.join(ids)}"), ("expected", "each is a job of its own (--no-requeue)"), ("think", "who submits the next job?")])


def chaos_survived(lab: Lab, run: ClusterRun) -> None:
    """Finished by itself, bit for bit; every fault cost at most the steps since the last save."""
    finished(run)
    same_course(lab, run)
    lost = run.lost
    for fault, steps in lost:
        most = {"preempt": 0, "limit": 0, "kill": SAVE_EVERY, "torn": 2 * SAVE_EVERY}[fault["do"]]
        if steps > most:
            rows = [*story(run, fault["number"] + 1), ("lost", f"{steps} finished steps; at most {most} had to be"), ("think", "which checkpoint was the newest intact one, and which did the next life take?")]
            raise Finding(f"too much lost:{fault['do']}", rows)
    told = ", ".join(f"{fault['do']} at step {fault['step']}: {steps}" for fault, steps in lost)
    lab.measured("lost work", f"{sum(s for _, s in lost)} of {STEPS} steps done again ({told}); {len(run.lives)} lives in {run.seconds:.0f} s")
