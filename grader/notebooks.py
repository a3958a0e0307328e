"""The exercises' notebooks: what they use while they run, and how they are built from their
sources.

A notebook has one source, notebook.py in percent format; notebook.ipynb is built from it and
executed against the reference solution, so that the outputs in the repository are what students
work towards.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from grader import course
from grader.checks import expect, rank_runs
from grader.course import Exercise, Submission, UsageError
from grader.harness import launcher as launchers
from grader.harness.faults import Fault
from grader.harness.lab import Bench, Lab, Salts, course_paths
from grader.harness.run import Group, Run
from grader.verdicts import Finding

CELL_TIMEOUT = 120  # s; the slowest cell takes about 5

# --- in a notebook --------------------------------------------------------------------------------


def yours(exercise_id: str) -> Submission:
    """The submission that a notebook looks at, read anew: the student's starter/.

    The environment variable GRADE_SUBMISSION names another: "solution", or a directory.
    """
    where = os.environ.get("GRADE_SUBMISSION", "")
    solution = where == "solution"
    work = course.submission(
        course.find(exercise_id), Path(where) if where and not solution else None, solution
    )
    if work.problem:
        raise UsageError(work.problem)
    return work


def module(name: str, *functions) -> Submission:
    """A submission that is one module: these functions of a notebook, and imports of the modules
    they use.
    """
    sources = [inspect.getsource(function) for function in functions]
    known = {
        k: v.__name__
        for f in functions
        for k, v in f.__globals__.items()
        if isinstance(v, ModuleType)
    }
    used = [
        f"import {known[k]}" + (f" as {k}" if k != known[k] else "")
        for k in sorted(known)
        if any(re.search(rf"\b{k}\.", source) for source in sources)
    ]
    return Submission(
        Path(name),
        "checkpoint.py",
        {"checkpoint.py": "\n\n\n".join(["\n".join(used), *sources]).encode()},
    )


def train(
    submission: Submission, *argv: object, faults: Sequence[Fault] = (), script: str = "train.py",
    ranks: int | None = None, directory: Path | None = None,
) -> Run:  # fmt: skip
    """One run, through its lives: one per fault, and one that nothing disturbs; of so many `ranks`,
    if it has any.

    What the lives reported stays readable. Their files are removed at once, as nobody knows how a
    kernel ends; so are the checkpoints, unless they have a `directory`.
    """
    bench = Bench(submission, _launcher(), seed=0, jobs=1)
    bench.salts = Salts(None)
    try:
        lab = Lab(bench, "notebook")
        run = lab.launch(script, *argv, faults=tuple(faults), ranks=ranks, directory=directory)
        run.notes["last words"] = course_paths(_last_words(run), bench)
        run.notes["finding"] = course_paths(_finding(lab, run), bench)
    finally:
        bench.close()
    return run


def on_cluster(
    submission: Submission, script: str, *flags: object, plan: Sequence[dict] = (), uses: str = ""
):
    """The run of a job script of the submission on a cluster of its own
    (grader/checks/cluster_runs.py), under this plan: [{"step": 7, "do": "preempt"}, ...].
    UsageError where there is no cluster to be had.
    """
    from grader.checks import cluster_runs

    bench = Bench(submission, _launcher(), seed=0, jobs=1)
    try:
        return cluster_runs.ran(Lab(bench, "notebook"), script, *flags, plan=tuple(plan), uses=uses)
    except Finding as found:
        raise UsageError(str(found).strip()) from found
    finally:
        bench.close()


def crash_test(code: str, beside: Submission | None = None) -> dict:
    """`grade crashtest` of the functions save and load of this code, which may import what `beside`
    holds: its report as data, with "picture" (PNG of the smallest failing state, or None) and "why"
    there is no verdict (else empty).
    """
    with tempfile.TemporaryDirectory() as made:
        here = Path(made)
        folder = beside.copy_to(here / "code") if beside else here
        (folder / "crash.py").write_text(code)
        functions = ["--save", "crash.py:save", "--load", "crash.py:load"]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "grader",
                "crashtest",
                *functions,
                "--no-flips",
                "--no-errors",
                "--json",
                "report.json",
                "--picture",
                "worst.png",
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(course.ROOT)},
            capture_output=True,
            text=True,
            timeout=CELL_TIMEOUT,
        )
        report, picture = folder / "report.json", folder / "worst.png"
        if not report.exists():
            return {"why": done.stderr.strip().removeprefix("grade: "), "picture": None}
        return {
            "why": "",
            "picture": picture.read_bytes() if picture.exists() else None,
            **json.loads(report.read_text()),
        }


def files(name: str, texts: dict[str, str], module: str = "auto_resume.py") -> Submission:
    """A submission of these files, called `name`."""
    work = Submission(
        course.ROOT, module, {file: text.encode() for file, text in {module: "", **texts}.items()}
    )
    work.key = f"notebook {name}"
    return work


def last_words(run: Run) -> str:
    """What those lives of `run` wrote to stderr that ended by themselves before training was done;
    empty if none did.
    """
    return run.notes["last words"]


def finding(run: Run) -> str:
    """What the grader says about how the run ended; empty if it finished."""
    return run.notes["finding"]


def _finding(lab: Lab, run: Run) -> str:
    try:
        (rank_runs if isinstance(run.last, Group) else expect).finished(lab, run)
    except Finding as found:
        return str(found).strip("\n")
    return ""


def _last_words(run: Run) -> str:
    failed = [
        (n, life)
        for n, life in enumerate(run.lives, 1)
        if not (life.finished or life.died_of_fault)
    ]
    return "\n".join(f"--- life {n}\n{life.text('stderr').strip()}" for n, life in failed)


@functools.cache
def _launcher():
    """One for the kernel's life: a fork server loads torch only once."""
    launcher = launchers.choose()
    atexit.register(launcher.close)
    return launcher


# --- their sources --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    kind: str  # "code" or "markdown"
    source: str
    metadata: dict = field(default_factory=dict)


def source_path(exercise: Exercise) -> Path:
    return exercise.folder / "notebook.py"


def notebook_path(exercise: Exercise) -> Path:
    return exercise.folder / "notebook.ipynb"


def cells(exercise: Exercise) -> list[Cell]:
    """The cells of the exercise's source. UsageError if there is none, or for a line it can't
    read.
    """
    path = source_path(exercise)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{exercise.id} has no notebook: {_short(path)} is missing") from None
    return parse(text, _short(path))


_MARKER = re.compile(r"# %%(?: \[(markdown)\])?(?: (.*))?")


def parse(text: str, name: str = "the source") -> list[Cell]:
    """Cells of a text in percent format; what stands before the first marker belongs to none.

    # %% [markdown]                              prose, each line behind "# "
    # %% tags=["nbval-ignore-output"]            code; key=JSON goes into the cell's metadata
    """
    found: list[tuple[str, dict, list[str]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("# %%"):
            m = _MARKER.fullmatch(line.rstrip())
            try:
                found.append((m[1] or "code", _metadata(m[2] or ""), []))
            except (TypeError, ValueError):
                raise UsageError(f"{name}, line {number}: not a cell marker: {line}") from None
        elif found and found[-1][0] == "markdown" and line.strip():
            if line != "#" and not line.startswith("# "):
                raise UsageError(f"{name}, line {number}: prose without '# ' before it")
            found[-1][2].append(line[2:])
        elif found:
            found[-1][2].append(line)
    if not found:
        raise UsageError(f"{name} has no cells; the first would begin with '# %%'")
    return [Cell(kind, "\n".join(lines).strip("\n"), metadata) for kind, metadata, lines in found]


def _metadata(text: str) -> dict:
    """key=JSON pairs, separated by spaces. ValueError for anything else."""
    out, rest = {}, text.strip()
    while rest:
        key, equals, value = rest.partition("=")
        if not (equals and key.isidentifier()):
            raise ValueError(key)
        out[key], end = json.JSONDecoder().raw_decode(value)
        rest = value[end:].strip()
    return out


def check_source(exercise: Exercise) -> None:
    """UsageError, naming the cell, if the built notebook isn't its source's."""
    path = notebook_path(exercise)
    again = f"build it again: grade dev notebook {exercise.id}"
    try:
        built = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except FileNotFoundError:
        raise UsageError(f"{_short(path)} is missing; {again}") from None
    have = [Cell(c["cell_type"], "".join(c["source"]), c["metadata"]) for c in built]
    want = cells(exercise)
    for number, (a, b) in enumerate(zip(have, want, strict=False), 1):
        if a != b:
            raise UsageError(
                f"{_short(path)}: cell {number} isn't what {source_path(exercise).name} says; "
                f"{again}"
            )
    if len(have) != len(want):
        raise UsageError(f"{_short(path)} has {len(have)} cells, its source {len(want)}; {again}")


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


# --- building them --------------------------------------------------------------------------------


def new(exercise: Exercise):
    """The exercise's notebook, not executed yet; the same source gives the same notebook."""
    nbformat, _ = _tools()
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    notebook = nbformat.v4.new_notebook()
    for number, cell in enumerate(cells(exercise)):
        name = f"{number:02}-{hashlib.sha256(f'{number} {cell.source}'.encode()).hexdigest()[:8]}"
        notebook.cells.append(make[cell.kind](cell.source, metadata=cell.metadata, id=name))
    _neutral(notebook)
    return notebook


def execute(exercise: Exercise, submission: str | Path):
    """The exercise's notebook, executed in the exercise's folder with
    GRADE_SUBMISSION=`submission`.
    """
    _, nbclient = _tools()
    notebook = new(exercise)
    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        startup_timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(exercise.folder)}},
    )
    try:
        client.execute(env={**os.environ, "GRADE_SUBMISSION": str(submission)})
    except nbclient.exceptions.CellExecutionError as e:
        raise UsageError(
            f"{_short(source_path(exercise))}: cell {_failed(notebook)} failed: {e.ename}: "
            f"{e.evalue}"
        ) from e
    except nbclient.exceptions.CellTimeoutError:
        raise UsageError(
            f"{_short(source_path(exercise))}: a cell took more than {CELL_TIMEOUT} s"
        ) from None
    except nbclient.exceptions.DeadKernelError:
        raise UsageError(f"{_short(source_path(exercise))}: the kernel died") from None
    _neutral(notebook)
    return notebook


def build(exercise: Exercise) -> Path:
    """Make the exercise's notebook.ipynb from its source, executed with the reference solution."""
    course.submission(exercise, None, solution=True)  # fails early, and says so, without one
    nbformat, _ = _tools()
    path = notebook_path(exercise)
    text = nbformat.writes(execute(exercise, "solution"), version=4)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    os.replace(temporary, path)
    digest_path(exercise).parent.mkdir(parents=True, exist_ok=True)
    digest_path(exercise).write_text(_digest(path) + "\n")
    return path


def digest_path(exercise: Exercise) -> Path:
    return course.ROOT / "grader" / "tests" / "snapshots" / exercise.id / "notebook.sha256"


def is_pristine(exercise: Exercise) -> bool:
    """Is notebook.ipynb as it was built? A student who has run it, or changed it, has made it their
    own.
    """
    path, built = notebook_path(exercise), digest_path(exercise)
    return path.exists() and built.exists() and built.read_text().strip() == _digest(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _neutral(notebook) -> None:
    """Nothing about the machine that executed it, nor when."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def _failed(notebook) -> int | str:
    for number, cell in enumerate(notebook.cells, 1):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            return number
    return "?"


def _tools():
    try:
        import nbclient
        import nbformat
    except ImportError:
        raise UsageError(
            "what runs notebooks isn't installed here: pip install -e '.[notebook]'"
        ) from None
    return nbformat, nbclient
