"""The errors that a job of exercise 3 raises, where a check wants them."""

from __future__ import annotations

import asyncio
import builtins
from dataclasses import dataclass

from grader.harness.inside import telemetry
from grader.workload.ex03.virtual_clock import Scheduler


class NodeLost(BaseException):
    """A library's error that isn't an Exception, as torch's CheckpointException isn't."""


NOT_BUILT_IN = {kind.__name__: kind for kind in (asyncio.CancelledError, NodeLost)}


def made(kind: str, *values: object) -> BaseException:
    """The error of this name, a built-in one or one of NOT_BUILT_IN."""
    return (NOT_BUILT_IN.get(kind) or getattr(builtins, kind))(*values)


@dataclass
class Failure:
    """An error that the job raises once: a second try, which nobody asked for, would succeed."""

    where: str  # "build", "resume", "step", "evaluation" or "save"
    step: int  # the optimizer step that fails, or the last one before
    error: str  # a built-in exception's name, or one of NOT_BUILT_IN
    message: str
    raised: bool = False


def may_fail(failure: Failure | None, cluster: Scheduler, where: str, step: int) -> None:
    """Raise the job's error if this is its place."""
    if failure and not failure.raised and (failure.where, failure.step) == (where, step):
        failure.raised = True
        cluster.point(step, "failing")
        telemetry.emit("failing", step=step)
        raise made(failure.error, failure.message)
