"""Every finding has a code, and every code an explanation."""

from __future__ import annotations

import ast
import re

import pytest
from click.testing import CliRunner

from grader import explain
from grader.cli import main_group
from grader.course.catalog import ROOT
from grader.crash.promise import KINDS
from grader.errors import UsageError
from grader.harness.run import WHY_ENDED
from grader.verdicts import Finding

SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def codes() -> dict[str, list[str]]:
    """Code of a Finding or an Inconclusive -> where it is made; '?' for one that is computed.

    A function with a parameter `code` makes findings for its callers: its calls count, too.
    """
    trees = {
        path: ast.parse(path.read_text())
        for path in sorted((ROOT / "grader").rglob("*.py"))
        if "tests" not in path.parts
    }
    makers = {"Finding", "Inconclusive"}
    for path, tree in trees.items():
        for node in ast.walk(tree) if "checks" in path.parts else ():
            if isinstance(node, ast.FunctionDef) and "code" in [a.arg for a in node.args.args[:1]]:
                makers.add(node.name)
    found: dict[str, list[str]] = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and node.args and called(node) in makers):
                continue
            for code in literals(node.args[0]):
                found.setdefault(code, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def called(call: ast.Call) -> str:
    return getattr(call.func, "id", "") or getattr(call.func, "attr", "")


def literals(code: ast.expr) -> list[str]:
    if isinstance(code, ast.IfExp):
        return literals(code.body) + literals(code.orelse)
    if isinstance(code, ast.Name) and code.id == "code":
        return []  # the caller's
    return [code.value] if isinstance(code, ast.Constant) else ["?"]


def test_every_code_is_a_literal_and_has_an_explanation():
    assert [place for code, places in codes().items() if code == "?" for place in places] == []
    assert [code for code in codes() if not SLUG.fullmatch(code)] == []
    assert sorted(codes().keys() - explain.explanations().keys()) == []


def test_every_explanation_is_of_a_code_that_exists():
    assert sorted(explain.explanations().keys() - codes().keys()) == []


@pytest.mark.parametrize("known", explain.explanations().values(), ids=lambda known: known.code)
def test_an_explanation_is_whole(known):
    assert known.summary.endswith((".", "?")) and "\n" not in known.summary
    assert known.production and known.example
    assert all(len(line) <= 96 for line in known.example.splitlines())
    for text in (known.means, known.think):
        assert "\n" not in text and not text.endswith(".")


def test_evidence_holds_no_advice():
    """What a finding means and asks are fields, and never rows."""
    for path in sorted((ROOT / "grader" / "checks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple) and node.elts and isinstance(node.elts[0], ast.Constant):
                assert node.elts[0].value not in ("means", "think"), f"{path}:{node.lineno}"


def test_a_finding_says_what_its_code_says_unless_it_says_more():
    told = explain.complete(Finding("two-at-once", [("found", "x")]))
    assert told.means == explain.find("two-at-once").means and told.think
    own = explain.complete(Finding("two-at-once", [("found", "x")], means="mine"))
    assert own.means == "mine" and own.think


def test_the_command_explains_a_code_and_names_those_like_it():
    shown = CliRunner().invoke(main_group, ["explain", "state-lost"]).output
    assert explain.find("state-lost").summary in " ".join(shown.split())
    assert "optimizer.state_dict()" in shown
    with pytest.raises(UsageError, match="did you mean .*state-lost"):
        explain.find("state-lots")


@pytest.mark.parametrize(
    "code, about, words",
    [
        ("power-loss", "nothing", "the job starts over"),
        ("exit", "3", "exit status 3"),
        ("limit", "quiet", "a hang"),
        ("state-lost", "NumPy RNG", "NumPy RNG"),
    ],
)
def test_what_a_finding_is_about_is_said_in_words(code, about, words):
    assert explain.find(code).subject(about) == words


def test_every_kind_of_a_power_loss_has_words():
    assert explain.find("power-loss").about.keys() == KINDS.keys()


def test_every_limit_has_words():
    assert explain.find("limit").about.keys() == WHY_ENDED.keys() - {"stopped"}
