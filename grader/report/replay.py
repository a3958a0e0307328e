"""The commands that repeat what a grading found: a message's `replay` and `debug` lines."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from grader.course.catalog import Exercise
from grader.course.submissions import Submission
from grader.report import excerpt
from grader.report.message import Problem


@dataclass(frozen=True)
class Commands:
    """Of one grading."""

    submission: str  # the option that names it; empty for the starter
    seed: int
    cluster: str | None  # its kind, where one was asked for
    slugs: Mapping[str, str]  # check -> its name on the command line

    def replay(self, problem: Problem) -> str:
        """The command that reproduces the outcome."""
        where = f" --cluster {self.cluster}" if self.cluster else ""
        command = f"grade {self._check(problem)}{where}"
        return f"{command} --fault {problem.finding.fault}" if problem.finding.fault else command

    def debug(self, problem: Problem) -> str:
        """The command that runs the outcome's failing life on a terminal; empty if none can."""
        target = excerpt.failing_life(problem.runs, problem.finding)
        if target is None:
            return ""
        life, rank = target
        command = f"grade debug {self._check(problem)} --life {life}"
        return f"{command} --rank {rank}" if rank else command

    def _check(self, problem: Problem) -> str:
        name = f"{problem.task}/{self.slugs[problem.check]}"
        return f"{name}{self.submission} --seed {self.seed}"


def submission_option(exercise: Exercise, work: Submission) -> str:
    """The option, with a blank before it; empty for the starter.

    A student who gets the message from an instructor grades the starter, too.
    """
    folder = work.folder
    if folder == exercise.starter or work.shown != str(folder):
        return ""
    if folder == exercise.solution:
        return " --solution"
    return f" --submission {shlex.quote(str(folder))}"
