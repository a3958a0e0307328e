"""Questions that a check asks a driver, and each one's outcome: reported, never judged.

A driver gets them as `telemetry.given("questions")`: JSON objects with an "id" and an "ask", which
says what to do.
"""

from __future__ import annotations

from collections.abc import Callable

from grader.harness.inside import child, telemetry
from grader.workload.isolate import Helper


def answer_each(handle: Callable[[dict], dict]) -> None:
    """Answer the life's questions in order, each in a forked process that may die of it.

    `handle(question)` returns JSON values, which are emitted as an "answer" event. Helper reports a
    crash and the end of each process, with the question's id as "point".
    """

    def answer(question: dict) -> None:
        telemetry.emit("answer", id=question["id"], values=handle(question))

    for question in telemetry.given("questions", []):
        helper = Helper("question", answer)
        helper.ask(question["id"], question)
        helper.close()
    telemetry.emit("end", step=0, state={})


def outcome(call: Callable[[], object]) -> dict:
    """A call's outcome: {"returned": value} or {"raised": the exception's description}.

    The description holds type, bases, message and frames. The value must be fit for JSON.
    BaseException counts, too: torch's CheckpointException is one.
    """
    try:
        return {"returned": call()}
    except BaseException as e:
        bases = [kind.__name__[:100] for kind in type(e).__mro__]
        return {"raised": child.describe(e) | {"bases": bases}}
