"""Task 4.4: one process at a time. Draws sequences of processes, and judges them."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from grader.checks.ex04.outcomes import outcome
from grader.checks.questions import ask
from grader.checks.stacks import rows_of
from grader.harness.lab import Lab
from grader.verdicts import Finding, Found

Does = list[
    tuple
]  # (process, word, ...): enter a directory, leave it, raise an error with a text, die
ERRORS = (
    "KeyError",
    "OSError",
    "BlockingIOError",
    "RuntimeError",
    "ValueError",
    "TimeoutError",
    "MemoryError",
    "SystemExit",
    "KeyboardInterrupt",
)
DIRECTORIES = ("run 1", "run 2")


@dataclass
class Room:
    """Which process is in which directory's block."""

    inside: dict[str, str] = field(default_factory=dict)  # process -> directory

    def comes_to(self, who: str, word: str, *more: str) -> str:
        if word == "enter":
            if more[0] in self.inside.values():
                return "Busy"
            self.inside[who] = more[0]
            return "inside"
        self.inside.pop(who, None)
        return {"leave": "left", "die": "killed"}.get(word) or f"{more[0]}: {more[1]}"


def _course(draw: Random, words: tuple[str, ...], length: int = 14) -> Does:
    """A course of three processes and two directories in which some are refused."""
    while True:
        room, does, refused = Room(), [], 0
        for _ in range(length):
            who = draw.choice("ABC")
            if who in room.inside:
                word = draw.choice(words)
                more = (draw.choice(ERRORS), f"no {draw.randint(2, 99)}") if word == "raise" else ()
                one = (who, word, *more)
            else:
                one = (who, "enter", draw.choice(DIRECTORIES))
            refused += room.comes_to(*one) == "Busy"
            does.append(one)
        if refused >= 3:
            return does


def second_is_refused(lab: Lab, think: str) -> None:
    _take(lab, [(_course(lab.draw, ("leave",)), {}) for _ in range(3)], think)


def errors_leave_the_block(lab: Lab, think: str) -> None:
    """By each kind of error; then the same process enters again, and others."""
    draw = lab.draw
    courses: list[tuple[Does, dict]] = []
    for error in ERRORS:
        d, text = draw.choice(DIRECTORIES), f"no {draw.randint(2, 99)}"
        again = [
            ("A", "enter", d),
            ("A", "raise", error, text),
            ("B", "enter", d),
            ("A", "enter", d),
            ("B", "leave"),
            ("A", "enter", d),
            ("B", "enter", d),
            ("A", "leave"),
            ("B", "enter", d),
        ]
        courses.append((again, {}))
    refused = [
        ("A", "enter", "run 1"),
        ("B", "enter", "run 1"),
        ("B", "enter", "run 1"),
        ("A", "leave"),
        ("B", "enter", "run 1"),
    ]
    _take(lab, [*courses, (refused, {}), (_course(draw, ("leave", "raise")), {})], think)


def killed_holders_block_nobody(lab: Lab, think: str) -> None:
    draw = lab.draw
    _take(lab, [(_course(draw, ("leave", "die")), {}) for _ in range(3)], think)


def other_nodes_are_seen(lab: Lab, think: str) -> None:
    """Processes of several machines: the same pid may be another process there, or none."""
    draw = lab.draw
    alive, gone = 1, 4_000_000 + draw.randrange(100_000)
    nodes = {
        "A": {"node": "n1", "pid": gone},
        "B": {"node": "n2", "pid": gone + 1},
        "C": {"node": "n3", "pid": alive},
    }
    same = {"A": {"node": "n1", "pid": 77}, "B": {"node": "n2", "pid": 77}}
    recycled = [
        ("C", "enter", "run 1"),
        ("C", "die"),
        ("B", "enter", "run 1"),
        ("A", "enter", "run 1"),
    ]
    held = [
        ("A", "enter", "run 1"),
        ("B", "enter", "run 1"),
        ("A", "die"),
        ("B", "enter", "run 1"),
        ("C", "enter", "run 1"),
    ]
    twins = [
        ("A", "enter", "run 1"),
        ("B", "enter", "run 1"),
        ("A", "leave"),
        ("B", "enter", "run 1"),
        ("A", "enter", "run 1"),
    ]
    courses = [
        (recycled, nodes),
        (held, nodes),
        (twins, same),
        (_course(draw, ("leave", "die"), 10), nodes),
    ]
    draw.shuffle(courses)
    _take(lab, courses, think)


def _take(lab: Lab, courses: list[tuple[Does, dict]], think: str) -> None:
    asked = [
        {"ask": "lock", "directories": DIRECTORIES, "does": does, "nodes": nodes}
        for does, nodes in courses
    ]
    for (does, nodes), answer in zip(
        courses, ask(lab, "ex04/function_cases.py", asked), strict=True
    ):
        said, room = answer.given(think)["said"], Room()
        for n, one in enumerate(does):
            want, got = room.comes_to(*one), said[n]
            rows = [
                *([("before", _story(does[:n], nodes))] if n else []),
                ("then", _story([one], nodes)),
            ]
            if one[1] == "enter" and (got.get("waiting") or got.get("slept", 0) > 0.5):
                found = (
                    f"only_one {_found(one, got)}"
                    if got.get("waiting")
                    else f"only_one slept for {got['slept']:g} s"
                )
                raise Finding(
                    "wrong-lock",
                    [
                        *rows,
                        Found(found),
                        ("expected", f"at once: {_wish(want)}"),
                        *rows_of(got.get("stack", ""), answer.run.last.process.code),
                    ],
                    think=think,
                )
            if _came_to(one, got) != want:
                rows += [
                    Found(f"only_one {_found(one, got)}"),
                    ("expected", _wish(want)),
                ]
                raise Finding("wrong-lock", rows, think=think)
            if got.get("inside") == 0:
                rows += [
                    Found("it put nothing into the directory"),
                    ("expected", "something in the directory, which all nodes see"),
                ]
                raise Finding("wrong-lock", rows)


def _came_to(one: tuple, got: dict) -> str:
    if "inside" in got:
        return "inside"
    if "raised" in got:
        kind, message = got["raised"]["type"], got["raised"]["message"]
        return "Busy" if kind == "Busy" else f"{kind}: {message}".replace("'", "")
    if one[1] == "die":
        return "killed"
    return "left" if "returned" in got else "an end"


def _found(one: tuple, got: dict) -> str:
    if "inside" in got:
        return "let it in"
    if "waiting" in got:
        return f"still waited after {got['waiting']:g} s"
    return "ended quietly" if "returned" in got else outcome(got)


def _wish(want: str) -> str:
    return {
        "inside": "it may enter",
        "Busy": "Busy is raised",
        "left": "it has left",
        "killed": "it is dead",
    }.get(want, f"{want} propagates")


def _story(does: Does, nodes: dict) -> str:
    said = []
    for who, word, *more in does:
        on = f" (pid {nodes[who]['pid']} on {nodes[who]['node']})" if who in nodes else ""
        what = {
            "enter": "enters",
            "leave": "leaves",
            "die": "is killed in its block",
            "raise": "raises",
        }[word]
        said.append(f"{who}{on} {what} {': '.join(map(str, more))}".strip())
    return "; ".join(said)


HOLDERS = {  # what became of an earlier one
    "none": "nobody ever held it",
    "killed": "an earlier holder was killed",
    "leaves": "an earlier holder leaves after the first one has begun to enter",
}


def only_one_wins(lab: Lab, think: str) -> None:
    """Two enter at the same time, wherever the first one is when the second comes."""
    holders = list(HOLDERS)
    lab.draw.shuffle(holders)
    asked = [{"ask": "race", "holder": holder} for holder in holders]
    for holder, answer in zip(holders, ask(lab, "ex04/function_cases.py", asked), strict=True):
        when = ("when", HOLDERS[holder])
        for one in answer.given(think, when)["rounds"]:
            for who in ("first", "second"):
                if one[who].get("waiting"):
                    rows = [
                        when,
                        ("then", "two processes enter"),
                        Found(f"in the {who} one, only_one {_found(('', 'enter'), one[who])}"),
                        ("expected", "one enters, and the other gets Busy"),
                        *rows_of(one[who].get("stack", ""), answer.run.last.process.code),
                    ]
                    raise Finding("lock-race", rows, think=think)
            came = [_came_to(("", "enter"), one[who]) for who in ("first", "second")]
            if sorted(came) == ["Busy", "inside"]:
                continue
            found = [
                f"the {who} one: only_one {_found(('', 'enter'), one[who])}"
                for who in ("first", "second")
            ]
            rows = [
                when,
                (
                    "then",
                    f"two processes enter, the second while the first is about to {one['before']}",
                ),
                Found("both are in" if came == ["inside", "inside"] else "; ".join(found)),
                ("expected", "one enters, and the other gets Busy"),
            ]
            raise Finding("lock-race", rows, think=think)
