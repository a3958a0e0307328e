"""The options that the commands of the stand-in know. Any other option is an error; none is
silently ignored.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .formats import Refused, unknown

FLAG, VALUE, MAYBE = range(3)  # takes no value, takes one, takes one after = only


def parse(
    args: Sequence[str], table: dict[str, int], stop_at_first: bool
) -> tuple[dict, list[str]]:
    """({"job-name": "x", "wait": True}, other arguments).

    table          "J job-name" -> VALUE: a short name or none, then the long one, by which it's
                   reported
    stop_at_first  at the first argument that's no option: the rest belongs to the script or program
    """
    longs = {key.split()[-1]: (key.split()[-1], kind) for key, kind in table.items()}
    shorts = {key.split()[0]: longs[key.split()[-1]] for key in table if len(key.split()) == 2}
    found: dict = {}  # without typing, which takes a client longer to load than all it does
    others: list[str] = []
    todo = list(args)
    while todo:
        arg = todo.pop(0)
        if arg == "--":
            return found, others + todo
        if arg.startswith("--"):
            name, equals, value = arg[2:].partition("=")
            if name not in longs:
                raise unknown(f"--{name}{_meant(name, longs)}")
            key, kind = longs[name]
            if kind == FLAG and equals:
                raise Refused(f"option '--{name}' doesn't allow an argument", 2)
            if kind == VALUE and not equals:
                value = _next(todo, f"--{name}")
            found[key] = value if kind == VALUE or equals else True
        elif arg.startswith("-") and len(arg) > 1:
            rest = arg[1:]
            while rest:
                letter, rest = rest[0], rest[1:]
                if letter not in shorts:
                    raise unknown(f"-{letter}")
                key, kind = shorts[letter]
                if kind == FLAG:
                    found[key] = True
                    continue
                found[key] = rest or (_next(todo, f"-{letter}") if kind == VALUE else True)
                break
        else:
            others.append(arg)
            if stop_at_first:
                return found, others + todo
    return found, others


def _meant(name: str, known: dict) -> str:
    import difflib  # only here: a client starts without it

    close = difflib.get_close_matches(name, known, 1)
    return f" (did you mean --{close[0]}?)" if close else ""


def _next(todo: list[str], option: str) -> str:
    if not todo:
        raise Refused(f"option '{option}' requires an argument", 2)
    return todo.pop(0)


def say(command: str, message: str) -> None:
    print(f"{command}: {message}", file=sys.stderr, flush=True)
