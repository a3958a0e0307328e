"""Questions that a check asks a driver, and what became of each: reported, never judged.

A driver that answers questions gets them as `watch.given("questions")`: JSON objects with an "id"
and an "ask", which says what to do.
"""

from __future__ import annotations

from collections.abc import Callable

from grader.harness.inside import child, telemetry
from grader.workload.isolate import Helper


def answer_each(handle: Callable[[dict], dict]) -> None:
    """Answer the life's questions in order, each in a forked process of its own, which may die of
    it.

    `handle(question)` returns JSON values. They go out as an "answer" event; a crash and the end of
    each process are reported by Helper, with the question's id as "point".
    """

    def answer(question: dict) -> None:
        telemetry.emit("answer", id=question["id"], values=handle(question))

    for question in telemetry.given("questions", []):
        helper = Helper("question", answer)
        helper.ask(question["id"], question)
        helper.close()
    telemetry.emit("end", step=0, state={})


def outcome(call: Callable[[], object]) -> dict:
    """What a call came to: {"returned": its value} or {"raised": the exception's type, bases,
    message, frames}.

    The value must be fit for JSON. BaseException counts, too: torch's CheckpointException is one.
    """
    try:
        return {"returned": call()}
    except BaseException as e:
        bases = [kind.__name__[:100] for kind in type(e).__mro__]
        return {"raised": child.describe(e) | {"bases": bases}}
