"""The cluster's scheduler as a job sees it: signals at chosen points, SIGKILL after the grace.

The grader controls the time. It passes only where the job says what it does and how long that
takes. So a second is the same on every machine, and SIGKILL comes at an exact point, never earlier
because a laptop was busy.
"""

from __future__ import annotations

import math
import os
import select
import signal
from contextlib import suppress

from grader.harness.inside import telemetry
from grader.harness.preemption import NUMBERS
from grader.workload.ex03.node_daemon import Daemon

BOOT = 1_700_000_000.0  # Unix time (s) at which a life begins, or within the second after it
FORWARDED = 20.0  # s within which torchrun forwards a signal: milliseconds are normal


class Scheduler:
    """One life's clock and the signals that it gets.

    daemon    sends them; None: none is due
    grace     s from the first signal to SIGKILL
    end_time  Unix time (s) of SIGKILL without any signal
    boot      Unix time (s) at which the life begins
    """

    def __init__(
        self,
        daemon: Daemon | None,
        grace: float = math.inf,
        end_time: float = math.inf,
        boot: float = BOOT,
    ):
        self.daemon, self.grace, self.end_time = daemon, grace, end_time
        self.time = self.boot = boot
        self.due = telemetry.my_preemption()
        self.signalled = False

    def now(self) -> float:
        """Unix time (s), as time.time returns it."""
        return self.time

    @property
    def left(self) -> float:
        """s to SIGKILL."""
        return self.end_time - self.time

    def passes(self, seconds: float, during: str) -> None:
        """Let this much time pass in the job."""
        if self.time + seconds >= self.end_time:
            self.time = self.end_time
            telemetry.emit("killed", during=during, clock=self.clock)
            os.kill(os.getpid(), signal.SIGKILL)
        self.time += seconds

    @property
    def clock(self) -> float:
        """s since the life began."""
        return round(self.time - self.boot, 6)

    def point(self, step: int, phase: str = "", number: int | None = None) -> None:
        """The job is at this point: send the signal that is due here."""
        for sent in [
            s for s in self.due if (s["step"], s["phase"], s["number"]) == (step, phase, number)
        ]:
            self.due.remove(sent)
            self._send(sent, step)

    def _send(self, sent: dict, step: int) -> None:
        number = NUMBERS[sent["signal"]]
        telemetry.emit(
            "signal",
            signal=sent["signal"],
            step=step,
            phase=sent["phase"],
            number=sent["number"],
            to=sent["to"],
            clock=self.clock,
        )
        if not self.signalled:
            self.end_time = min(self.end_time, self.time + self.grace)
            telemetry.emit("fault", step=step)
        self.signalled = True
        if sent["to"] == "group":
            self.daemon.send(number, os.getpgrp(), group=True)
        elif sent["to"] == "agent":
            self._through_the_agent(number)
        else:
            self.daemon.send(number)

    def _through_the_agent(self, number: int) -> None:
        """Send the signal to torchrun, our parent, and wait until it has forwarded it to us."""
        came, wakes = os.pipe()
        os.set_blocking(wakes, False)
        before = signal.set_wakeup_fd(wakes)
        self.daemon.send(number, os.getppid())
        select.select([came], [], [], FORWARDED)
        signal.set_wakeup_fd(before)
        with suppress(OSError):
            if before >= 0 and (heard := os.read(came, 64)):
                os.write(before, heard)  # it was meant for another listener
        os.close(came)
        os.close(wakes)
