"""Ctrl-C, SIGTERM and SIGHUP: one way to end."""

from __future__ import annotations

import signal


class Interrupted(BaseException):
    """The command was asked to end: by a key, a scheduler, or a terminal that is gone."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def end_in_order() -> None:
    """Whichever signal asks the command to end, it first ends its lives and removes its scratch
    folder. A second signal changes nothing.
    """
    asking = [
        n
        for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(n) != signal.SIG_IGN
    ]

    def end(number, frame):
        for n in asking:
            signal.signal(n, signal.SIG_IGN)
        raise Interrupted(number)

    for n in asking:
        signal.signal(n, end)
