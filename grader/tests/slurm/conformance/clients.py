"""What the commands take, say and return, and what a job finds in its environment."""

from __future__ import annotations

import re
import shlex
from concurrent.futures import ThreadPoolExecutor

from grader.tests.slurm.conformance.lab import Lab, expects

# a step whose tasks say their number and their node
NUMBERED = "srun sh -c 'echo $SLURM_PROCID: $SLURMD_NODENAME'"


@expects(
    "exit-0: COMPLETED 0:0",
    "exit-3: FAILED 3:0",
    "killed: FAILED 0:9",
    "terminated: FAILED 0:15",
    "srun-7: FAILED 7:0",
    "exec-srun: FAILED 9:0",
    "srun-killed-9: FAILED 137:0",
    "srun-terminated: FAILED 143:0",
    "no-program: FAILED 2:0",
    "failed-first: COMPLETED 0:0",
    "no log: FAILED 0:53",
    "srun: Force Terminated StepId=JOB.0",
    "srun: error: n1: task 0: Killed",
    "slurmstepd-n1: error: execve(): no-such-program: No such file or directory",
    "srun: error: n1: task 0: Exited with exit code 2",
)
def how_jobs_end(lab: Lab):
    bodies = {
        "exit-0": "exit 0",
        "exit-3": "exit 3",
        "killed": "kill -9 $$",
        "terminated": "kill -TERM $$",
        "srun-7": "srun sh -c 'exit 7'",
        "exec-srun": "exec srun sh -c 'exit 9'",
        "srun-killed-9": "srun sh -c 'kill -9 $$'",
        "srun-terminated": "srun sh -c 'kill -TERM $$'; exit $?",
        "no-program": "srun no-such-program",
        "failed-first": "false; true",
    }
    jobs = {name: lab.job(f"end-{name}", body + "\n") for name, body in bodies.items()}
    nowhere = lab.job("end-no-log", "exit 0\n", "-o", "/nonexistent/log")
    return [f"{name}: {job.end()}" for name, job in jobs.items()] + [
        f"no log: {nowhere.end()}",
        *jobs["srun-killed-9"].output(),
        *jobs["no-program"].output(),
    ]


@expects("exit 0: 0", "exit 4: 4", "kill -9 $$: 1")
def sbatch_waits_for_the_exit_status(lab: Lab):
    def status(body: str) -> str:
        command = ["sbatch", "-W", "-w", "n1", "-o", "/dev/null", "--wrap", body]
        return f"{body}: {lab.cluster.run(command, cwd=lab.folder).returncode}"

    with ThreadPoolExecutor(3) as threads:
        return list(threads.map(status, ("exit 0", "exit 4", "kill -9 $$")))


NAMES = (
    "SLURM_JOB_NAME",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NNODES",
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_JOB_NODELIST",
    "SLURM_NODELIST",
    "SLURMD_NODENAME",
    "SLURM_SUBMIT_DIR",
    "SLURM_RESTART_COUNT",
    "SLURM_TASKS_PER_NODE",
    "SLURM_JOB_CPUS_PER_NODE",
    "SLURM_CPUS_ON_NODE",
    "SLURM_CPUS_PER_TASK",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_JOB_PARTITION",
    "SLURM_CLUSTER_NAME",
    "SLURM_GTIDS",
    "SLURM_STEP_ID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_NODELIST",
    "SLURM_ARRAY_TASK_ID",
    "MINE",
)


def environment(lab: Lab, name: str, last: int, *options: str) -> list[str]:
    ask = f"env | grep -E '^({'|'.join(NAMES)})='"
    job = lab.job(
        name,
        f'{ask} | sort\nsrun sh -c "{ask} | sort | sed s/^/\\$SLURM_PROCID:/" | grep ^{last}:\n'
        "[ $SLURM_JOB_ID = $SLURM_JOBID ] && echo same\n",
        *options,
        MINE="own",
    )
    ended = job.end()
    return [ended, *[line.replace(str(lab.folder), "FOLDER") for line in job.output()]]


@expects(
    "COMPLETED 0:0",
    "0:MINE=own",
    "0:SLURMD_NODENAME=n1",
    "0:SLURM_CLUSTER_NAME=loopback",
    "0:SLURM_CPUS_ON_NODE=1",
    "0:SLURM_GTIDS=0",
    "0:SLURM_JOB_CPUS_PER_NODE=1",
    "0:SLURM_JOB_NAME=env-1.sh",
    "0:SLURM_JOB_NODELIST=n1",
    "0:SLURM_JOB_NUM_NODES=1",
    "0:SLURM_JOB_PARTITION=low",
    "0:SLURM_LOCALID=0",
    "0:SLURM_NNODES=1",
    "0:SLURM_NODEID=0",
    "0:SLURM_NODELIST=n1",
    "0:SLURM_NPROCS=1",
    "0:SLURM_NTASKS=1",
    "0:SLURM_PROCID=0",
    "0:SLURM_STEP_ID=0",
    "0:SLURM_STEP_NODELIST=n1",
    "0:SLURM_STEP_NUM_TASKS=1",
    "0:SLURM_SUBMIT_DIR=FOLDER",
    "0:SLURM_TASKS_PER_NODE=1",
    "MINE=own",
    "SLURMD_NODENAME=n1",
    "SLURM_CLUSTER_NAME=loopback",
    "SLURM_CPUS_ON_NODE=1",
    "SLURM_GTIDS=0",
    "SLURM_JOB_CPUS_PER_NODE=1",
    "SLURM_JOB_NAME=env-1.sh",
    "SLURM_JOB_NODELIST=n1",
    "SLURM_JOB_NUM_NODES=1",
    "SLURM_JOB_PARTITION=low",
    "SLURM_LOCALID=0",
    "SLURM_NNODES=1",
    "SLURM_NODEID=0",
    "SLURM_NODELIST=n1",
    "SLURM_PROCID=0",
    "SLURM_SUBMIT_DIR=FOLDER",
    "SLURM_TASKS_PER_NODE=1",
    "same",
)
def the_environment_of_one_task(lab: Lab):
    return environment(lab, "env-1", 0)


@expects(
    "COMPLETED 0:0",
    "3:MINE=own",
    "3:SLURMD_NODENAME=n12",
    "3:SLURM_CLUSTER_NAME=loopback",
    "3:SLURM_CPUS_ON_NODE=4",
    "3:SLURM_CPUS_PER_TASK=2",
    "3:SLURM_GTIDS=2,3",
    "3:SLURM_JOB_CPUS_PER_NODE=4(x2)",
    "3:SLURM_JOB_NAME=env-2.sh",
    "3:SLURM_JOB_NODELIST=n[1,12]",
    "3:SLURM_JOB_NUM_NODES=2",
    "3:SLURM_JOB_PARTITION=low",
    "3:SLURM_LOCALID=1",
    "3:SLURM_NNODES=2",
    "3:SLURM_NODEID=1",
    "3:SLURM_NODELIST=n[1,12]",
    "3:SLURM_NPROCS=4",
    "3:SLURM_NTASKS=4",
    "3:SLURM_NTASKS_PER_NODE=2",
    "3:SLURM_PROCID=3",
    "3:SLURM_STEP_ID=0",
    "3:SLURM_STEP_NODELIST=n[1,12]",
    "3:SLURM_STEP_NUM_TASKS=4",
    "3:SLURM_SUBMIT_DIR=FOLDER",
    "3:SLURM_TASKS_PER_NODE=2(x2)",
    "MINE=own",
    "SLURMD_NODENAME=n1",
    "SLURM_CLUSTER_NAME=loopback",
    "SLURM_CPUS_ON_NODE=4",
    "SLURM_CPUS_PER_TASK=2",
    "SLURM_GTIDS=0",
    "SLURM_JOB_CPUS_PER_NODE=4(x2)",
    "SLURM_JOB_NAME=env-2.sh",
    "SLURM_JOB_NODELIST=n[1,12]",
    "SLURM_JOB_NUM_NODES=2",
    "SLURM_JOB_PARTITION=low",
    "SLURM_LOCALID=0",
    "SLURM_NNODES=2",
    "SLURM_NODEID=0",
    "SLURM_NODELIST=n[1,12]",
    "SLURM_NPROCS=4",
    "SLURM_NTASKS=4",
    "SLURM_NTASKS_PER_NODE=2",
    "SLURM_PROCID=0",
    "SLURM_SUBMIT_DIR=FOLDER",
    "SLURM_TASKS_PER_NODE=2(x2)",
    "same",
)
def the_environment_of_two_nodes(lab: Lab):
    return environment(lab, "env-2", 3, "-N2", "--ntasks-per-node=2", "-c2", "-w", "n[1,12]")


@expects("COMPLETED 0:0", "0: n1", "1", "1: n1", "2: n12", "3 2,1", "n1")
def three_tasks_on_two_nodes(lab: Lab):
    job = lab.job(
        "three",
        f"echo $SLURM_NTASKS $SLURM_TASKS_PER_NODE; {NUMBERED}\nsrun -n1 "
        "-N1 printenv SLURMD_NODENAME SLURM_NTASKS\n",
        "-N2",
        "-n3",
        "-w",
        "n[1,12]",
    )
    # the second srun may come before the nodes have told that the first one's step is over
    return [job.end(), *job.output("step creation temporarily disabled", "Step created for job")]


@expects("COMPLETED 0:0", "0: n1", "1: n12", "unset")
def two_nodes_without_a_number_of_tasks(lab: Lab):
    job = lab.job(
        "two",
        f"echo ${{SLURM_NTASKS-unset}}; {NUMBERED}\n",
        "-N2",
        "-w",
        "n[1,12]",
    )
    return [job.end(), *job.output()]


@expects(
    "COMPLETED 0:0: begin end begin end",
    "COMPLETED 0:0: begin end begin end",
    "COMPLETED 0:0: begin begin end end",
    "COMPLETED 0:0: begin begin end end",
    "srun: Job JOB step creation temporarily disabled, retrying (Requested nodes are busy)",
    "srun: Step created for job JOB",
)
def steps_take_turns(lab: Lab):
    # ends only where they run at once
    both = "while [ `grep -c begin $PROBE` -lt 2 ]; do sleep 0.05; done"
    jobs = []
    for option, tasks, then in (
        ("", "1", "sleep 0.3"),
        ("-n1", "2", "sleep 0.3"),
        ("--overlap", "1", both),
        ("-n1 --exact", "2", both),
    ):
        step = f"srun {option} sh -c 'echo begin >> $PROBE; {then}; echo end >> $PROBE' & "
        jobs.append(
            lab.job(f"turns{option}-{tasks}".replace(" ", ""), f"{step}{step} wait\n", "-n", tasks)
        )
    ends = [job.end() for job in jobs]
    return [
        f"{end}: {' '.join(job.text.split())}" for end, job in zip(ends, jobs, strict=False)
    ] + jobs[0].output()


@expects(
    "COMPLETED 0:0",
    "shell script high",
    "COMPLETED 0:0",
    "shell variable high",
    "COMPLETED 0:0",
    "shell line low",
)
def options_of_script_environment_and_line(lab: Lab):
    head = (
        "#!/bin/bash\n#SBATCH -J script\n#SBATCH -p high   # a comment\n\n# more\n#SBATCH "
        '--open-mode=append\necho "shell $SLURM_JOB_NAME $SLURM_JOB_PARTITION" >> $PROBE\n'
        "#SBATCH -J late\n"
    )
    jobs = [
        lab.job("options-1", "", head=head),
        lab.job("options-2", "", head=head, SBATCH_JOB_NAME="variable"),
        lab.job("options-3", "", "-J", "line", "-p", "low", head=head, SBATCH_JOB_NAME="variable"),
    ]
    return [line for job in jobs for line in (job.end(), *job.seen())]


@expects(
    "RUNNING",
    "R",
    "JOB|asked.sh|low|1|n1|n1|1:30:00|why|FOLDER|FOLDER/asked.sh",
    "    asked.sh|asked.sh    |RUN|RUN",
    "None",
    "JOB RUNNING",
    "RUNNING",
    "JOBID",
    "then: '' 'CANCELLED\\n'",
)
def squeue_in_the_words_of_scripts(lab: Lab):
    job = lab.job("asked", "say ready\nsleep 60\n", "-t", "1:30:00", "--comment=why").until(
        "shell ready"
    )
    found = [
        lab.run("squeue", "-h", "-j", job.number, "-o", text).rstrip("\n")
        for text in ("%T", "%t", "%i|%j|%P|%D|%N|%R|%l|%k|%Z|%o", "%.12j|%12j|%3T|%.3T", "%r")
    ]
    found.append(lab.run("squeue", "-h", "-n", "asked.sh", "-o", "%i %T").strip())
    found.append(lab.run("squeue", "--me", "-h", "-t", "R", "-n", "asked.sh", "-o", "%T").strip())
    found.append(lab.run("squeue", "-j", job.number, "-o", "%i %T").split()[0])
    lab.run("scancel", job.number)
    job.end()
    found.append(
        f"then: {lab.run('squeue', '-h', '-j', job.number, '-o', '%T')!r} "
        f"{lab.run('squeue', '-h', '-t', 'all', '-j', job.number, '-o', '%T')!r}"
    )
    return [
        re.sub(rf"\b{job.number}\b", "JOB", line).replace(str(lab.folder), "FOLDER")
        for line in found
    ]


@expects(
    "JobID|UID|JobName|Partition|NNodes|NodeList|State|End",
    "JOB|recorded.sh|low|1|n1|FAILED|7|3:0",
    "Slurm accounting storage is disabled",
)
def the_record_of_an_ended_job(lab: Lab):
    job = lab.job("recorded", "exit 3\n", "-t", "7")
    job.end()
    lab.until(lambda: lab.run("sacct", "-c", "-n", "-P", "-j", job.number).strip(), "no record")
    head = lab.run("sacct", "-c", "-P", "-j", job.number).split("\n")[0]
    return [
        head,
        lab.run(
            "sacct",
            "-c",
            "-n",
            "-P",
            "-j",
            job.number,
            "-o",
            "JobID,JobName,Partition,NNodes,NodeList,State,Timelimit,ExitCode",
        )
        .strip()
        .replace(job.number, "JOB"),
        lab.run("sacct").strip(),
    ]


@expects(
    "sbatch missing.sh: 1 ['sbatch: error: Unable to open file missing.sh']",
    "sbatch odd.sh: 1 ['sbatch: error: This does not look like a batch script.  The first']",
    "sbatch -p nowhere fine.sh: 1 ['sbatch: error: invalid partition specified: nowhere']",
    "sbatch -t soon fine.sh: 255 ['sbatch: error: Invalid --time specification']",
    "sbatch --signal=B:NO@1 fine.sh: 255 ['sbatch: error: Invalid --signal specification']",
    "sbatch --open-mode=x fine.sh: 255 ['sbatch: error: Invalid --open-mode specification']",
    "sbatch -d sometime:1 fine.sh: 1 ['sbatch: error: Batch job submission failed: Job "
    "dependency problem']",
    "sbatch -a x fine.sh: 1 ['sbatch: error: Batch job submission failed: Invalid job array "
    "specification']",
    "scontrol requeue 99999: 1 ['Invalid job id specified for job 99999']",
    "scontrol show job 99999: 1 ['slurm_load_jobs error: Invalid job id specified']",
    "scontrol update jobid=99999 TimeLimit=5: 1 ['Invalid job id specified for job 99999']",
    "scancel 99999: 0 []",
    "scancel -s NO 1: 1 ['Unknown job signal: NO']",
    "scancel: 1 ['scancel: error: No job identification provided']",
    "squeue -h -j 99999: 1 ['slurm_load_jobs error: Invalid job id specified']",
    "srun: 1 ['srun: fatal: No command given to execute.']",
    "scontrol show hostnames n[1-3,7]: 0 ['n1']",
    "scontrol show hostnames a,b[01-02]: 0 ['a']",
)
def refusals(lab: Lab):
    (lab.folder / "fine.sh").write_text("#!/bin/sh\n")
    (lab.folder / "odd.sh").write_text("exit 0\n")
    found = []
    for command in (
        "sbatch missing.sh",
        "sbatch odd.sh",
        "sbatch -p nowhere fine.sh",
        "sbatch -t soon fine.sh",
        "sbatch --signal=B:NO@1 fine.sh",
        "sbatch --open-mode=x fine.sh",
        "sbatch -d sometime:1 fine.sh",
        "sbatch -a x fine.sh",
        "scontrol requeue 99999",
        "scontrol show job 99999",
        "scontrol update jobid=99999 TimeLimit=5",
        "scancel 99999",
        "scancel -s NO 1",
        "scancel",
        "squeue -h -j 99999",
        "srun",
        "scontrol show hostnames n[1-3,7]",
        "scontrol show hostnames a,b[01-02]",
    ):
        done = lab.cluster.run(command.split(), cwd=lab.folder)
        found.append(
            f"{command}: {done.returncode} {(done.stdout + done.stderr).strip().splitlines()[:1]}"
        )
    return found


@expects(
    "2",
    "0: err",
    "0: out",
    "1: err",
    "1: out",
    "2: err",
    "2: out",
    "srun: error: n1: task 1: Exited with exit code 1",
    "srun: error: n1: task 2: Exited with exit code 2",
    "0",
    "0: n1",
    "1: n12",
    "137",
    "srun: Force Terminated StepId=JOB.0",
    "srun: error: n1: task 0: Killed",
)
def srun_outside_of_a_job(lab: Lab):
    found = []
    for command in (
        [
            "-n3",
            "sh",
            "-c",
            "for w in out err; do echo $SLURM_PROCID: $w; done; exit $SLURM_PROCID",
        ],
        ["-N2", "-w", "n[1,12]", *shlex.split(NUMBERED)[1:]],
        ["sh", "-c", "kill -9 $$"],
    ):
        done = lab.cluster.run(
            ["srun", *([] if "-w" in command else ["-w", "n1"]), *command], cwd=lab.folder
        )
        text = re.sub(r"StepId=\d+", "StepId=JOB", done.stdout + done.stderr)
        # left out: that it had to wait for resources; that a task which died at once was told dead
        # before its output's connection was taken
        found += [
            str(done.returncode),
            *sorted(
                line
                for line in text.splitlines()
                if "resources" not in line and "IO: Hey" not in line
            ),
        ]
    return found


@expects("COMPLETED 0:0", "0", "0027", "given", "no tty", "out")
def standard_input_of_a_job_and_its_steps(lab: Lab):
    job = lab.job(
        "stdin",
        "[ -t 0 ] || echo no tty; cat | wc -c | tr -d ' '; echo given | srun cat; srun sh -c "
        "'echo out; echo err >&2' 2>/dev/null\numask 027; srun sh -c umask\n",
    )
    return [job.end(), *job.output()]
