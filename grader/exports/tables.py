"""CSV files: reads what a system exported; writes cells that no spreadsheet takes for a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grader.errors import UsageError

# what begins a formula, also in its full-width form, or hides what follows
# (https://owasp.org/www-community/attacks/CSV_Injection)
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20].", re.S)
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?%?")
_CANVAS_TEXT = re.compile(r'="[^"]*"')  # how Canvas writes a name that begins with =: as text


@dataclass
class Table:
    """A CSV file, with what is needed to write it as it was."""

    header: list[str]
    rows: list[list[str]]
    separator: str = ","

    def column(self, *names: str) -> int | None:
        """The index of the first column with one of these names, whatever their case."""
        wanted = [name.lower() for name in names]
        return next(
            (n for n, name in enumerate(self.header) if name.strip().lower() in wanted), None
        )


def read(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as e:
        raise UsageError(f"can't read {path}: {e.strerror}") from e
    except UnicodeDecodeError:
        raise UsageError(f"{path} isn't UTF-8; export it again as UTF-8 CSV") from None
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(row)]
    except csv.Error as e:
        raise UsageError(f"{path} isn't a CSV file: {e}") from e
    if not rows:
        raise UsageError(f"{path} is empty")
    width = len(rows[0])
    return Table(rows[0], [row + [""] * (width - len(row)) for row in rows[1:]], separator)


def text(header: Sequence[str], rows: Iterable[Sequence[object]], separator: str = ",") -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    for row in [header, *rows]:
        writer.writerow([safe(str(cell)) for cell in row])
    return out.getvalue()


def safe(cell: str) -> str:
    """The cell with an apostrophe before what a spreadsheet would compute."""
    if not _FORMULA.match(cell) or _NUMBER.fullmatch(cell) or _CANVAS_TEXT.fullmatch(cell):
        return cell
    return f"'{cell}"
