"""sacct: the jobs that have ended (`sacct -c`, as without a database)."""

from __future__ import annotations

import os

from .formats import Refused, node_list, stamp, unknown
from .options import FLAG, VALUE, parse
from .protocol import ask
from .show_job import exit_of

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


def main(directory: str, args: list[str]) -> int:
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
