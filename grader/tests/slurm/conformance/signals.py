"""Who gets which signal: shell, srun's task, a child that srun didn't start."""

from __future__ import annotations

from grader.tests.slurm.conformance.lab import BARE, PROBE, RECORD, Lab, Probe, expects

KILLED = "Killed"  # srun may live just long enough to tell


def preempt(lab: Lab, node: str) -> None:
    lab.cluster.submit(
        "-p", "high", "-w", node, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 0.2"
    )


@expects(
    "RUNNING",
    "COMPLETED 0:0, requeued 1",
    "task TERM",
    "-- in the grace",
    "shell TERM, task TERM",
    "life 1",
    "life 0",
    "life 1",
    "slurmstepd-NODE: error: *** JOB JOB ON NODE CANCELLED AT WHEN DUE TO PREEMPTION ***",
    "slurmstepd-NODE: error: *** STEP JOB.0 ON NODE CANCELLED AT WHEN ***",
    "srun: Job step aborted: Waiting up to 7 seconds for job step to finish.",
)
def a_preempted_job_has_its_grace_and_starts_again(lab: Lab):
    node = lab.own_node()
    job = lab.job(
        "preempted", "echo life ${SLURM_RESTART_COUNT-0}\n" + PROBE, "--open-mode=append", node=node
    ).ready()
    preempt(lab, node)
    job.until("task TERM").mark("in the grace")
    held = lab.known(job.number)["JobState"]
    return [held, job.end(), *job.seen(), *job.output(KILLED)]


@expects("PREEMPTED 0:9", "shell TERM, task TERM")
def a_preempted_job_that_may_not_be_requeued_ends(lab: Lab):
    node = lab.own_node()
    job = lab.job(
        "preempted-for-good", PROBE, "--no-requeue", "--signal=B:USR1@60", node=node
    ).ready()
    preempt(lab, node)
    return [job.end(), *job.seen()]


@expects("COMPLETED 0:0", "task TERM")
def exit_0_in_the_grace_is_the_end(lab: Lab):
    node = lab.own_node()
    job = lab.job("exit-0-in-grace", BARE, node=node, TASK="TERM=0").until(
        "task ready", "shell ready"
    )
    preempt(lab, node)
    return [job.end(), *job.seen()]


@expects("FAILED 1:0", "task TERM")
def exit_1_in_the_grace_is_the_end_too(lab: Lab):
    node = lab.own_node()
    job = lab.job("exit-1-in-grace", BARE + "exit 1\n", node=node, TASK="TERM=0").until(
        "task ready", "shell ready"
    )
    preempt(lab, node)
    return [job.end(), *job.seen()]


@expects("COMPLETED 0:0, requeued 1", "task TERM", "life 1")
def requeue_within_the_grace_starts_again(lab: Lab):
    node = lab.own_node()
    job = lab.job(
        "requeue-in-grace",
        BARE + "scontrol requeue $SLURM_JOB_ID\nexit 0\n",
        node=node,
        TASK="TERM=0",
    ).until("task ready", "shell ready")
    preempt(lab, node)
    return [job.end(), *job.seen()]


def preempted(lab: Lab, *options: str, comes: str) -> list[str]:
    node = lab.own_node()
    job = lab.job(
        "".join(["preempted", *options]).replace("@", ""), PROBE, *options, node=node
    ).ready()
    preempt(lab, node)
    job.until(comes).mark("in the grace")
    return [job.end(), *job.seen()]


@expects(
    "COMPLETED 0:0, requeued 1",
    "shell USR1",
    "-- in the grace",
    "shell TERM, task TERM",
    "life 1",
    site="user signal",
)
def a_site_that_sends_the_shell_its_own_signal(lab: Lab):
    return preempted(lab, "--signal=B:USR1@60", comes="shell USR1")


@expects(
    "COMPLETED 0:0, requeued 1",
    "task USR1",
    "-- in the grace",
    "shell TERM, task TERM",
    "life 1",
    site="user signal",
)
def a_site_that_sends_the_steps_their_own_signal(lab: Lab):
    return preempted(lab, "--signal=USR1@60", comes="task USR1")


@expects(
    "COMPLETED 0:0, requeued 1",
    "task TERM",
    "-- in the grace",
    "shell TERM, task TERM",
    "life 1",
    site="user signal",
)
def a_site_that_would_where_the_job_names_no_signal(lab: Lab):
    return preempted(lab, comes="task TERM")


@expects("COMPLETED 0:0, requeued 1", "shell TERM, task TERM", "life 1", site="no grace")
def a_site_without_grace(lab: Lab):
    node = lab.own_node()
    job = lab.job("no-grace", PROBE, node=node).ready()
    preempt(lab, node)
    return [job.end(), *job.seen()]


def soon(lab: Lab, job: Probe, seconds: float) -> None:
    lab.cluster.run(
        ["scontrol", "update", f"jobid={job.number}", f"EndTime=now+{seconds}"], check=True
    )


@expects(
    "TIMEOUT 0:9",
    "shell TERM, task TERM",
    "slurmstepd-n1: error: *** JOB JOB ON n1 CANCELLED AT WHEN DUE TO TIME LIMIT ***",
    "slurmstepd-n1: error: *** STEP JOB.0 ON n1 CANCELLED AT WHEN DUE TO TIME LIMIT ***",
    "srun: Job step aborted: Waiting up to 7 seconds for job step to finish.",
)
def the_time_limit(lab: Lab):
    job = lab.job("limit", PROBE, "-t", "10").ready()
    soon(lab, job, 1)
    return [job.end(), *job.seen(), *job.output(KILLED)]


@expects("TIMEOUT 0:15", "task TERM")
def the_time_limit_of_a_shell_without_traps(lab: Lab):
    job = lab.job("limit-bare", BARE, "-t", "10").until("task ready", "shell ready")
    soon(lab, job, 1)
    return [job.end(), *job.seen()]


@expects("COMPLETED 0:0, requeued 1", "life 1")
def requeue_after_the_time_limit(lab: Lab):
    job = lab.job(
        "limit-requeue",
        "life\ntrap 'scontrol requeue $SLURM_JOB_ID; exit 0' TERM\nsay ready\nsleep 60 &\nwait\n",
        "-t",
        "10",
    ).until("shell ready")
    soon(lab, job, 1)
    return [job.end(), *job.seen()]


@expects("TIMEOUT 0:9", "shell USR1", "-- later", "shell TERM, task TERM")
def a_warning_for_the_shell(lab: Lab):
    job = lab.job("warned-shell", PROBE, "--signal=B:USR1@120", "-t", "10").ready()
    soon(lab, job, 100)
    job.until("shell USR1").mark("later")
    soon(lab, job, 1)
    return [job.end(), *job.seen()]


@expects("TIMEOUT 0:9", "task USR1", "-- later", "shell TERM, task TERM")
def a_warning_for_the_steps(lab: Lab):
    job = lab.job("warned-steps", PROBE, "--signal=USR1@120", "-t", "10").ready()
    soon(lab, job, 100)
    job.until("task USR1").mark("later")
    soon(lab, job, 1)
    return [job.end(), *job.seen()]


@expects("TIMEOUT 0:9", "shell TERM")
def a_warning_for_the_steps_where_there_are_none(lab: Lab):
    body = f"trap 'say TERM' TERM; trap 'say USR1' USR1\n{RECORD} child &\nsay ready\nhold\n"
    job = lab.job("warned-nobody", body, "--signal=USR1@120", "-t", "10").until(
        "shell ready", "child ready"
    )
    soon(lab, job, 4 if lab.real else 1)
    return [job.end(), *job.seen()]


@expects(
    "CANCELLED 0:9",
    "shell TERM, task TERM",
    "slurmstepd-n1: error: *** JOB JOB ON n1 CANCELLED AT WHEN ***",
    "slurmstepd-n1: error: *** STEP JOB.0 ON n1 CANCELLED AT WHEN ***",
    "srun: Job step aborted: Waiting up to 7 seconds for job step to finish.",
)
def scancel_ends(lab: Lab):
    job = lab.job("cancelled").ready()
    lab.run("scancel", job.number)
    return [job.end(), *job.seen(), *job.output(KILLED)]


@expects("CANCELLED 0:15", "task TERM")
def scancel_of_a_shell_without_traps(lab: Lab):
    job = lab.job("cancelled-bare", BARE).until("task ready", "shell ready")
    lab.run("scancel", job.number)
    return [job.end(), *job.seen()]


@expects("CANCELLED 4:0", "shell TERM")
def scancel_from_inside_whose_trap_exits(lab: Lab):
    job = lab.job(
        "cancels-itself",
        'trap "say TERM; exit 4" TERM; scancel $SLURM_JOB_ID; while :; do sleep 0.1; done\n',
    )
    return [job.end(), *job.seen()]


@expects(
    "FAILED 0:9",
    "task USR1",
    "-- -s USR1",
    "shell TERM",
    "-- --batch -s TERM",
    "task USR2",
    "-- --signal=SIGUSR2",
    "child USR1, shell USR1, task USR1",
    "-- --full -s USR1",
    "task TERM",
)
def scancel_sends_signals(lab: Lab):
    job = lab.job("signalled").ready()
    for options, comes in (
        (["-s", "USR1"], "task USR1"),
        (["--batch", "-s", "TERM"], "shell TERM"),
        (["--signal=SIGUSR2"], "task USR2"),
    ):
        lab.run("scancel", *options, job.number)
        job.until(comes).mark(" ".join(options))
    lab.run("scancel", "--full", "-s", "USR1", job.number)
    job.until("child USR1", "shell USR1").mark("--full -s USR1")
    lab.run("scancel", "-b", "-s", "KILL", job.number)
    return [job.end(), *job.seen()]


@expects("COMPLETED 0:0", "shell srun 137")
def scancel_of_a_step(lab: Lab):
    job = lab.job("step-cancelled", f"srun {RECORD} task & wait $!; say srun $?\n").until(
        "task ready"
    )
    lab.run("scancel", f"{job.number}.0")
    return [job.end(), *job.seen()]


@expects("FAILED 0:10")
def a_signal_that_the_shell_doesnt_trap_kills_it(lab: Lab):
    job = lab.job("untrapped", "scancel -b -s USR1 $SLURM_JOB_ID; sleep 60\n")
    return [job.end()]


def to_srun(lab: Lab, number: str, *then: str) -> list[str]:
    more = "".join(f"sleep 0.3; kill -{n} $p\n" for n in then)
    job = lab.job(
        f"srun-{number}",
        f"srun {RECORD} task USR2=7 & p=$!; ready 1\nkill -{number} $p\n{more}wait $p; say srun "
        "$?\n",
    )
    # slurmstepd's line, that the step was cancelled, isn't always there before srun has gone
    return [job.end(), *job.seen(), *job.output("CANCELLED AT")]


@expects(
    "COMPLETED 0:0",
    "shell srun 137",
    "srun: Job step aborted: Waiting up to 7 seconds for job step to finish.",
    "srun: error: n1: task 0: Killed",
    "srun: forcing job termination",
)
def term_to_srun_kills_its_tasks(lab: Lab):
    return to_srun(lab, "TERM")


@expects(
    "COMPLETED 0:0",
    "shell srun 137",
    "srun: Job step aborted: Waiting up to 7 seconds for job step to finish.",
    "srun: error: n1: task 0: Killed",
    "srun: forcing job termination",
)
def hup_to_srun_kills_its_tasks(lab: Lab):
    return to_srun(lab, "HUP")


@expects(
    "COMPLETED 0:0",
    "shell srun 137",
    "srun: Job step aborted: Waiting up to 7 seconds for job step to finish.",
    "srun: StepId=JOB.0 task 0: running",
    "srun: forcing job termination",
    "srun: interrupt (one more within 1 sec to abort)",
    "srun: sending Ctrl-C to StepId=JOB.0",
)
def two_int_to_srun(lab: Lab):
    # The second within a second aborts the step. A busy machine may need more than two for that.
    body = (
        f"srun {RECORD} task & p=$!; ready 1\nwhile kill -INT $p; do sleep 0.3; done 2> "
        "/dev/null\nwait $p; say srun $?\n"
    )
    job = lab.job("srun-ints", body)
    # whether the task handles its SIGINT before its SIGKILL comes is a race of Slurm's
    seen = [line.removesuffix(", task INT") for line in (job.end(), *job.seen())]
    return [*seen, *dict.fromkeys(job.output("CANCELLED AT"))]


@expects(
    "COMPLETED 0:0",
    "shell srun 7, task USR1, task USR2",
    "srun: error: n1: task 0: Exited with exit code 7",
)
def usr1_and_usr2_to_srun_are_passed_on(lab: Lab):
    return to_srun(lab, "USR1", "USR2")


@expects("COMPLETED 0:0", "task TERM")
def a_shell_that_doesnt_wait_for_srun(lab: Lab):
    job = lab.job(
        "no-wait", f"srun {RECORD} task & p=$!; {RECORD} child & ready 2\nalone $p\nexit 0\n"
    )
    # the job is over when its script is, and not only when its steps are
    return [job.end(), *job.until("task TERM").seen()]


@expects(
    "COMPLETED 0:0",
    "shell srun 137",
    "SCRIPT: line Killed                  srun RECORDER task",
)
def srun_killed(lab: Lab):
    job = lab.job(
        "srun-killed",
        f"srun {RECORD} task & p=$!; ready 1\nkill -KILL $p; wait $p; say srun $?; sleep 1.5; "
        "scancel -s USR1 $SLURM_JOB_ID; sleep 0.5\n",
    )
    return [job.end(), *job.seen(), *job.output()]
