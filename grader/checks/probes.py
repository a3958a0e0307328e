"""Answers of the basic functions to questions that no training run asks (grader/workload/basics.py)."""

from __future__ import annotations

from grader.checks.expect import crashed, finished
from grader.harness.lab import Lab
from grader.verdicts import Finding

ALL = (
    "without_scheduler",
    "scheduler_on_one_side",
    "only_looks",
    "other_device",
    "hidden_code",
    "wrong_model",
    "round_trip_rng",
    "cuda_rng",
    "other_number_of_gpus",
    "job_without_scheduler",
)


def answers(lab: Lab, probe: str, means: str = "", think: str = "", asked: str = "") -> dict:
    """What `probe` answered; the texts go with a crash. All probes run in one life, once a grading; each in a process of its own."""
    probes = [word for name in ALL for word in ("--probe", name)]
    run = lab.undisturbed("basics.py", "--seed", lab.seed, *probes)
    life = run.last
    for answer in life.all("answer"):
        if answer["probe"] == probe:
            return answer
    rows = [(label, text) for label, text in (("means", means), ("think", think)) if text]
    for crash in life.all("crash"):
        if crash.get("point") == probe:
            finding = crashed(crash, [("asked for", asked)] if asked else [], life=life)
            finding.rows += rows
            raise finding
    for ended in life.all("ended"):
        if ended["point"] == probe:
            what = (
                "was still running after 20 s"
                if ended["late"]
                else f"left with exit status {ended['status']}"
            )
            raise Finding(
                f"exit:{probe}", [("ended", f"the process that called your functions {what}"), *rows]
            )
    finished(lab, run)
    raise Finding(f"exit:{probe}", [("ended", "the process left before it was asked"), *rows])


def same_parts(different: list[str], when: str) -> None:
    """Nothing of a job is different after `when`."""
    if different:
        raise Finding(f"component:{different[0].split()[0]}", [("different", f"{when}: {', '.join(different)}")])
