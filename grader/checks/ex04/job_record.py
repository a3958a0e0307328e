"""What the grader recorded of one job, or chain of jobs, on a cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from grader.harness import scratch
from grader.harness.printed import Line
from grader.slurm.target import Where
from grader.workload.ex04.train import DONE, SAYS_LIFE

# our sandbox doesn't let Slurm's step daemon write there
OF_THE_SANDBOX = re.compile(r"slurmstepd-\S+: error: failed to open /proc/self/oom_score_adj:")

MOST_LIVES = 6  # more of them are a loop without end; most runs have five at most

STEPS = 40


@dataclass
class ClusterRun:
    """One job, or chain of jobs, after its end.

    jobs         job id -> what the cluster said of it last
    late         it was still in the queue when its time was over
    stuck        why a job in the queue will never run
    record       of each run: "job", "start", "end" (epoch s), "state"
    events       what the witness wrote down
    undisturbed  step -> digest of a run without faults
    planned      number of planned faults
    most         lives; more are a loop without end
    endless      it came back into the queue again and again
    at_once      jobs of a chain that the cluster ran at the same time
    others       jobs that preempted it -> their state at the end
    limits       jobs whose time limit was moved, until it is restored -> the limit before
    trouble      what the cluster couldn't do
    instead      why it ran on another kind of cluster than was chosen
    slowest      s that the cluster took to answer squeue; milliseconds are normal
    """

    folder: Path
    jobs: dict[str, dict]
    late: bool
    where: Where
    stuck: str = ""
    seconds: float = 0.0
    record: list[dict] = field(default_factory=list)
    events: list[dict] = field(default_factory=list)
    undisturbed: dict[int, str] = field(default_factory=dict)
    planned: int = 0
    most: int = MOST_LIVES
    endless: bool = False
    at_once: set[str] = field(default_factory=set)
    others: dict[str, str] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)
    trouble: str = ""
    instead: str = ""
    slowest: float = 0.0

    @property
    def starved(self) -> bool:
        """The machine was so slow that what came too late proves nothing about the script."""
        out_of_lives = self.late and not self.endless and self.cut_short > 0
        return self.slowest > self.where.pace.limit / 6 or out_of_lives

    @property
    def cut_short(self) -> int:
        """The number of lives that trained, and were signalled although no fault had come.

        A site keeps a time limit that was moved close when it requeues the job: only an operator
        can raise it again. On a slow machine, the lives after it reach that limit, too.
        """
        of: dict[int, set[str]] = {}
        for event in list(self.events):
            of.setdefault(event.get("life", 0), set()).add(event.get("do") or event["event"])
        return sum(
            {"signal", "step"} <= seen and not seen & {"preempt", "limit"} for seen in of.values()
        )

    def all(self, event: str) -> list[dict]:
        return [e for e in self.events if e["event"] == event]

    @cached_property
    def lives(self) -> list[list[dict]]:
        """The events of each life, in the order in which they began."""
        of: dict[int, list[dict]] = {}
        for e in self.events:
            if "life" in e:
                of.setdefault(e["life"], []).append(e)
        return [events for _, events in sorted(of.items()) if events[0]["event"] == "life"]

    @cached_property
    def log(self) -> str:
        try:
            return scratch.read(self.folder / "train.log", 1 << 20, tail=True).decode(
                errors="replace"
            )
        except OSError:
            return ""

    def printed(self) -> list[Line]:
        """The lines of the job's log. All lives write into it, and so does Slurm."""
        found, life, traceback = [], 0, False
        for text in self.log.splitlines():
            if OF_THE_SANDBOX.match(text):
                continue
            script = text.startswith(SAYS_LIFE)
            life += script
            traceback = traceback or text.startswith("Traceback (most recent call last)")
            if text.strip():
                found.append(Line(0.0, life, None, text, script, traceback))
            # its last line is the error
            traceback = traceback and text.startswith((" ", "Traceback"))
        return found

    @property
    def finished(self) -> bool:
        """A life left with the status that says so when it, or one before it, had saved the last
        step: a signal may come just then.
        """
        saved = False
        for life in self.lives:
            saved = saved or any(e["event"] == "saved" and e["step"] == STEPS for e in life)
            if saved and any(e["event"] == "left" and e["status"] == DONE for e in life):
                return True
        return False

    @property
    def course(self) -> dict[int, str]:
        """Step -> digest, of the life that trained it last."""
        return {e["step"]: e["digest"] for e in self.all("step")}

    @property
    def lost(self) -> list[tuple[dict, int]]:
        """(fault, finished steps that the next life did again) for each fault that it survived."""
        out = []
        for life, after in zip(self.lives, self.lives[1:], strict=False):
            fault = next((e for e in life if e["event"] == "fault"), None)
            resumed = next((e["step"] for e in after if e["event"] == "resumed"), None)
            if fault and resumed is not None:
                out.append((fault, fault["step"] - resumed))
        return out
