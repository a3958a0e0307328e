"""How a life ends: on time, by itself, and with the right exit status."""

from __future__ import annotations

import re
import signal

from grader.checks import endings
from grader.checks.crashes import student_frames
from grader.checks.ex03.resumption import not_torn, steps_lost
from grader.checks.ex03.status_file import SAYS, not_said_too_soon, status_says
from grader.checks.ex03.stop_runs import SAVE_EVERY, fault_row
from grader.checks.ranks import by_others, by_rank, rank_row, standing
from grader.harness.costs import shown
from grader.harness.lab import Lab
from grader.harness.preemption import Preempt
from grader.harness.run import PREEMPTED, Life, Process, Run, schedule_of
from grader.verdicts import Finding, Gist, Inconclusive, Struck


def finished(lab: Lab, run: Run) -> None:
    """The last life reached the end of training."""
    if run.last.fault is None and not run.last.finished:
        raise ended_early(lab, run, run.last)


def ended_early(lab: Lab, run: Run, life: Life) -> Finding:
    if any(one.first("crash") and not one.first("importing") for one in life.processes):
        rows = [
            *fault_row(run),
            ("machine", "the ranks didn't find each other; none of your code had been loaded"),
        ]
        return Inconclusive("no-meeting", rows, schedule_of(run))
    if any(one.all("killed") for one in life.processes):
        return _killed(run, life)
    if stopped := _stopped_for_nothing(run, life):
        return stopped
    return endings.ended_early(lab, run, life)


def _stopped_for_nothing(run: Run, life: Life) -> Finding | None:
    if not all(one.preempted for one in life.processes) or any(
        one.all("signal") for one in life.processes
    ):
        return None
    rows = [
        *fault_row(run),
        Gist(
            "ended",
            f"the job exited as preempted (exit status {PREEMPTED}) after "
            f"step {life.reached}, though nothing had asked it to stop",
        ),
    ]
    return Finding(
        "stopped-for-nothing",
        rows,
        schedule_of(run),
        means="a job that asks to be run again forever, and never finishes",
        think="what does your job do when there is nothing left to train?",
    )


def left_as_preempted(lab: Lab, run: Run, number: int, life: Life, whole: Run) -> None:
    """A life that was asked to stop exited in time, by itself, with the right exit status and
    status file.
    """
    lives = life.processes
    if not isinstance(life.fault, Preempt):
        not_said_too_soon(run, number)
        if life.fault and not life.died_of_fault:
            raise ended_early(lab, run, life)
        return
    for one in lives:
        not_torn(run, one, whole)
    not_said_too_soon(run, number)
    if life.obeyed_fault:
        status_says(run.notes["words"][number], SAYS[PREEMPTED], fault_row(run), schedule_of(run))
        return
    if not any(one.all("signal") for one in lives):
        if all(one.finished for one in lives):
            if life.fault.in_save and not any(
                e["step"] == life.fault.step for e in life.all("saving")
            ):
                raise _no_regular_save(run, life)
            raise Inconclusive(
                "fault",
                [Struck(life.fault.story), ("but", "it never fired: nothing was proved")],
                schedule_of(run),
            )
        raise ended_early(lab, run, life)
    for rank, one in enumerate(lives):
        if one.status in (-signal.SIGTERM, -signal.SIGUSR1) and not one.ended:
            raise _nobody_handles(run, life, rank, one)
    if any(one.all("killed") for one in lives):
        raise _killed(run, life)
    if any(one.status == 0 for one in lives) and all(one.status in (0, PREEMPTED) for one in lives):
        raise _left_as_done(run, life)
    if parted := _parted(run, life):
        raise parted
    finding = ended_early(lab, run, life)
    if any("DataLoader worker" in crash["message"] for one in lives for crash in one.all("crash")):
        finding.reword(lambda text: re.sub(r" \(pid[^)]*\)", "", text))
        finding.means = (
            "the signal went to the whole process group and killed a DataLoader worker; the main "
            "process, about to save, got an exception"
        )
        finding.think = "what does a worker do with the signal, and what decides that?"
    raise finding


def _nobody_handles(run: Run, life: Life, rank: int, one: Process) -> Finding:
    name, last = signal.Signals(-one.status).name, one.all("signal")[-1]
    signals = len(one.all("signal"))
    rows = [
        *fault_row(run),
        *rank_row(life.world, rank),
        Gist(
            "ended",
            f"{name} killed the process: nothing handles it "
            f"{'any more' if signals > 1 else 'there'}",
        ),
    ]
    think = {
        "start": (
            "which line installs your handler, and what has the process been doing until then?"
        ),
        "leaving": "when is your handler removed, and what is left to do after that?",
    }.get(last["phase"], "which signals does your job handle, and from when to when?")
    return Finding(
        "signal-unhandled",
        rows,
        schedule_of(run),
        about=f"{name}:{last['phase']}",
        means=steps_lost(life),
        think=think,
    )


def _killed(run: Run, life: Life) -> Finding:
    rank, one = next((r, one) for r, one in enumerate(life.processes) if one.all("killed"))
    killed, sent = one.all("killed")[0], one.all("signal")
    rows = [*fault_row(run), *rank_row(life.world, rank)]
    if sent:
        since = killed["clock"] - sent[0]["clock"]
        rows.append(
            (
                "killed",
                f"by SIGKILL, {shown(since)} s after the first signal, in {killed['during']}",
            )
        )
        if more := [
            s for s in one.steps if s["step"] > sent[0]["step"] + (0 if sent[0]["phase"] else 1)
        ]:
            rows.append(
                ("meanwhile", f"it trained {len(more)} more step{'s' if len(more) > 1 else ''}")
            )
        elif killed["during"] == "evaluation":
            rows.append(("meanwhile", "it evaluated on"))
        think = "what checks whether a signal came, how often, and in which parts of the job?"
    else:
        rows.append(
            (
                "killed",
                "by SIGKILL at the end of its time limit, "
                f"{shown(killed['clock'])} s after it began, in {killed['during']}",
            )
        )
        think = "how much time was left when your job began that, and what else had to fit in?"
    if killed["during"] == "a save":
        rows.append(
            ("torn", f"the checkpoint of step {one.all('saving')[-1]['step']} was never finished")
        )
        think = (
            "how long did the saves before this one take, and how much time was left when it began?"
        )
    return Finding(
        "grace-overrun" if sent else "time-limit-overrun",
        rows,
        schedule_of(run),
        about=killed["during"],
        means=steps_lost(life),
        think=think,
    )


def _left_as_done(run: Run, life: Life) -> Finding:
    lives = life.processes
    done = [r for r, one in enumerate(lives) if one.status == 0]
    who = "the job" if len(lives) == 1 else f"rank {done[0]}"
    frames = [row for r in done for row in student_frames(lives[r].first("exit") or {"frames": []})]
    if any(one.first("end") for one in lives):
        return Finding(
            "signal-ignored",
            [
                *fault_row(run),
                Gist("ended", f"{who} exited with status 0"),
                *frames,
                ("expected", f"it stops when it is asked to, and exits with {PREEMPTED}"),
            ],
            schedule_of(run),
            think=(
                "which part of the training did the signal cut short, and what did the job do "
                "instead?"
            ),
        )
    ended = f"{who} exited with status 0 after step {life.reached}, before training was done"
    return Finding(
        "left-as-done",
        [*fault_row(run), Gist("ended", ended), *frames],
        schedule_of(run),
        means=(
            "0 tells the scheduler that the job is done: it is never run again, and the model "
            "stays half-trained"
        ),
        think=(f"which exit status asks to be run again? (The contract says {PREEMPTED}.)"),
    )


def _parted(run: Run, life: Life) -> Finding | None:
    """Some ranks exited as preempted, and the others wait for them."""
    processes = life.processes
    left = [rank for rank, one in enumerate(processes) if one.preempted]
    stay = [rank for rank in range(life.world) if rank not in left]
    if not (left and stay) or any(
        (crash := processes[r].first("crash")) and not by_others(processes[r], crash) for r in stay
    ):
        return None
    stood = standing(processes)
    rows = [
        *fault_row(run),
        *by_rank(dict.fromkeys(left, f"exited as preempted (exit status {PREEMPTED})")),
        *by_rank({r: stood[r] for r in stay}),
    ]
    return Finding(
        "ranks-part",
        rows,
        schedule_of(run),
        means=("a rank that continues waits for one that has exited, until the scheduler kills it"),
        think=(
            "what decides that it's time to exit, or to save, and how do the other ranks find out?"
        ),
    )


def _no_regular_save(run: Run, life: Life) -> Finding:
    assert life.fault  # a preemption: there is no other
    due = life.fault.step
    saved = sorted({e["step"] for e in life.all("saving")})
    rows = [
        (
            "expected",
            f"a regular save after step {due}: one is due every "
            f"{SAVE_EVERY} steps (job.save_every)",
        ),
        (
            "saved",
            f"after step{'s' if len(saved) != 1 else ''} {', '.join(map(str, saved))}"
            if saved
            else "never",
        ),
    ]
    return Finding(
        "no-regular-save",
        rows,
        schedule_of(run),
        means="a node that dies without a signal takes everything since then with it",
        think="which saves happen even though nothing asks the job to stop?",
    )
