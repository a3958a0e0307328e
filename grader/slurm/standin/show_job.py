"""What `scontrol show job` prints."""

from __future__ import annotations

import os
import time

from .formats import duration, log_name, node_list, stamp


def job_lines(job: dict) -> list[str]:
    """The lines of `scontrol show job`, in Slurm's order, without fields that have no
    meaning here.
    """
    code, number = exit_of(job)
    array = job["array"]
    begun = job["start"] is not None
    limit = "UNLIMITED" if job["limit"] is None else duration(job["limit"] * 60, padded=True)
    ran = (
        0
        if not begun
        else (
            (job["end"] if job["shown"] != "RUNNING" and job["end"] else time.time()) - job["start"]
        )
    )
    return [
        f"JobId={job['id']}"
        + (f" ArrayJobId={array['job']} ArrayTaskId={array['task']}" if array else "")
        + f" JobName={job['name']}",
        f"UserId={job['user']}({os.getuid()}) Priority=1 Nice=0 Account=(null) QOS=(null)",
        (
            f"JobState={job['shown']} Reason={job['reason']} "
            f"Dependency={job['dependency'] or '(null)'}"
        ),
        (
            f"Requeue={int(job['may_requeue'])} Restarts={job['restarts']} "
            f"BatchFlag={int(job['batch'])} Reboot=0 ExitCode={code}:{number}"
        ),
        f"RunTime={duration(ran, padded=True)} TimeLimit={limit} TimeMin=N/A",
        (
            f"SubmitTime={stamp(job['submitted'])} "
            f"EligibleTime={stamp(max(job['submitted'], job['eligible']))}"
        ),
        f"StartTime={stamp(job['start'])} EndTime={stamp(job['end'])} Deadline=N/A",
        f"Partition={job['partition']} NodeList={node_list(job['nodes'])}"
        + (f" BatchHost={job['nodes'][0]}" if job["nodes"] else ""),
        (
            f"NumNodes={len(job['nodes']) or job['wanted_nodes']} "
            f"NumCPUs={job['cpus'] or job['ntasks']} NumTasks={job['ntasks']} "
            f"CPUs/Task={job['cpus_per_task'] or 1}"
        ),
        f"Command={job['command'] or '(null)'}",
        f"WorkDir={job['cwd']}",
        f"StdErr={_file(job, job['err'])}",
        "StdIn=/dev/null",
        f"StdOut={_file(job, job['out'])}",
    ]


def _file(job: dict, pattern: str) -> str:
    return os.path.join(job["cwd"], log_name(pattern, job))


def exit_of(job: dict) -> tuple[int, int]:
    code = os.waitstatus_to_exitcode(job["exit"])
    return (code, 0) if code >= 0 else (0, -code)
