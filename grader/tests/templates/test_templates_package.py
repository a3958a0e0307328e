"""templates/exact_resume, the package that templates/checkpoint_utils.py is generated from."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grader.authoring import amalgamation
from grader.course.catalog import ROOT
from grader.tests.templates.test_templates_utils import cu

PACKAGE = ROOT / amalgamation.PACKAGE


def test_the_single_file_is_the_package():
    """So what the other tests say about the one holds for the other."""
    assert list(amalgamation.problems(ROOT, [])) == []


def test_the_single_file_has_every_name_of_the_package():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    names = next(ast.literal_eval(s.value) for s in tree.body if isinstance(s, ast.Assign))
    assert [name for name in names if not hasattr(cu, name)] == []


def test_every_option_is_documented_and_typed():
    fields = {f.name for f in dataclasses.fields(cu.Config)}
    (body,) = [s.body for s in ast.parse(inspect.getsource(cu.Config)).body]
    documented = {
        field.target.id
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    assert documented == fields


def test_a_module_fits_in_one_look():
    lengths = {path.name: len(path.read_text().splitlines()) for path in PACKAGE.glob("*.py")}
    assert {name: n for name, n in lengths.items() if n > 310} == {}


JOB = """
import sys
sys.path.insert(0, sys.argv[1])
import exact_resume, torch
assert exact_resume.__file__.startswith(sys.argv[1])
config = exact_resume.Config(every_steps=2, keep=1)
model = torch.nn.Linear(2, 2)
with exact_resume.CheckpointManager(sys.argv[2], {"model": model}, config) as ckpt:
    print(ckpt.resume(), ckpt.steps)
    for _ in range(3):
        ckpt.step()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder into which the package was installed, without the network."""
    folder = tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT / "templates", folder / "source", ignore=ignored)  # pip builds in it
    argv = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    argv += ["--no-index", "--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_the_package_can_be_installed_and_reads_what_the_single_file_wrote(installed, tmp_path):
    assert (installed / "exact_resume" / "py.typed").exists()
    with cu.CheckpointManager(tmp_path, {"model": cu.torch.nn.Linear(2, 2)}) as ckpt:
        ckpt.step()
    argv = [sys.executable, "-I", "-c", JOB, str(installed), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("True 1\n", 0), done.stderr
    again = cu.CheckpointManager(tmp_path, {"model": cu.torch.nn.Linear(2, 2)})
    assert again.resume() and again.steps == 4
