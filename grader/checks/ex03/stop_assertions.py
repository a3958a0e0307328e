"""Expectations on jobs that a scheduler stops: they leave in time, say how they ended, and lose
nothing.
"""

from __future__ import annotations

import re
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

from grader.checks import endings, trajectories
from grader.checks.crashes import student_frames
from grader.checks.ex03 import expected_times, foreign_files
from grader.checks.explanations import meaning
from grader.checks.ranks import by_others, by_rank, rank_row, standing, together
from grader.harness.costs import Costs
from grader.harness.lab import Lab
from grader.harness.preemption import NUMBERS, TORN, Preempt, last_word, proof
from grader.harness.run import PREEMPTED, Life, Process, Run, schedule_of
from grader.verdicts import Finding, Found, Gist, Inconclusive, Struck

SCRIPT = "ex03/train_preempt.py"
SAYS = {0: "done", PREEMPTED: "preempted"}
FINAL = ("done", "preempted", "failed")  # words that end a life
SAVE_EVERY = 4  # steps between two regular saves, unless a check asks for others
GRACE = 4.0  # s between the first signal and SIGKILL, the same
EPOCHS = 2
STEPS = (5, 7)  # per epoch: no regular save is due at the end of one
COURSE = (
    "--seed",
    "--epochs",
    "--steps-per-epoch",
    "--workers",
)  # what the course of training depends on


def job(lab: Lab, *more: object) -> tuple:
    """The arguments of a run."""
    return (SCRIPT, "--seed", lab.seed, "--steps-per-epoch", steps_per_epoch(lab), *more)


def steps_per_epoch(lab: Lab) -> int:
    return lab.shared.choice(STEPS)


def all_steps(lab: Lab) -> int:
    return EPOCHS * steps_per_epoch(lab)


def between_saves(lab: Lab) -> int:
    """A step of the second epoch after which no save is due, and which isn't the epoch's last."""
    per_epoch = steps_per_epoch(lab)
    return lab.draw.choice([n for n in range(per_epoch + 1, 2 * per_epoch) if n % SAVE_EVERY])


def any_signal(lab: Lab) -> str:
    return lab.draw.choice(["term", "usr1"])


def option(args: tuple, name: str, otherwise: object) -> Any:
    """The value of an option among a run's arguments."""
    return args[args.index(name) + 1] if name in args else otherwise


# --- runs -----------------------------------------------------------------------------------------


def launch(
    lab: Lab,
    *args,
    faults: tuple,
    ranks: int | None = None,
    directory: Path | None = None,
    since: int = 0,
    saved: bool = True,
) -> Run:
    """A run. In notes: what status.json said after each of its lives ("words"), and of which step
    the newest checkpoint was then ("newest").

    directory  of an earlier run, which this one goes on with; its newest checkpoint is of step
               `since`
    saved      a life that gets a signal has the time for a last save
    """
    planted = {}
    if directory is None:
        directory = lab.bench.folder() / "my checkpoints"
        directory.mkdir()
        planted = foreign_files.plant(directory, lab.draw)
    words, newest = [], []

    def look(directory: Path) -> None:
        words.append(last_word(directory))
        newest.append(newest_checkpoint(directory))

    token = f"{lab.draw.getrandbits(128):032x}"
    every = int(option(args, "--save-every", SAVE_EVERY))
    resumes = iter(_resume_steps(faults, every, since, saved))
    run = lab.launch(
        *args,
        faults=faults,
        ranks=ranks,
        directory=directory,
        since=since,
        before_relaunch=look,
        kept=lambda _: next(resumes),
        given={"token": token},
    )
    look(directory)
    run.notes |= {"words": words, "newest": newest, "token": token}
    foreign_files.untouched(directory, planted)
    for life in run.lives:
        for rank, one in enumerate(life.processes):
            as_sent(one, run, token)
            reckoned(args, one, rank)
    return run


def reckoned(args: tuple, life: Process, rank: int = 0) -> expected_times.Times:
    """The life's times; Inconclusive, if its clock doesn't add up."""
    here = option(args, "--end-of-rank", rank) == rank and (
        life.fault or "--end-of-signalled" not in args
    )
    end = float(option(args, "--end", "inf")) if here else float("inf")
    costs = Costs.parse(str(option(args, "--costs", "")))
    return expected_times.times(life, costs, end, float(option(args, "--grace", GRACE)))


def reported(life: Process, event: str, token: str | None) -> list[dict[str, Any]]:
    """What the node's daemon reported, each once: the job knows no `token` to sign with."""
    found = {}
    for each in life.all(event):
        what = {k: v for k, v in each.items() if k not in ("event", "t", "proof", "printed")}
        if token is None or each.get("proof") == proof(token, event, what):
            found[each.get("n")] = each
    return list(found.values())


def as_sent(life: Process, run: Run, token: str | None) -> None:
    """The node's daemon has sent every signal that the job was due, to whom it was due.

    Without a token, under torchrun, its reports are believed.
    """
    sent = [
        (e["signal"], "group" if e["group"] else "" if e["job"] else "agent")
        for e in reported(life, "sent", token)
    ]
    due = [(int(NUMBERS[e["signal"]]), e["to"]) for e in life.all("signal")]
    if sent != due:
        rows = [
            Struck(run.story),
            ("but", "a signal was due, and the daemon that sends them wasn't asked to"),
        ]
        raise Inconclusive("signal-not-sent", rows, schedule_of(run))


def newest_checkpoint(directory: Path) -> int | None:
    """Its step; None, if there is none."""
    found = [re.fullmatch(r"step-(\d{6})\.pt", path.name) for path in directory.iterdir()]
    return max((int(m[1]) for m in found if m), default=None)


def _resume_steps(faults: tuple, every: int, since: int, saved: bool) -> list[int]:
    """For each fault, the step that the next life resumes from at the earliest."""
    steps = []
    for fault in faults:
        if (
            isinstance(fault, Preempt)
            and saved
            and not any(s.phase == "failing" for s in fault.signals)
        ):
            since = max(since, fault.step)
        else:
            since = max(since, (fault.step - 1) // every * every)
        steps.append(since)
    return steps


def yardstick(lab: Lab, args: tuple, ranks: int | None = None) -> Run:
    """The course of training as it is without any of the student's code, once a grading."""
    course = [word for name in COURSE if name in args for word in (name, option(args, name, None))]
    whole = lab.trusted(SCRIPT, *course, ranks=ranks)
    if not whole.last.finished:
        raise Inconclusive(
            "machine",
            [("machine", f"a run without your code didn't end well: {whole.last.text()[-300:]}")],
        )
    return whole


def stopped_and_resumed(
    lab: Lab,
    args: tuple,
    schedule: tuple,
    ranks: int | None = None,
    saved: bool = True,
    whole: Run | None = None,
) -> Run:
    """The run stops as its faults say, tells so, loses no step (unless it wasn't to be `saved`),
    and its course is the yardstick's (or that of `whole`).
    """
    run = launch(lab, *args, faults=schedule, ranks=ranks, saved=saved)
    stopped_well(lab, run, whole or yardstick(lab, args, ranks), saved)
    return run


def stopped_well(lab: Lab, run: Run, whole: Run, saved: bool = True) -> None:
    """The same, of a run that is over."""
    for number, life in enumerate(run.lives):
        left_as_preempted(lab, run, number, life, whole)
    finished(lab, run)
    together(run)
    one_writes(run)
    if saved:
        nothing_lost(run)
    same_course(lab, run, whole)


def rejoined(lab: Lab, run: Run, whole: Run, when: list) -> None:
    """`run` is a life that stopped without a fault of ours, and the one after it: the same as
    above.
    """
    try:
        finished(lab, run)
        for number in range(len(run.lives)):
            not_said_too_soon(run, number)
        together(run)
        one_writes(run)
        nothing_lost(run, always=True)
        same_course(lab, run, whole)
    except Finding as finding:
        finding.rows = [*when, *finding.rows]
        raise


def same_course(lab: Lab, run: Run, whole: Run) -> None:
    """On every rank, the course of training is the yardstick's, bit for bit."""
    found = trajectories.first_parting(run, whole)
    if found is None:
        return
    rank, parting = found
    _machine_repeats(lab, whole)
    means, think = meaning(parting.different)
    rows = trajectories.parting_rows(run, rank, parting)
    in_hand = any(
        saving[-1]["in_hand"] for life in run.lives[:-1] if (saving := life.all("saving"))
    )
    if in_hand:
        rows.append(("saved", "when the next batch had been fetched, and not trained"))
        means = (
            "its augmentation has drawn its random numbers already; the resumed run fetches it "
            "again, and draws others"
        )
        think = "at which place of your loop is nothing half done, and nothing begun?"
    raise Finding(
        "batch-in-hand" if in_hand else "state-lost",
        rows,
        schedule_of(run),
        about=parting.component,
        means=means,
        think=think,
        step=parting.step,
        different=parting.different,
        same=parting.same,
    )


def _machine_repeats(lab: Lab, whole: Run) -> None:
    """Two runs without the student's code are the same; else nothing is proved here."""
    script, *argv = whole.command.split()
    again = lab.launch(script, *argv, ranks=whole.ranks, trusted=True)
    if not again.finished or trajectories.first_parting(again, whole):
        raise Inconclusive(
            "machine", [("machine", "two undisturbed runs differ even without your code")]
        )


def finished(lab: Lab, run: Run) -> None:
    """The last life came to the end of training."""
    if run.last.fault is None and not run.last.finished:
        raise ended_early(lab, run, run.last)


def ended_early(lab: Lab, run: Run, life: Life) -> Finding:
    if any(one.first("crash") and not one.first("importing") for one in life.processes):
        rows = [
            *fault_row(run),
            ("machine", "ranks didn't meet; none of your code had been loaded"),
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
            f"the job left as preempted (exit status {PREEMPTED}) after "
            f"step {life.reached}, though nobody told it to stop",
        ),
    ]
    return Finding(
        "stopped-for-nothing",
        rows,
        schedule_of(run),
        means="a job that asks to be run again for ever, and never is done",
        think="what does your job do when nothing is left to train?",
    )


def fault_row(run: Run) -> list[tuple[str, str]]:
    return [Struck(run.story)] if run.schedule else []


# --- how a stopped life ends ----------------------------------------------------------------------


def left_as_preempted(lab: Lab, run: Run, number: int, life: Life, whole: Run) -> None:
    """A life that was told to stop left in time, by itself, with the exit status and the word for
    it.
    """
    lives = life.processes
    if not isinstance(life.fault, Preempt):
        not_said_too_soon(run, number)
        if life.fault and not life.died_of_fault:
            raise ended_early(lab, run, life)
        return
    for one in lives:
        _not_torn(run, one, whole)
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
            "process, about to save, was told so by an exception"
        )
        finding.think = "what does a worker do with the signal, and who decides that?"
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
        "leaving": "when does your handler go, and what is still to be done then?",
    }.get(last["phase"], "which signals does your job listen to, and from when to when?")
    return Finding(
        "signal-unhandled",
        rows,
        schedule_of(run),
        about=f"{name}:{last['phase']}",
        means=_loss(life),
        think=think,
    )


def _loss(life: Life) -> str:
    """What a life that was killed has trained in vain."""
    saved = max([e["step"] for e in life.all("saved")], default=life.resumed_at)
    lost = life.reached - saved
    return f"{_steps(lost)} lost" if lost else ""


def _steps(number: int) -> str:
    return f"{number} finished steps are" if number > 1 else "a finished step is"


def _killed(run: Run, life: Life) -> Finding:
    rank, one = next((r, one) for r, one in enumerate(life.processes) if one.all("killed"))
    killed, sent = one.all("killed")[0], one.all("signal")
    rows = [*fault_row(run), *rank_row(life.world, rank)]
    if sent:
        since = killed["clock"] - sent[0]["clock"]
        rows.append(
            ("killed", f"by SIGKILL, {since:g} s after the first signal, in {killed['during']}")
        )
        if more := [
            s for s in one.steps if s["step"] > sent[0]["step"] + (0 if sent[0]["phase"] else 1)
        ]:
            rows.append(
                ("meanwhile", f"it trained {len(more)} more step{'s' if len(more) > 1 else ''}")
            )
        elif killed["during"] == "evaluation":
            rows.append(("meanwhile", "it evaluated on"))
        think = "who looks whether a signal came, how often, and in which parts of the job?"
    else:
        rows.append(
            (
                "killed",
                "by SIGKILL at the end of its time limit, "
                f"{killed['clock']:g} s after it began, in {killed['during']}",
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
        means=_loss(life),
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
                Gist("ended", f"{who} left with exit status 0"),
                *frames,
                ("expected", f"it stops when it is told to, and leaves with {PREEMPTED}"),
            ],
            schedule_of(run),
            think=(
                "which part of the training did the signal cut short, and what did the job do "
                "instead?"
            ),
        )
    ended = f"{who} left with exit status 0 after step {life.reached}, before training was done"
    return Finding(
        "left-as-done",
        [*fault_row(run), Gist("ended", ended), *frames],
        schedule_of(run),
        means=(
            "0 tells the scheduler that the job is done: it is never run again, and the model "
            "stays half trained"
        ),
        think=(
            "which exit status says that it wants to be run again? (The contract says "
            f"{PREEMPTED}.)"
        ),
    )


def _parted(run: Run, life: Life) -> Finding | None:
    """Some ranks have left as preempted, and the others wait for them."""
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
        *by_rank(dict.fromkeys(left, f"left as preempted (exit status {PREEMPTED})")),
        *by_rank({r: stood[r] for r in stay}),
    ]
    return Finding(
        "ranks-part",
        rows,
        schedule_of(run),
        means=(
            "who stays waits for one that is gone, until the "
            "scheduler kills it in the middle of what it does"
        ),
        think=(
            "who decides that it's time to leave, or to save, "
            "and how do the other ranks get to know?"
        ),
    )


def status_says(says: str | None, want: str, rows: list, schedule: str | None = None) -> None:
    """The word that was `told` is this one."""
    if says != want:
        found = (
            "isn't whole"
            if says == TORN
            else f"says {says!r}"
            if says
            else "isn't there, or names no outcome"
        )
        rows = [
            *rows,
            ("status.json", found),
            ("expected", f"{want!r}"),
        ]
        raise Finding(
            "wrong-status",
            rows,
            schedule,
            means=(
                "launchers hide exit statuses (torchrun turns each of them into 1): "
                "what decides whether the job is run again reads this file"
            ),
            think="who writes it, and when?",
        )


def _not_torn(run: Run, life: Process, whole: Run) -> None:
    """No checkpoint holds weights of two different steps."""
    of_step: dict[str, dict[str, int]] = {}
    for known in whole.last.all("trained") + whole.last.all(
        "begins"
    ):  # the salt of a step comes between the two
        for name, digest in known["tensors"].items():
            of_step.setdefault(name, {}).setdefault(digest, known["step"])
    for saving in life.all("saving"):
        steps: dict[int, list[str]] = {}
        for name, digest in saving["tensors"].items():
            if (step := of_step.get(name, {}).get(digest)) is not None:
                steps.setdefault(step, []).append(name)
        if len(steps) > 1:
            (old, older), (new, newer) = sorted(steps.items())[0], sorted(steps.items())[-1]
            rows = [
                *fault_row(run),
                (
                    "saved",
                    f"while the optimizer was updating the weights in step {saving['step'] + 1}",
                ),
                (
                    "torn",
                    f"this checkpoint, of step {saving['step']}, holds "
                    "the weights of two different steps",
                ),
                (f"of step {new}", _some(newer)),
                (f"of step {old}", _some(older)),
            ]
            raise Finding(
                "torn-state",
                rows,
                schedule_of(run),
                means=(
                    "no step of training ever had these weights, and no error says so: "
                    "the resumed run goes on from a model that never was"
                ),
                think=(
                    "between which two lines of your program may a "
                    "handler run? And what may it do there?"
                ),
            )


def not_said_too_soon(run: Run, number: int) -> None:
    """While life `number` works, status.json doesn't say how it ended."""
    life = run.lives[number]
    doing = {
        "building": "when the job was being built",
        "built": "when the job had been built",
        "resuming": "when the job was about to resume",
        "begins": "when the job began the step after step {step}",
        "saving": "when the save of step {step} began",
        "trained": "when step {step} was done",
    }
    for event in [event for one in life.processes for event in one.events]:
        says = event.get("says")
        if says not in FINAL or (says == "failed" and _broken_by_then(life, event["t"])):
            continue
        at = doing.get(event["event"], "in the evaluation after step {step}").format(
            step=event.get("step")
        )
        writers = _wrote_by_then(life, event["t"])
        if number and says == run.notes["words"][number - 1] and not writers:
            raise _stale(run, says, at)
        rows = [*fault_row(run), ("status.json", f"said {says!r} {at}")]
        if writers and life.world > 1:
            ranks = ", ".join(map(str, writers))
            rows.append(("written", f"in this life, by rank {ranks} (of {life.world})"))
        raise Finding(
            "told-too-soon",
            rows,
            schedule_of(run),
            means=(
                "killed now, the job has said that it failed, though nothing was wrong with it"
                if says == "failed"
                else "killed now, the job has said that it left in good order"
            ),
            think="from which moment on is that word true, whatever happens next?",
        )


def _broken_by_then(life: Life, t: float) -> bool:
    """Had a rank failed or been killed by then? The others work on until they meet it.

    A crash is recorded after the word is written: its time says nothing.
    """
    return any(
        event["event"] == "crash" or (event["event"] in ("failing", "killed") and event["t"] <= t)
        for one in life.processes
        for event in one.events
    )


def _wrote_by_then(life: Life, t: float) -> list[int]:
    """The ranks that had written something beside the checkpoints by then."""
    return [
        rank
        for rank, one in enumerate(life.processes)
        if any(word["t"] <= t for word in one.all("word"))
    ]


def _stale(run: Run, says: str, at: str) -> Finding:
    rows = [
        *fault_row(run),
        (
            "status.json",
            f"says {says!r} {at}: an earlier life wrote that, and this one has written nothing",
        ),
        ("expected", "that nobody said how this life ended"),
    ]
    return Finding(
        "stale-status",
        rows,
        schedule_of(run),
        means="a job that crashes without a word looks as if it had left in good order",
        think="when does what the file says stop being true?",
    )


def not_stale(run: Run, number: int) -> None:
    """After a life that SIGKILL ended, status.json doesn't say what the life before had written."""
    says = run.notes["words"][number]
    if says in FINAL and not _wrote_by_then(run.lives[number], float("inf")):
        raise _stale(run, says, "after the SIGKILL")


def one_writes(run: Run) -> None:
    """Of several ranks, one writes status.json."""
    for life in run.lives:
        writers = [rank for rank, one in enumerate(life.processes) if one.all("word")]
        if len(writers) > 1:
            what = {one.first("word")["what"] for one in life.processes if one.first("word")}
            rows = [
                *fault_row(run),
                Found(
                    f"ranks {', '.join(map(str, writers))} write beside the "
                    f"checkpoints: {'; '.join(sorted(what))[:200]}",
                ),
                ("expected", "one of them writes status.json"),
            ]
            raise Finding(
                "several-writers",
                rows,
                schedule_of(run),
                means=(
                    "the last writer wins, and on several nodes they "
                    "write over each other's half-written file"
                ),
                think="which number says that this is the only such rank, on however many nodes?",
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
        think="which saves happen though nobody told the job to stop?",
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")


# --- progress -------------------------------------------------------------------------------------


def nothing_lost(run: Run, always: bool = False) -> None:
    """Each relaunch after a preemption (or `always`) goes on exactly where the job stopped."""
    reached, to_keep = 0, False
    for number, (life, after) in enumerate(pairwise(run.lives)):
        # one that ends before it resumes has reached nothing itself
        reached = max(reached, life.reached)
        to_keep = to_keep or always or isinstance(life.fault, Preempt)
        if after.first("life") is None:
            continue
        if not to_keep:
            reached = after.resumed_at
            continue
        to_keep = False
        if after.resumed_at != reached:
            rows = [
                *fault_row(run),
                ("stopped", f"after step {reached}, as preempted"),
                Gist("resumed", f"at step {after.resumed_at}"),
            ]
            again = _steps(reached - after.resumed_at)
            raise Finding(
                "steps-lost",
                rows,
                schedule_of(run),
                means=f"{again} done again, though there was time for a save",
                think="what is the last thing that your job does before it leaves?",
            )
        if (run.notes["newest"][number] or 0) != reached:
            rows = [
                *fault_row(run),
                (
                    "but",
                    "the newest checkpoint in the directory isn't of "
                    f"step {reached}: nothing was proved",
                ),
            ]
            raise Inconclusive("save-not-proved", rows, schedule_of(run))
