"""How Slurm writes things: node lists, times, signals, file names. Used by the controller and by
its clients.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterable

SIGNALS = {s.name[3:]: int(s) for s in signal.Signals}
FINAL = ("COMPLETED", "FAILED", "TIMEOUT", "PREEMPTED", "CANCELLED")
SHORT = {
    "PENDING": "PD",
    "RUNNING": "R",
    "COMPLETING": "CG",
    "COMPLETED": "CD",
    "FAILED": "F",
    "TIMEOUT": "TO",
    "PREEMPTED": "PR",
    "CANCELLED": "CA",
}


# whether Slurm knows it isn't known here: what was misspelt, it doesn't know either
ELSEWHERE = "; the real cluster may (on Debian and Ubuntu: make slurm)"


class Refused(Exception):
    """An error that ends a client: its last line, and its exit status."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


def unknown(what: str) -> Refused:
    return Refused(f"the stand-in doesn't know {what}{ELSEWHERE}", 2)


def node_list(names: Iterable[str]) -> str:
    """n1, n2, n3, n5 -> n[1-3,5]"""
    numbers = sorted(int(n[1:]) for n in names)
    if len(numbers) < 2:
        return "".join(f"n{n}" for n in numbers)
    return f"n[{ranges(numbers)}]"


def ranges(numbers: list[int]) -> str:
    """1, 2, 3, 5 -> 1-3,5"""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


def hostnames(text: str) -> list[str]:
    """a,b[01-03,7] -> a b01 b02 b03 b7"""
    found = []
    for head, inside, tail in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?([^,\[\]]*)", text):
        if not inside:
            found.append(head + tail)
        for part in inside.split(",") if inside else []:
            first, _, last = part.partition("-")
            found += [
                f"{head}{n:0{len(first)}d}{tail}" for n in range(int(first), int(last or first) + 1)
            ]
    return found


def minutes(text: str) -> int | None:
    """A time limit: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S, rounded up to whole minutes; None for no
    limit. ValueError.
    """
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return None
    days, dash, rest = text.rpartition("-")
    numbers = [int(n) for n in rest.split(":")]
    if len(numbers) > 3 or min(numbers) < 0:
        raise ValueError(text)
    if dash:
        h, m, s = ([*numbers, 0, 0])[:3]
    else:
        h, m, s = ([0, numbers[0], 0], [0, *numbers], numbers)[len(numbers) - 1]
    seconds = ((int(days or 0) * 24 + h) * 60 + m) * 60 + s
    return -(-seconds // 60) or None  # 0 means no limit


def moment(text: str) -> float:
    """An end: now, now+12, now+5minutes, 2026-01-31T12:00:00; seconds since the epoch.
    ValueError.
    """
    if found := re.fullmatch(r"now(?:\+(\d+)(seconds?|minutes?|hours?)?)?", text):
        unit = {"m": 60, "h": 3600}.get((found[2] or "s")[0], 1)
        return time.time() + int(found[1] or 0) * unit
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


def stamp(seconds: float | None, none: str = "Unknown") -> str:
    return none if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))


def duration(seconds: float, padded: bool = False) -> str:
    """1:05, 1:01:05, 2-00:00:05; padded: 00:01:05"""
    s = max(0, int(seconds))
    d, h, m, s = s // 86400, s // 3600 % 24, s // 60 % 60, s % 60
    if d or h or padded:
        return (
            f"{f'{d}-' if d else ''}{h:02d}:{m:02d}:{s:02d}"
            if d or padded
            else f"{h}:{m:02d}:{s:02d}"
        )
    return f"{m}:{s:02d}"


def signal_number(text: str) -> int:
    """USR1, SIGUSR1, 10. ValueError."""
    name = text.upper().removeprefix("SIG")
    number = int(name) if name.isdigit() else SIGNALS.get(name, 0)
    if not 0 < number < 65:
        raise ValueError(text)
    return number


def log_name(pattern: str, job: dict) -> str:
    """%j %A %a %x %u %N %%, each with a width or without. Refused for others."""
    array = job.get("array") or {}
    known = {
        "j": job["id"],
        "J": job["id"],
        "A": array.get("job", job["id"]),
        "a": array.get("task", 4294967294),
        "x": job["name"],
        "u": job["user"],
        "N": (job.get("nodes") or ["n1"])[0],
        "n": 0,
        "t": 0,
        "s": "batch",
    }

    def put(found: re.Match) -> str:
        if found[2] == "%":
            return "%"
        if found[2] not in known:
            raise unknown(f"%{found[2]} in a file's name")
        return str(known[found[2]]).zfill(int(found[1] or 0))

    return re.sub(r"%(\d*)(.)", put, pattern)
