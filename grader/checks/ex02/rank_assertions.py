"""What must hold at every point of a plan: ranks load the same state, and the next save works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from grader.checks.crashes import crashed, slipped_at
from grader.checks.ex02.hangs import hang, none_went_on_alone
from grader.checks.ex02.observations import Seen
from grader.checks.ex02.rank_plan import INTERVAL
from grader.checks.left_open import nothing_left_open
from grader.checks.ranks import by_rank
from grader.verdicts import Finding


def agrees(
    seen: Seen,
    allowed: tuple[str, ...],
    rows: list,
    means: str,
    think: str,
    fault: str | None = None,
    n: int = 0,
) -> str:
    """All ranks reached the same outcome, and it is one of those allowed. Returns it."""
    found = seen.found(n)
    if len(set(found)) == 1 and found[0] in allowed:
        return found[0]
    if set(found) == {"an error"} and "nothing" in allowed:
        means = "a job whose first save was interrupted can never start again"
    elif set(found) == {"an error"} and "an error" not in allowed:
        means, think = (
            "the job can't continue, although an older checkpoint is complete",
            "what does resume do when the newest can't be loaded, on one rank or on all?",
        )
    elif found[0].startswith("an answer"):
        means, think = (
            "a script that asks `resume(...) is True` starts over, and any other one resumes",
            "which two answers does resume have?",
        )
    elif set(found) == {"nothing"}:
        means = "the run starts over, and no log says that it ever got this far"
    if seen.hangs():
        raise hang(seen, seen.until("loaded point", n + 1), rows, fault)
    code, about = _wrong(found)
    expected = " or ".join("False" if a == "nothing" else a for a in allowed)
    raise Finding(
        code,
        [
            *rows,
            *by_rank({rank: _told(seen, rank, what, n) for rank, what in enumerate(found)}),
            ("expected", f"on every rank: {expected}"),
        ],
        fault,
        about=about,
        means=means,
        think=think,
        **seen.window,
    )


def raises_what_it_says(seen: Seen, rows: list) -> None:
    """The error is the given CheckpointError, on every rank; a module without a class of that name
    may raise anything.
    """
    for rank in seen.ranks:
        answer = seen.loaded(rank)
        raised = answer["raised"]
        if "CheckpointError" in answer["classes"] and "CheckpointError" not in raised["bases"]:
            raise Finding(
                "wrong-error",
                [
                    *rows,
                    (f"rank {rank}", f"resume raised {raised['type']}: {_gist(raised['message'])}"),
                    ("expected", "on every rank: CheckpointError, which your file already defines"),
                ],
                about=raised["type"],
            )


def _wrong(found: list[str]) -> tuple[str, str]:
    """The code for what the ranks found, and what it is about."""
    if len(set(found)) > 1:
        return "ranks-disagree", ""
    if found[0] == "nothing":
        return "nothing-found", ""
    if found[0] == "another state":
        return "unsaved-state", ""
    if found[0].startswith("step "):
        return "wrong-checkpoint", found[0]
    return "resume-fails", found[0]


def _told(seen: Seen, rank: int, what: str, n: int) -> str:
    if what == "an error":
        error = seen.loaded(rank, n)["raised"]
        return f"resume raised {error['type']}: {_gist(error['message'])}{slipped_at(error)}"
    if what == "another state":
        return (
            f"a state that was never saved: of step {seen.loaded(rank, n)['step']}, but "
            f"for {', '.join(seen.different(rank, n)[:5])}"
        )
    if what == "nothing":
        return "resume returned False, as if nothing had ever been saved"
    if what == "no answer":
        crash = next((e for e in seen.all(rank, "crash")), None)
        if crash:
            error = f"{crash['type']}: {_gist(crash['message'])}"
            return f"no answer: {error}{slipped_at(crash)}"
        return "no answer"
    return what


def _gist(message: str) -> str:
    first = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return first if len(first) <= 160 else first[:157] + "..."


def works(seen: Seen, function: str = "save_step") -> None:
    """Nothing went wrong where no fault was injected."""
    called = ("called", f"{function}, with no fault")
    for rank in seen.ranks:
        raised = [e["raised"] for e in seen.all(rank, "saved point") if e["raised"]]
        for crash in raised + seen.all(rank, "crash"):
            if seen.hangs():
                raise hang(seen, seen.until("nothing", 0), [called])
            finding = crashed(crash, [("rank", str(rank))])
            finding.data |= seen.window
            raise finding
        for saved in seen.all(rank, "saved point"):
            if saved["changed"]:
                rows = [
                    (
                        "changed",
                        f"rank {rank}'s job isn't what it was before {function}: "
                        f"{', '.join(saved['changed'][:4])}",
                    ),
                ]
                raise Finding(
                    "save-changes-the-job",
                    rows,
                    think="does a save draw a random number, or set something?",
                )
        if {op["op"] for op in seen.point["ops"]} <= {"save", "copy"}:  # nothing else opens files
            held = [saved["held"] for saved in seen.all(rank, "saved point")]
            nothing_left_open(held, function, [("rank", str(rank))])
    none_went_on_alone(seen, [called])


AFTER_INTERRUPTED = (
    "the save after an interrupted one can't be found",
    "what is left of the interrupted save, and what does your save do with it?",
)
AFTER_GOOD = (
    "an older checkpoint is mistaken for the newest",
    "how does resume order the checkpoints? Is 12 greater than 8?",
)


def goes_on(
    seen: Seen,
    resumed: str,
    rows: list,
    fault: str | None = None,
    texts: tuple[str, str] = AFTER_INTERRUPTED,
) -> None:
    """The relaunched job's next save works, and is what is found from then on."""
    step = (0 if resumed == "nothing" else int(resumed.split()[1].strip(","))) + INTERVAL
    rows = [*rows, ("relaunched", f"resumed from {resumed}, and saved step {step}")]
    for rank in seen.ranks:
        saved = seen.saved(rank)
        if saved and saved["raised"]:
            if seen.hangs():
                raise hang(seen, seen.until("loaded point", 1), rows, fault)
            finding = crashed(saved["raised"], [*rows, ("rank", str(rank))], fault)
            finding.means = (
                "the leftovers block every later save: the job runs, but never saves again"
            )
            finding.think = "what may already be there when your save begins?"
            finding.data |= seen.window
            raise finding
    agrees(seen, (f"step {step}",), rows, *texts, fault, n=1)


@contextmanager
def advising(means: str, think: str) -> Iterator[None]:
    """Replace what a finding means and asks."""
    try:
        yield
    except Finding as finding:
        finding.means, finding.think = means, think
        raise
