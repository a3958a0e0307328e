"""scontrol and scancel."""

from __future__ import annotations

import os
import sys

from .formats import Refused, hostnames, minutes, moment, signal_number, unknown
from .options import FLAG, VALUE, parse
from .protocol import ask
from .show_job import job_lines


def scontrol(directory: str, args: list[str]) -> int:
    options, words = parse(
        args, {"o oneliner": FLAG, "d details": FLAG, "h help": FLAG}, stop_at_first=False
    )
    if options.get("details") or options.get("help") or not words:
        raise unknown("scontrol in this form")
    verb, *rest = words
    if verb == "show" and rest[:1] and "hostnames".startswith(rest[0]) and len(rest[0]) > 4:
        print(
            "\n".join(
                hostnames(rest[1] if len(rest) > 1 else os.environ.get("SLURM_JOB_NODELIST", ""))
            )
        )
    elif verb == "show" and rest[:1] in (["job"], ["jobs"]):
        jobs = ask(directory, {"do": "jobs", "jobs": rest[1:] or None})["jobs"]
        if not jobs:
            print("No jobs in the system")
        for job in jobs:
            lines = job_lines(job)
            print(" ".join(lines) if options.get("oneliner") else "\n   ".join(lines) + "\n")
    elif verb == "requeue" and rest:
        ask(directory, {"do": "requeue", "jobs": [r for text in rest for r in text.split(",")]})
    elif verb == "update":
        ask(directory, {"do": "update"} | _changes(rest))
    elif verb == "ping":
        ask(directory, {"do": "nodes"})
        print("the stand-in is UP")
    else:
        raise unknown(f"scontrol {' '.join(words[:2])}")
    return 0


def _changes(words: list[str]) -> dict:
    found: dict = {}
    for word in words:
        key, equals, value = word.partition("=")
        try:
            if key.lower() in ("jobid", "job") and equals:
                found["job"] = value
            elif key.lower() == "endtime":
                found["end"] = moment(value)
            elif key.lower() == "timelimit":
                found["limit"] = minutes(value)
            elif key.lower() == "requeue" and value in ("0", "1"):
                found["requeue"] = value == "1"
            else:
                raise unknown(f"scontrol update {word}")
        except ValueError:
            raise Refused(f"Invalid {key} value: {value}") from None
    if "job" not in found:
        raise unknown("scontrol update of anything but a job")
    return found


def scancel(directory: str, args: list[str]) -> int:
    table = {
        "s signal": VALUE,
        "b batch": FLAG,
        "f full": FLAG,
        "n name": VALUE,
        "jobname": VALUE,
        "u user": VALUE,
        "me": FLAG,
        "t state": VALUE,
        "p partition": VALUE,
        "Q quiet": FLAG,
    }
    options, jobs = parse(args, table, stop_at_first=False)
    try:
        number = signal_number(options["signal"]) if "signal" in options else None
    except ValueError:
        raise Refused(f"Unknown job signal: {options['signal']}") from None
    import getpass

    states = {"PD": "PENDING", "R": "RUNNING"}
    state = options.get("state")
    wanted = {
        "name": options.get("name") or options.get("jobname"),
        "partition": options.get("partition"),
        "user": getpass.getuser() if options.get("me") else options.get("user"),
        "state": state and states.get(state, state.upper()),
    }
    if not jobs and not any(wanted.values()):
        raise Refused("error: No job identification provided")
    request = {
        "do": "cancel",
        "signal": number,
        "batch": options.get("batch"),
        "full": options.get("full"),
        "filter": wanted,
    }
    if number is None and (options.get("batch") or options.get("full")):
        raise unknown("scancel --batch and --full without --signal")
    status = 0
    for job in (
        [j for text in jobs for j in text.split(",")]
        if jobs and not any("[" in j for j in jobs)
        else jobs
    ):
        try:
            ask(directory, request | ({"step": job, "jobs": []} if "." in job else {"jobs": [job]}))
        except Refused as e:
            print(f"scancel: {e}", file=sys.stderr)
            status = e.status
    if not jobs:
        ask(directory, request | {"jobs": []})
    return status
