"""sinfo: the nodes and their states."""

from __future__ import annotations

from .columns import filled, header
from .formats import node_list, unknown
from .options import FLAG, VALUE, parse
from .protocol import ask

COMPACT = {"idle": "idle", "mixed": "mix", "allocated": "alloc", "completing": "comp"}


def main(directory: str, args: list[str]) -> int:
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
    heading = header("sinfo", text, heads)
    if not options.get("noheader"):
        print(heading)
    for partition, same in rows:
        print(filled(text, lambda letter, p=partition, s=same: field(letter, p, s)))
    return 0
