"""Starting again: requeue from inside, chains, arrays, dependencies, and what a life leaves to the
next one.
"""

from __future__ import annotations

from grader.tests.slurm.conformance.lab import RECORD, Lab, expects

LIFE = (
    "echo life ${SLURM_RESTART_COUNT-0} >> $PROBE; echo log ${SLURM_RESTART_COUNT-0}; [ -n "
    '"$SLURM_RESTART_COUNT" ] && exit 0\n'
)


@expects("COMPLETED 0:0, requeued 1", "life 0", "life 1", "log 0", "log 1")
def requeue_as_the_last_act(lab: Lab):
    job = lab.job(
        "requeue", LIFE + "scontrol requeue $SLURM_JOB_ID\nexit 3\n", "--open-mode=append"
    )
    return [job.end(), *job.seen(), *job.output("CANCELLED")]


@expects("COMPLETED 0:0, requeued 1", "life 0", "life 1", "log 1")
def requeue_without_append_loses_the_log(lab: Lab):
    job = lab.job("requeue-truncates", LIFE + "scontrol requeue $SLURM_JOB_ID\n")
    return [job.end(), *job.seen(), *job.output()]


@expects(
    "COMPLETED 0:0, requeued 1",
    "life 0",
    "shell TERM, shell goes on, shell status 0",
    "life 1",
    "log 0",
    "log 1",
    "slurmstepd-n1: error: *** JOB JOB ON n1 CANCELLED AT WHEN DUE TO JOB REQUEUE ***",
)
def requeue_with_a_trap(lab: Lab):
    body = LIFE + (
        "trap 'say TERM' TERM\nscontrol requeue $SLURM_JOB_ID; say status $?\nfor i in 1 2 3; "
        "do sleep 0.1; done; say goes on\nwhile :; do sleep 0.1; done\n"
    )
    job = lab.job("requeue-trap", body, "--open-mode=append")
    return [job.end(), *job.seen(), *job.output()]


@expects(
    "COMPLETED 0:0",
    "life 0",
    "shell status 1",
    "Requested operation is presently disabled for job JOB",
    "log 0",
)
def requeue_where_it_may_not_be(lab: Lab):
    job = lab.job(
        "no-requeue", LIFE + "scontrol requeue $SLURM_JOB_ID; say status $?\n", "--no-requeue"
    )
    return [job.end(), *job.seen(), *job.output()]


@expects(
    "COMPLETED 0:0, requeued 1",
    "life 0",
    "task TERM",
    "life 1",
    "log 0",
    "log 1",
    "slurmstepd-n1: error: *** JOB JOB ON n1 CANCELLED AT WHEN DUE TO JOB REQUEUE ***",
)
def requeue_with_a_step_at_work(lab: Lab):
    body = (
        LIFE
        + f"{RECORD} child & srun {RECORD} task & ready 2\nscontrol requeue $SLURM_JOB_ID\nwait\n"
    )
    job = lab.job("requeue-step", body, "--open-mode=append")
    # srun dies with the shell, at once: whether it says anything before, or hands on what the step
    # says, is chance
    return [job.end(), *job.seen(), *job.output("srun:", "*** STEP")]


@expects("COMPLETED 0:0", "COMPLETED 0:0, requeued 1", "life 0", "life 1")
def requeue_from_outside_of_a_job_that_has_ended(lab: Lab):
    job = lab.job("requeue-ended", LIFE + "exit 0\n")
    first = job.end()
    lab.run("scontrol", "requeue", job.number)
    job.until("life 1")
    return [first, job.end(), *job.seen()]


@expects("COMPLETED 0:0, requeued 1", "life 0", "life 1")
def an_exit_status_for_which_the_site_requeues(lab: Lab):
    job = lab.job("exit-42", LIFE + "exit 42\n")
    return [job.end(), *job.seen()]


@expects(
    "FAILED 5:0, requeued 1",
    "shell JOB",
    "record.sh|low|1|PENDING|0:0",
    "record.sh|low|1|FAILED|5:0",
)
def a_requeued_job_keeps_its_id_and_goes_on_record_each_time(lab: Lab):
    job = lab.job(
        "record",
        'say $SLURM_JOB_ID\n[ -n "$SLURM_RESTART_COUNT" ] && exit 5\nscontrol requeue '
        "$SLURM_JOB_ID\n",
    )
    ended = job.end()
    listed = [
        "sacct",
        "-c",
        "-n",
        "-P",
        "-j",
        job.number,
        "-o",
        "JobName,Partition,NNodes,State,ExitCode",
    ]
    lab.until(lambda: lab.run(*listed).count("\n") == 2, "no two records")
    return [
        ended,
        *{line.replace(job.number, "JOB") for line in job.seen()},
        *lab.run(*listed).split(),
    ]


@expects("COMPLETED 0:0, requeued 1", "shell 0, shell inherited 1 second")
def a_job_submitted_from_a_requeued_one_inherits_its_count(lab: Lab):
    body = (
        '[ -n "$CHAINED" ] && { say inherited $SLURM_RESTART_COUNT $SLURM_JOB_NAME; exit 0; }\n'
        '[ -z "$SLURM_RESTART_COUNT" ] && scontrol requeue $SLURM_JOB_ID && sleep 60\n'
        'CHAINED=1 sbatch -W -o /dev/null -w n1 -J second "$0"; say $?\n'
    )
    job = lab.job("leak", body)
    return [job.end(), *job.seen()]


@expects("COMPLETED 0:0", "shell 0, shell from-script low , shell from-script low again")
def a_script_that_submits_itself_loses_the_command_line(lab: Lab):
    body = (
        '#SBATCH -J from-script\n#SBATCH --comment=c\n[ -n "$CHAINED" ] && { say '
        '"$SLURM_JOB_NAME $SLURM_JOB_PARTITION $*"; exit 0; }\nCHAINED=1 sbatch -W -o '
        '/dev/null "$0" again; say $?\nCHAINED=1 sbatch -W -o /dev/null "$OWN"; say $?\n'
    )
    job = lab.job(
        "itself",
        body,
        "-J",
        "from-line",
        "-p",
        "high",
        head="#!/bin/bash\n" + body.partition("[")[0] + 'say() { echo "shell $*" >> "$PROBE"; }\n',
        OWN=str(lab.folder / "itself.sh"),
    )
    return [job.end(), *job.seen()]


@expects("COMPLETED 0:0", "shell 2 b c FOLDER, shell copy, shell same, shell there")
def dollar_0_is_a_copy(lab: Lab):
    body = (
        'case "$0" in "$OWN") say own;; */slurm_script) say copy;; esac\nsay "$# $2 $PWD"; '
        'cmp "$0" "$OWN" && say same; rm "$OWN"; [ -e "$0" ] && say there\n'
    )
    job = lab.job("copy", body, args=("a", "b c"), OWN=str(lab.folder / "copy.sh"))
    return [
        job.end(),
        *[line.replace(str(lab.folder), "FOLDER") for line in job.seen()],
        *job.output(),
    ]


@expects(
    "afterany:good COMPLETED 0:0",
    "afterany:bad COMPLETED 0:0",
    "afterok:good COMPLETED 0:0",
    "afterok:bad PENDING",
    "afternotok:good PENDING",
    "afternotok:bad COMPLETED 0:0",
    "CANCELLED 0:0",
    "PENDING Dependency (Dependency) afterany:JOB(unfulfilled)",
    "PENDING",
    "CANCELLED 0:15",
    "COMPLETED 0:0",
    "COMPLETED 0:0",
)
def dependencies(lab: Lab):
    def submit(name: str, body: str, *options: str):
        return lab.job(f"dep-{name}", body, *options)

    good, bad = submit("good", "exit 0\n"), submit("bad", "exit 1\n")
    held = submit("long", "say ready\nsleep 60\n").until("shell ready")
    found = []
    for kind in ("afterany", "afterok", "afternotok"):
        for name, other in (("good", good), ("bad", bad)):
            job = submit(f"{kind}-{name}", "exit 0\n", "-d", f"{kind}:{other.number}")
            never = (kind, name) in (("afterok", "bad"), ("afternotok", "good"))
            if never:
                lab.until(
                    lambda job=job: (
                        lab.known(job.number).get("Reason") == "DependencyNeverSatisfied"
                    ),
                    "never refused",
                )
            found.append(
                f"{kind}:{name} {lab.known(job.number)['JobState'] if never else job.end()}"
            )
    killed = submit(
        "killed", "exit 0\n", "-d", f"afterok:{bad.number}", "--kill-on-invalid-dep=yes"
    )
    waiting = submit("waiting", "exit 0\n", "-d", f"afterany:{held.number}")
    both = submit("both", "exit 0\n", "-d", f"afterok:{good.number},afterany:{held.number}")
    found += [
        killed.end(),
        lab.run("squeue", "-h", "-j", waiting.number, "-o", "%T %r %R %E")
        .strip()
        .replace(held.number, "JOB"),
        lab.known(both.number)["JobState"],
    ]
    lab.run("scancel", held.number)
    return [*found, held.end(), waiting.end(), both.end()]


@expects(
    "-- 1",
    "shell 1 of 3, 1 to 3 by 1",
    "-- 2",
    "shell 2 of 3, 1 to 3 by 1",
    "-- 3",
    "shell 3 of 3, 1 to 3 by 1",
    "JOB_1 COMPLETED",
    "JOB_2 FAILED",
    "JOB_3 COMPLETED",
    "array-JOB_1.log",
    "array-JOB_2.log",
    "array-JOB_3.log",
)
def an_array_one_at_a_time(lab: Lab):
    body = (
        'echo "-- $SLURM_ARRAY_TASK_ID" >> $PROBE; say $SLURM_ARRAY_TASK_ID of '
        "$SLURM_ARRAY_TASK_COUNT, $SLURM_ARRAY_TASK_MIN to $SLURM_ARRAY_TASK_MAX by "
        '$SLURM_ARRAY_TASK_STEP; [ $SLURM_ARRAY_JOB_ID = "$1" ] || say $SLURM_JOB_ID; [ '
        "$SLURM_ARRAY_TASK_ID = 2 ] && exit 1\nexit 0\n"
    )
    job = lab.job(
        "array",
        body.replace('[ $SLURM_ARRAY_JOB_ID = "$1" ] || say $SLURM_JOB_ID; ', ""),
        "-a",
        "1-3%1",
        "-o",
        "array-%A_%a.log",
    )
    lab.until(lambda: job.text.count("--") == 3, "three tasks")
    lab.until(lambda: not lab.run("squeue", "-h", "-j", job.number).strip(), "the end")
    states = lab.run("squeue", "-h", "-t", "all", "-r", "-j", job.number, "-o", "%i %T").split("\n")
    logs = sorted(p.name for p in lab.folder.glob("array-*.log"))
    return [
        line.replace(job.number, "JOB")
        for line in [*job.seen(), *sorted(filter(None, states)), *logs]
    ]


@expects(
    "JOB_[2-4%1] JOB 2-4%1 PENDING JobArrayTaskLimit",
    "JOB_1 JOB 1 RUNNING None",
    "JOB_[2,4%1]",
    "JOB_1",
)
def an_array_that_waits(lab: Lab):
    job = lab.job("array-waits", "sleep 60\n", "-a", "1-4%1", "-o", "/dev/null")
    ask = ["squeue", "-h", "-j", job.number, "-o", "%i %F %K %T %r"]
    lab.until(
        lambda: "RUNNING" in lab.run(*ask) and "JobArrayTaskLimit" in lab.run(*ask), "one runs"
    )
    before = lab.run(*ask)
    lab.run("scancel", f"{job.number}_3")
    after = lab.run("squeue", "-h", "-j", job.number, "-o", "%i")
    lab.run("scancel", job.number)
    lab.until(lambda: not lab.run("squeue", "-h", "-j", job.number).strip(), "the end")
    return [line.replace(job.number, "JOB") for line in (before + after).splitlines()]
