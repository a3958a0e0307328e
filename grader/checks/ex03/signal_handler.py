"""Task 3.1: StopSignal gets the programs of handler_questions.py, which
grader/workload/ex03/function_cases.py runs, and must do what handler_contract.py says.
"""

from __future__ import annotations

from collections.abc import Callable

from grader.checks.ex03.handler_contract import as_the_contract_says, signal_name, values_of
from grader.checks.ex03.handler_questions import Draw
from grader.checks.questions import Answer, ask
from grader.harness.lab import Lab
from grader.verdicts import Finding, Found, Inconclusive

ASKED: tuple[str, ...] = (
    "each_noted",
    "first_counts",
    "nothing_else",
    "whole_save",
    "back_again",
    "nested",
    "only_its_own",
    "any_moment",
)


def answers(lab: Lab, name: str) -> list[Answer]:
    """To the questions of one check. All are asked in one life, once a grading."""
    drawn = Draw(lab.bench.seed)
    asked = {each: getattr(drawn, each)() for each in ASKED}

    def find(lab: Lab) -> list[Answer]:
        return ask(
            lab,
            "ex03/function_cases.py",
            [question for each in ASKED for question in asked[each]],
        )

    found = lab.once(("signal_cases",), find)
    begin = sum(len(asked[each]) for each in ASKED[: ASKED.index(name)])
    return found[begin : begin + len(asked[name])]


def real_time(answer: Answer, think: str) -> None:
    """Without arguments: the time is time.time's."""
    values = values_of(answer, think)
    number = answer.question["number"]
    if values["received"] != number:
        raise Finding(
            "signal-misnoted",
            [("sent", signal_name(number)), Found(f"received is {values['received']}")],
            think=think,
        )
    at = values["at"]
    if type(at) not in (int, float) or not values["before"] <= at <= values["after"]:
        rows = [
            ("made", "StopSignal() without a clock"),
            Found(f"at is {at!r}"),
            ("expected", f"time.time() when it came: {values['before']!r}"),
        ]
        raise Finding("signal-time", rows, think=think)


def saved_whole(answer: Answer, think: str) -> None:
    values = values_of(answer, think)
    want = [[size, fill, fill] for size, fill in answer.question["tensors"]]
    if values["read"] != want or values["received"] not in answer.question["numbers"]:
        rows = [
            Found(
                f"{values['sent']} signals came while a checkpoint was written, and it isn't what "
                f"was saved",
            ),
        ]
        raise Finding("save-interrupted", rows, think=think)


PLACES = {
    "handler": "in the handler of the first",
    "enter": "as the block began",
    "exit": "as the block ended",
    "look": "while received and at were being read",
}


def at_any_moment(answer: Answer, think: str) -> None:
    """The signal was noted, or went to the handler from before; nothing hung, and nothing was
    raised.
    """
    question = answer.question
    where = PLACES[question["where"]]
    first, second, third = question["numbers"]
    values = values_of(
        answer,
        think,
        (
            "when",
            f"{signal_name(first)} came, and {signal_name(second)} {where}"
            if question["where"] == "handler"
            else f"a signal came {where}",
        ),
    )
    allowed = (first, second) if question["where"] == "handler" else (first,)
    if values["retraced"]:
        rows = [Found(f"your code calls sys.settrace {where}, which sends the signals there")]
        raise Inconclusive("no-moment", rows, think="which part of your code needs its own tracer?")
    if (
        question["where"] != "look" and not values["outcomes"]
    ):  # reading an attribute may be a single moment
        raise Inconclusive("no-moment", [Found(f"no moment {where} at which a signal could come")])
    for found in values["outcomes"]:
        problem = _moment_problem(found, question["where"], allowed, question["time"], third)
        if problem:
            sent = f"{signal_name(allowed[-1])} {where}, at one of {values['moments']} moments"
            raise Finding(
                "signal-moment",
                [("sent", sent), Found(problem)],
                about=question["where"],
                think=think,
            )


def _moment_problem(found: dict, where: str, allowed: tuple, time: float, third: int) -> str | None:
    if "raised" in found:
        return f"it raised {found['raised']}"
    noted = [[number, time] for number in allowed]
    heard = list(found["heard"])
    if found["after"] in noted and not heard:
        problem = None
    elif where in ("enter", "exit") and found["after"] == [None, None] and heard == list(allowed):
        problem = None  # the handler from before was still, or already, there
    elif found["after"][0] is None and not heard:
        return "it was lost: neither your block nor the earlier handler got it"
    else:
        problem = (
            f"received and at are {found['after']}, and the earlier handler got "
            f"{[signal_name(n) for n in heard]}"
        )
    if problem is None and where != "exit" and found["inside"] != found["after"]:
        problem = (
            f"received and at changed from {found['inside']} to {found['after']} as the block ended"
        )
    if problem is None and found["late"] != [third]:
        problem = "afterwards, the earlier handler isn't back"
    return problem


CHECKED: dict[str, Callable] = {
    "program": as_the_contract_says,
    "real_time": real_time,
    "save": saved_whole,
    "interrupted": at_any_moment,
}


def right(lab: Lab, name: str, think: str) -> None:
    """All answers of one check."""
    for answer in answers(lab, name):
        CHECKED[answer.question["ask"]](answer, think)
