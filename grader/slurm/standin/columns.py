"""The %-formats of squeue and sinfo: which columns, in which widths."""

from __future__ import annotations

import re

from .formats import unknown


def filled(text: str, field) -> str:
    """The text with its fields filled in: %i, %.18i (right-aligned), %8j (left-aligned), each cut
    to its width.
    """

    def put(found: re.Match) -> str:
        value = field(found[3])
        width = int(found[2] or 0)
        return (
            value
            if not width
            else value[:width].rjust(width)
            if found[1]
            else value[:width].ljust(width)
        )

    return re.sub(r"%(\.?)(\d*)([a-zA-Z])", put, text)


def header(command: str, text: str, heads: dict[str, str]) -> str:
    """The line of headings. Refused for an unknown field, even if there are no rows to show."""

    def head(letter: str) -> str:
        if letter not in heads:
            raise unknown(f"{command}'s %{letter}")
        return heads[letter]

    return filled(text, head)
