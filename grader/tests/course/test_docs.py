"""What the documentation names exists: its links lead somewhere, its commands are there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from grader import collection
from grader.cli import main_group
from grader.course import selection
from grader.course.catalog import ROOT
from grader.errors import UsageError

README = ROOT / "README.md"
GUIDES = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES = [*GUIDES, *sorted(ROOT.glob("ex*/README.md")), ROOT / "templates" / "README.md"]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
MOST_LINES = 120

FENCE = re.compile(r"^ *```.*?^ *```", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_readme_fits_on_a_few_screens():
    assert len(README.read_text().splitlines()) <= MOST_LINES


# --- links ----------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), re.M)
    found: set[str] = set()
    for heading in headings:
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        same = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", a) is not None for a in found)
        found.add(f"{slug}-{same}" if same else slug)
    return found


def dead_links(page: Path, text: str) -> list[str]:
    """The relative links of a page with this text that lead to no file, or to no heading of one."""
    links = [link for link in LINK.findall(FENCE.sub("", text)) if not re.match(r"[a-z]+:", link)]
    return [link for link in links if not _leads_somewhere(page, text, *link.partition("#")[::2])]


def _leads_somewhere(page: Path, text: str, name: str, anchor: str) -> bool:
    target = (page.parent / name).resolve() if name else page
    if name and not (target.exists() and target.is_relative_to(ROOT)):
        return False
    if not anchor:
        return True
    return target.suffix == ".md" and anchor in anchors(target.read_text() if name else text)


def test_anchors_are_githubs():
    text = "# One, two: `grade dev`\n```\n# no heading\n```\n## [A](b.md) link\n### 17\n## 17\n"
    assert anchors(text) == {"one-two-grade-dev", "a-link", "17", "17-1"}


def test_dead_links_are_found():
    text = "[a](missing.md) [b](style.md#missing) [c](#here) [d](style.md) [e](https://x.org/y)"
    text += "\n```\n[f](missing.py)\n```\n## Here\n[g](#there) [h](../../outside)"
    dead = dead_links(ROOT / "docs" / "page.md", text)
    assert dead == ["missing.md", "style.md#missing", "#there", "../../outside"]


@EACH_PAGE
def test_every_link_leads_somewhere(page):
    assert dead_links(page, page.read_text()) == []


def test_every_page_of_docs_is_linked_from_the_readme():
    links = LINK.findall(README.read_text())
    assert {f"docs/{p.name}" for p in ROOT.glob("docs/*.md")} <= set(links)


# --- commands -------------------------------------------------------------------------------------

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
CODE = re.compile(r"`((?:make|grade)(?: [^`]*)?)`")
SHOWN = re.compile(r"^ *\$ (.*?)(?: {2,}#.*)?$", re.M)


def commands(text: str) -> list[list[str]]:
    """The words of each `make` and `grade` command that a page names, in a sentence or a block."""
    spans = CODE.findall(FENCE.sub("", text).replace("\\|", "|"))
    lines = [line for block in FENCE.findall(text) for line in SHOWN.findall(block)]
    parts = [part.split() for line in spans + lines for part in re.split(r" && |; ", line)]
    parts = [part[next((n for n, w in enumerate(part) if "=" not in w), 0) :] for part in parts]
    return [part for part in parts if part and part[0] in ("make", "grade")]


def _is_check(name: str) -> bool:
    """Is it a check's name, "ex01.3/torn"? CHECK and NAME stand for any."""
    if re.search(r"/[A-Z]+$", name):
        return True
    try:
        return bool(collection.select(selection.parse([name])[0]))
    except UsageError:
        return False


def unknown(words: list[str]) -> str:
    """What of a command doesn't exist; empty if all does."""
    program, *rest = words
    if program == "make":
        rest = re.sub(r"ARGS='[^']*'|ARGS=\"[^\"]*\"", "", " ".join(rest)).split()
        targets = [word for word in rest if re.fullmatch(r"[a-z-]+", word)]
        return next((target for target in targets if target not in TARGETS), "")
    command: click.Command = main_group
    context = click.Context(main_group)
    while isinstance(command, click.Group):
        name = rest[0] if rest else ""
        if found := command.get_command(context, name):
            command, rest = found, rest[1:]
        elif command is main_group and re.fullmatch(r"(ex\d\d(\.\d.*)?|\[ex01|-.*|)", name):
            if "/" in name and not _is_check(name):
                return name
            command = command.get_command(context, "checks")
        else:
            return "" if name in ("", "...") else name
    known = {option for parameter in command.params for option in parameter.opts}
    known |= {option for parameter in command.params for option in parameter.secondary_opts}
    asked = re.findall(r"(?<![\w-])--?[a-z][\w-]*", f" {' '.join(rest)}".partition(" -- ")[0])
    return next((option for option in asked if option not in {*known, "--help", "-h"}), "")


@pytest.mark.parametrize(
    "command, missing",
    [
        ("make grade EX=ex01 ARGS='--task 3 --seed 7'", ""),
        ("make nonsense", "nonsense"),
        ("grade ex01 --task 3", ""),
        ("grade --submission DIR", ""),
        ("grade ex01 --tusk 3", "--tusk"),
        ("grade cluster up --stand-in", ""),
        ("grade cluster sideways", "sideways"),
        ("grade explode ex01", "explode"),
        ("grade ex01.4/killed-twice", ""),
        ("grade ex01.4/CHECK --seed 7", ""),
        ("grade ex01.4/killed-thrice", "ex01.4/killed-thrice"),
        ("grade crashtest --no-flips --moddel ext4", "--moddel"),
        ("grade audit --seed 1 -- python train.py --out_dir {out}", ""),
    ],
)
def test_unknown_commands_are_found(command, missing):
    assert commands(f"```console\n$ A=1 {command}   # comment\n```") == [command.split()]
    assert unknown(command.split()) == missing


@EACH_PAGE
def test_every_command_exists(page):
    named = commands(page.read_text())
    assert [(words, unknown(words)) for words in named if unknown(words)] == []


def test_the_pages_commands_are_found():
    pages = [README, *ROOT.glob("docs/[gi]*.md"), *ROOT.glob("ex*/README.md")]
    assert all(len(commands(page.read_text())) >= 2 for page in pages)
