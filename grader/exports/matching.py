"""Finds a class's students in the rows of another system's file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from grader.exports.results_folder import Student

Claims = list[tuple[str, str]]  # (kind, value), the surest first: ("email", "a@example.org")


@dataclass
class Report:
    """What an instructor has to know of a file that was written: who has no grade, and why."""

    lines: list[str] = field(default_factory=list)

    def open(self, student: Student, why: str) -> None:
        self.lines.append(f"no grade for {student.shown}: {why}")

    def note(self, text: str) -> None:
        self.lines.append(text)


def match(
    rows: Sequence[Iterable[tuple[str, str]]],
    students: Iterable[Student],
    claims: Callable[[Student], Claims],
    report: Report,
) -> dict[int, Student]:
    """Row -> its student. A claim counts if exactly one row has it. Whoever is in no row, or in
    the same as somebody else, is reported.
    """
    having: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        for kind, value in row:
            if value:
                having[kind, value.casefold()].append(number)
    found: dict[int, list[Student]] = defaultdict(list)
    for student in students:
        sure = (
            having.get((kind, value.casefold()), []) for kind, value in claims(student) if value
        )
        row_number = next((numbers[0] for numbers in sure if len(numbers) == 1), None)
        if row_number is None:
            report.open(student, "no row of the file is theirs")
        else:
            found[row_number].append(student)
    for several in found.values():
        if len(several) > 1:
            for student in several:
                others = ", ".join(other.shown for other in several if other is not student)
                report.open(student, f"the same row is also that of {others}")
    return {number: several[0] for number, several in found.items() if len(several) == 1}


def name_key(name: str) -> str:
    """The same for "Last, First" and "First Last"."""
    return " ".join(sorted(name.replace(",", " ").casefold().split()))
