"""Assertions about a run's trajectory. Each returns quietly or raises a Finding with its evidence.

Every resume check asserts three things: the earlier lives really died of their faults and the last
one finished (endings.finished), progress was kept (`progress_kept`), and the trajectory is that of
the undisturbed run, bit for bit (`same_trajectory`). All of it holds on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from grader.checks.endings import Controls, finished
from grader.checks.lost_state import meaning
from grader.checks.ranks import rank_row, together
from grader.harness.run import Run, schedule_of
from grader.harness.trajectory import Divergence, order
from grader.verdicts import FAIL, Finding, Gist, Inconclusive, Struck


def rejoins(controls: Controls, run: Run, undisturbed: Run) -> None:
    """The three assertions of a resume check, in the order that makes sense."""
    finished(controls, undisturbed)
    try:
        finished(controls, run)
    except Finding as ended:
        _explained_by_its_course(controls, run, undisturbed, ended)
        raise
    together(run)
    progress_kept(run)
    same_trajectory(controls, run, undisturbed)


def _explained_by_its_course(
    controls: Controls, run: Run, undisturbed: Run, ended: Finding
) -> None:
    """A run that lost state may crash much later: report what was lost, not where it ended."""
    trained = any(process.steps for process in run.last.processes)
    if len(run.lives) < 2 or not trained or ended.verdict != FAIL:
        return
    try:
        if run.world == 1:  # ranks that resume at different steps soon wait for each other
            progress_kept(run)
        same_trajectory(controls, run, undisturbed, partly=True)
    except Finding as lost:
        lost.rows.append(("later", f"the run ended early: {ended.ending}"))
        raise lost from None


# --- progress -------------------------------------------------------------------------------------


def progress_kept(run: Run) -> None:
    """Each relaunch began at the last finished save, or at the one in progress when the fault
    struck; on every rank.
    """
    for rank in range(run.world):
        _progress_kept(run.of(rank))


def _progress_kept(run: Run) -> None:
    for life, after in pairwise(run.lives):
        saved = [e["step"] for e in life.all("saved")]
        begun = [e["step"] for e in life.all("saving")]
        last = max(saved, default=life.resumed_at)
        if after.resumed_at in (last, max(begun, default=last)):
            continue
        resumed = f"at step {after.resumed_at}; the last checkpoint was saved after step {last}"
        if after.resumed_at < last:
            again = f"{life.reached - after.resumed_at} of {life.reached} finished steps"
            over = ": the run started over" if after.resumed_at == 0 else ""
            means = f"{again} are done again{over}"
            think = "which numbers say how far the run has got, and what restores them?"
        else:
            means = "the relaunched job counts steps that were never trained"
            think = "what is the step counter at the moment of the save, and after the load?"
        raise Finding(
            "progress",
            [Struck(run.story), Gist("resumed", resumed)],
            schedule_of(run),
            means=means,
            think=think,
        )


# --- trajectories ---------------------------------------------------------------------------------


def same_trajectory(controls: Controls, run: Run, undisturbed: Run, partly: bool = False) -> None:
    """On every rank, the run's trajectory is the undisturbed one's, bit for bit; `partly`: as far
    as it got. The finding says where the first rank diverges.
    """
    parting = first_parting(run, undisturbed, partly)
    if parting is None:
        return
    again = controls.again(undisturbed)
    if again.finished and (noise := first_parting(again, undisturbed)):
        raise not_reproducible(controls, noise[1])
    raise _lost(run, *parting)


def first_parting(run: Run, other: Run, partly: bool = False) -> tuple[int, Divergence] | None:
    """(rank, divergence) of the rank that diverges first, and of the first cause among them."""
    found = [
        (rank, parting)
        for rank in range(run.world)
        if (parting := run.of(rank).trajectory.diverges_from(other.of(rank).trajectory, partly))
    ]
    return min(found, key=lambda f: (f[1].step, order(f[1].cause), f[0]), default=None)


def _lost(run: Run, rank: int, found: Divergence) -> Finding:
    rows = parting_rows(run, rank, found)
    means, think = meaning(found.different)
    if twin := _equals(run, rank, found):
        component, other = twin
        rows.append(("equals", f"rank {rank}'s {component} equals rank {other}'s"))
        means = "the ranks draw the same noise: the average over ranks is an average over copies"
        think = "whose state did you save, and which rank loads it?"
    finding = Finding(
        "state-lost",
        rows,
        schedule_of(run),
        means=means,
        think=think,
        step=found.step,
        different=found.different,
        same=found.same,
        about=found.component,
    )
    if run.world > 1:
        finding.data["rank"] = rank
    return finding


EACH_FOR_ITSELF = ("Python RNG", "NumPy RNG", "torch RNG", "batch indices")


def _equals(run: Run, rank: int, found: Divergence) -> tuple[str, int] | None:
    """(component, other rank) if this rank has another rank's own state."""
    for component in (c for c in found.different if c in EACH_FOR_ITSELF):
        for other in range(run.world):
            record = run.of(other).trajectory.steps.get(found.step)
            if other == rank or not record:
                continue
            has = record["state"] | {"batch indices": record["indices"]}
            if has.get(component) == found.got.get(component):
                return component, other
    return None


def not_reproducible(controls: Controls, noise: Divergence) -> Finding:
    """Two undisturbed runs differ. Runs without the student's code show if the machine is why."""
    bare = [controls.bare(number) for number in (0, 1)]
    machine = not all(b.finished for b in bare) or bare[0].trajectory != bare[1].trajectory
    rows = [
        (
            "undisturbed",
            f"two undisturbed runs differ at step {noise.step}: {noise.cause}",
        ),
        ("same", "two runs without your code"),
    ]
    if machine:
        return Inconclusive(
            "machine", [("machine", "two undisturbed runs differ even without your code")]
        )
    return Finding("not-reproducible", rows)


def parting_rows(run: Run, rank: int, found: Divergence) -> list[tuple[str, str]]:
    """Where this rank of a run diverges from the undisturbed one, and in which components."""
    return divergence_rows(run.of(rank), found, rank_row(run.world, rank))


def divergence_rows(
    run: Run, found: Divergence, whose: Sequence[tuple[str, str]] = ()
) -> list[tuple[str, str]]:
    """Where a run diverges from the undisturbed one, and in which components. `whose`: a row that
    names its rank.
    """
    rows = [*([Struck(run.story)] if run.schedule else []), *whose]
    when = ", the first step after resuming" if found.first_after_resume else ""
    last = max(run.trajectory.steps, default=0)
    at = (
        f"at step {found.step}{when}"
        if found.step <= last
        else "only in the final state, after the last step"
    )
    rows.append(("diverged", at))
    if found.same:
        rows.append(("same", ", ".join(_condensed(found.same, found.different))))
    rows.append(Gist("different", ", ".join(found.roots)))
    if "batch indices" in found.roots:
        got, want = (_some(r["batch indices"]) for r in (found.got, found.expected))
        rows.append(("batch", f"{got} ... expected {want} ..."))
    return rows


COUNTERS = {"global step", "epoch", "position in the epoch"}


def _condensed(same: list[str], different: list[str]) -> list[str]:
    """What is equal, in few words: the counters as one, the optimizer as one if all of it is
    equal.
    """
    names = [n for n in same if n not in ("loss", "augmented inputs")]
    if set(names) >= COUNTERS:
        names = ["counters", *(n for n in names if n not in COUNTERS)]
    if not any(d.startswith("optimizer") for d in different):
        names = list(dict.fromkeys("optimizer" if n.startswith("optimizer") else n for n in names))
    return names


def _some(indices: list[int]) -> str:
    return "samples " + ", ".join(map(str, indices[:4]))


NEVER = "a run that saves, and the same run that never saves"


def quiet(controls: Controls, run: Run, bare: Run, compared: str = NEVER) -> None:
    """Saving changed nothing in an undisturbed run, on any rank."""
    finished(controls, run)
    finished(controls, bare)
    if parting := first_parting(run, bare):
        rank, found = parting
        undisturbed = "both undisturbed" if run.world == 1 else "nothing disturbed either"
        raise Finding(
            "save-changes-run",
            [*parting_rows(run, rank, found), ("compared", f"{compared}; {undisturbed}")],
            about=found.cause,
        )
