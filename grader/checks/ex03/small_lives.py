"""Lives of a small job, many in one process (grader/workload/ex03/life_cases.py): an error of any
type at any place, and a signal at any place.
"""

from __future__ import annotations

from itertools import pairwise

from grader.checks import questions
from grader.checks.crashes import crashed
from grader.checks.ex03 import handler_questions
from grader.checks.ex03.status_file import FINAL, SAYS, status_says
from grader.harness.inside.fsevents import FROM_OUTSIDE
from grader.harness.lab import Lab
from grader.harness.run import PREEMPTED
from grader.verdicts import Finding, Found, Gist, Inconclusive

EPOCHS, STEPS = 2, 3  # of the small job, in each epoch
# where a job can fail, or get a signal, and how often it comes there in a life
PLACES = {
    "build": 1,
    "resume": 1,
    "batch": EPOCHS * STEPS,
    "step": EPOCHS * STEPS,
    "save": 2,
    "parts": EPOCHS,
    "part": EPOCHS * 2,
    "end": EPOCHS,
    "last save": 1,
}
DOING = {
    "build": "while the job was being built",
    "resume": "while the job resumed",
    "batch": "while a batch was being fetched",
    "step": "in a step",
    "save": "in a save",
    "parts": "in job.validation_parts()",
    "part": "in an evaluation",
    "end": "in job.end_epoch()",
    "last save": "in the last save",
}
# Python turns a StopIteration into another error wherever a generator passes it on
ERRORS = [
    *([kind, "broken"] for kind in handler_questions.ERRORS if kind != "StopIteration"),
    ["NodeLost", "broken"],
    ["SystemExit"],
    ["SystemExit", 0],
    ["SystemExit", PREEMPTED],
]
BEFORE = (None, *FINAL)
THINK = "which errors does your code catch, and what does it do with them?"


def _lives(lab: Lab, name: str, asked: list[list[dict]]) -> list[tuple[dict, dict]]:
    """Each life of each process, as it was asked for and as it was."""
    answers = questions.ask(
        lab, "ex03/life_cases.py", [{"ask": name, "lives": lives} for lives in asked]
    )
    return [
        pair
        for answer, lives in zip(answers, asked, strict=True)
        for pair in zip(lives, answer.given(THINK)["lives"], strict=True)
    ]


def any_error(lab: Lab) -> None:
    """An error of any type at any place, sometimes just after a signal, reaches the caller."""
    draw = lab.draw
    asked = []
    for place, times in PLACES.items():
        lives = []
        for error in draw.sample(ERRORS, len(ERRORS)):
            at = [place, draw.randint(1, times)]
            life: dict = {"at": at, "error": error, "before": draw.choice(BEFORE)}
            if draw.random() < 0.5:
                life |= {"signal": draw.choice(["term", "usr1"]), "when": at}
            lives.append(life)
        asked.append(lives)
    stops = [
        {"at": ["save", 1], "error": error, "signal": "term", "when": ["step", 1], "before": None}
        for error in ERRORS
    ]
    for life, found in _lives(lab, "errors", [*asked, stops]):
        _failed(life, found)


def _failed(life: dict, found: dict) -> None:
    kind, *made_of = life["error"]
    name = f"{kind}({', '.join(map(str, made_of))})"
    rows: list = [Gist("error", f"{name} {DOING[life['at'][0]]}")]
    if life.get("signal"):
        rows.append(("signal", f"SIG{life['signal'].upper()} came before it"))
    if not found["failed"]:
        raise _elsewhere(found, rows)
    if found["after"]:
        called = _call(found["after"][0])
        rows.append(Found(f"after it, your code called {called}"))
        raise Finding(
            "used-after-error",
            [*rows, ("expected", "the error reaches the caller")],
            means=(
                "the step may be half done, and so is what was saved"
                if called == "job.save()"
                else "the job works on with what the error left behind, and nobody sees the error"
            ),
            think=THINK,
        )
    if not found["itself"]:
        raised = found["raised"]
        other = (
            "another object than the job's error"
            if raised and raised["type"] == life["error"][0]
            else f"{raised['type']}: {raised['message']}"
            if raised
            else f"main returned {found['returned']}"
        )
        rows += [Found(other), ("expected", "the error itself reaches the caller")]
        raise Finding("error-hidden", rows, think=THINK)
    _told_in_time(found, rows)
    status_says(found["says"], "failed", rows)
    _written_whole(found, rows)


def _elsewhere(found: dict, rows: list) -> Finding:
    """The job didn't get to its error: another one came first, or none was asked for."""
    if found["raised"] and found["returned"] is None:
        return crashed(found["raised"], rows)
    return Inconclusive("fault", [*rows, ("but", "the job never got to its error")])


def _told_in_time(found: dict, rows: list) -> None:
    """While the job worked, status.json named no outcome."""
    for place, word in found["words"]:
        if word not in FINAL:
            continue
        written = any(asked == 0 or place != "build" for asked, _ in found["wrote"])
        row = ("status.json", f"said {word!r} {DOING[place]}")
        if written:
            raise Finding(
                "told-too-soon",
                [*rows, row, ("expected", "no outcome while the job runs")],
                think="from which moment on is that status true, whatever happens next?",
            )
        raise Finding(
            "stale-status",
            [*rows, row, ("written", "by an earlier life; this one had written nothing")],
            think="when does what the file says stop being true?",
        )


def _written_whole(found: dict, rows: list) -> None:
    """status.json appears by a rename from its own directory: it is never opened, nor removed just
    before.
    """
    for (since, event), (then, after) in pairwise([*found["wrote"], [0, ""]]):
        what, _, name = event.removesuffix(FROM_OUTSIDE).partition(" ")
        if name != "status.json":
            continue
        if what in ("open", "truncate"):
            how = f"{'opened' if what == 'open' else 'truncated'} in place"
        elif what == "rename" and event.endswith(FROM_OUTSIDE):
            how = "renamed from another directory, which may be on another disk"
        elif what == "remove" and since and since == then and after.startswith(("rename", "link")):
            how = "removed before the new one got its name"
        else:
            continue
        raise Finding(
            "torn-word",
            [*rows, ("status.json", f"is {how}")],
            means=(
                "between two disks, a rename is an error, or a copy that a kill cuts short"
                if event.endswith(FROM_OUTSIDE)
                else "a job that is killed at this moment leaves neither the old status nor the "
                "new one"
            ),
            think="under which name do you write the file, and when does it get its final name?",
        )


def _call(place: str) -> str:
    return {
        "build": "make_job()",
        "resume": "job.resume()",
        "batch": "next() for a batch",
        "step": "job.train_step()",
        "parts": "job.validation_parts()",
        "part": "job.validate()",
        "end": "job.end_epoch()",
    }.get(place, "job.save()")


def any_signal(lab: Lab) -> None:
    """A signal of either kind at any place, and a life that is like an earlier one in the same
    process.
    """
    asked = []
    for place, times in PLACES.items():
        lives: list[dict] = []
        for number in range(1, times + 1):
            for signal in lab.draw.sample(["term", "usr1"], 2):
                when = [place, number]
                before = lab.draw.choice(BEFORE)
                lives += 2 * [{"signal": signal, "when": when, "before": before}]
        lives += 2 * [{}]
        done = [EPOCHS, EPOCHS * STEPS]
        if place in ("build", "resume"):
            lives += [{**life, "saved": done, "before": "done"} for life in lives]
        asked.append(lives)
    for life, found in _lives(lab, "signals", asked):
        _ended_well(life, found)


def _ended_well(life: dict, found: dict) -> None:
    rows: list = [("job", "one that is done, run again")] if life.get("saved") else []
    if life.get("signal"):
        rows.append(Gist("signal", f"SIG{life['signal'].upper()} {DOING[life['when'][0]]}"))
        if not found["struck"]:
            raise Inconclusive("fault", [*rows, ("but", "the job never got there")])
    if found["raised"] and found["returned"] is None:
        raise crashed(found["raised"], rows)
    _told_in_time(found, rows)
    _written_whole(found, rows)
    over, status = found["reached"][0] == EPOCHS, found["returned"]
    ended = Gist("ended", f"with status {status} after step {found['reached'][1]}")
    if status == PREEMPTED and over:
        raise Finding("preempted-when-done", [*rows, ended, ("but", "every epoch had ended")])
    if status == PREEMPTED and not life.get("signal"):
        raise Finding("stopped-for-nothing", [*rows, ended, ("expected", "status 0")])
    if status != (0 if over else PREEMPTED):
        code = "left-as-done" if status == 0 else "wrong-status"
        raise Finding(code, [*rows, ended, ("expected", f"status {0 if over else PREEMPTED}")])
    trained = found["after"].count("step")
    if not over and trained > (life["when"][0] == "batch"):  # a batch in hand may be trained
        raise Finding("signal-ignored", [*rows, Found(f"it trained {trained} more steps")])
    if life.get("saved") and (found["steps"] or found["parts"]):
        raise Finding(
            "done-twice",
            [*rows, Found(f"it trained {found['steps']} steps again")],
            think="what does your job do when there is nothing left to train?",
        )
    saved = found["saved"] or [0, 0]
    if saved[1] != found["reached"][1] or (over and saved != found["reached"]):
        rows += [ended, Found(f"its last save is of step {saved[1]}; epochs over: {saved[0]}")]
        think = "how does your job know that it has saved, and what does it know at the beginning?"
        raise Finding("steps-lost", rows, think=think)
    status_says(found["says"], SAYS[status], rows)
