"""`python -m grader.audit.trainers`: its list, what it keeps, and the page. Nothing is fetched."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from grader.audit.faults import GROUPS
from grader.audit.trainers import cases, chaos, fetching, page, running
from grader.audit.trainers.cases import SCRIPTS, Environment
from grader.course.catalog import ROOT
from grader.errors import UsageError

CASE = """
[environment.some]
packages = ["torch==2.13.0"]
disk = 1
[[case]]
name = "one"
title = "One"
train = "python train.py {out}"
page = "https://example.org"
promises = "nothing"
"""


def read(tmp_path, text):
    file = tmp_path / "cases.toml"
    file.write_text(text)
    return cases.read(file)


def test_the_list_is_valid_and_its_scripts_exist_and_are_used():
    trainers = cases.read()
    assert len(trainers.cases) >= 4
    commands = [
        word.rpartition("/")[2]
        for case in trainers.cases.values()
        for command in (case.train, case.resume, case.prepare)
        for word in command.split()
        if "{scripts}" in word
    ]
    assert {path.name for path in SCRIPTS.glob("*.py")} == {*commands, chaos.DIGEST}
    for path in SCRIPTS.glob("*.py"):
        ast.parse(path.read_text())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("{out}", "out", "doesn't say {out}"),
        ("https://example.org", "example.org", "no https:// address"),
        ("torch==2.13.0", "torch>=2", "no exact version"),
        ('title = "One"', 'title = "One"\nenvironment = "other"', "no environment 'other'"),
        ('title = "One"', 'title = "One"\nrepository = "https://a"', "needs a commit"),
        ('title = "One"', 'title = "One"\nnumber = 1', "no such key: number"),
        ('title = "One"', "", "title"),
        ('name = "one"', 'name = "../one"', "a name has only"),
    ],
)
def test_a_wrong_entry_gets_one_clear_line(tmp_path, old, new, says):
    assert list(read(tmp_path, CASE).cases) == ["one"]
    with pytest.raises(UsageError) as e:
        read(tmp_path, CASE.replace(old, new))
    assert says in str(e.value) and "\n" not in str(e.value)


def test_the_page_is_made_of_the_list_and_the_results():
    trainers, results = cases.read(), page.load()
    assert results["trainers"].keys() == trainers.cases.keys()
    assert page.PAGE.read_text() == page.text(trainers, results)


def test_results_name_no_path_of_the_machine_and_only_known_outcomes():
    assert not re.search(r"""["'(= ]/(tmp|home|usr|work|opt|root)/""", page.RESULTS.read_text())
    for result in page.load()["trainers"].values():
        assert {f["outcome"] for f in result["faults"]} <= {*page.WORST_FIRST, "not judged"}


@pytest.mark.parametrize(
    ("outcomes", "shown"),
    [
        ([], "-"),
        (["fine", "fine"], "fine"),
        (["note"], "note"),
        (["fine", "loss", "silent"], "**silent** 1/3"),
        (["loud", "loud"], "**loud**"),
        (["not judged", "fine"], "fine"),
        (["not judged"], "-"),
    ],
)
def test_a_cell_has_the_worst_outcome(outcomes, shown):
    assert page.cell(outcomes) == shown


def test_the_table_has_a_row_for_each_kind_of_fault():
    found = {
        "one": {"faults": [{"group": g, "outcome": "fine"} for g in list(GROUPS.values())[:2]]}
    }
    case = next(iter(cases.read().cases.values()))
    lines = page.table([case], {case.name: found["one"]})
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        f"| {group}" for group in list(GROUPS.values())[:2]
    ]


JUNIT = """<testsuite name="ckpt-chaos" tests="3" failures="2">
<testcase name="a" classname="c"><failure message="HARD_FAIL: exit 1">text</failure></testcase>
<testcase name="b" classname="c"><failure message="HARD_FAIL: exit 1">text</failure></testcase>
<testcase name="c" classname="c"/>
</testsuite>
"""


def test_the_verdicts_of_ckpt_chaos_are_counted():
    assert chaos.verdicts(JUNIT) == {"points": 3, "verdicts": {"HARD_FAIL": 2, "PASS": 1}}
    assert chaos.verdicts(JUNIT.replace("failure", "error")) is None


def test_the_comparison_in_the_page_is_that_of_the_results():
    results = page.load().get(chaos.ENVIRONMENT, {})
    names = [script.name for script in chaos.SCRIPTS]
    assert list(results) == [name for name in names if name in results]
    text = chaos.PAGE.read_text()
    assert chaos.inserted(text, results) == text
    with pytest.raises(UsageError, match="has no"):
        chaos.inserted(text.replace(chaos.END, ""), results)


def test_an_audit_is_started_with_the_commands_of_the_case(tmp_path):
    case = cases.read().cases["nanogpt"]
    words = running.command(case, 60, tmp_path / "result.json")
    assert words[-1] == case.train.split()[-1] and "{out}" in " ".join(words)
    assert words[words.index("--resume-command") + 1] == case.resume
    assert "{scripts}" not in " ".join(words)


def test_a_folder_of_packages_counts_only_for_the_versions_it_was_made_with(tmp_path):
    wanted = Environment("some", ("a==1",), disk=10**9)
    with pytest.raises(UsageError, match="MB are needed"):
        fetching.room(tmp_path, [wanted])
    target = tmp_path / "environments" / "some"
    target.mkdir(parents=True)
    (target / ".fetched").write_text("a==1\n")
    fetching.room(tmp_path, [wanted])
    with pytest.raises(UsageError, match="MB are needed"):
        fetching.room(tmp_path, [Environment("some", ("a==2",), disk=10**9)])


def test_the_command_lists_and_refuses_what_is_unknown():
    def run(*options):
        words = [sys.executable, "-m", "grader.audit.trainers", *options]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)

    listed = run("--list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(cases.read().cases)
    unknown = run("--only", "nothing", "--list")
    assert unknown.returncode == 2 and unknown.stderr.count("\n") == 1
    assert "there is no such trainer" in unknown.stderr


def test_results_are_kept_in_the_order_of_the_list(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results.json")
    results = {"trainers": {"gone": {"seconds": 1}, "b": {"seconds": 2}}, "ckpt-chaos": {}}
    page.keep(results, "trainers", ["a", "b"], "a", {"seconds": 3})
    assert list(results["trainers"].items()) == [("a", {"seconds": 3}), ("b", {"seconds": 2})]
    assert page.load(page.RESULTS) == results
