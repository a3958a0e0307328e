"""Pages, notebooks and exercise.toml as they go into a hand-out.

Pages keep no link to what isn't in the hand-out, notebooks no output that a tag marks, and
exercise.toml its hints only if students are to have them.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Collection
from typing import Any

from grader.course.catalog import parse_toml

OUTPUT_TAG = "output-not-for-students"  # of a cell whose stored output shows what a solution does

_FENCE = re.compile(r"(^ *```.*?^ *```[^\n]*\n?)", re.M | re.S)
# code in a line may look like a link
_LINK = re.compile(r"`[^`]*`|!?\[([^\]]*)\]\(([^)\s]+)\)")
# make's targets that need what a hand-out lacks
_FOR_AUTHORS = re.compile(r"^ *\$ make (?:bench|check|matrix|test)\b.*\n", re.M)


def page(name: str, text: str, files: Collection[str]) -> str:
    """The Markdown page `name`, in a hand-out of these files."""
    folders = {posixpath.dirname(file) for file in files}

    def dead(link: re.Match[str]) -> bool:
        target = (link[2] or "").partition("#")[0]
        if not target or re.match(r"[a-z]+:", target):
            return False
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        return path not in files and not any(f"{f}/".startswith(f"{path}/") for f in folders)

    parts = _FENCE.split(text)
    for n in range(0, len(parts), 2):
        parts[n] = _LINK.sub(
            lambda link: link[1] if dead(link) else link[0], _without_dead_items(parts[n], dead)
        )
    for n in range(1, len(parts), 2):
        parts[n] = _FOR_AUTHORS.sub("", parts[n])
    return "".join(parts)


def _without_dead_items(text: str, dead: Any) -> str:
    """The text without the table rows, and the list items of one line, that only link to what
    isn't there.
    """
    lines = text.splitlines(keepends=True)
    kept = []
    for n, line in enumerate(lines):
        links = [link for link in _LINK.finditer(line) if link[2]]
        goes_on = n + 1 < len(lines) and lines[n + 1].startswith("  ")
        item = line.startswith("|") or (line.startswith("- ") and not goes_on)
        if not (item and links and all(dead(link) for link in links)):
            kept.append(line)
    return "".join(kept)


def notebook(data: bytes) -> bytes:
    """The notebook without the outputs of the cells that carry the tag."""
    content = json.loads(data)
    marked = [c for c in content["cells"] if OUTPUT_TAG in c["metadata"].get("tags", ())]
    for cell in marked:
        cell["outputs"], cell["execution_count"] = [], None
    if not marked:
        return data
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def without_hints(text: str) -> str:
    """The text of exercise.toml with empty lists of hints."""
    data = parse_toml(text)
    for task in data["tasks"]:
        task["hints"] = []
    return _toml(data)


def _toml(data: dict[str, Any]) -> str:
    """Strings, numbers, lists of them, and lists of tables of such. A JSON string is a TOML
    string.
    """
    tables = {k: v for k, v in data.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    lines = [
        f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in data.items() if k not in tables
    ]
    for name, rows in tables.items():
        for row in rows:
            lines += ["", f"[[{name}]]"]
            lines += [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in row.items()]
    return "\n".join(lines) + "\n"
