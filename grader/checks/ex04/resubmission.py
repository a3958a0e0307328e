"""Jobs on a cluster that are run again until they are done: the runs, and what is asked of them."""

from __future__ import annotations

from functools import wraps
from random import Random

from grader.checks.ex04 import cluster_runs
from grader.checks.ex04.cluster_runs import HELD, STEPS, ClusterRun, Refused
from grader.checks.ex04.witness import TEARS
from grader.harness.lab import Lab
from grader.slurm import Cluster
from grader.verdicts import FAIL, Finding, Found, Gist, Inconclusive, Struck
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
KILLS = ("kill", "torn", "lost")
NEVER_CAME = {"preempt": "its preemption", "limit": "its time limit"}
ENDS = ("error", "left", "fault")  # one of these is a life's last event, unless it is under way
CONTRACTS = ("CrashLoop", "NothingIntact", "Busy")  # what the functions are to raise
MODULE = "auto_resume.py"
AFTER_ALL = 1.5  # s by which the cluster's whole seconds may differ from the clock here


# --- the runs -------------------------------------------------------------------------------------


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

    plan = ({"step": lab.shared.choice([8, 13]), "do": "kill"},)
    return _ran(lab, REQUEUE, plan=plan, uses="lives", then=again)


TRIES = 2


def crash_loop(lab: Lab) -> ClusterRun:
    """It crashes at step 12 each time, in different ways. The first life saves on its way there;
    the others begin at step 10.
    """
    statuses = [1, *lab.shared.sample([2, 134, 139], 2)]
    lab.shared.shuffle(statuses)
    plan = tuple({"step": 12, "do": "exit", "status": status} for status in statuses)
    plan += ({"step": 12, "do": "exit", "status": 1, "every": True},)
    return _ran(lab, REQUEUE, "--tries", TRIES, plan=plan, uses="lives")


def chained(lab: Lab) -> ClusterRun:
    draw = lab.shared
    faults = [{"do": "limit", "save": "short"}, {"do": "kill"}, {"do": "lost"}]
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
    """A job that is killed a dozen times, or a chain nine times, and gets further each time."""
    number, uses = (
        (lab.shared.randint(11, 13), "checkpoint,lives") if script == REQUEUE else (9, "")
    )
    plan = tuple({"step": n, "do": "kill"} for n in range(3, 3 * number + 1, 3))
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


# --- what is to be believed of them ---------------------------------------------------------------


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


# --- what is asked of them ------------------------------------------------------------------------


# findings that a slow machine may cause
TIMED = ("lost", "save-disturbed", "late", "run-again-in-haste")


def in_time(check):
    """On a machine that was too slow, what came too late proves nothing."""

    @wraps(check)
    def checked(run: ClusterRun, *args):
        try:
            check(run, *args)
        except Finding as finding:
            timed = finding.code in TIMED or (run.late and not run.endless)
            if not (run.starved and timed and finding.verdict == FAIL):
                raise
            machine = f"busy: squeue took {run.slowest:.1f} s; nothing was proved"
            raise Inconclusive("starved", [*finding.rows, ("machine", machine)]) from None

    return checked


@in_time
def finished(run: ClusterRun) -> None:
    """It finished by itself, and nothing of it is left in the queue."""
    if run.stuck in HELD:
        rows = [
            *story(run),
            *_standing(run),
            ("queue", f"the job waits until a person releases it: {run.stuck}"),
        ]
        raise Finding("held", rows)
    if run.stuck:
        rows = [
            *story(run),
            ("queue", f"a job of the chain waits forever: {run.stuck}"),
        ]
        raise Finding("dependency", rows)
    if run.finished and not run.late:
        if (fired := len(run.all("fault"))) < run.planned:
            raise Inconclusive(
                "fault",
                [
                    *story(run),
                    ("but", f"of {run.planned} faults, {fired} fired: nothing was proved"),
                ],
            )
        return
    _raised(run)
    before = [*story(run), *_standing(run)]
    if run.endless:
        lives = (
            f"more than {run.most} lives, and it's in the queue again"
            if run.lives
            else "the training never begins"
        )
        raise Finding("endless", [*before, Found(f"the job is run again and again: {lives}")])
    if run.late:
        raise Finding(
            "late",
            [*before, Found(f"still in the queue after {run.where.pace.seconds:g} s")],
        )
    found = f"the job has left the queue, and it isn't done: step {_reached(run)} of {STEPS}"
    last = run.lives[-1] if run.lives else []
    states = [job["JobState"] for job in run.jobs.values() if "JobState" in job]
    by_itself = states[-1:] in (["FAILED"], ["COMPLETED"])  # the script had come to its end
    hurried = not by_itself and any(
        e["event"] == "fault" and e["do"] in ("preempt", "limit") for e in last
    )
    raise Finding(
        "run-again-in-haste" if hurried else "not-run-again",
        [*before, Found(found)],
        means="the job is never run again, and you find out days later",
        think="who requeues the job, and does your script reach that line?",
    )


def _standing(run: ClusterRun) -> list[tuple[str, str]]:
    """How the last life ended, as far as the training could tell."""
    if not run.lives:
        return [Gist("ended", f"the training never began ({_states(run)})")]
    last = run.lives[-1]
    if left := next((e for e in last if e["event"] == "left"), None):
        return [
            Gist("ended", f"the training ended with exit status {left['status']}; {_states(run)}")
        ]
    if error := next((e for e in last if e["event"] == "error"), None):
        return [
            Gist(
                "ended",
                f"the training raised {error['type']}: {error['message'][:200]}; {_states(run)}",
            )
        ]
    struck = [e["do"] for e in last if e["event"] == "fault"][-1:]
    if struck and struck[0] in KILLS:
        return [Gist("ended", f"the training was killed by that fault; {_states(run)}")]
    return [Gist("ended", f"the training ended without a word; {_states(run)}")]


def _raised(run: ClusterRun) -> None:
    """The last life of the training that ended didn't end by an error in the student's functions.

    The contract's exceptions are no errors, but may follow from one: CrashLoop does. A fault that
    makes the training fail isn't theirs.
    """
    ends = [[e for e in life if e["event"] in ENDS] for life in run.lives]
    ends = [of_life for of_life in ends if of_life and of_life[0].get("type") not in CONTRACTS]
    last = ends[-1] if ends else []
    error = next((e for e in last if e["event"] == "error" and e.get("frames")), None)
    if error is None:
        return
    frames = [
        f"{MODULE}:{f['line']} in {f['function']}: {f['text']}".replace(" in <module>", "")
        for f in error["frames"]
    ]
    said = f"{error['type']}: {error['message']}"[:300]
    number = sum(
        any(e["event"] == "error" and e.get("frames") == error["frames"] for e in life)
        for life in run.lives
    )
    rows = [
        *story(run),
        *(("crashed" if n == 0 else "", text) for n, text in enumerate(frames)),
        Gist("error", said),
        ("lives", f"{number} of {len(run.lives)} ended like this; {_states(run)}"),
    ]
    raise Finding("crashed", rows, ending=said, about=f"{error['type']}:{frames[-1].split(' ')[0]}")


def _states(run: ClusterRun) -> str:
    said = [
        f"{s['JobState']}, exit code {s['ExitCode'].split(':')[0]}"
        for s in run.jobs.values()
        if "JobState" in s
    ]
    shown = ["..."] * (len(said) > 5) + said[-5:]
    return f"the cluster says of the job: {'; '.join(shown) or 'nothing'}"


def _reached(run: ClusterRun) -> int:
    return max([0, *(e["step"] for e in run.all("step"))])


@in_time
def kept(run: ClusterRun, do: str, think: str) -> None:
    """The fault `do` cost no finished step: the training was warned in time, saved, and ended."""
    number, fault = next(
        ((n, f) for n, f in enumerate(run.all("fault")) if f["do"] == do), (-1, None)
    )
    if fault is None:  # an earlier one has ended it
        _ended_before(run, f"the job didn't get as far as {NEVER_CAME[do]}")
        raise Finding("fault", [("but", f"'{do}' never fired")])
    life = next(life for life in run.lives if fault in life)
    since = life[life.index(fault) :]
    saved = any(e["event"] == "saved" and e["step"] == fault["step"] for e in since)
    if saved and any(e["event"] == "left" and e["status"] == train.PREEMPTED for e in since):
        return
    heard = ", ".join(
        f"{e['signal']} after {e['t'] - fault['t']:.0f} s" for e in since if e["event"] == "signal"
    )
    rows = [
        *story(run, number + 1),
        ("heard", f"the training got {heard or 'no signal at all'}"),
        Gist("ended", _end_after(fault, since)),
    ]
    raise Finding(
        "lost",
        rows,
        about=do,
        means=(
            "the work since the last regular save is lost: "
            f"steps {fault['saved'] + 1} to {fault['step']}"
        ),
        think=think,
    )


def _ended_before(run: ClusterRun, so: str) -> None:
    """It didn't end by itself before it came to what the check is about."""
    try:
        finished(run)
    except Finding as earlier:
        earlier.data["unreached"] = True  # a check that is about its end comes first (engine.py)
        earlier.rows.append(("so", f"{so}, which this check is about"))
        raise


def _end_after(fault: dict, since: list[dict]) -> str:
    """How the training ended after the fault, as far as anybody saw it."""
    saved = [e["event"] for e in since if e["event"] in ("saving", "saved")][-1:]
    when = {"saving": "while it saved", "saved": "after a save"}.get(
        "".join(saved), "without a save"
    )
    if left := next((e for e in since if e["event"] == "left"), None):
        return f"it left with exit status {left['status']}, {when}"
    if error := next((e for e in since if e["event"] == "error"), None):
        return f"it raised {error['type']}: {error['message'][:200]}, {when}"
    gone = next((e for e in since if e["event"] == "gone"), None)
    after = f" {gone['t'] - fault['t']:.0f} s after that" if gone else ""
    return f"it ended without a word{after}, {when}"


@in_time
def undisturbed_saves(run: ClusterRun) -> None:
    """No SIGTERM came during a save: a requeue that comes too early sends one."""
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
                    Found(
                        "SIGTERM came while the training was saving: from a requeue, or from "
                        "the time limit itself",
                    ),
                ]
                raise Finding("save-disturbed", rows)


def log_goes_on(run: ClusterRun) -> None:
    """Each life printed a mark of its own; the log holds all of them."""
    marks = [e["mark"] for e in run.all("mark")]
    if len(marks) < 2:
        _ended_before(run, "the job had no second life")
    if not run.log:
        rows = [
            ("log", "there is no train.log where the job was submitted from"),
            ("expected", "the script's --output says train.log, for all lives"),
        ]
        raise Finding("no-log", rows)
    there = [mark for mark in marks if mark in run.log]
    if len(there) < len(marks):
        raise Finding(
            "log-truncated",
            [("log", f"train.log holds the output of {len(there)} of {len(marks)} lives")],
        )


def same_course(run: ClusterRun) -> None:
    want, got = run.undisturbed, run.course
    if wrong := [n for n in want if got.get(n) != want[n]]:
        rows = [
            *story(run),
            ("diverged", f"at step {wrong[0]}"),
            Gist("resumed", ", ".join(str(e["step"]) for e in run.all("resumed"))),
        ]
        raise Finding("trajectory-differs", rows)


def ended_well(run: ClusterRun) -> None:
    """The cluster says COMPLETED of the last job."""
    last = list(run.jobs.values())[-1]
    if run.finished and last.get("JobState") not in ("COMPLETED", None):
        rows = [
            ("done", "the training ended with exit status 0"),
            Found(_states(run)),
            ("expected", "COMPLETED: the cluster's word for a job that is done"),
        ]
        raise Finding(
            "final-state",
            rows,
            think="which exit status does your script end with when the training is done?",
        )


@in_time
def does_nothing_when_done(run: ClusterRun) -> None:
    """The life that began after the job was done trained nothing, and the job wasn't run again."""
    finished(run)
    done = next(
        n
        for n, life in enumerate(run.lives)
        if any(e["event"] == "left" and e["status"] == 0 for e in life)
    )
    after, requeued = run.lives[done + 1 :], ("requeued", "when it was done")
    if any(e["event"] in ("step", "saved") for life in after for e in life):
        think = "how does a life learn that an earlier one has finished?"
        raise Finding(
            "done-twice",
            [
                requeued,
                Found("it trained again"),
            ],
            think=think,
        )
    if len(after) > 1 or any(e["event"] == "error" for life in after for e in life):
        _raised(run)
        found = Found(f"{len(after)} more lives; {_states(run)}")
        raise Finding(
            "done-twice",
            [
                requeued,
                found,
            ],
            think="what does your script do after exit status 0?",
        )


@in_time
def gives_up(run: ClusterRun) -> None:
    """A job that crashes at the same step every time is tried there TRIES times, and fails."""
    crash = run.all("fault")[0] if run.all("fault") else {"step": 12, "status": 1}
    what = (
        "crashes",
        f"at step {crash['step']}, every time; the newest checkpoint is step 10; tries={TRIES}",
    )
    crashed = [life for life in run.lives if any(e["event"] == "fault" for e in life)]
    began = sum(e["step"] == 10 for life in crashed for e in life if e["event"] == "resumed")
    if began < TRIES:
        _raised(run)
    if not run.late and began < TRIES:
        rows = [
            what,
            *_standing(run),
            Found(f"{began} lives began at step 10"),
        ]
        raise Finding("not-tried-again", rows)
    if run.late or run.stuck or began > TRIES:
        gave_up = _left_with(run, train.GAVE_UP)
        how = "the training ended with exit status 70" if gave_up else "no life ended with 70"
        after = (
            f"after {began} lives that began at step 10, {how}"
            if began
            else f"no life began at step 10, and {how}"
        )
        again = "was run again" if gave_up else "the job is run again and again"
        still = again if run.endless and not run.stuck else "the job is still in the queue"
        rows = [
            what,
            *([] if gave_up else _standing(run)),
            Found(
                f"more than {TRIES} lives began at step 10"
                if began > TRIES
                else f"{after}, and {still}"
            ),
        ]
        raise Finding("crash-loop", rows)
    _failed(run, what)


def _left_with(run: ClusterRun, status: int) -> bool:
    return any(e["status"] == status for e in run.all("left"))


def _failed(run: ClusterRun, what: tuple[str, str]) -> None:
    ran = {life[0]["job"] for life in run.lives}
    state = [run.jobs[i].get("JobState") for i in run.jobs if i in ran][-1:]
    if state not in (["FAILED"], [None], []):
        rows = [
            what,
            Found(_states(run)),
            ("expected", "FAILED: nobody looks for an error in a job that reports success"),
        ]
        raise Finding("final-state", rows, think="which exit status does your script end with?")


@in_time
def chain_ends(run: ClusterRun) -> None:
    """After 70, nothing of the chain runs again or stays in the queue; its last job has failed."""
    if not _left_with(run, train.GAVE_UP):
        finished(run)
    what = ("left", "the training ended with exit status 70: a person has to look")
    if run.late or run.stuck or len(run.lives) > 1:
        rows = [
            what,
            Found(
                f"the next job waits forever: {run.stuck}" if run.stuck else "the chain continues",
            ),
        ]
        raise Finding("chain-without-end", rows)
    _failed(run, what)


def one_at_a_time(run: ClusterRun) -> None:
    beside = next((e for e in run.all("life") if e["at_once"]), None)
    if beside or run.at_once:
        pair = (beside["job"], beside["at_once"][0]) if beside else sorted(run.at_once)[:2]
        rows = [
            Found(f"job {pair[0]} ran while job {pair[1]} was running"),
        ]
        raise Finding("two-at-once", rows)


def generations(run: ClusterRun) -> None:
    """A chain: each life was a job of its own, and each job submitted one."""
    ids = [life[0]["job"] for life in run.lives]
    think = "who submits the next job?"
    if len(set(ids)) != len(ids) and not run.endless:
        rows = [
            ("lives", f"of jobs {', '.join(ids)}"),
            ("expected", "each is a job of its own (--no-requeue)"),
        ]
        raise Finding("no-chain", rows, think=think)
    if ids and len(run.jobs) > len(ids) + 1:
        rows = [
            Found(f"{len(run.jobs)} jobs were submitted, and {len(ids)} trained"),
            ("expected", "each job submits one, and the last one's successor is cancelled"),
        ]
        means = "each job that has two successors doubles the chain"
        raise Finding("too-many-jobs", rows, means=means, think=think)


def resumed_well(run: ClusterRun) -> None:
    """Every fault cost at most the steps since the last save; each life took the newest intact
    checkpoint."""
    for fault, steps in run.lost:
        most = {"preempt": 0, "limit": 0, "kill": SAVE_EVERY, "torn": 2 * SAVE_EVERY}[fault["do"]]
        if steps > most:
            rows = [
                *story(run, fault["number"] + 1),
                ("lost", f"{steps} finished steps; at most {most} may be lost"),
            ]
            raise Finding(
                "too-much-lost",
                rows,
                about=fault["do"],
            )
    for resumed in run.all("resumed"):
        if resumed["step"] != resumed["newest"]:
            rows = [
                *story(run, sum(e["t"] < resumed["t"] for e in run.all("fault"))),
                Gist("resumed", f"from step {resumed['step']}"),
                ("expected", f"from step {resumed['newest']}, then the newest intact checkpoint"),
            ]
            raise Finding("not-the-newest", rows)


def chaos_survived(lab: Lab, run: ClusterRun) -> None:
    """Finished by itself, bit for bit; every fault cost at most the steps since the last save."""
    resumed_well(run)
    finished(run)
    same_course(run)
    lost = ", ".join(f"{fault['do']} at step {fault['step']}: {steps}" for fault, steps in run.lost)
    again = sum(steps for _, steps in run.lost)
    lab.measured(
        "lost work",
        f"{again} of {STEPS} steps done again ({lost}); "
        f"{len(run.lives)} lives in {run.seconds:.0f} s",
    )
