"""Task 4.3: begin_life's answers to sequences of lives, judged by a model of the contract."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from grader.checks.ex04.outcomes import outcome
from grader.checks.questions import ask, cwd_changed
from grader.harness import scratch
from grader.harness.lab import Lab
from grader.verdicts import Finding, Found

Life = tuple  # (step, how it ends, tries or None): "done", "preempted", "failed"; None: killed
TRIES = 3  # where none are given


@dataclass
class Model:
    """What the docstrings of begin_life and end_life say."""

    lives: list[list] = field(default_factory=list)  # [step, whether it crashed]
    done: bool = False

    def live(self, step: int, ends: str | None, tries: int | None) -> object:
        if self.done:
            return False
        most = TRIES if tries is None else tries
        if len(self.lives) >= most and all(life == [step, True] for life in self.lives[-most:]):
            return "CrashLoop"
        self.lives.append([step, ends not in ("preempted", "done")])
        self.done = ends == "done"
        return True


def expected(*courses: list[Life]) -> list[object]:
    """What begin_life does in each life of the last course, after the others."""
    model = Model()
    said = [[model.live(*life) for life in course] for course in courses]
    return said[-1]


# --- courses of one job ---------------------------------------------------------------------------

Courses = list[list[Life]]


def a_finished_job_has_nothing_to_do(draw: Random) -> Courses:
    done = [
        (0, "preempted", None),
        (10, "done", None),
        (40, None, None),
        (40, "done", 1),
        (10, "failed", 2),
        (0, None, 1),
    ]
    again = [(0, "failed", None), (0, "done", 2), *[(draw.choice([0, 10, 40]), None, 1)] * 3]
    return [
        done,
        again,
        [(5, "failed", 2), (5, "failed", 3), (5, "done", 3), (5, None, 3), (5, None, 3)],
    ]


def a_crash_loop_ends(draw: Random) -> Courses:
    courses = []
    for tries in (1, 2, 3, 4, None, 8, 40):
        step = draw.choice([draw.randint(0, 90), draw.randint(1000, 10**6)])
        courses.append(
            [(step, draw.choice(["failed", None]), tries) for _ in range((tries or TRIES) + 2)]
        )
    step = draw.randint(1000, 10**6)
    # `tries` is another one in each of its lives
    changed: list[Life] = [(step, "failed", tries) for tries in (4, 4, 2, 4)]
    return [*courses, changed, [(9, "failed", 3)] * 5, [(9, None, 3)] * 5, [(0, "failed", 3)] * 5]


def progress_starts_the_count_anew(draw: Random) -> Courses:
    crash, later = (10, "failed", 3), (20, "failed", 3)
    courses: Courses = [
        [
            (0, "failed", 3),
            (0, None, 3),
            crash,
            (10, None, 3),
            later,
            (20, None, 3),
            later,
            (20, None, 3),
        ],
        # there and back again, after a checkpoint that was torn: what counts are the last lives,
        # not all that began there
        [later, later, crash, crash, crash, crash],
        [crash, crash, later, crash, crash, crash, crash],
        # progress by a single step is progress
        [crash, crash, (11, "failed", 3), (11, None, 3), (12, None, 3), (13, "failed", 3)],
        # after a crash loop, a person fixes the job, and it gets further
        [crash, crash, crash, crash, later, later, later, later],
    ]
    return courses + [_any(draw, ["failed", None]) for _ in range(3)]


def a_preemption_is_no_crash(draw: Random) -> Courses:
    crash, preempted = (10, "failed", 3), (10, "preempted", 3)
    courses: Courses = [[preempted] * 6, [crash, crash, preempted, crash, crash, crash, crash]]
    courses.append(
        [
            (0, "preempted", 1),
            (0, "failed", 1),
            (0, None, 1),
            (7, "preempted", 1),
            (7, "preempted", 1),
        ]
    )
    return courses + [_any(draw, ["failed", None, "preempted"]) for _ in range(4)]


def _any(draw: Random, ends: list[str | None]) -> list[Life]:
    steps, tries = draw.sample(range(draw.choice([100, 10**6])), 2), draw.choice([2, 3])
    return [(draw.choice([steps[0], *steps]), draw.choice(ends), tries) for _ in range(12)]


CASES = {
    f.__name__: f
    for f in (
        a_finished_job_has_nothing_to_do,
        a_crash_loop_ends,
        progress_starts_the_count_anew,
        a_preemption_is_no_crash,
    )
}


def right(lab: Lab, case: str, think: str) -> None:
    courses = CASES[case](lab.draw)
    lab.draw.shuffle(courses)
    for course, said in zip(
        courses,
        _said(lab, [[(0, *life) for life in course] for course in courses], think),
        strict=False,
    ):
        _judge(said, course, think)


def _said(lab: Lab, courses: list[list[tuple]], think: str, **more: bool) -> list[list[dict]]:
    """The outcome of each life of each course: (job, step, how it ends, tries) each."""
    (answer,) = ask(lab, "ex04/function_cases.py", [{"ask": "lives", "courses": courses, **more}])
    return answer.given(think)["courses"]


def _function(said: dict) -> str:
    """Which one a life's outcome comes from: an error may be the other one's."""
    frames = said["raised"]["frames"] if "raised" in said else []
    called = [frame["function"] for frame in frames if scratch.submitted(frame["file"])]
    return "end_life" if called[:1] == ["end_life"] else "begin_life"


def _judge(said: list[dict], course: list[Life], think: str, more: str = "") -> None:
    want = expected(course)
    for n, (life, wanted) in enumerate(zip(course, want, strict=False)):
        if n < len(said) and said[n].get("moved"):
            raise cwd_changed("begin_life and end_life")
        if (got := _came_to(said[n]) if n < len(said) else None) != wanted:
            before = f"lives before it: {_story(course[:n])}" if n else "the first life"
            rows = [
                (
                    "life",
                    f"begins at step {life[0]}, tries={life[2] or TRIES}{more}; {before}",
                ),
                Found(
                    f"{_function(said[n])} {outcome(said[n])}"
                    if got != "an end"
                    else f"its life {outcome(said[n])}",
                ),
                ("expected", _wish(wanted)),
            ]
            raise Finding("wrong-notes", rows, think=think)


def _came_to(said: dict) -> object:
    if "raised" in said:
        return said["raised"]["type"]
    return said.get("returned", "an end")


def _wish(wanted: object) -> str:
    return f"it returns {wanted}" if isinstance(wanted, bool) else f"{wanted} is raised"


def _story(course: list[Life]) -> str:
    ended = {"failed": "crashed", None: "killed"}
    return "; ".join(f"began at step {step}, {ended.get(ends, ends)}" for step, ends, _ in course)


# --- where the notes lie --------------------------------------------------------------------------


def notes_stay_with_their_job(lab: Lab, think: str) -> None:
    """Two jobs at a time; their directories are moved from life to life, which are on other nodes
    and days.
    """
    draw = lab.draw
    step = draw.randrange(100)
    courses: Courses = [
        [*_any(draw, ["failed", None]), *[(step, "failed", 3)] * 4],
        [*_any(draw, ["failed", None]), (step, "preempted", 3), *[(step, "done", 3)] * 2],
    ]
    mixed = [job for job, course in enumerate(courses) for _ in course]
    draw.shuffle(mixed)
    left = [list(course) for course in courses]
    lives = [(job, *left[job].pop(0)) for job in mixed]
    (said,) = _said(lab, [lives], think, moved=True)
    more = (
        " (another job runs in another directory; both are moved from life to life, to names with "
        "'lr=[0.1]*', and each life is a job of its own, on another node, a day later)"
    )
    for job, course in enumerate(courses):
        _judge([s for s, j in zip(said, mixed, strict=False) if j == job], course, think, more)


def look_alikes_are_passed_over(lab: Lab, think: str) -> None:
    """Next to each file that begin_life and end_life wrote are files with similar names."""
    courses = [
        _any(lab.draw, ["failed", None, "preempted"]),
        [(3, None, 2)] * 4,
        [(3, "failed", 2), (9, "done", 2), (9, None, 2)],
    ]
    more = " (next to the notes are files with similar names: NAME.bak, .nfs0000NAME ...)"
    said = _said(
        lab, [[(0, *life) for life in course] for course in courses], think, look_alikes=True
    )
    for course, mine in zip(courses, said, strict=False):
        _judge(mine, course, think, more)


# --- killed in the notes --------------------------------------------------------------------------


def _kills(draw: Random) -> list[tuple[list[Life], Life, list[Life]]]:
    """(lives before, the one that is killed, lives after); in begin_life if it ends with None"""
    one, two = draw.sample(range(1, 90), 2)

    def crashes(step: int, number: int, tries: int = 3) -> list[Life]:
        return [(step, draw.choice(["failed", None]), tries) for _ in range(number)]

    return [
        ([], (one, None, 2), crashes(one, 4, 2)),
        (crashes(one, 1), (two, None, 3), crashes(two, 5)),
        (crashes(one, 2), (two, None, 3), crashes(two, 5)),
        (crashes(one, 2), (one, None, 3), crashes(one, 3)),
        (crashes(one, 3), (two, None, 3), [*crashes(two, 1), *crashes(one, 4)]),
        ([*crashes(one, 1), (one, "preempted", 3)], (one, None, 3), crashes(one, 5)),
        ([(one, "preempted", 3), (two, "done", 3)], (two, None, 3), crashes(two, 3)),
        (crashes(one, 1), (one, "failed", 3), crashes(one, 4)),
        (crashes(one, 2), (one, "preempted", 3), crashes(one, 4)),
        (crashes(one, 1), (two, "done", 3), crashes(two, 5)),
    ]


def a_kill_leaves_them_whole(lab: Lab, think: str) -> None:
    cases = _kills(lab.draw)
    asked = [
        {"ask": "killed", "before": before, "life": life, "after": after}
        for before, life, after in cases
    ]
    for (before, life, after), answer in zip(
        cases, ask(lab, "ex04/function_cases.py", asked), strict=True
    ):
        step, ends, tries = life
        call = "begin_life" if ends is None else f"end_life({ends!r})"
        what = (
            "killed",
            f"in {call}, of a life that began at step {step}"
            + (f"; before it: {_story(before)}" if before else ""),
        )
        states = answer.given(think, what)["states"]
        either = [expected(before, [life], after), expected(before, [(step, None, tries)], after)]
        if ends is None:
            either.append(expected(before, after))  # killed before it was counted
        for state in states:
            got = [_came_to(said) for said in state["lives"]]
            if got in either:
                continue
            n = next(
                n for n in range(len(after)) if all(got[: n + 1] != e[: n + 1] for e in either)
            )
            rows = [
                (what[0], f"{state['killed']}, {what[1]}"),
                ("then", _story(after[:n]) or "the next life"),
                Found(
                    f"{_function(state['lives'][n])} {outcome(state['lives'][n])} at step "
                    f"{after[n][0]}, "
                    f"tries={after[n][2]}",
                ),
                (
                    "expected",
                    " or ".join(dict.fromkeys(_wish(e[n]) for e in either if e[:n] == got[:n])),
                ),
            ]
            raise Finding("notes-torn", rows, think=think)


# --- notes on a disk that fails -------------------------------------------------------------------

FAULTS = {
    ("read", "EIO"): "no file in the directory can be opened to read it (an input/output error)",
    ("read", "EACCES"): "no file in the directory can be opened to read it (permission denied)",
    ("read", "ESTALE"): "no file in the directory can be opened to read it (a stale file handle)",
    ("written", "ENOSPC"): "no file in the directory can be opened to write it (no space left)",
    ("written", "EDQUOT"): "no file in the directory can be opened to write it (over quota)",
    ("written", "EACCES"): "no file in the directory can be opened to write it (permission denied)",
    ("filled", "EFBIG"): "files can be opened, but only the first byte of each can be written",
}


def a_failing_disk_is_an_error(lab: Lab, think: str) -> None:
    """begin_life that can't read or write its notes raises; it may have counted its life or not."""
    step, tries = lab.draw.randint(1, 90), 3
    crashed: list[Life] = [(step, lab.draw.choice(["failed", None]), tries)]
    life = (step, None, tries)
    cases = [(crashed * 2, crashed * 3), ([(step, "done", tries)], crashed * 2)]
    asked = [
        {"ask": "refused", "before": before, "life": life, "after": after, "faults": list(FAULTS)}
        for before, after in cases
    ]
    answers = ask(lab, "ex04/function_cases.py", asked)
    for (before, after), answer in zip(cases, answers, strict=True):
        for fault, seen in zip(FAULTS.values(), answer.given(think)["faults"], strict=True):
            if seen["fired"] is not False:
                _refused(fault, seen, before, life, after, think)


def _refused(
    fault: str, seen: dict, before: list[Life], life: Life, after: list[Life], think: str
) -> None:
    rows = [
        ("before", _story(before)),
        ("then", f"in begin_life, at step {life[0]}, {fault}"),
    ]
    raised = "raised" in seen["said"]
    if seen["fired"] and not raised:
        rows += [Found(f"begin_life {outcome(seen['said'])}"), ("expected", "it raises the error")]
        raise Finding("wrong-notes", rows, think=think)
    got = [_came_to(said) for said in seen["lives"]]
    either = [expected(before, [life], after)]
    if raised:
        either.append(expected(before, after))
    if got not in either:
        n = next(n for n in range(len(after)) if all(got[: n + 1] != e[: n + 1] for e in either))
        rows += [
            ("later", f"the disk works again; {_story(after[: n + 1])}"),
            Found(
                f"{_function(seen['lives'][n])} {outcome(seen['lives'][n])} in the last of these"
            ),
            ("expected", " or ".join(dict.fromkeys(_wish(e[n]) for e in either))),
        ]
        raise Finding("wrong-notes", rows, think=think)
