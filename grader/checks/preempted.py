"""Expectations on jobs that a scheduler stops: they leave in time, say how they ended, and lose nothing."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from grader.checks import expect, rank_runs
from grader.checks.expect import schedule_of, student_frames
from grader.harness.lab import Lab
from grader.harness.preemption import Preempt, told
from grader.harness.run import PREEMPTED, Group, Life, Run
from grader.verdicts import Finding, Inconclusive

SCRIPT = "train_preempt.py"
SAYS = {0: "done", PREEMPTED: "preempted"}


def job(lab: Lab, *more: object) -> tuple:
    """The arguments of a run: two epochs, a save every 4 steps, none due at the end of an epoch."""
    return (SCRIPT, "--seed", lab.seed, "--steps-per-epoch", steps_per_epoch(lab), *more)


def steps_per_epoch(lab: Lab) -> int:
    return lab.shared.choice([5, 7])


def between_saves(lab: Lab) -> int:
    """A step of the second epoch after which no save is due, and which isn't the epoch's last."""
    per_epoch = steps_per_epoch(lab)
    return lab.draw.choice([n for n in range(per_epoch + 1, 2 * per_epoch) if n % 4])


def any_signal(lab: Lab) -> str:
    return lab.draw.choice(["term", "usr1"])


# --- runs ------------------------------------------------------------------------------------------------


def launch(lab: Lab, *args, faults: tuple, ranks: int | None = None, directory: Path | None = None) -> Run:
    """A run, and in notes["told"] what status.json said after each of its lives."""
    outcomes: list[str | None] = []
    run = lab.launch(*args, faults=faults, ranks=ranks, directory=directory, before_relaunch=lambda d: outcomes.append(told(d)))
    run.notes["told"] = [*outcomes, told(run.directory)]
    return run


def undisturbed(lab: Lab, *args, ranks: int | None = None) -> Run:
    run = lab.undisturbed(*args, ranks=ranks)
    finished(lab, run)
    return run


def stopped_and_resumed(lab: Lab, args: tuple, schedule: tuple, ranks: int | None = None, saved: bool = True) -> Run:
    """The run stops as its faults say, tells so, loses no step (unless it wasn't to be `saved`), and its course is that
    of the run that nothing stopped.
    """
    whole = undisturbed(lab, *args, ranks=ranks)
    run = launch(lab, *args, faults=schedule, ranks=ranks)
    stopped_well(lab, run, whole, saved)
    return run


def stopped_well(lab: Lab, run: Run, whole: Run, saved: bool = True) -> None:
    """The same, of a run that is over."""
    for number, life in enumerate(run.lives):
        left_as_preempted(lab, run, number, life, whole)
    finished(lab, run)
    if isinstance(run.last, Group):
        rank_runs.together(run)
    if saved:
        nothing_lost(run)
    _same_course(lab, run, whole)


def rejoined(lab: Lab, run: Run, whole: Run, when: list) -> None:
    """`run` is a life that stopped without a fault of ours, and the one after it: the same as above."""
    try:
        finished(lab, run)
        if isinstance(run.last, Group):
            rank_runs.together(run)
        nothing_lost(run, always=True)
        _same_course(lab, run, whole)
    except Finding as finding:
        finding.rows[:0] = when
        raise


def _same_course(lab: Lab, run: Run, whole: Run) -> None:
    try:
        (rank_runs if isinstance(run.last, Group) else expect).same_trajectory(lab, run, whole)
    except Finding as finding:
        if any(saving[-1]["in_hand"] for life in run.lives[:-1] if (saving := life.all("saving"))):
            finding.rows = [row for row in finding.rows if row[0] not in ("means", "think")] + [
                ("saved", "when the next batch had been fetched, and not trained"),
                ("means", "its augmentation has drawn its random numbers already; the resumed run fetches it again, and draws others"),
                ("think", "at which place of your loop is nothing half done, and nothing begun?"),
            ]
        raise


def finished(lab: Lab, run: Run) -> None:
    """The last life came to the end of training."""
    if run.last.fault is None and not run.last.finished:
        raise ended_early(lab, run, run.last)


def ended_early(lab: Lab, run: Run, life: Life | Group) -> Finding:
    if any(one.all("killed") for one in life.processes):
        return _killed(run, life)
    if stopped := _stopped_for_nothing(run, life):
        return stopped
    return rank_runs.ended_early(lab, run, life) if isinstance(life, Group) else expect.ended_early(lab, run, life)


def _stopped_for_nothing(run: Run, life: Life | Group) -> Finding | None:
    if not all(one.preempted for one in life.processes) or any(one.all("signal") for one in life.processes):
        return None
    rows = [
        *fault_row(run),
        ("ended", f"the job left as preempted (exit status {PREEMPTED}) after step {life.reached}, though nobody told it to stop"),
        ("means", "a job that asks to be run again for ever, and never is done"),
        ("think", "what does your job do when nothing is left to train?"),
    ]
    return Finding("stopped for nothing", rows, schedule_of(run))


def fault_row(run: Run) -> list[tuple[str, str]]:
    return [("fault", run.story)] if run.schedule else []


# --- how a stopped life ends -----------------------------------------------------------------------------


def left_as_preempted(lab: Lab, run: Run, number: int, life: Life | Group, whole: Run) -> None:
    """A life that was told to stop left in time, by itself, with the exit status and the word for it."""
    if not isinstance(life.fault, Preempt):
        if life.fault and not life.died_of_fault:
            raise ended_early(lab, run, life)
        return
    lives = life.processes
    for one in lives:
        _not_torn(run, one, whole)
        if number == 0:  # later, the word may be an earlier life's: another mistake
            _not_told_too_soon(run, one)
    if life.obeyed_fault:
        status_says(run.notes["told"][number], SAYS[PREEMPTED], fault_row(run), schedule_of(run))
        return
    if not any(one.all("signal") for one in lives):
        if all(one.finished for one in lives):
            if life.fault.in_save and not any(e["step"] == life.fault.step for e in life.all("saving")):
                raise _no_regular_save(run, life)
            raise Inconclusive("fault", [("fault", life.fault.story), ("but", "it never fired: nothing was proved")], schedule_of(run))
        raise ended_early(lab, run, life)
    for rank, one in enumerate(lives):
        if one.status in (-signal.SIGTERM, -signal.SIGUSR1) and not one.ended:
            raise _nobody_handles(run, life, rank, one)
    if any(one.all("killed") for one in lives):
        raise _killed(run, life)
    if any(one.status == 0 for one in lives) and all(one.status in (0, PREEMPTED) for one in lives):
        raise _left_as_done(run, life)
    if isinstance(life, Group) and (parted := _parted(run, life)):
        raise parted
    finding = ended_early(lab, run, life)
    if any("DataLoader worker" in crash["message"] for one in lives for crash in one.all("crash")):
        finding.rows = [(label, re.sub(r" \(pid[^)]*\)", "", text)) for label, text in finding.rows] + [
            ("means", "the signal went to the whole process group and killed a DataLoader worker; the main process, about to save, was told so by an exception"),
            ("think", "what does a worker do with the signal, and who decides that?"),
        ]
    raise finding


def _nobody_handles(run: Run, life: Life | Group, rank: int, one: Life) -> Finding:
    name, last = signal.Signals(-one.status).name, one.all("signal")[-1]
    signals = len(one.all("signal"))
    rows = [
        *fault_row(run),
        *([("rank", f"{rank} (of {len(life.processes)})")] if isinstance(life, Group) else []),
        ("ended", f"{name} killed the process: nothing handles it {'any more' if signals > 1 else 'there'}"),
        *_lost_row(life),
    ]
    think = {
        "start": "which line installs your handler, and what has the process been doing until then?",
        "leaving": "when does your handler go, and what is still to be done then?",
    }.get(last["phase"], "which signals does your job listen to, and from when to when?")
    return Finding(f"unhandled:{name}:{last['phase']}", [*rows, ("think", think)], schedule_of(run))


def _lost_row(life: Life | Group) -> list[tuple[str, str]]:
    saved = max([e["step"] for e in life.all("saved")], default=life.resumed_at)
    lost = life.reached - saved
    return [("means", f"{_steps(lost)} lost")] if lost else []


def _steps(number: int) -> str:
    return f"{number} finished steps are" if number > 1 else "a finished step is"


def _killed(run: Run, life: Life | Group) -> Finding:
    rank, one = next((r, one) for r, one in enumerate(life.processes) if one.all("killed"))
    killed, sent = one.first("killed"), one.all("signal")
    rows = [*fault_row(run)]
    if isinstance(life, Group):
        rows.append(("rank", f"{rank} (of {len(life.ranks)})"))
    if sent:
        since = killed["clock"] - sent[0]["clock"]
        rows.append(("killed", f"by SIGKILL, {since:g} s after the first signal, in {killed['during']}"))
        if more := [s for s in one.steps if s["step"] > sent[0]["step"] + (0 if sent[0]["phase"] else 1)]:
            rows.append(("meanwhile", f"it trained {len(more)} more step{'s' if len(more) > 1 else ''}"))
        elif killed["during"] == "evaluation":
            rows.append(("meanwhile", "it evaluated on"))
        think = "who looks whether a signal came, how often, and in which parts of the job?"
    else:
        rows.append(("killed", f"by SIGKILL at the end of its time limit, {killed['clock']:g} s after it began, in {killed['during']}"))
        think = "how much time was left when your job began that, and what else had to fit in?"
    if killed["during"] == "a save":
        rows.append(("torn", f"the checkpoint of step {one.all('saving')[-1]['step']} was never finished"))
        think = "how long did the saves before this one take, and how much time was left when it began?"
    return Finding(f"killed:{killed['during']}:{bool(sent)}", [*rows, *_lost_row(life), ("think", think)], schedule_of(run))


def _left_as_done(run: Run, life: Life | Group) -> Finding:
    lives = life.processes
    done = [r for r, one in enumerate(lives) if one.status == 0]
    who = "the job" if len(lives) == 1 else f"rank {done[0]}"
    to_do = "" if any(one.first("end") for one in lives) else f" after step {life.reached}, before training was done"
    rows = [
        *fault_row(run),
        ("ended", f"{who} left with exit status 0{to_do}"),
        *[row for r in done for row in student_frames(lives[r].first("exit") or {"frames": []})],
    ]
    if to_do:
        rows += [
            ("means", "0 tells the scheduler that the job is done: it is never run again, and the model stays half trained"),
            ("think", f"which exit status says that it wants to be run again? (The contract says {PREEMPTED}.)"),
        ]
    else:
        rows += [
            ("expected", f"it stops when it is told to, and leaves with {PREEMPTED}"),
            ("think", "which part of the training did the signal cut short, and what did the job do instead?"),
        ]
    return Finding("exit:0", rows, schedule_of(run))


def _parted(run: Run, group: Group) -> Finding | None:
    """Some ranks have left as preempted, and the others wait for them."""
    left = [rank for rank, one in enumerate(group.ranks) if one.preempted]
    stay = [rank for rank in range(len(group.ranks)) if rank not in left]
    if not (left and stay) or any((crash := group.ranks[r].first("crash")) and not rank_runs.by_others(group.ranks[r], crash) for r in stay):
        return None
    standing = dict(rank_runs.standing(group))
    rows = [
        *fault_row(run),
        *[(f"rank {r}", f"left as preempted (exit status {PREEMPTED})") for r in left],
        *[standing[r] for r in stay],
        ("means", "who stays waits for one that is gone, until the scheduler kills it in the middle of what it does"),
        ("think", "who decides that it's time to leave, or to save, and how do the other ranks get to know?"),
    ]
    return Finding("ranks part", rows, schedule_of(run))


def status_says(says: str | None, want: str, rows: list, schedule: str | None = None) -> None:
    """The word that was `told` is this one."""
    if says != want:
        rows = [
            *rows,
            ("status.json", f"says {says!r}" if says else "isn't there, or names no outcome"),
            ("expected", f"{want!r}"),
            ("means", "launchers hide exit statuses (torchrun turns each of them into 1): whoever decides whether the job is to be run again reads this file"),
            ("think", "who writes it, and when?"),
        ]
        raise Finding("status file", rows, schedule)


def _not_torn(run: Run, life: Life, whole: Run) -> None:
    """No checkpoint holds weights of two different steps."""
    of_step: dict[str, dict[str, int]] = {}
    for trained in whole.last.all("trained"):
        for name, digest in trained["tensors"].items():
            of_step.setdefault(name, {}).setdefault(digest, trained["step"])
    for saving in life.all("saving"):
        steps: dict[int, list[str]] = {}
        for name, digest in saving["tensors"].items():
            if (step := of_step.get(name, {}).get(digest)) is not None:
                steps.setdefault(step, []).append(name)
        if len(steps) > 1:
            (old, older), (new, newer) = sorted(steps.items())[0], sorted(steps.items())[-1]
            rows = [
                *fault_row(run),
                ("saved", f"while the optimizer was updating the weights in step {saving['step'] + 1}"),
                ("torn", f"this checkpoint, of step {saving['step']}, holds the weights of two different steps"),
                (f"of step {new}", _some(newer)),
                (f"of step {old}", _some(older)),
                ("means", "no step of training ever had these weights, and no error says so: the resumed run goes on from a model that never was"),
                ("think", "between which two lines of your program may a handler run? And what may it do there?"),
            ]
            raise Finding("torn state", rows, schedule_of(run))


def _not_told_too_soon(run: Run, life: Life) -> None:
    """While it saves, nobody has said yet how it ended."""
    for saving in life.all("saving"):
        if saving["says"] in ("done", "preempted"):
            rows = [
                *fault_row(run),
                ("status.json", f"said {saving['says']!r} already when the save of step {saving['step']} began"),
                ("means", "killed in this save, the job has told that it left in good order"),
                ("think", "from which moment on is that word true, whatever happens next?"),
            ]
            raise Finding("told too soon", rows, schedule_of(run))


def _no_regular_save(run: Run, life: Life | Group) -> Finding:
    due = life.fault.step
    saved = sorted({e["step"] for e in life.all("saving")})
    rows = [
        ("expected", f"a regular save after step {due}: one is due every 4 steps (job.save_every)"),
        ("saved", f"after step{'s' if len(saved) != 1 else ''} {', '.join(map(str, saved))}" if saved else "never"),
        ("means", "a node that dies without a signal takes everything since then with it"),
        ("think", "which saves happen though nobody told the job to stop?"),
    ]
    return Finding("no regular save", rows, schedule_of(run))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")


# --- progress --------------------------------------------------------------------------------------------


def nothing_lost(run: Run, always: bool = False) -> None:
    """Each relaunch after a preemption (or `always`) goes on exactly where the job stopped."""
    for life, after in zip(run.lives, run.lives[1:]):
        if not (always or isinstance(life.fault, Preempt)):
            continue
        reached = life.reached
        if after.resumed_at != reached:
            rows = [
                *fault_row(run),
                ("stopped", f"after step {reached}, as preempted"),
                ("resumed", f"at step {after.resumed_at}"),
                ("means", f"{_steps(reached - after.resumed_at)} done again, though there was time for a save"),
                ("think", "what is the last thing that your job does before it leaves?"),
            ]
            raise Finding("steps lost", rows, schedule_of(run))
