"""squeue, sinfo, sacct, and what `scontrol show job` says."""

from __future__ import annotations

import os
import re
import time

from .formats import FINAL, SHORT, Refused, duration, log_name, node_list, ranges, stamp, unknown
from .options import FLAG, VALUE, parse
from .protocol import ask

ALL_STATES = {v: k for k, v in SHORT.items()}


def job_lines(job: dict) -> list[str]:
    """As `scontrol show job`, in its order; what has no meaning here is left out."""
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


# --- squeue ---------------------------------------------------------------------------------------


def _field(letter: str, job: dict) -> str:
    array, running = job["array"], job["shown"] in ("RUNNING", "COMPLETING")
    now = time.time()
    begun = job["start"] if job["shown"] != "PENDING" else None
    ran = (job["end"] if job["shown"] != "RUNNING" else now) - begun if begun else 0
    nodes = node_list(job["nodes"])
    fields = {
        "i": lambda: job.get("joined") or job["ref"],
        "A": lambda: job["id"],
        "F": lambda: array["job"] if array else job["id"],
        "K": lambda: (job.get("joined_tasks") or array["task"]) if array else "N/A",
        "j": lambda: job["name"],
        "T": lambda: job["shown"],
        "t": lambda: SHORT[job["shown"]],
        "P": lambda: job["partition"],
        "u": lambda: job["user"],
        "U": os.getuid,
        "M": lambda: duration(ran),
        "L": lambda: (
            duration(job["end"] - now)
            if running and job["limit"]
            else "UNLIMITED"
            if job["limit"] is None
            else duration(job["limit"] * 60)
        ),
        "l": lambda: "UNLIMITED" if job["limit"] is None else duration(job["limit"] * 60),
        "D": lambda: len(job["nodes"]) or job["wanted_nodes"],
        "N": lambda: nodes,
        "R": lambda: f"({job['reason']})" if job["shown"] == "PENDING" else nodes,
        "r": lambda: job["reason"],
        "S": lambda: stamp(begun, "N/A"),
        "e": lambda: stamp(job["end"], "N/A"),
        "Z": lambda: job["cwd"],
        "o": lambda: job["command"] or "(null)",
        "k": lambda: job["comment"] or "(null)",
        "E": lambda: job["dependency"] or "(null)",
        "C": lambda: job["cpus"] or job["ntasks"],
        "V": lambda: stamp(job["submitted"]),
        "a": lambda: "(null)",
        "y": lambda: 0,
        "c": lambda: job["cpus_per_task"] or 1,
    }
    return str(fields[letter]())


HEADS = {
    "i": "JOBID",
    "A": "JOBID",
    "F": "ARRAY_JOB_ID",
    "K": "ARRAY_TASK_ID",
    "j": "NAME",
    "T": "STATE",
    "t": "ST",
    "P": "PARTITION",
    "u": "USER",
    "U": "UID",
    "M": "TIME",
    "L": "TIME_LEFT",
    "l": "TIME_LIMIT",
    "D": "NODES",
    "N": "NODELIST",
    "R": "NODELIST(REASON)",
    "r": "REASON",
    "S": "START_TIME",
    "e": "END_TIME",
    "Z": "WORK_DIR",
    "o": "COMMAND",
    "k": "COMMENT",
    "E": "DEPENDENCY",
    "C": "CPUS",
    "V": "SUBMIT_TIME",
    "a": "ACCOUNT",
    "y": "NICE",
    "c": "MIN_CPUS",
}


def _format(text: str, field) -> str:
    """%i, %.18i (to the right), %8j (to the left), each cut to its width."""

    def put(found: re.Match) -> str:
        value = field(found[3])
        width = int(found[2] or 0)
        return (
            value
            if not width
            else value[:width].rjust(width)
            if found[1]
            else value[:width].ljust(width)
        )

    return re.sub(r"%(\.?)(\d*)([a-zA-Z])", put, text)


def _header(command: str, text: str, heads: dict[str, str]) -> str:
    """Made in any case: a field that isn't known is refused, also where there's nothing to show."""

    def head(letter: str) -> str:
        if letter not in heads:
            raise unknown(f"{command}'s %{letter}")
        return heads[letter]

    return _format(text, head)


def squeue(directory: str, args: list[str]) -> int:
    table = {
        "h noheader": FLAG,
        "j jobs": VALUE,
        "job": VALUE,
        "u user": VALUE,
        "me": FLAG,
        "n name": VALUE,
        "t states": VALUE,
        "p partition": VALUE,
        "o format": VALUE,
        "r array": FLAG,
    }
    options, rest = parse(args, table, stop_at_first=False)
    if rest:
        raise unknown(f"squeue {rest[0]}")
    for name in os.environ:
        if name.startswith("SQUEUE_") and name != "SQUEUE_FORMAT":
            raise unknown(f"the variable {name}")
    wanted = (options.get("jobs") or options.get("job") or "").split(",")
    jobs = ask(directory, {"do": "jobs", "jobs": wanted if wanted != [""] else None})["jobs"]
    states = [
        ALL_STATES.get(s.upper(), s.upper()) for s in options.get("states", "").split(",") if s
    ]
    for state in states:
        if state not in (*SHORT, "ALL"):
            raise Refused(f"error: Invalid job state specified: {state}")
    kept = []
    for job in jobs:
        shown = job["shown"] in states or "ALL" in states if states else job["shown"] not in FINAL
        for key in ("user", "name", "partition"):
            shown &= options.get(key) is None or job[key] in options[key].split(",")
        if shown:
            kept.append(job)
    if not options.get("array") and not any("_" in w for w in wanted):
        kept = _joined(kept)
    kept.sort(
        key=lambda j: (
            ("PENDING", "RUNNING", "COMPLETING").index(j["shown"])
            if j["shown"] not in FINAL
            else -1,
            j["partition"],
        )
    )
    text = (
        options.get("format")
        or os.environ.get("SQUEUE_FORMAT")
        or "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
    )
    header = _header("squeue", text.replace("%%", ""), HEADS)
    if not options.get("noheader"):
        print(header)
    for job in kept:
        print(_format(text.replace("%%", ""), lambda letter, job=job: _field(letter, job)))
    return 0


def _joined(jobs: list[dict]) -> list[dict]:
    """The tasks of an array that haven't started are one line: 7_[2-3%1]."""
    kept: list[dict] = []
    seen: dict[int, dict] = {}
    for job in jobs:
        if not job["array"] or job["shown"] != "PENDING" or job["restarts"]:
            kept.append(job)
            continue
        first = seen.setdefault(job["array"]["job"], job)
        first.setdefault("tasks", []).append(job["array"]["task"])
        if first is job:
            kept.append(job)
    for job in seen.values():
        limit = f"%{job['array']['limit']}" if job["array"]["limit"] else ""
        job["joined_tasks"] = ranges(sorted(job["tasks"])) + limit
        job["joined"] = f"{job['array']['job']}_[{job['joined_tasks']}]"
    return kept


# --- sinfo ----------------------------------------------------------------------------------------

COMPACT = {"idle": "idle", "mixed": "mix", "allocated": "alloc", "completing": "comp"}


def sinfo(directory: str, args: list[str]) -> int:
    table = {
        "h noheader": FLAG,
        "N Node": FLAG,
        "p partition": VALUE,
        "o format": VALUE,
        "t states": VALUE,
        "r responding": FLAG,
    }
    options, rest = parse(args, table, stop_at_first=False)
    if rest:
        raise unknown(f"sinfo {rest[0]}")
    nodes = ask(directory, {"do": "nodes"})["nodes"]
    if "states" in options:
        nodes = [n for n in nodes if options["states"].lower() in (n["state"], COMPACT[n["state"]])]
    partitions = [
        p for p in ("low", "high") if p in options.get("partition", "low,high").split(",")
    ]
    if options.get("Node"):
        rows = [(p, [n]) for n in nodes for p in sorted(partitions)]
        text = "%10N %.6D %.9P %6t"
    else:
        rows = [
            (p, same)
            for p in partitions
            for state in COMPACT
            if (same := [n for n in nodes if n["state"] == state])
        ]
        text = "%9P %.5a %.10l %.6D %.6t %N"
    heads = {
        "N": "NODELIST",
        "D": "NODES",
        "P": "PARTITION",
        "t": "STATE",
        "T": "STATE",
        "a": "AVAIL",
        "l": "TIMELIMIT",
        "c": "CPUS",
        "C": "CPUS(A/I/O/T)",
    }

    def field(letter: str, partition: str, same: list[dict]) -> str:
        cpus, idle = sum(n["cpus"] for n in same), sum(n["free"] for n in same)
        known = {
            "N": node_list([n["name"] for n in same]),
            "D": len(same),
            "P": partition + "*" * (partition == "low"),
            "t": COMPACT[same[0]["state"]],
            "T": same[0]["state"],
            "a": "up",
            "l": "infinite",
            "c": same[0]["cpus"],
            "C": f"{cpus - idle}/{idle}/0/{cpus}",
        }
        return str(known[letter])

    text = options.get("format", text)
    header = _header("sinfo", text, heads)
    if not options.get("noheader"):
        print(header)
    for partition, same in rows:
        print(_format(text, lambda letter, p=partition, s=same: field(letter, p, s)))
    return 0


# --- sacct ----------------------------------------------------------------------------------------

COLUMNS = {
    "JobID": 7,
    "UID": 6,
    "JobName": 10,
    "Partition": 10,
    "NNodes": 8,
    "NodeList": 15,
    "State": 10,
    "Start": 19,
    "End": 19,
    "Timelimit": 10,
    "ExitCode": 8,
}
LEFT = {"JobID"}


def sacct(directory: str, args: list[str]) -> int:
    table = {
        "c completion": FLAG,
        "n noheader": FLAG,
        "P parsable2": FLAG,
        "p parsable": FLAG,
        "j jobs": VALUE,
        "o format": VALUE,
        "X allocations": FLAG,
    }
    options, rest = parse(args, table, stop_at_first=False)
    if rest:
        raise unknown(f"sacct {rest[0]}")
    if not options.get("completion"):
        raise Refused("Slurm accounting storage is disabled")
    names = options.get("format", "JobID,UID,JobName,Partition,NNodes,NodeList,State,End").split(
        ","
    )
    chosen = []
    for name in names:
        key = next((c for c in COLUMNS if c.lower() == name.lower().partition("%")[0]), None)
        if key is None:
            raise unknown(f"sacct's field {name}")
        chosen.append(
            (key, int(name.partition("%")[2] or (12 if key == "JobID" else COLUMNS[key])))
        )
    wanted = options.get("jobs")
    jobs = [
        j
        for j in ask(directory, {"do": "records"})["jobs"]
        if not wanted or str(j["id"]) in wanted.split(",")
    ]
    rows = [
        [
            {
                "JobID": j["id"],
                "UID": os.getuid(),
                "JobName": j["name"],
                "Partition": j["partition"],
                "NNodes": len(j["nodes"]),
                "NodeList": node_list(j["nodes"]) or "(null)",
                "State": j["state"],
                "Start": stamp(j["start"]),
                "End": stamp(j["end"]),
                "Timelimit": "UNLIMITED" if j["limit"] is None else j["limit"],
                "ExitCode": "{}:{}".format(*exit_of(j)),
            }[key]
            for key, _ in chosen
        ]
        for j in jobs
    ]
    if options.get("parsable2") or options.get("parsable"):
        end = "|" if options.get("parsable") else ""
        for row in ([] if options.get("noheader") else [[key for key, _ in chosen]]) + rows:
            print("|".join(map(str, row)) + end)
        return 0

    def line(row: list) -> str:
        cells = [
            (str(v)[: w - 1] + "+" if len(str(v)) > w else str(v))
            for v, (_, w) in zip(row, chosen, strict=False)
        ]
        return (
            " ".join(
                c.ljust(w) if key in LEFT else c.rjust(w)
                for c, (key, w) in zip(cells, chosen, strict=False)
            )
            + " "
        )

    if not options.get("noheader"):
        print(line([key for key, _ in chosen]))
        print(" ".join("-" * w for _, w in chosen) + " ")
    for row in rows:
        print(line(row))
    return 0
