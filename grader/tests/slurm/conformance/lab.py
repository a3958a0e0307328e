"""Scenarios: what happens to a job is written down by itself, and compared with what is expected,
on any cluster.

A scenario is a function of a Lab that returns lines; its expectation are the lines that the real
cluster gave.
"""

from __future__ import annotations

import re
import shlex
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grader.processes import wait_until
from grader.slurm import Cluster

ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "PREEMPTED", "CANCELLED")
RECORD = (
    f"{shlex.quote(sys.executable)} -I -S "
    f"{shlex.quote(str(Path(__file__).with_name('recorder.py')))}"
)
PATIENCE = 90.0  # s, on a machine that does much else
ASK = 0.25  # s between two questions to the cluster: each is a process
# no fork in a trap, and none lost: bash 5 forgets a trap that interrupts another one's child
HEAD = """#!/bin/bash
: >> "$PROBE"
say() { echo "shell $*" >> "$PROBE"; }
life() { [ -n "$SLURM_RESTART_COUNT" ] && echo "life $SLURM_RESTART_COUNT" >> "$PROBE" && exit 0; }
hold() { while :; do wait; (( $? > 128 )) || break; done; }
ready() { until [ "$(grep -c ready "$PROBE")" -ge $1 ]; do sleep 0.05; done; }
alone() { kill -KILL $(cat /proc/$1/task/$1/children) 2> /dev/null; }
"""
# alone: when a script ends, Slurm kills what it left behind, srun too. srun has a child that kills
# the step when srun dies. Which of the two is killed first is chance, unless the child is gone.
# the shell traps what it may get; a child that srun didn't start; a task that it did
PROBE = f"""life
trap 'say TERM' TERM; trap 'say USR1' USR1
{RECORD} child &
srun {RECORD} task $TASK &
say ready
hold
say end
"""
BARE = f"life\nsrun {RECORD} task $TASK &\nsay ready\nhold\n"


class Lab:
    """One cluster and a folder, for many scenarios at once."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster, self.folder = cluster, folder
        self.real = cluster.kind == "real"
        # after what is expected has come, how long for what isn't: absence can't be awaited
        self.quiet = 0.7 if self.real else 0.25
        self._lock, self._table, self._asked = threading.Lock(), {}, 0.0
        self._nodes = iter(f"n{n}" for n in range(2, 17))

    def own_node(self) -> str:
        """A node that no other scenario uses, to be preempted on; the others' jobs are on n1."""
        return next(self._nodes)

    def job(
        self,
        name: str,
        body: str = PROBE,
        *options: str,
        node: str | None = None,
        head: str = HEAD,
        args: tuple = (),
        **env,
    ) -> Probe:
        script, log = self.folder / f"{name}.sh", self.folder / f"{name}.probe"
        script.write_text(head + body)
        where = ["-w", node, "--exclusive"] if node else ["-w", "n1"]
        out = [] if "-o" in options else ["-o", str(self.folder / f"{name}.log")]
        environment = self.cluster.env | {"PROBE": str(log), **env}
        number = self.cluster.submit(
            *where, *out, *options, script, *args, env=environment, cwd=self.folder
        )
        return Probe(self, name, number, log, node)

    def run(self, *command: str) -> str:
        done = self.cluster.run(command, cwd=self.folder)
        return done.stdout + done.stderr

    def known(self, job: str) -> dict[str, str]:
        """`scontrol show job`, asked for all jobs at once, for all scenarios that ask meanwhile: no
        older than the call.
        """
        called = time.monotonic()
        with self._lock:
            if self._asked < called:
                self._asked = time.monotonic()
                text = self.cluster.run(["scontrol", "-o", "show", "job"], check=True).stdout
                rows = [
                    dict(w.split("=", 1) for w in line.split() if "=" in w)
                    for line in text.splitlines()
                ]
                self._table = {row["JobId"]: row for row in rows if "JobId" in row}
            return self._table.get(job, {"JobState": "?"})

    def until(self, condition: Callable[[], bool], what: str) -> None:
        assert wait_until(condition, PATIENCE, lambda _: time.sleep(ASK)), what

    def state(self, job: str, *states: str) -> dict[str, str]:
        seen: dict[str, str] = {}

        def there() -> bool:
            seen.update(self.known(job))
            return seen["JobState"] in states

        self.until(there, f"{job} is never {states}")
        return seen


class Probe:
    def __init__(self, lab: Lab, name: str, number: str, log: Path, node: str | None):
        self.lab, self.name, self.number, self.log, self.node = lab, name, number, log, node

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def until(self, *lines: str) -> Probe:
        if not wait_until(lambda: all(line in self.text.splitlines() for line in lines), PATIENCE):
            raise AssertionError(
                f"{self.name}: {lines} never came: {self.text!r} {self.lab.known(self.number)}"
            )
        return self

    def ready(self) -> Probe:
        return self.until("shell ready", "child ready", "task ready")

    def mark(self, text: str) -> None:
        """What is written from here on came later than all before."""
        time.sleep(self.lab.quiet)
        with open(self.log, "a") as f:
            f.write(f"-- {text}\n")

    def seen(self) -> list[str]:
        """What was written: a line for each stretch between two marks or lives, in which order
        doesn't count.
        """
        blocks: list[set[str]] = [set()]
        for line in self.text.splitlines():
            if line.startswith(("--", "life")):
                blocks += [{line}, set()]
            elif not line.endswith(" ready"):
                blocks[-1].add(line)
        return [", ".join(sorted(b)) for b in blocks if b]

    def end(self) -> str:
        """COMPLETED 0:0, and how often it was requeued."""
        job = self.lab.state(self.number, *ENDED)
        again = f", requeued {job['Restarts']}" if job["Restarts"] != "0" else ""
        return f"{job['JobState']} {job['ExitCode']}{again}"

    def output(self, *without: str) -> list[str]:
        """The log, without what is this run's alone, and without lines that aren't always there."""
        text = (self.lab.folder / f"{self.name}.log").read_text()
        for pattern, word in (
            (re.escape(RECORD), "RECORDER"),
            (r"\d{4}-\d\d-\d\dT[\d:]+", "WHEN"),
            (
                "|".join(
                    rf"(?<={before}){self.number}\b"
                    for before in ("JOB ", "STEP ", "StepId=", "[Jj]ob ")
                ),
                "JOB",
            ),
            (rf"\b{self.node}\b", "NODE"),
            (r"\S*/slurm_script", "SCRIPT"),
            (r"line \d+: +\d+", "line"),
        ):
            text = re.sub(pattern, word, text)
        return sorted(line for line in text.splitlines() if not any(w in line for w in without))


@dataclass(frozen=True)
class Scenario:
    run: Callable[[Lab], list[str]]
    expected: list[str]
    site: str  # usual, or another one of SITES


# how a site has configured its cluster: options of Cluster and StandIn
SITES = {
    "usual": {"nodes": 12, "settings": {"RequeueExit": "42"}},
    "no grace": {"nodes": 2, "grace": 0},
    "user signal": {"nodes": 4, "settings": {"SlurmctldParameters": "preempt_send_user_signal"}},
}
SCENARIOS: dict[str, Scenario] = {}


def expects(*lines: str, site: str = "usual"):
    """The scenario gives these lines."""

    def enter(scenario):
        assert scenario.__name__ not in SCENARIOS
        SCENARIOS[scenario.__name__] = Scenario(scenario, list(lines), site)
        return scenario

    return enter
