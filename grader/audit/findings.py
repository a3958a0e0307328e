"""The findings of an audit: one for each mistake, however many faults show it."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache

from grader.audit import words
from grader.audit.compare import Comparable
from grader.audit.faults import DAMAGE, POWER, Fault
from grader.audit.problems import HARM, LOSS, LOUD, NOTE, SILENT, Outcome, Problem
from grader.course.catalog import ROOT

HARMS = {
    SILENT: "wrong, and nothing says so",
    LOUD: "the job doesn't come back",
    LOSS: "work is lost",
    NOTE: "worth knowing",
}
TEMPLATE = "templates/checkpoint_utils.py"
GENERATOR_TOO = (
    "; the generator that draws them also differs, and either may be the cause (task ex01.2)"
)
AT_SIGNALS = (
    "; but only a save at a signal is wrong: don't save in the signal handler, set a flag there "
    "and save after the step (task ex03.1)"
)
UNDISTURBED = Fault("none", "none: an undisturbed run", 0)


@dataclass
class Finding:
    """One mistake, seen under one fault or under several."""

    code: str
    title: str
    harm: str
    means: str
    fix: str
    evidence: list[str]
    faults: list[str]
    printed: list[str] = field(default_factory=list)
    component: str | None = None


def collect(outcomes: list[Outcome], undisturbed: list[Problem] | None = None) -> list[Finding]:
    """The findings, the most harmful first."""
    same: dict[tuple[str, str], list[tuple[Outcome, Problem]]] = {}
    for outcome in [*outcomes, Outcome(UNDISTURBED, problems=undisturbed or [])]:
        for problem in outcome.problems:
            same.setdefault(problem.key, []).append((outcome, problem))
    codes = list(HARM)
    found = [_finding(cases) for cases in same.values()]
    return sorted(found, key=lambda f: (codes.index(f.code), f.component or ""))


def _finding(cases: list[tuple[Outcome, Problem]]) -> Finding:
    # a damaged disk may have no part in it
    cases = sorted(cases, key=lambda case: case[0].fault.kind in (*DAMAGE, POWER))
    outcome, problem = cases[0]
    said = words.of(problem.code, problem.what, problem.case)
    fix = f"{said.fix}: task {said.task}, {where(said.shows)}"
    difference = problem.difference
    if problem.what == "batch" and difference and difference.generators:
        fix += GENERATOR_TOO
    if all(problem.at_signals for _, problem in cases):
        fix += AT_SIGNALS
    return Finding(
        code=problem.code,
        title=said.title,
        harm=problem.harm,
        means=said.means,
        fix=fix,
        evidence=_evidence(outcome, problem),
        faults=list(dict.fromkeys(o.fault.title for o, _ in cases)),
        printed=outcome.tail[-4:] if problem.harm == LOUD or problem.code == "ends-early" else [],
        component=problem.what or None,
    )


def _evidence(outcome: Outcome, problem: Problem) -> list[str]:
    lines = []
    if outcome.resumed is not None:
        again = f" and repeated {words.steps(outcome.lost)}" if outcome.lost else ""
        if outcome.lost and outcome.seconds_lost is not None:
            again += f" ({outcome.seconds_lost:.2g} s of work)"
        lines.append(
            f"stopped after step {outcome.reached}; the relaunch resumed after step "
            f"{outcome.resumed}{again}"
        )
    if (found := problem.difference) is not None:
        rank = f" on rank {found.rank}" if found.rank else ""
        at = f"step {found.step}{rank}"
        if outcome.resumed is not None:
            nth = found.step - outcome.resumed
            at += ", the first after the resume" if nth == 1 else f", step {nth} after the resume"
        lines.append(f"differs from {found.reference} at {at}: {', '.join(found.names)}")
        if found.same:
            lines.append(f"the same at that step: {', '.join(found.same)}")
    if problem.text:
        lines.append(problem.text)
    return lines


@cache
def _lines() -> dict[str, int]:
    """Of what the template defines: name -> line."""
    file = ROOT / TEMPLATE
    if not file.is_file():
        return {}  # a hand-out may lack it
    found = {}
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = node.lineno
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    found[f"{node.name}.{inner.name}"] = inner.lineno
    return found


def where(name: str) -> str:
    """The line of the template that shows how."""
    line = _lines().get(name)
    return f"{TEMPLATE}:{line} ({name})" if line else f"{TEMPLATE} ({name})"


# why two undisturbed runs may differ
CAUSES = {
    "weights": "the initial weights don't come from a fixed seed: call torch.manual_seed(N) "
    "before you build the model",
    "batch": "the samples, their order, or their augmentation don't come from a fixed seed: seed "
    "random, numpy, and torch, and give the DataLoader a seeded generator",
    "gradients": "kernels add numbers in a different order each time: call "
    "torch.use_deterministic_algorithms(True), and keep the number of threads the same",
    "learning rate": "the learning rate depends on something that changes, such as the time",
}
SEED = "seed it at the start: random.seed(N), numpy.random.seed(N), torch.manual_seed(N)"


def unfair(comparable: Comparable) -> list[str]:
    """What the report says of two undisturbed runs that differ; empty if they don't."""
    if comparable.reproducible:
        return []
    found = comparable.difference
    if found is None:
        a, b = comparable.lengths
        lines = [f"two undisturbed runs have {a} and {b} steps"]
        how = "the number of steps depends on something that changes, such as the time"
    else:
        lines = [f"two undisturbed runs differ from step {found.step}: {', '.join(found.names)}"]
        how = SEED if found.cause.endswith("RNG") else CAUSES.get(found.cause, CAUSES["gradients"])
    return [
        *lines,
        f"likely cause: {how}",
        "judged: whether the job comes back, from which step, and the weights, optimizer state, "
        "and learning rate of the first step after that",
        "not judged: data, generators, and whether the run ends with the same weights",
    ]
