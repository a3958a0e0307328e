"""Expectations on runs of several ranks: those of expect.py for every rank, and what ranks can do
to each other.
"""

from __future__ import annotations

from grader.checks import run_assertions
from grader.checks.explanations import meaning
from grader.checks.run_assertions import Controls, crashed, divergence_rows, student_frames
from grader.harness import scratch
from grader.harness.inside.ranks import PATIENCE
from grader.harness.run import Group, Life, Run
from grader.harness.trajectory import Divergence, order
from grader.verdicts import FAIL, Finding, Inconclusive

EACH_FOR_ITSELF = ("Python RNG", "NumPy RNG", "torch RNG", "batch indices")


def rejoins(controls: Controls, run: Run, undisturbed: Run) -> None:
    """Every rank's course is the undisturbed one's, bit for bit; no progress was lost; the fault
    struck.
    """
    finished(controls, undisturbed)
    try:
        finished(controls, run)
    except Finding as ended:
        # a run that went astray may crash far from where it did: tell what was lost, not where it
        # ended
        if (
            ended.verdict == FAIL
            and len(run.lives) > 1
            and (found := _first(run, undisturbed, partly=True))
        ):
            raise run_assertions.told_later(_parting(run, *found), ended) from None
        raise
    together(run)
    for rank in range(run.world):
        run_assertions.progress_kept(run.of(rank))
    same_trajectory(controls, run, undisturbed)


# --- ends -----------------------------------------------------------------------------------------


def finished(controls: Controls, run: Run) -> None:
    """Each life ended as its fault says, and every rank of the last one reached the end of
    training.
    """
    for group in run.lives:
        if group.fault is None:
            if not group.finished:
                raise ended_early(controls, run, group)
        elif not group.died_of_fault:
            if group.ranks[group.fault.rank or 0].first("end"):
                rows = [("fault", group.fault.story), ("but", "it never fired: nothing was proved")]
                raise Inconclusive("fault", rows, run_assertions.schedule_of(run))
            raise ended_early(controls, run, group)


def ended_early(controls: Controls, run: Run, group: Group) -> Finding:
    """Why: the first rank that went wrong by itself, or a deadlock, of which each rank has its
    half.
    """
    when = [("fault", run.story)] if run.schedule else []
    if apart := never_met([crash for life in group.ranks for crash in life.all("crash")]):
        return apart
    for rank, life in enumerate(group.ranks):
        if life.ended:
            finding = run_assertions.over_limit(
                controls, run, life, [*when, ("rank", f"{rank} (of {len(group.ranks)})")]
            )
            finding.rows += by_rank({r: at for r, at in standing(group).items() if r != rank})
            return finding
    own = [
        (rank, crash)
        for rank, life in enumerate(group.ranks)
        if (crash := life.first("crash")) and not by_others(life, crash)
    ]
    if own:
        rank, crash = own[0]  # of several, which was first is chance
        finding = crashed(
            crash,
            [*when, ("rank", f"{rank} (of {len(group.ranks)})")],
            run_assertions.schedule_of(run),
            group.ranks[rank],
        )
        finding.rows += by_rank(
            {
                r: at
                for r, at in standing(group).items()
                if r != rank and not _left_well(group.ranks[r])
            }
        )
        return finding
    for rank, life in enumerate(group.ranks):
        if life.first("crash") is None and not life.finished:
            rows = [
                *when,
                (
                    "ended",
                    f"rank {rank} left with {run_assertions.left_with(life.status)} before "
                    "training was "
                    "done",
                ),
            ]
            return Finding(
                "exit",
                [*rows, *student_frames(life.first("exit") or {"frames": []})],
                run_assertions.schedule_of(run),
                about=f"{life.status}",
            )
    return deadlock(group.ranks, when, run_assertions.schedule_of(run))


def never_met(crashes: list[dict]) -> Inconclusive | None:
    """The machine doesn't let ranks talk, which they try before any of the student's code is
    there.
    """
    for crash in crashes:
        inside = [
            f
            for f in crash["frames"]
            if f["file"].endswith("/harness/inside/ranks.py") and f["function"].startswith("join")
        ]
        if inside and not student_frames(crash):
            error = next(iter(crash["message"].splitlines()), "")[:200]
            return Inconclusive(
                "no-meeting",
                [
                    (
                        "machine",
                        "ranks can't reach each other here, by the loopback device: "
                        f"{crash['type']}: {error}",
                    )
                ],
            )
    return None


def deadlock(
    lives: list[Life], when: list, fault: str | None = None, left: dict[int, str] | None = None
) -> Finding:
    """Ranks waited for each other, in different places. `left`: of ranks that had left by then,
    what is told instead of where they stand now.
    """
    stand = [_last_collective(life) for life in lives]
    if all(s and s["open"] for s in stand) and len({_identity(s) for s in stand if s}) == 1:
        return Inconclusive(
            "slow",
            [
                *when,
                (
                    "machine",
                    f"too slow now: ranks that were in the same collective waited {PATIENCE:g} "
                    "s for each other",
                ),
            ],
            fault,
        )
    rows = [
        *when,
        (
            "deadlock",
            f"no rank goes on: a collective failed after waiting {PATIENCE:g} s for the others",
        ),
        *by_rank(standing(Group(lives, None)) | (left or {})),
        *_parted(lives),
    ]
    return Finding(
        "deadlock",
        rows,
        fault,
        about=_line(next((s for s in stand if s and s["open"]), None)),
    )


def left_by(function: str, error: dict) -> str:
    """What is told of a rank that left the function by an error of its own."""
    message = next(iter(error["message"].splitlines()), "")[:150]
    return f"left {function} by {error['type']}: {message}{_line_of(error)}"


def _line_of(error: dict) -> str:
    """ ", own.py:3": the student's line that raised it, if one did."""
    frames = student_frames(error)
    return f", {frames[-1][1].split(' ')[0]}" if frames else ""


def _identity(entered: dict) -> tuple:
    return entered["n"], entered["name"], entered.get("line")


def _parted(lives: list[Life]) -> list[tuple[str, str]]:
    """Where the ranks first came to different collectives, if that isn't where they stand: two
    barriers fit each other, whoever calls them, and the ranks go on until something doesn't fit.
    """
    for entered in zip(*(life.all("collective") for life in lives), strict=False):
        if len({_identity(e) for e in entered}) > 1:
            if all(
                e["n"] == life.all("collective")[-1]["n"]
                for e, life in zip(entered, lives, strict=False)
            ):
                return []
            return [
                (
                    "parted",
                    "; ".join(
                        f"rank {r} came to {e['name']}, {_line(e)}" for r, e in enumerate(entered)
                    )
                    + ", which fit each other by accident",
                )
            ]
    return []


def by_others(life: Life, crash: dict) -> bool:
    """A rank whose collective fails since another one is gone, or never comes, is no culprit."""
    failed = life.all("collective failed")
    if (
        failed
        and (last := _last_collective(life))
        and last["open"]
        and crash["type"] == failed[-1]["type"]
    ):
        return True
    # in DDP's passes, which aren't watched: the error comes from torch, not from a line of the
    # submission's own
    return "gloo" in crash["message"] and not scratch.submitted(
        crash["frames"][-1]["file"] if crash["frames"] else ""
    )


def _left_well(life: Life) -> bool:
    return life.first("end") is not None


def _last_collective(life: Life) -> dict | None:
    """The collective that the rank entered last; "open": it never came back from it."""
    entered = life.all("collective")
    if not entered:
        return None
    left = {e["n"] for e in life.all("collective left")}
    return entered[-1] | {"open": entered[-1]["n"] not in left}


def standing(group: Group) -> dict[int, str]:
    """Rank -> where it stood at the end."""
    found = {}
    for rank, life in enumerate(group.ranks):
        last = _last_collective(life)
        if last and last["open"]:
            text = f"waits in {last['name']}, {_line(last)}"
        elif crash := life.first("crash"):
            inner = [
                f
                for f in crash["frames"]
                if "/grader/workload/" in f["file"] or scratch.submitted(f["file"])
            ][-1:]
            if by_others(life, crash) and inner:
                text = f"waits for the others in {_line(inner[0])}: {inner[0]['text']}"
            else:
                text = (
                    f"raised {crash['type']}: "
                    f"{crash['message'].splitlines()[0][:200] if crash['message'] else ''}"
                )
                text += _line_of(crash)
        elif _left_well(life):
            text = "has come to the end of the script"
        else:
            text = f"is gone: it left with {run_assertions.left_with(life.status)}"
            if last:
                text += f"; its last collective was {last['name']}, {_line(last)}"
        found[rank] = text
    return found


def by_rank(told: dict[int, str]) -> list[tuple[str, str]]:
    """As evidence: what is told of each rank."""
    return [(f"rank {rank}", text) for rank, text in told.items()]


def _line(where: dict | None) -> str:
    if not where or "file" not in where:
        return "in torch"
    if own := scratch.submitted(where["file"]):
        return f"{own}:{where['line']} in {where['function']}"
    return f"{where['file'].rpartition('/')[2]}:{where['line']} (the training script)"


def left_early(
    held: str, who: str, function: str, think: str, until: str = "the checkpoint is complete"
) -> Finding:
    """A rank that was held showed that another one doesn't wait for it."""
    rows = [
        ("held", held),
        ("found", f"{who} has come back from {function} meanwhile"),
        ("expected", f"no rank comes back before {until}"),
    ]
    return Finding(
        "left-early",
        rows,
        means=(
            "a rank that goes on may report a checkpoint, delete the one before it, or end the "
            "job, while there is none"
        ),
        think=think,
    )


def together(run: Run) -> None:
    """All ranks of a life resumed at the same step."""
    for group in run.lives:
        at = [life.resumed_at for life in group.ranks]
        if len(set(at)) > 1:
            rows = [
                ("fault", run.story),
                ("resumed", ", ".join(f"rank {r} at step {step}" for r, step in enumerate(at))),
            ]
            raise Finding(
                "ranks-disagree",
                rows,
                run_assertions.schedule_of(run),
                means="the ranks train different jobs, and average their gradients",
                think="who decides which checkpoint it is, and how do the others get to know?",
            )


# --- trajectories ---------------------------------------------------------------------------------


def same_trajectory(controls: Controls, run: Run, undisturbed: Run) -> None:
    """On every rank; what is told is where the first of them parts."""
    if (found := _first(run, undisturbed)) is None:
        return
    again = controls.again(undisturbed)
    if again.finished and (noise := _first(again, undisturbed)):
        raise run_assertions.not_reproducible(controls, noise[1])
    raise _parting(run, *found)


def quiet(controls: Controls, run: Run, bare: Run, compared: str) -> None:
    """Saving changed nothing in a run that it doesn't disturb, on any rank."""
    finished(controls, run)
    finished(controls, bare)
    if found := _first(run, bare):
        rank, parting = found
        raise Finding(
            "save-changes-run",
            [
                *_where_ranks_part(run, rank, parting),
                ("compared", f"{compared}; nothing disturbed either"),
            ],
            about=parting.cause,
        )


def _first(run: Run, other: Run, partly: bool = False) -> tuple[int, Divergence] | None:
    """(rank, divergence) of the rank that parts first, and of the first cause among them; `partly`:
    as far as both came.
    """
    pairs = [
        (rank, run.of(rank).trajectory, other.of(rank).trajectory) for rank in range(run.world)
    ]
    found = [(rank, d) for rank, mine, its in pairs if (d := mine.diverges_from(its, partly))]
    return min(found, key=lambda f: (f[1].step, order(f[1].cause), f[0]), default=None)


def _where_ranks_part(run: Run, rank: int, found: Divergence) -> list[tuple[str, str]]:
    return divergence_rows(run.of(rank), found, rank=f"{rank} (of {run.world})")


def _parting(run: Run, rank: int, found: Divergence) -> Finding:
    rows = _where_ranks_part(run, rank, found)
    means, think = meaning(found.different)
    if twin := _equals(run, rank, found):
        component, other = twin
        rows.append(("equals", f"rank {rank}'s {component} equals rank {other}'s"))
        means = "ranks that draw the same noise: the average over ranks is an average over copies"
        think = "whose state did you save, and who loads it?"
    return Finding(
        "state-lost",
        rows,
        run_assertions.schedule_of(run),
        means=means,
        think=think,
        rank=rank,
        step=found.step,
        different=found.different,
        same=found.same,
        about=found.component,
    )


def _equals(run: Run, rank: int, found: Divergence) -> tuple[str, int] | None:
    """(component, other rank) if this rank has what is another rank's own."""
    for component in (c for c in found.different if c in EACH_FOR_ITSELF):
        for other in range(run.world):
            record = run.of(other).trajectory.steps.get(found.step)
            if (
                other != rank
                and record
                and (record["state"] | {"batch indices": record["indices"]}).get(component)
                == found.got.get(component)
            ):
                return component, other
    return None
