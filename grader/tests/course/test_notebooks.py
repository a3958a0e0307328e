"""The notebooks: built from their sources, true to what they show, and of use before anything is
solved.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from grader import notebooks
from grader.authoring import build_notebooks
from grader.course import catalog, derive
from grader.errors import UsageError

MISSING = [
    name
    for name in ("jupytext", "nbformat", "nbclient", "nbval", "ipykernel", "matplotlib")
    if not importlib.util.find_spec(name)
]
needs_tools = pytest.mark.skipif(
    bool(MISSING) and not os.environ.get("GRADE_CI"),
    reason=f"not installed here: {', '.join(MISSING)}",
)


def having_notebooks() -> list[str]:
    return [e.id for e in catalog.exercises().values() if build_notebooks.source_path(e).exists()]


def committed(exercise) -> dict:
    """The notebook as it was built. A student's own copy is no subject of these tests, but CI has
    none.
    """
    if not build_notebooks.is_pristine(exercise) and not os.environ.get("GRADE_CI"):
        pytest.skip(f"{exercise.id}'s notebook has been run or edited: somebody's own work")
    return json.loads(build_notebooks.notebook_path(exercise).read_text())


def printed(cells) -> str:
    """What the cells wrote to standard output."""
    outputs = [
        o
        for cell in cells
        for o in cell.get("outputs", [])
        if o["output_type"] == "stream" and o["name"] == "stdout"
    ]
    return "".join("".join(o["text"]) for o in outputs)


def step_of_divergence(text: str, name: str) -> int | None:
    """The step at which a notebook says that the run `name` diverges from the undisturbed one;
    None if never.
    """
    m = re.search(rf"^{name}: (?:diverges .* at step (\d+)|never diverges)", text, re.M)
    assert m, f"the notebook doesn't say whether {name} diverges:\n{text}"
    return int(m[1]) if m[1] else None


# --- what is committed ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", having_notebooks())
def test_the_committed_notebook_is_its_sources(name):
    exercise = catalog.find(name)
    assert committed(exercise)
    assert build_notebooks.is_pristine(exercise)
    build_notebooks.check_source(exercise)


@pytest.mark.parametrize("name", having_notebooks())
def test_every_cell_was_executed_in_order_and_none_failed(name):
    code = [cell for cell in committed(catalog.find(name))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [
        o
        for cell in code
        for o in cell["outputs"]
        if o["output_type"] == "error" or o.get("name") == "stderr"
    ]


@pytest.mark.parametrize("name", having_notebooks())
def test_the_committed_notebook_says_nothing_about_the_machine(name):
    notebook = committed(catalog.find(name))
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags", "jupyter"}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)  # base64 has slashes, too
    text = json.dumps(notebook)
    found = [
        p
        for p in ("/work/", "/root/", "/tmp/", "/home/", "/Users/", str(catalog.ROOT), sys.prefix)
        if p in text
    ]
    assert found == []


def test_the_committed_outputs_are_those_of_an_exact_resume(ex01):
    text = printed(committed(ex01)["cells"])
    assert step_of_divergence(text, "yours") is None
    assert step_of_divergence(text, "naive") == 17


def test_the_committed_outputs_are_those_of_saves_that_survive_a_power_loss(ex01):
    text = printed(committed(ex01)["cells"])
    assert "a rename alone survives every power loss: False" in text
    assert re.search(r"your write_checkpoint does: +True", text)


# --- executed -------------------------------------------------------------------------------------


@needs_tools
@pytest.mark.needs_solution
@pytest.mark.parametrize("name", having_notebooks())
def test_executed_again_with_the_solution_it_shows_the_same(name):
    exercise = catalog.find(name)
    executed = [cell for cell in committed(exercise)["cells"] if cell["cell_type"] == "code"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--nbval",
            "--nbval-current-env",
            "--nbval-cell-timeout=120",
            "-p",
            "no:cacheprovider",
            "-q",
            build_notebooks.notebook_path(exercise).name,
        ],
        cwd=exercise.folder,
        env={**os.environ, "GRADE_SUBMISSION": "solution"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"{len(executed)} passed" in done.stdout


@needs_tools
@pytest.mark.needs_solution  # the pristine starter is derived from it
def test_with_an_untouched_starter_it_runs_and_shows_what_is_wrong(ex01, tmp_path):
    for file, data in derive.starter_files(ex01).items():
        (tmp_path / file).write_bytes(data)
    text = printed(build_notebooks.execute(ex01, tmp_path).cells)
    assert step_of_divergence(text, "yours") == 1
    assert step_of_divergence(text, "naive") == 17
    for fact in ("yours +every sample exactly once", "your read_latest never gives wrong values"):
        assert re.search(rf"^{fact}: +False$", text, re.M), fact


# --- building -------------------------------------------------------------------------------------

SOURCE = '''"""Before the first cell."""
import nothing

# %% [markdown]
# # Title
#
# Prose.

# %% tags=["a", "b"] jupyter={"source_hidden": true}
x = 1


def f():
    """# %% is no marker in here."""

# %%
# a comment
'''


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An exercise with a notebook of its own, in a folder of its own."""

    monkeypatch.setattr(catalog, "ROOT", tmp_path)

    def make(source: str | None):
        folder = tmp_path / "ex09-small"
        (folder / "solution").mkdir(parents=True, exist_ok=True)
        (folder / "solution" / "checkpoint.py").write_text("")
        if source is not None:
            (folder / "notebook.py").write_text(source)
        return catalog.Exercise("ex09", "small", folder, "checkpoint.py", ())

    return make


@needs_tools
def test_a_source_is_read_cell_by_cell(small):
    found = build_notebooks.cells(small(SOURCE))
    assert [(cell.cell_type, cell.source, cell.metadata) for cell in found] == [
        ("markdown", "# Title\n\nProse.", {}),
        (
            "code",
            'x = 1\n\n\ndef f():\n    """# %% is no marker in here."""',
            {"tags": ["a", "b"], "jupyter": {"source_hidden": True}},
        ),
        ("code", "# a comment", {}),
    ]


@needs_tools
def test_a_source_without_cells_is_an_error(small):
    with pytest.raises(UsageError, match="no cells"):
        build_notebooks.cells(small("x = 1\n"))


def test_a_missing_source_is_one_clear_line(small):
    with pytest.raises(
        UsageError, match="^ex09 has no notebook: ex09-small/notebook.py is missing$"
    ):
        build_notebooks.build(small(None))


def test_without_solutions_nothing_is_built(small):
    exercise = small("# %%\n1")
    (exercise.solution / "checkpoint.py").unlink()
    exercise.solution.rmdir()
    with pytest.raises(UsageError, match="no solutions"):
        build_notebooks.build(exercise)
    assert not build_notebooks.notebook_path(exercise).exists()


@needs_tools
def test_the_same_source_gives_the_same_file(small):
    source = (
        "# %%\nimport os\nprint(os.environ['GRADE_SUBMISSION'], "
        "os.path.basename(os.getcwd()))\nprint(2)\n"
    )
    exercise = small(source)
    first = build_notebooks.build(exercise).read_bytes()
    assert build_notebooks.build(exercise).read_bytes() == first
    assert printed(committed(exercise)["cells"]) == "solution ex09-small\n2\n"
    build_notebooks.check_source(exercise)
    small(source + "# %%\n3\n")
    with pytest.raises(
        UsageError, match="has 1 cells, its source 2; build it again: grade dev notebook ex09"
    ):
        build_notebooks.check_source(exercise)
    small(source.replace("2", "3"))
    with pytest.raises(UsageError, match="cell 1 isn't what notebook.py says"):
        build_notebooks.check_source(exercise)


@needs_tools
def test_a_cell_that_fails_leaves_the_old_notebook(small):
    exercise = small("# %%\n1\n")
    before = build_notebooks.build(exercise).read_bytes()
    small("# %% [markdown]\n# Prose.\n# %%\n1 / 0\n")
    with pytest.raises(
        UsageError,
        match="^ex09-small/notebook.py: cell 2 failed: ZeroDivisionError: division by zero$",
    ):
        build_notebooks.build(exercise)
    assert build_notebooks.notebook_path(exercise).read_bytes() == before
    assert [p.name for p in exercise.folder.glob("*.tmp")] == []


@needs_tools
def test_a_cell_that_hangs_is_ended(small, monkeypatch):
    monkeypatch.setattr(build_notebooks, "CELL_TIMEOUT", 5)
    with pytest.raises(UsageError, match="took more than 5 s"):
        build_notebooks.build(small("# %%\nimport time\ntime.sleep(600)\n"))


# --- in a notebook --------------------------------------------------------------------------------


def test_a_notebook_looks_at_the_students_work(monkeypatch, tmp_path):
    monkeypatch.delenv("GRADE_SUBMISSION", raising=False)
    exercise = catalog.find("ex01")
    if (exercise.starter / exercise.module).exists():
        assert notebooks.yours("ex01").folder == exercise.starter
    (tmp_path / "checkpoint.py").write_text("mine = 1\n")
    monkeypatch.setenv("GRADE_SUBMISSION", str(tmp_path))
    assert notebooks.yours("ex01").files == {"checkpoint.py": b"mine = 1\n"}
    (tmp_path / "checkpoint.py").unlink()
    with pytest.raises(UsageError, match="no checkpoint.py"):
        notebooks.yours("ex01")


@pytest.mark.needs_solution
def test_a_notebook_looks_at_the_solution_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADE_SUBMISSION", "solution")
    assert notebooks.yours("ex01").folder == catalog.find("ex01").solution


def path_of(name):
    return os.path.join(name, "x")


def test_functions_of_a_notebook_become_a_module():
    made = notebooks.module("naive", path_of, step_of_divergence)
    source = made.files["checkpoint.py"].decode()
    assert source.startswith("import os\nimport re\n\n\ndef path_of(name):")
    names: dict = {}
    exec(source, names)
    assert names["path_of"]("a") == os.path.join("a", "x")
