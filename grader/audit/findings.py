"""What the problems of an audit mean, and what would mend them: one finding for each mistake."""

from __future__ import annotations

from dataclasses import dataclass, field

from grader.audit.judge import HARM, LOSS, LOUD, NOTE, SILENT, Comparable, Outcome, Problem
from grader.checks.lost_state import MEANINGS

HARMS = {
    SILENT: "wrong, and nothing says so",
    LOUD: "the job doesn't come back",
    LOSS: "work is lost",
    NOTE: "worth knowing",
}
MANAGER = "templates/checkpoint_utils.py: CheckpointManager"
TITLES = {
    "starts-over": "starts over from step 0, without an error",
    "ends-early": "ends without training the rest, with exit status 0",
    "unknown-weights": "goes on from weights that the undisturbed run never had",
    "steps-missing": "skips steps, and ends with exit status 0",
    "steps-repeated": "trains more steps than the undisturbed run",
    "no-restart": "can't be started again",
    "hangs": "hangs when it is started again",
    "loses-more": "goes on from an older checkpoint than the newest complete one",
    "ignores-signal": "takes no notice of the signal that announces its end",
    "exit-status": "says that it is done when it was preempted",
    "no-save-at-signal": "doesn't save when its end is announced",
}
MEANS = {
    "starts-over": "all work before the fault is lost, and the log looks like a normal start",
    "ends-early": "a scheduler takes the job for finished; the model isn't trained to its end",
    "unknown-weights": "the checkpoint holds other weights, or not all of them are restored",
    "steps-missing": "part of the data is never trained on, or the schedule ends too early",
    "steps-repeated": "part of the work is done twice: a counter isn't restored",
    "no-restart": "somebody has to find out why and repair it by hand, at any time of day",
    "hangs": "it holds its machines and does nothing, until its time limit",
    "loses-more": "a fault costs more than the time since the last save",
    "ignores-signal": "the grace is wasted, and the work since the last save is lost",
    "exit-status": "a scheduler that goes by the exit status doesn't run the job again",
    "no-save-at-signal": "each preemption costs the work since the last save",
}
MENDS = {
    "starts-over": "load the newest checkpoint at every start, and raise an error if there are "
    f"some and none can be read: exercise task ex01.3; {MANAGER}.resume",
    "ends-early": "save the number of steps done, and compare it with the goal: task ex04.3; "
    f"{MANAGER}.resume",
    "unknown-weights": f"restore all of the model's state: task ex01.1; {MANAGER}.resume",
    "steps-missing": "save the position in the epoch with the weights: task ex01.4; "
    "templates/checkpoint_utils.py: ResumableSampler",
    "steps-repeated": "save the position in the epoch with the weights: task ex01.4; "
    "templates/checkpoint_utils.py: ResumableSampler",
    "no-restart": "write to a temporary file, sync it, rename it; keep an older checkpoint and "
    "fall back to it: tasks ex01.3 and ex04.1; templates/checkpoint_utils.py: write_file, "
    f"{MANAGER}.resume",
    "hangs": "let every rank know if one of them can't load: task ex02.5; "
    "templates/checkpoint_utils.py: CheckpointManager.resume",
    "loses-more": "write the new checkpoint beside the old one, and delete the old one "
    f"afterwards: task ex01.3; {MANAGER}",
    "ignores-signal": "let a handler set a flag, and look at it after each step: task ex03.1; "
    "templates/checkpoint_utils.py: StopSignal",
    "exit-status": "exit with 75 after a preemption: task ex03.2; "
    "templates/checkpoint_utils.py: CheckpointManager.exit_status",
    "no-save-at-signal": "finish the step, save and leave when SIGTERM or SIGUSR1 comes: task "
    "ex03.2; templates/checkpoint_utils.py: StopSignal",
}
BATCH = "the resumed run trains on other samples: it repeats some, and never sees others"
OF_COMPONENT = {
    "weights": f"task ex01.1; {MANAGER}",
    "buffers": f"save the model's whole state_dict(): task ex01.1; {MANAGER}",
    "optimizer": f"save and load optimizer.state_dict(): task ex01.1; {MANAGER}",
    "learning rate": f"save and load scheduler.state_dict(): task ex01.1; {MANAGER}",
    "batch": "save the sampler's order and position: task ex01.4; "
    "templates/checkpoint_utils.py: ResumableSampler",
}
OF_GENERATOR = (
    "save and restore the state of this generator: task ex01.2; "
    "templates/checkpoint_utils.py: rng_state, set_rng_state"
)
GENERATOR_TOO = (
    "; the generator that draws them differs, too: either may be the cause (task ex01.2)"
)
OTHERWISE = "find what this step depends on, and save it: task ex01.1"


@dataclass
class Finding:
    """One mistake, seen under one fault or under several."""

    code: str
    title: str
    harm: str
    means: str
    mend: str
    evidence: list[str]
    faults: list[str]
    printed: list[str] = field(default_factory=list)
    component: str | None = None


def collect(outcomes: list[Outcome]) -> list[Finding]:
    """The findings, the most harmful first."""
    same: dict[tuple[str, str], list[tuple[Outcome, Problem]]] = {}
    for outcome in outcomes:
        for problem in outcome.problems:
            same.setdefault(problem.key, []).append((outcome, problem))
    codes = list(HARM)
    found = [_finding(cases) for cases in same.values()]
    return sorted(found, key=lambda f: (codes.index(f.code), f.component or ""))


def _finding(cases: list[tuple[Outcome, Problem]]) -> Finding:
    outcome, problem = cases[0]
    component = problem.difference.cause if problem.difference else None
    faults = list(dict.fromkeys(o.fault.title for o, _ in cases))
    if component is None:
        title, means, mend = TITLES[problem.code], MEANS[problem.code], MENDS[problem.code]
    else:
        title = f"loses state: {component}"
        means, mend = _of_state(component)
        if component == "batch" and problem.difference and problem.difference.generators:
            mend += GENERATOR_TOO
    printed = outcome.tail[-4:] if problem.harm == LOUD else []
    evidence = _evidence(outcome, problem)
    return Finding(
        code=problem.code,
        title=title,
        harm=problem.harm,
        means=means,
        mend=mend,
        evidence=evidence,
        faults=faults,
        printed=printed,
        component=component,
    )


def _of_state(component: str) -> tuple[str, str]:
    if component == "batch":
        return BATCH, OF_COMPONENT["batch"]
    means = MEANINGS.get(component, ("the resumed run isn't the run that was interrupted",))[0]
    generator = component.endswith("RNG")
    return means, OF_GENERATOR if generator else OF_COMPONENT.get(component, OTHERWISE)


def _evidence(outcome: Outcome, problem: Problem) -> list[str]:
    lines = []
    if outcome.resumed is not None:
        lines.append(
            f"{outcome.reached} steps were done; the relaunch went on after step {outcome.resumed}"
        )
    if (found := problem.difference) is not None:
        rank = f" on rank {found.rank}" if found.rank else ""
        where = f"step {found.step}{rank}"
        if outcome.resumed is not None:
            nth = found.step - outcome.resumed
            where += f", the {'first' if nth == 1 else f'{nth}th'} after resuming"
        lines.append(f"different from the undisturbed run at {where}: {', '.join(found.names)}")
    if problem.text:
        lines.append(problem.text)
    return lines


# why two undisturbed runs may differ
CAUSES = {
    "weights": "the first weights aren't drawn from a fixed seed: call torch.manual_seed(N) "
    "before the model is built",
    "batch": "the samples, their order or their augmentation aren't drawn from a fixed seed: seed "
    "random, numpy and torch, and give the DataLoader a seeded generator",
    "gradients": "kernels add up in another order each time: "
    "torch.use_deterministic_algorithms(True), and the same number of threads",
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
        "judged: whether it comes back, from which step, and the weights, optimizer and learning "
        "rate of the first step after that",
        "not judged: data, generators, and whether the run ends in the same weights",
    ]
