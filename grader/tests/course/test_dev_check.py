"""`grade dev check` finds nothing in the course, and every kind of problem in a broken copy."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from grader.authoring import dev_check, samples
from grader.course import catalog, derive
from grader.course.catalog import ROOT
from grader.errors import UsageError
from grader.tests.conftest import IN_CI
from grader.verdicts import BLOCKED, FAIL, PASS

pytestmark = pytest.mark.needs_solution

COPIED = [
    "README.md",
    "docs",
    "grader/checks",
    "grader/mutants",
    "grader/tests/snapshots",
    "templates",
    "grader/workload/ex04",  # one folder of untrusted code: reading all of it takes longest
    *(path.name for path in ROOT.glob("ex[0-9][0-9]-*")),
]
ONE, TWO, FOUR = "ex01-basic-checkpoint", "ex02-distributed-checkpoint", "ex04-auto-resume"
SNAPSHOTS = "grader/tests/snapshots"


@pytest.fixture
def course(tmp_path):
    """A copy of the course, whose starters are nobody's work."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "starter.kept-*", "starter")
    for name in COPIED:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=ignored)
        else:
            shutil.copy(ROOT / name, target)
    for exercise in catalog.exercises(tmp_path).values():
        derive.write_starter(exercise)
    return tmp_path


def change(root: Path, file: str, old: str, new: str) -> None:
    text = (root / file).read_text()
    assert old in text, f"{file} doesn't hold {old!r} any more"
    (root / file).write_text(text.replace(old, new, 1))


def test_the_course_agrees_with_itself():
    found = dev_check.problems()
    if not IN_CI:  # an edited starter, or a file beside it, is somebody's own work
        found = [line for line in found if not re.search("/starter/|part of an exer", line)]
    assert found == []


def test_a_copy_has_no_problems(course):
    assert dev_check.problems(course) == []


CHANGED = [
    # integrations
    (
        "templates/integrations/resumable/language_model.py",
        "ckpt.resume()",
        "ckpt.start_over()",
        "docs/integrations.md: the diff of language_model isn't that of its",
    ),
    (
        "templates/integrations/resumable/image_classifier.py",
        "    raise SystemExit",
        "    print()\n    raise SystemExit",
        "image_classifier.py: 16 lines changed, 15 are",
    ),
    ("docs/integrations.md", "<!-- diff: mix", "<!-- mix", "shows no diff of mixed_precision"),
    (
        "docs/integrations.md",
        "<!-- diff: mix",
        "<!-- diff: nix -->\n```diff\n```\n<!-- diff: mix",
        "there is no templates/integrations/plain/nix.py",
    ),
    # starters
    (f"{ONE}/starter/checkpoint.py", "import", "import sys\nimport", "isn't derived from its"),
    (
        "grader/course/handed_out/ex01/checkpoint.py",
        "import",
        "import sys\nimport",
        "handed_out/ex01/checkpoint.py: isn't derived from its",
    ),
    # the single file that is generated from a package
    (
        "templates/checkpoint_utils.py",
        "import os",
        "import os as os",
        "templates/checkpoint_utils.py: isn't generated from templates/exact_resume; run grade dev",
    ),
    (
        "templates/exact_resume/config.py",
        "keep: int = 3",
        "keep: int = 4",
        "templates/checkpoint_utils.py: isn't generated from",
    ),
    (
        "templates/exact_resume/staging.py",
        "        for state in states:",
        "        from .lock import _Lock\n\n        for state in states:",
        "imports another module, but not at the top of the file",
    ),
    (
        "templates/exact_resume/lock.py",
        "def _release(",
        "def _few(",
        "_few is defined in reporting.py and in lock.py",
    ),
    (
        "templates/exact_resume/lock.py",
        "from .interfaces",
        "from .manager import CheckpointManager\nfrom .interfaces",
        "is a circle",
    ),
    # exercise.toml
    (f"{ONE}/exercise.toml", "\"Kill the starter's run", '"", "Kill the', "hint 1 of ex01.1 is em"),
    (
        f"{FOUR}/exercise.toml",
        '"Which folder would',
        '"This task needs nothing new: your script and your functions run together. Which fault '
        'in the message is the first after which the run goes wrong?",\n'
        '"Which folder would',
        "hint 1 of ex04.5 is hint 1 of ex04.1 again",
    ),
    (f"{FOUR}/exercise.toml", '["newest_intact"]', "[]", "ex04.1 names no function"),
    (f"{FOUR}/exercise.toml", '["newest_intact"]', '["newest"]', "names newest, which the solut"),
    # names, titles
    (f"{ONE}/README.md", "# Exercise 1: PyTorch", "# Exercise 1: torch", "the title reads"),
    (f"{ONE}/README.md", "### 1.2 Randomness (4", "### 1.2 Randomness (5", "the title reads"),
    (f"{ONE}/notebook.py", "# # Lab 1: PyTorch", "# # Lab 1: torch", "the title reads"),
    (f"{ONE}/notebook.ipynb", "# Lab 1: PyTorch", "# Lab 1: torch", "the title reads"),
    ("README.md", "| PyTorch model", "| torch model", "the title reads"),
    ("grader/mutants/README.md", "README.md): PyTorch", "README.md): torch", "the title reads"),
    ("grader/checks/ex01/test_ex01.py", "1: PyTorch", "1: torch", "the title reads 'Exercise 1: t"),
    ("grader/checks/ex01/test_ex01.py", "ex01.2  randomness", "ex01.2  chance", "reads 'chance'"),
    # samples
    ("README.md", "bit for bit\n  means", "more or less\n  means", "isn't its snapshot"),
    ("README.md", "<!-- sample: ex01/in-place", "<!-- ex01/in-place", "names no snapshot"),
    ("README.md", "ex01/in-place.txt", "ex01/in-peace.txt", "is no snapshot ex01/in-peace.txt"),
    ("README.md", "lines 1-6, last", "lines 1-6, 99", "in-place.txt has no line 99"),
    (f"{SNAPSHOTS}/ex02/barrier-inside.txt", "8 s", "9 s", "isn't its snapshot"),
    # untrusted code
    (
        "grader/workload/ex04/train.py",
        "import os\n",
        "import os\nfrom grader.verdicts import FAIL\n",
        "imports verdicts",
    ),
    (
        "grader/workload/ex04/train.py",
        "import os\n",
        'import os\nWHY = "the weights are not the right ones"\n',
        "says 'the weights are not the right ones' in line",
    ),
    # mutants
    (
        "grader/mutants/ex01/1-round-trip.toml",
        'optimizer.load_state_dict(state["optimizer_state_dict"])',
        "optimizer.load(state)",
        "0 places in the solution match",
    ),
    ("grader/mutants/ex01/1-round-trip.toml", "fact = 13", "fact = 99", "refers to mistake 99"),
    ("docs/mistakes.md", "### 13\n", "", "refers to mistake 13, which isn't in"),
    ("grader/mutants/ex01/1-round-trip.toml", '"ex01.1"', '"ex01.9"', "belongs to ex01.9"),
]


@pytest.mark.parametrize("file,old,new,said", CHANGED, ids=[said for *_, said in CHANGED])
def test_a_change_is_found(course, file, old, new, said):
    change(course, file, old, new)
    found = dev_check.problems(course)
    assert found
    assert all(said in line for line in found), found
    assert all(re.match(r"[\w./-]+: .+; .+", line) for line in found)


def test_a_task_that_builds_on_others_may_name_no_function(course):
    change(course, f"{TWO}/exercise.toml", '["load_sharded", "export_model"]', "[]")
    assert dev_check.problems(course) == []


def test_derived_text_that_a_solution_changes_is_found(course):
    change(course, f"{ONE}/solution/checkpoint.py", '"""Exercise 1: P', '"""Exercise 1: p')
    assert sorted(line.partition(";")[0] for line in dev_check.problems(course)) == [
        f"{ONE}/solution/checkpoint.py: the title reads 'Exercise 1: pyTorch model checkpointing.'",
        f"{ONE}/starter/checkpoint.py: isn't derived from its solution",
        "grader/course/handed_out/ex01/checkpoint.py: isn't derived from its solution",
    ]


def test_points_that_do_not_add_up_are_found(course):
    change(course, f"{ONE}/exercise.toml", "points = 5", "points = 6")
    assert dev_check.problems(course)[0] == (
        f"{ONE}/exercise.toml: the tasks of ex01 are worth 21 points together; make it 20, of 100 "
        "in all"
    )
    change(course, f"{ONE}/exercise.toml", "points = 6", "points = 0")
    assert "ex01.4 is worth 0 points; give it some" in dev_check.problems(course)[0]


@pytest.mark.parametrize("field", ["title", "points", "functions", "hints"])
def test_a_missing_field_is_found(course, field):
    change(course, f"{TWO}/exercise.toml", f"\n{field} = ", f"\n{field}s_ = ")
    if field == "title":  # the first one is the exercise's own
        change(course, f"{TWO}/exercise.toml", "\ntitles_ = ", "\ntitle = ")
        change(course, f"{TWO}/exercise.toml", '\ntitle = "DDP: ', '\ntitles_ = "DDP: ')
    assert dev_check.problems(course) == [
        f"{TWO}/exercise.toml: task 1 has no {field}; add the field"
    ]


@pytest.mark.parametrize(
    "file",
    [
        f"{ONE}/notes.txt",
        f"{ONE}/starter/crash.py",
        f"{ONE}/solution/notes.txt",
        f"{SNAPSHOTS}/ex09/notebook.sha256",
        f"{SNAPSHOTS}/ex01/no-such-mutant.txt",
        f"{SNAPSHOTS}/ex01/scheduler-forgotten.txt",  # a mutant, and not in SHOWN
    ],
)
def test_a_stray_file_is_found(course, file):
    (course / file).parent.mkdir(exist_ok=True)
    (course / file).write_text("?")
    found = dev_check.problems(course)
    assert any(line.startswith(f"{file}: ") and "remove it" in line for line in found), found


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__pycache__", "starter.kept-2026"])
def test_what_git_ignores_is_no_stray_file(course, name):
    (course / ONE / name).mkdir()
    (course / ONE / name / "x").touch()
    assert dev_check.problems(course) == []


def test_missing_files_are_found(course, monkeypatch):
    (course / SNAPSHOTS / "ex01" / "one-gpu-only.txt").unlink()
    (course / FOUR / "starter" / "chain.sbatch").unlink()
    monkeypatch.setitem(dev_check.SHOWN, "ex02", [*dev_check.SHOWN["ex02"], "forgotten"])
    assert [line.partition(";")[0] for line in dev_check.problems(course)] == [
        f"{FOUR}/starter/chain.sbatch: isn't derived from its solution",
        f"{SNAPSHOTS}/ex01/one-gpu-only.txt: the snapshot is missing",
        "grader/mutants/shown.py: ex02 has no mutant forgotten",
    ]


def test_a_starter_that_cannot_be_derived_is_found(course):
    change(course, f"{ONE}/solution/checkpoint.py", "### END SOLUTION", "")
    assert any(
        line.startswith(f"{ONE}/starter: can't be derived") for line in dev_check.problems(course)
    )


def test_without_solutions_there_is_nothing_to_check_against(course):
    shutil.rmtree(course / ONE / "solution")
    with pytest.raises(UsageError, match="no solutions of ex01"):
        dev_check.problems(course)


# --- samples --------------------------------------------------------------------------------------


def test_samples_are_written_from_their_snapshots(course):
    change(course, f"{SNAPSHOTS}/ex02/barrier-inside.txt", "8 s", "9 s")
    pages = [course / TWO / "README.md", course / "docs" / "debugging.md"]
    assert samples.write(course) == pages
    assert "after waiting 9 s for the others" in (course / TWO / "README.md").read_text()
    assert samples.write(course) == []
    assert dev_check.problems(course) == []


def test_a_sample_is_as_wide_as_a_terminal(course):
    (course / SNAPSHOTS / "ex01" / "in-place.txt").write_text(
        "code       last-good-lost\ncheck      one\nmeans      "
        + "word " * 40
        + "\nreplay     grade --solution "
        + "x" * 120
    )
    change(course, "README.md", "lines 1-6, last", "lines 1-2, last")
    samples.write(course)
    shown = samples.blocks((course / "README.md").read_text())[0].lines
    assert shown[0].startswith("FAIL     ex01.3  an interrupted save costs nothing   ")
    assert shown[1] == "  check      one"
    assert shown[3].startswith("             word word")
    assert all(len(line) <= 110 for line in shown[:-1])
    assert shown[-1] == "  replay     grade " + "x" * 120


# --- graded ---------------------------------------------------------------------------------------


def test_starters_must_score_nothing_and_solutions_everything(ex01):
    def result(*verdicts):
        return SimpleNamespace(
            tasks=[
                SimpleNamespace(id=t.id, verdict=v, score=4 * (v == PASS), message="found a\nb")
                for t, v in zip(ex01.tasks, verdicts, strict=True)
            ]
        )

    def grade(exercise, work):
        if work.folder == exercise.starter:
            return result(FAIL, PASS, FAIL, BLOCKED, FAIL)
        return result(PASS, PASS, FAIL, PASS, PASS)

    assert [line.partition(";")[0] for line in dev_check.graded([ex01], grade)] == [
        f"{ONE}/starter: scores 4 at ex01.2",
        f"{ONE}/solution: ex01.3 says fail (found a)",
    ]


def test_problems_are_printed_one_a_line_and_counted(monkeypatch, capsys):
    monkeypatch.setattr(dev_check, "problems", lambda: ["a: wrong; mend it", "b: wrong; mend it"])
    assert dev_check.main(grading=False) == 1
    assert capsys.readouterr().out == "a: wrong; mend it\nb: wrong; mend it\n2 problems\n"
    monkeypatch.setattr(dev_check, "problems", list)
    assert dev_check.main(grading=False) == 0
