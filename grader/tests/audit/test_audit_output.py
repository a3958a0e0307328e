"""What an audit says: terminal, page, Markdown, JUnit, JSON, and scripts that show a finding."""

from __future__ import annotations

import re
import subprocess
from xml.etree import ElementTree

import pytest
from rich.console import Console

from grader.audit import data, faults, page, report, reproduce
from grader.audit.faults import FLIP, FULL, TEAR, TRUNCATE
from grader.tests.audit.auditing import JOBS, audit_of, inside_a_save, tried, undisturbed_once

COMMAND = ["python", "train.py", "--out_dir", "{out}"]


@pytest.fixture(scope="module")
def audit(warm, audit_folder):
    made = undisturbed_once(audit_of(audit_folder, JOBS / "newest_only.py", launcher=warm))
    chosen = [faults.kill_after(6), inside_a_save(made, TEAR)]
    tried(made, *chosen, faults.damage(TRUNCATE, 10))
    return made


def test_the_terminal_shows_a_table_and_the_findings(audit):
    out = Console(record=True, width=100, file=None, quiet=True)
    with out.capture() as shown:
        out.quiet = False
        report.show(out, audit)
    text = " ".join(shown.get().split())
    assert re.search(r"newest checkpoint truncated \. \. 1 \. ", text), text
    assert "[damaged-newest: the job doesn't come back]" in text
    assert re.search(r"SIGKILL between saves 1 \. \. \. 2 steps, ", text), text
    line = int(re.search(r"checkpoint_utils\.py:(\d+) \(CheckpointManager\.resume\)", text)[1])
    assert line > 100


def test_the_page_holds_the_table_the_findings_and_a_timeline_for_each_fault(audit):
    text = page.page(audit, ["python", "<b>train.py</b>"])
    assert text.count("<figure>") == 3 and "<b>train" not in text
    assert "resumed after step 4" in text and "when its newest checkpoint is damaged" in text
    assert not re.search(r"(?:src|href)=\"(?!#)", text)


def test_markdown_has_the_table_and_the_findings(audit):
    text = data.markdown(audit, COMMAND)
    assert "| newest checkpoint truncated |  |  | 1 |  |" in text
    assert "### can't restart when its newest checkpoint is damaged" in text


def test_junit_counts_faults_with_problems(audit):
    suite = ElementTree.fromstring(data.junit_text(audit, COMMAND))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "0")


def test_json_says_what_was_equal_and_how_long_it_took(audit):
    found = data.as_json(audit, COMMAND)
    assert [fault["steps_lost"] for fault in found["faults"]] == [2, 4, None]
    assert found["faults"][0]["seconds_lost"] > 0 and found["faults"][0]["seconds_to_restart"] > 0
    assert found["probe"]["every"] == 1 and found["findings"][0]["code"] == "damaged-newest"


def test_a_script_reproduces_a_finding_without_the_audit(audit, tmp_path):
    (path,) = reproduce.write(audit, COMMAND, tmp_path / "scripts")
    work = tmp_path / "work"
    done = subprocess.run(
        ["bash", str(path), str(work)], capture_output=True, text=True, timeout=300
    )
    assert "grade" not in (work / "life1.log").read_text()
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "KILL to all processes of life 1" in done.stdout
    assert "--- life 9: exit status 1" in done.stdout, done.stdout


@pytest.mark.parametrize(
    "fault",
    [
        faults.kill_twice(5, 3),
        faults.damage(FLIP, 10),
        faults.damage(faults.MISSING, 10, file="step-N/a file.pt"),
        faults.send(reproduce.signal.SIGUSR1, 6, 20),
        faults.send(reproduce.signal.SIGTERM, 6, 20),
        faults.time_limit(6, 20, 1.0),
        faults.lose_rank(1, 6),
        FULL,
        TEAR,
    ],
    ids=str,
)
def test_every_script_is_valid_shell(audit, fault, tmp_path):
    fault = inside_a_save(audit, fault) if isinstance(fault, str) else fault
    outcome = reproduce.Outcome(fault, after_seconds=1.5)
    text = reproduce.script(audit, COMMAND, audit.findings[0], outcome, "it.sh")
    file = tmp_path / "it.sh"
    file.write_text(text)
    subprocess.run(["bash", "-n", str(file)], check=True, timeout=60)
    assert text.count("\nlife ") >= 2 and '--out_dir "$out"' in text
