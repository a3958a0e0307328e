"""squeue: the jobs that wait or run."""

from __future__ import annotations

import os
import time

from .columns import filled, header
from .formats import FINAL, SHORT, Refused, duration, node_list, ranges, stamp, unknown
from .options import FLAG, VALUE, parse
from .protocol import ask

ALL_STATES = {v: k for k, v in SHORT.items()}


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


def main(directory: str, args: list[str]) -> int:
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
    heading = header("squeue", text.replace("%%", ""), HEADS)
    if not options.get("noheader"):
        print(heading)
    for job in kept:
        print(filled(text.replace("%%", ""), lambda letter, job=job: _field(letter, job)))
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
