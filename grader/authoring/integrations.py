"""The diffs in docs/integrations.md are those of the scripts in templates/integrations.

    <!-- diff: language_model -->
    ```diff
    what changes from plain/language_model.py to resumable/language_model.py
    ```

A line that is only indented doesn't count as changed: the diff shows it as it is in the new script.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from grader.course.catalog import Exercise

PAGE = Path("docs", "integrations.md")
SCRIPTS = Path("templates", "integrations")
MOST_CHANGED = 15  # lines, of any script
CONTEXT = 2  # lines around a change
BLOCK = re.compile(r"(<!-- diff: (\w+) -->\n```diff\n)(.*?)(```\n)", re.S)


def problems(root: Path, _: list[Exercise]) -> Iterator[str]:
    text = (root / PAGE).read_text()
    shown = {name: block for _, name, block, _ in BLOCK.findall(text)}
    names = sorted(path.stem for path in (root / SCRIPTS / "plain").glob("*.py"))
    for name in sorted({*shown, *names}):
        try:
            changed, wanted = diff(root, name)
        except FileNotFoundError as e:
            yield f"{PAGE}: there is no {Path(e.filename).relative_to(root)}; write it"
            continue
        if name not in shown:
            yield f"{PAGE}: shows no diff of {name}; put <!-- diff: {name} --> before a block"
        elif changed > MOST_CHANGED:
            yield (
                f"{SCRIPTS}/resumable/{name}.py: {changed} lines changed, {MOST_CHANGED} are "
                "allowed; make it shorter"
            )
        elif shown[name] != wanted:
            yield f"{PAGE}: the diff of {name} isn't that of its scripts; run grade dev derive"


def write(root: Path) -> list[Path]:
    """Write every diff; the pages that changed."""
    page = root / PAGE
    text = page.read_text()
    new = BLOCK.sub(lambda m: m[1] + diff(root, m[2])[1] + m[4], text)
    if new == text:
        return []
    page.write_text(new)
    return [page]


def diff(root: Path, name: str) -> tuple[int, str]:
    """How many lines change in the script with this name, and which."""
    old, new = (
        (root / SCRIPTS / version / f"{name}.py").read_text().splitlines()
        for version in ("plain", "resumable")
    )
    matcher = difflib.SequenceMatcher(
        None, [line.strip() for line in old], [line.strip() for line in new], autojunk=False
    )
    changed = sum(
        max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in matcher.get_opcodes() if tag != "equal"
    )
    lines = []
    for group in matcher.get_grouped_opcodes(CONTEXT):
        lines.append(f"@@ line {group[0][3] + 1} @@")
        for tag, i1, i2, j1, j2 in group:
            lines += [f"-{line}" for line in old[i1:i2] if tag != "equal"]
            lines += [f"{' ' if tag == 'equal' else '+'}{line}".rstrip() for line in new[j1:j2]]
        while not lines[-1]:
            lines.pop()  # blank lines after the last change
    return changed, "\n".join(lines) + "\n"
