"""The training scripts of templates/integrations, with and without the template in them."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch

from grader.harness import scratch
from grader.harness.inside.digest import digest
from grader.tests.templates.disturbed import Life, Run

SCRIPTS = Path(__file__).resolve().parents[3] / "templates" / "integrations"
# what makes them short, and their optimizer's steps
SMALL = {
    "language_model": (
        42,
        "--out-dir {top} --max-iters 42 --eval-interval 15 --eval-iters 1",
        "--batch-size 4 --block-size 16 --n-embd 16 --n-layer 1",
    ),
    "image_classifier": (36, "--output-dir {top} --epochs 3 --samples 96 --batch-size 8"),
    "mixed_precision": (33, "--output-dir {top} --epochs 3 --samples 176 --batch-size 4"),
    "stream": (42, "--output-dir {top} --steps 42 --batch-size 4"),
}
EACH = pytest.mark.parametrize("name", SMALL)
LINE = re.compile(r"^(.+?): ((?:loss|train|accuracy) .+)$", re.M)


class Training(Run):
    def __init__(self, launcher, top: Path, name: str, version: str = "resumable"):
        self.steps, *arguments = SMALL[name]
        script = SCRIPTS / version / f"{name}.py"
        super().__init__(launcher, top, script, *" ".join(arguments).split())
        self.checkpoints = top / "ckpt"
        self.said: list[tuple[str, str]] = []
        self.lives: list[Life] = []

    def live(self, at: str = "", do: str = "kill") -> Life:
        life = super().live(at, do)
        self.lives.append(life)
        self.said += LINE.findall(life.text)
        return life

    @property
    def outcome(self) -> tuple[dict[str, str], dict[str, str]]:
        """Digests of the weights that it wrote, and what it said last about each step."""
        files = {p.name: digest(torch.load(p, weights_only=True)) for p in self.top.glob("*.pt")}
        assert files
        return files, dict(self.said)


@pytest.fixture(scope="module")
def whole(launcher):
    """The undisturbed run of a script."""
    runs: dict[tuple[str, str], Training] = {}
    top = scratch.make()

    def run(name: str, version: str = "resumable") -> Training:
        if (name, version) not in runs:
            mine = runs[name, version] = Training(launcher, top / name / version, name, version)
            life = mine.live()
            assert life.status == 0, life.text
            assert life.process.first("events")["steps"] == mine.steps
        return runs[name, version]

    yield run
    scratch.remove(top)


@pytest.fixture
def training(launcher, short_path):
    return lambda name: Training(launcher, short_path / "run", name)


@EACH
def test_a_killed_script_ends_where_an_undisturbed_one_ends(training, whole, name):
    run, events = training(name), whole(name).lives[0].events
    in_a_save = next(n for n, event in enumerate(events) if event.startswith("rename tmp-step"))
    for at in (f"event:{in_a_save}", "step:22", "step:5"):
        killed = run.live(at)
        assert killed.status == -signal.SIGKILL, killed.text
    last = run.live()
    assert last.status == 0 and "resumed from" in last.text, last.text
    assert run.outcome == whole(name).outcome


@EACH
@pytest.mark.parametrize("step", [9, 27])
def test_a_script_that_gets_a_signal_saves_and_makes_no_step_twice(training, whole, name, step):
    run = training(name)
    stopped = run.live(f"step:{step}", "term-group")
    assert stopped.status == 75 and "Traceback" not in stopped.text, stopped.text
    last = run.live()
    assert last.status == 0 and "resumed from" in last.text, last.text
    assert run.outcome == whole(name).outcome
    assert len(run.said) == len(dict(run.said))  # each step once
    assert run.live().status == 0 and run.outcome == whole(name).outcome  # it's done: nothing to do


@EACH
def test_the_plain_script_runs(whole, name):
    assert whole(name, "plain").said


def test_the_template_changes_no_bit_of_an_undisturbed_run(whole):
    """Where the plain script draws its batches in the same order."""
    assert whole("language_model", "plain").outcome == whole("language_model").outcome
