"""What `main` does with a small job (exercise 3, task 2): many lives in one process and directory,
one after the other; errors and signals come where the check wants them.
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field
from pathlib import Path

from grader.harness.inside import child, fsevents
from grader.harness.preemption import NUMBERS, last_word
from grader.workload import load_submission, questions
from grader.workload.ex03.failures import made
from grader.workload.ex03.virtual_clock import BOOT

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's preemption.py")
p.add_argument("--directory", required=True)

EPOCHS, STEPS, PARTS, SAVE_EVERY = 2, 3, 2, 2


@dataclass
class Life:
    """One call of `main`, as a check asks for it.

    at      the place, and which time there: the error is raised then. ["step", 1]: in the first
    error   its type's name, and what it is made of; None: no error
    signal  "term" or "usr1"; None: no signal
    when    ... and where it comes. At the error's own place, it comes just before it
    before  what status.json says before this life; None: what the last life left
    saved   [epoch, step] of the newest checkpoint, if there is one
    """

    directory: Path
    at: list | None = None
    error: list | None = None
    signal: str | None = None
    when: list | None = None
    before: InitVar[str | None] = None
    saved: list | None = None
    asked: list[str] = field(default_factory=list)  # the places that the job has been asked for
    struck: int | None = None  # how many there were when the error or the signal came
    words: list = field(default_factory=list)  # [place, status] at each of them, if another status
    wrote: list[list] = field(default_factory=list)  # [how many places, what was written then]
    raised: BaseException | None = None
    job: SmallJob | None = None

    def __post_init__(self, before: str | None) -> None:
        if before:
            (self.directory / "status.json").write_text(json.dumps({"outcome": before}))

    def reaches(self, place: str) -> None:
        """The job is asked for this."""
        self.asked.append(place)
        here, word = [place, self.asked.count(place)], last_word(self.directory)
        if not self.words or self.words[-1][1] != word:
            self.words.append([place, word])
        if self.signal and self.when == here:
            self.struck = len(self.asked)
            signal.raise_signal(NUMBERS[self.signal])
        if self.error and self.at == here:
            self.struck = len(self.asked)
            self.raised = made(*self.error)
            raise self.raised

    def writes(self, event: str) -> None:
        self.wrote.append([len(self.asked), event])

    def runs(self, main: Callable) -> dict:
        """The whole life; what came of it."""
        found: dict = {"returned": None, "raised": None, "itself": False}
        with fsevents.watching(str(self.directory), self.writes):
            try:
                status = main(lambda: SmallJob(self), str(self.directory), lambda: BOOT)
                found["returned"] = _plain(status)
            except BaseException as e:
                found |= {"raised": child.describe(e), "itself": e is self.raised}
                if isinstance(e, SystemExit):
                    found["returned"] = _plain(e.code)
        progress = [self.job.epoch, self.job.step] if self.job else [0, 0]
        return found | {
            "failed": self.raised is not None,
            "struck": self.struck is not None,
            "after": [] if self.struck is None else self.asked[self.struck :],
            "steps": self.asked.count("step"),
            "parts": self.asked.count("part"),
            "words": self.words,
            "wrote": self.wrote,
            "saved": self.saved,
            "reached": progress,
            "says": last_word(self.directory),
        }


def _plain(status: object) -> int | str | None:
    return status if status is None or isinstance(status, int) else repr(status)[:200]


class SmallJob:
    """What the exercise's README says of a job, and nothing else: it holds no model."""

    epochs, save_every = EPOCHS, SAVE_EVERY

    def __init__(self, life: Life) -> None:
        self._life = life
        self.epoch = self.step = 0
        life.reaches("build")
        life.job = self

    def resume(self) -> bool:
        self._life.reaches("resume")
        if self._life.saved:
            self.epoch, self.step = self._life.saved
        return self._life.saved is not None

    def batches(self) -> Iterator[int]:
        for number in range(self.step, STEPS * (self.epoch + 1)):
            self._life.reaches("batch")
            yield number

    def train_step(self, batch: int) -> float:
        self._life.reaches("step")
        self.step += 1
        return 0.0

    def validation_parts(self) -> list[int]:
        self._life.reaches("parts")
        return list(range(PARTS))

    def validate(self, part: int) -> float:
        self._life.reaches("part")
        return 0.0

    def end_epoch(self, losses: list[float]) -> None:
        self._life.reaches("end")
        self.epoch += 1

    def save(self) -> None:
        self._life.reaches("save" if self.epoch < self.epochs else "last save")
        self._life.saved = [self.epoch, self.step]


def main() -> None:
    args = p.parse_args()
    fsevents.install()
    ck = load_submission.load(args.checkpoint)

    def lives(question: dict) -> dict:
        directory = Path(args.directory, question["id"])
        directory.mkdir(parents=True)
        return {"lives": [Life(directory, **asked).runs(ck.main) for asked in question["lives"]]}

    questions.answer_each(lives)


if __name__ == "__main__":
    main()
