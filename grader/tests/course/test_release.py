"""The hand-out for students: complete, gradable, and without an answer."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from grader.course import catalog
from grader.course.catalog import ROOT
from grader.course.release import leaks, pages, trial, writing
from grader.course.release.contents import Content, contents
from grader.errors import UsageError

pytestmark = pytest.mark.needs_solution

LINE = "steps = sorted((int(m[1]), n) for n in names if (m := re.fullmatch("  # of ex01's solution


def grade(*args, root: Path = ROOT, **options):
    """`python -m grader ...` of the checkout at `root`."""
    env = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "grader", *map(str, args)],
        capture_output=True,
        text=True,
        env=env,
        timeout=600,
        **({"cwd": root} | options),
    )


def texts(files: dict[str, Content]) -> dict[str, str]:
    return {name: content.data.decode(errors="replace") for name, content in files.items()}


@pytest.fixture(scope="module")
def every():
    return list(catalog.exercises().values())


@pytest.fixture(scope="module")
def files(every):
    return contents(ROOT, every)


@pytest.fixture(scope="module")
def hand_out(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "course"
    writing.write(folder, files)
    return folder


# --- what it holds --------------------------------------------------------------------------------


def test_it_holds_what_students_need_and_no_answers(files, every):
    assert {"Makefile", "README.md", "pyproject.toml", "docs/grading.md"} <= files.keys()
    for exercise in every:
        for name in ("README.md", "exercise.toml", "notebook.ipynb", f"starter/{exercise.module}"):
            assert f"{exercise.folder.name}/{name}" in files
        assert f"grader/course/handed_out/{exercise.id}/{exercise.module}" in files
    answers = re.compile(r"(ex[^/]*/solution|grader/tests|grader/bench|grader/mutants/ex)/|\.git/")
    assert [name for name in files if answers.match(name)] == []


def test_students_get_the_starter_that_was_handed_out_and_nothing_untracked(checkout):
    exercise = catalog.exercises(checkout)["ex01"]
    (exercise.starter / exercise.module).write_text("# the instructor tried something\n")
    subprocess.run(["git", "init", "-q"], cwd=checkout, check=True)
    subprocess.run(["git", "add", "."], cwd=checkout, check=True)
    (checkout / "docs" / "exam.md").write_text("next week's exam\n")
    found = contents(checkout, [exercise])
    assert (
        found["ex01-basic-checkpoint/starter/checkpoint.py"].data
        == (exercise.handed_out / exercise.module).read_bytes()
    )
    assert "docs/exam.md" not in found and "docs/grading.md" in found


def test_one_exercise_goes_without_the_others_and_what_only_they_use(every):
    found = contents(ROOT, every[:1])
    others = r"ex0[234]-|grader/(given|course/handed_out/ex0[234]|workload/ex0[23])/"
    assert [name for name in found if re.match(others, name)] == []
    assert "ex02-distributed-checkpoint" not in found["README.md"].data.decode()
    assert "grader/given/checkpoints.py" in contents(ROOT, every[2:3])


def test_without_git_the_same_files_are_found(checkout, files):
    found = contents(checkout, list(catalog.exercises(checkout).values()))
    notebooks = {name for name in files if name.endswith(".ipynb")}  # `checkout` has none
    assert found.keys() == files.keys() - notebooks


def test_no_link_of_its_pages_is_dead(files):
    folders = {str(folder) for name in files for folder in PurePosixPath(name).parents}
    for name, text in texts(files).items():
        if not name.endswith(".md"):
            continue
        prose = re.sub(r"^ *```.*?^ *```|`[^`]*`", "", text, flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s#]+)", prose):
            if not re.match(r"[a-z]+:", target):
                path = os.path.normpath(os.path.join(os.path.dirname(name), target))
                assert path in files or path in folders, f"{name}: {target}"
    assert "make test" not in texts(files)["README.md"]


def test_a_page_loses_links_that_lead_nowhere():
    page = (
        "[a](docs/a.md#x), [b](docs/b.md) and [c](https://x.org)\n"
        "- [b](docs/b.md)\n"
        "| [b](docs/b.md) | text |\n"
        "| [a](docs) | [b](docs/b.md) |\n"
        "```python\nx[0](y)\n$ make test   # all\n```\n`[b](docs/b.md)` [here](#there)\n"
    )
    assert pages.page("README.md", page, {"README.md", "docs/a.md"}) == (
        "[a](docs/a.md#x), b and [c](https://x.org)\n"
        "| [a](docs) | b |\n"
        "```python\nx[0](y)\n```\n`[b](docs/b.md)` [here](#there)\n"
    )


def test_the_outputs_that_show_a_solutions_work_are_gone(files):
    name = "ex02-distributed-checkpoint/notebook.ipynb"
    before, after = json.loads((ROOT / name).read_text()), json.loads(files[name].data)
    changed = [(a, b) for a, b in zip(before["cells"], after["cells"], strict=True) if a != b]
    assert len(changed) == 1
    assert "rank-0.pt" in json.dumps(changed[0][0]["outputs"]) and changed[0][1]["outputs"] == []


def test_without_hints_the_rest_of_an_exercise_is_as_it_was(every):
    found = contents(ROOT, every, hints=False)
    for exercise in every:
        name = f"{exercise.folder.name}/exercise.toml"
        data = catalog.parse_toml(found[name].data.decode())
        whole = catalog.read_toml(ROOT / name)
        assert all(task["hints"] == [] for task in data["tasks"])
        for task in whole["tasks"]:
            task["hints"] = []
        assert data == whole


# --- the search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hints", [True, False])
def test_the_course_gives_no_line_of_a_solution_away(every, hints):
    found = contents(ROOT, every, hints)
    secret = leaks.secret_lines(every, found, hints)
    assert len(secret) > 150 and any(LINE in line for line in secret)
    assert [str(leak) for leak in leaks.find(found, secret)] == []


def test_what_is_listed_as_shown_is_shown(every, files):
    """A stale line in the list would hide a leak."""
    everything = "\n".join(
        leaks.normal(line.replace('\\"', '"'))
        for text in texts(files).values()
        for line in text.splitlines()
    )
    lines = leaks.solution_lines(every)
    assert {shown for shown in leaks.shown_lines() if shown not in lines} == set()
    assert {shown for shown in leaks.shown_lines() if shown not in everything} == set()


@pytest.mark.parametrize(
    "name, text",
    [
        ("README.md", f"one\n  {LINE}\n"),
        ("docs/page.md", f"one\nsee `{LINE}`\n"),
        ("a/notebook.ipynb", '["x",\n"    return os.path.join(directory, f\\"step-{s}\\")\\n"]'),
        ("grader/x.py", f"#\n+    {LINE.replace(' ', '   ')}\n"),
    ],
)
def test_a_line_is_found_wherever_it_stands(name, text):
    secret = {LINE: "s.py:1", 'return os.path.join(directory, f"step-{s}")': "s.py:2"}
    (leak,) = leaks.find({name: Content(text.encode())}, secret)
    assert leak.where == f"{name}:2"


def test_a_line_is_found_in_a_zip_in_a_zip():
    inner = writing.zipped({"b.py": Content(f"\n{LINE}\n".encode())})
    (leak,) = leaks.find({"a.zip": Content(writing.zipped({"in.zip": Content(inner)}))}, {LINE: ""})
    assert leak.where == "a.zip/in.zip/b.py:2"


def test_what_is_searched_for_says_enough():
    assert not leaks.distinctive("return None") and not leaks.distinctive("except BaseException:")
    assert leaks.distinctive(LINE)
    assert leaks.searched("    os.fsync(fd)  # the name") == "os.fsync(fd) # the name"
    assert leaks.searched(f"    {LINE}  # in order") == LINE


def test_a_planted_line_is_refused_and_leaves_nothing(checkout, tmp_path):
    solution = (checkout / "ex01-basic-checkpoint/solution/checkpoint.py").read_text()
    (line,) = (line for line in solution.splitlines() if LINE in line)
    with open(checkout / "README.md", "a") as readme:
        readme.write(f"\n```python\n    {line}\n```\n")
    number = len((checkout / "README.md").read_text().splitlines()) - 1
    for target in (tmp_path / "out.zip", tmp_path / "out"):
        done = grade("release", target, "--no-check", root=checkout)
        assert done.returncode == 1, done.stderr
        first, last = done.stderr.splitlines()
        assert re.match(rf"grade: README\.md:{number}: `.*` is in ex01-basic-\S+:\d+$", first)
        assert last.startswith("grade: nothing was written; remove them")
    assert [p.name for p in tmp_path.iterdir()] == ["course"]


def test_without_solutions_nothing_can_be_searched(hand_out, tmp_path):
    done = grade("release", tmp_path / "again", root=hand_out)
    assert done.returncode == 2
    assert done.stderr.startswith("grade: this checkout has no solution of ex01, so nothing can")


# --- writing --------------------------------------------------------------------------------------


def test_a_zip_file_is_the_same_each_time_and_keeps_modes():
    files = {"b.py": Content(b"1"), "a/run": Content(b"2", executable=True)}
    data = writing.zipped(files, "top")
    assert data == writing.zipped(dict(reversed(files.items())), "top")
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.namelist() == ["top/a/run", "top/b.py"]
        modes = [info.external_attr >> 16 for info in file.infolist()]
    assert modes == [0o100755, 0o100644]


def test_nothing_is_overwritten(tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("")
    (tmp_path / "old.zip").write_text("")
    for name in ("full", "old.zip"):
        with pytest.raises(UsageError, match=f"{name} exists already; remove it"):
            writing.write(tmp_path / name, {"a": Content(b"")})
    with pytest.raises(UsageError, match="isn't a directory"):
        writing.write(tmp_path / "none" / "out", {"a": Content(b"")})
    (tmp_path / "empty").mkdir()
    writing.write(tmp_path / "empty", {"a": Content(b"")})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "full", "old.zip"]
    assert [p.name for p in (tmp_path / "empty").iterdir()] == ["a"]


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(OSError):
        writing.write(tmp_path / "out", {"a": Content(b""), "a/b": Content(b"")})
    assert list(tmp_path.iterdir()) == []


# --- in the hand-out ------------------------------------------------------------------------------


def test_students_can_work_with_it(hand_out):
    """It grades, shows, hints and resets without git and without solutions."""
    starter = hand_out / "ex01-basic-checkpoint" / "starter" / "checkpoint.py"
    text = starter.read_text()
    graded = grade("ex01.1", "--html", "page.html", root=hand_out)
    assert graded.returncode == 1, graded.stderr
    assert "This is the untouched starter of ex01" in graded.stdout
    assert (hand_out / "page.html").stat().st_size > 10_000
    assert "ex04.5" in grade("show", root=hand_out).stdout
    assert "hint 1 of" in grade("hint", "ex01.3", root=hand_out).stdout
    assert grade("explain", "state-lost", root=hand_out).returncode == 0
    starter.write_text("# mine\n")
    assert grade("reset", "ex01", root=hand_out).returncode == 0
    assert starter.read_text() == text
    ran = grade("run", "ex01.1", "--kill-after", 14, root=hand_out)
    assert ran.stdout.count("--- life") == 2, ran.stderr
    author = grade("dev", "check", root=hand_out)
    assert author.returncode == 2 and "this checkout has no solutions" in author.stderr


def test_a_hand_out_without_hints_says_so(every, tmp_path):
    writing.write(tmp_path / "out", contents(ROOT, every[:1], hints=False))
    done = grade("hint", "ex01.3", root=tmp_path / "out")
    assert done.returncode == 0 and "this copy of the course has no hints" in done.stdout


@pytest.mark.parametrize("target", ["test", "check", "bench", "matrix"])
def test_what_needs_the_whole_course_says_so(hand_out, target):
    done = subprocess.run(
        ["make", "-s", target, "VENV=/bin"], cwd=hand_out, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("make: this copy of the course has no tests")


# --- the trial ------------------------------------------------------------------------------------


def test_a_hand_out_whose_grader_breaks_is_refused(files, every):
    broken = {**files, "grader/engine.py": Content(b"raise ImportError('no engine')\n")}
    (problem,) = trial.problems(broken, every[:1])
    assert problem.startswith("grading it ended with status 3 and no results: grade: ")
    assert "no engine" in problem


def test_points_for_a_starter_are_a_problem(every):
    task = {"id": "ex01.1", "verdict": "fail", "score": 0}
    graded = [{"id": "ex01", "tasks": [task]}]
    assert list(trial._judged(graded, every[:1])) == []
    assert list(trial._judged(graded, every[:2])) == ["grading it gave no result for ex02"]
    task.update(verdict="pass", score=4)
    assert list(trial._judged(graded, every[:1])) == ["ex01.1: the untouched starter gets 4 points"]
    task.update(verdict="inconclusive", score=0)
    assert list(trial._judged(graded, every[:1])) == [
        "ex01: nothing was proved, every task is inconclusive or blocked"
    ]


@pytest.mark.slow
def test_the_command_grades_what_it_hands_out(tmp_path):
    target = tmp_path / "course.zip"
    done = grade("release", target, "--exercise", "ex01")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("its starters get 0 of 20 points")
    with zipfile.ZipFile(target) as file:
        names = file.namelist()
    assert "fault-tolerant-training/ex01-basic-checkpoint/starter/checkpoint.py" in names
    assert [name for name in names if ".grade" in name or "__pycache__" in name] == []
    assert [p.name for p in tmp_path.iterdir()] == ["course.zip"]
