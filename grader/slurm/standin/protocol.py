"""The protocol between a client and the controller: lines of JSON over a Unix socket. The client
also passes its standard files, so that a task writes where srun would have written.
"""

from __future__ import annotations

import json
import os
import socket

from .formats import Refused

SOCKET = "socket"
STDIO = 3  # descriptors that a client may send along


class Line:
    """One end of a conversation."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.buffer = b""
        self.fds: list[int] = []

    def send(self, message: dict) -> None:
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> list[dict] | None:
        """Wait for data and return what has arrived; None if the other side has gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, 1 << 20, STDIO)
        except ConnectionError:
            return None
        self.fds += fds
        if not data:
            return None
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(line) for line in lines if line]


def call(directory: str, request: dict, fds: list[int] | None = None) -> Line:
    """Connect. If no process listens, Refused in the words of Slurm's clients."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(os.path.join(directory, SOCKET))
        if fds:
            socket.send_fds(sock, [b"\n"], fds)
        line = Line(sock)
        line.send(request)
    except OSError:
        raise Refused(
            "error: Unable to contact slurm controller (connect failure): the stand-in isn't up"
        ) from None
    return line


def ask(directory: str, request: dict) -> dict:
    """Send the request and return its only answer; raise Refused if it is a refusal."""
    line = call(directory, request)
    while True:
        messages = line.read()
        if messages is None:
            raise Refused("error: the stand-in ended before it answered")
        for message in messages:
            if "refused" in message:
                raise Refused(message["refused"], message.get("status", 1))
            return message
