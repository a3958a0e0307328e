"""TCP ports on loopback that no other process gets while we hold them, and which process listens
where."""

from __future__ import annotations

import random
import socket

from grader.slurm.errors import ClusterError

# below the ports that Linux gives to outgoing connections (from 32768), above Slurm's own
# (6817-6819)
FIRST, LAST = 20000, 32000


def hold(count: int) -> list[socket.socket]:
    """Bind this many sockets, each to a free port; none listens.

    They are bound without SO_REUSEADDR, so binding fails if the port is in use in any way, and no
    other process can bind it. The option is set afterwards, so a server that sets it, too, as
    Slurm's daemons do, can still listen there. So the port is reserved until the socket is closed,
    without a gap in which another cluster gets it. ClusterError if no ports are free.
    """
    held: list[socket.socket] = []
    for port in random.SystemRandom().sample(range(FIRST, LAST), LAST - FIRST):
        if len(held) == count:
            break
        candidate = socket.socket()
        try:
            candidate.bind(("0.0.0.0", port))
        except OSError:
            candidate.close()
            continue
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.append(candidate)
    if len(held) < count:
        release(held)
        raise ClusterError(f"no {count} free ports between {FIRST} and {LAST}")
    return held


def release(held: list[socket.socket]) -> None:
    for one in held:
        one.close()


def listening(port: int) -> bool:
    """Whether a process listens on this port. It asks the kernel, so the server doesn't notice."""
    return any(p == port for _, p in listeners())


def listeners() -> set[tuple[str, int]]:
    """(address as the kernel writes it in hexadecimal, port) of every listening TCP socket here."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as f:
                rows = [line.split() for line in f.readlines()[1:]]
        except OSError:
            continue
        for row in rows:
            if row[3] == "0A":
                address, _, port = row[1].rpartition(":")
                found.add((address, int(port, 16)))
    return found
