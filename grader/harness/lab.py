"""The lab: with it, a check launches runs of one submission under faults.

A check draws its numbers from `lab.draw`, which depends only on the grading's seed and the check's
name: the same seed replays the same faults, whatever else runs at the same time.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from grader.harness import scratch
from grader.harness.faults import AnyFault, show_schedule
from grader.harness.launch import run_life
from grader.harness.launcher import FIRST, FRESH, RELAUNCHED, Launcher, Limits, Lost
from grader.harness.printed import followed
from grader.harness.ranks import run_ranks
from grader.harness.run import Life, Process, Run
from grader.harness.salts import generator_of, number_of
from grader.harness.workbench import Bench, Cancelled
from grader.verdicts import Attempt, Finding, Found, Gist, NotSelected

T = TypeVar("T")

WORKLOAD = Path(__file__).resolve().parent.parent / "workload"


class Debugged(Protocol):
    """A life that is to run in the foreground (grader/cli/debug_life.py)."""

    rank: int  # of its processes, the one that does; the others run beside it

    def launcher(self, inner: Launcher) -> Launcher:
        """A launcher that runs the life so; `inner` launches the other ranks."""


class Debugger(Protocol):
    def wants(self, life: str) -> Debugged | None:
        """Is it this one? A life's name: "7c1f.2", the second one of the run 7c1f."""


SHORT = 24  # characters of a check's name at the head of a line


class Lab:
    """One check's view of the bench."""

    def __init__(
        self,
        bench: Bench,
        name: str,
        faults: tuple[AnyFault, ...] | None = None,
        hopeless: Callable[[], Finding | None] = lambda: None,
        debugger: Debugger | None = None,
    ):
        """`hopeless` is asked before each life; a finding that it returns is raised instead."""
        self.debugger = debugger
        self._named: Counter[str] = Counter()  # the runs that it has launched, by their names
        self.bench, self.name, self.only, self.hopeless = bench, name, faults, hopeless
        # lives see this seed; they never see the grading's own, from which salts and faults are
        # drawn
        self.seed = number_of(f"{bench.seed} training") % 10_000
        self.draw = generator_of(f"{bench.seed} {name}")
        self.shared_by_checks = False  # made by `once`
        self.figures: dict[str, str] = {}
        self.runs: list[Any] = []  # with the submission's code, in the order in which they ended

    @property
    def shared(self) -> random.Random:
        """Draws that are equal in all checks of a grading, so that they can share baselines."""
        return generator_of(f"{self.bench.seed}")

    @property
    def short_name(self) -> str:
        """The check's, for the head of a line."""
        name = self.name.removeprefix("test_").replace("_", "-")
        return name if len(name) <= SHORT else f"{name[: SHORT - 3]}..."

    def measured(self, what: str, text: str) -> None:
        """Record a figure to show with the task's verdict, whatever that is."""
        self.figures[what] = text

    def submitted(self) -> Path:
        """Copy the submission afresh: what one life does to its copy can't affect another."""
        return self.bench.submission.copy_to(self.bench.folder(suffix=scratch.CODE) / "code")

    def launch(
        self, script: str, *argv: object, faults: tuple[AnyFault, ...] = (),
        before_relaunch: Callable[[Path], object] | None = None,
        ranks: int | None = None, directory: Path | None = None, since: int = 0,
        kept: Callable[[AnyFault], int] | None = None, given: dict[str, Any] | None = None,
        trusted: bool = False, fresh: bool = False, network: bool = False,
        reports: Sequence[Path] = (), slow: bool = False,
    ) -> Run:  # fmt: skip
        """Run `script` of the workload through its lives: one per fault, and a last one without.

        ranks      of every life; None: one process that is no rank of anything
        directory  where the checkpoints are; without it, a new one. `since`: its checkpoint's step
        kept       fault -> the earliest step from which the next life resumes: it doesn't get the
                   salts of the steps up to there. Default: the last save before the fault, by
                   --save-every
        given      what the script gets beside its arguments (telemetry.given)
        fresh      start every life plainly, in a new interpreter
        trusted    run it without the submission: no copy and no --checkpoint
        network    its processes talk to each other over loopback, as ranks do
        reports    of a script without ranks: files to which what it starts reports
        slow       its saves are large: on a slow disk, it is silent for longer than others

        The run ends early when a life doesn't end as its fault says: whatever followed would prove
        nothing.
        """
        if kept is None:
            kept = _last_save(argv) if before_relaunch is None else (lambda fault: 0)
        # an earlier life wrote what is there
        first = FIRST if directory is None else RELAUNCHED
        if directory is None:
            directory = self.bench.folder() / "checkpoints"
            directory.mkdir()
        own = not trusted and "--bare" not in argv  # it runs the submission's code
        label = self._name_of(script, argv, faults, ranks)
        lives: list[Life] = []
        for n, fault in enumerate([*faults, None]):
            if n and before_relaunch:
                before_relaunch(directory)
            salts = self.bench.salts.between(kept(faults[n - 1]) if n else since, _last_step(fault))
            now = (given or {}) | {"salts": salts}
            start = FRESH if fresh else RELAUNCHED if n else first
            lives.append(
                self._live(
                    script,
                    directory,
                    argv,
                    fault,
                    ranks,
                    now,
                    trusted,
                    start,
                    network or bool(ranks),
                    f"{label}.{n + 1}" if own else "",
                    reports,
                    slow,
                )
            )
            if fault and not lives[-1].obeyed_fault:
                break
        command = f"{script} {' '.join(map(str, argv))}"
        run = Run(lives, tuple(faults), directory, command, ranks=ranks)
        run.notes["label"] = label
        if own:
            self.runs.append(run)
        return run

    def _live(
        self,
        script: str,
        directory: Path,
        argv: tuple[object, ...],
        fault: AnyFault | None,
        ranks: int | None,
        given: dict[str, Any],
        trusted: bool,
        start: str,
        network: bool,
        label: str,
        reports: Sequence[Path],
        slow: bool,
    ) -> Life:
        bench, number = self.bench, ranks or 1
        debugged = self.debugger.wants(label) if self.debugger and label else None
        with bench.slots(number):
            if bench.cancelled.is_set():
                raise Cancelled
            if known := self.hopeless():
                raise known
            codes, where = (
                [self.submitted() for _ in range(0 if trusted else number)],
                bench.folder(),
            )
            arguments = ["--directory", str(directory), *map(str, argv)]
            if debugged:  # breakpoints are set in the student's own file
                codes[debugged.rank] = bench.submission.folder
            argvs = [
                ["--checkpoint", str(code / bench.submission.module), *arguments] for code in codes
            ]
            argvs = argvs or [arguments] * number
            may_write = [*codes, directory.parent]
            readable = [word for word in argv if isinstance(word, Path) and word.exists()]
            given_too = script in GIVEN_GENERATORS
            sandbox = bench.sandbox.job(readable, network, trusted, bench.limits.memory, given_too)
            how: dict[str, Any] = {"given": given, "sandbox": sandbox, "start": start}
            launcher = debugged.launcher(bench.launcher) if debugged else bench.launcher
            limits = replace(bench.limits, quiet=bench.limits.quiet * (4 if slow else 1))
            args = (launcher, where, WORKLOAD / script)
            try:
                with self._shown(where, ranks, label):
                    if ranks is None:
                        how["reports"] = reports
                        results = [run_life(*args, argvs[0], fault, limits, may_write, **how)]
                    else:
                        faults = [fault and fault.of_rank(rank) for rank in range(ranks)]
                        results = run_ranks(*args, argvs, limits, may_write, faults, **how)
            except Lost:
                if not bench.cancelled.is_set():
                    raise
            if bench.cancelled.is_set():  # else it didn't end by itself
                raise Cancelled
            if not trusted and (link := scratch.link_out_of(directory.parent)):
                raise _leads_out(link)
            told = any(result["ended"] == "disk" for result in results)  # its guardian saw it
            size = 0 if trusted or told else scratch.size_to_copy(directory.parent)
            if size > bench.limits.disk:
                raise too_large(bench.limits.disk)
        bench.lives_ended += number
        copies = [*codes, *([None] * number)]  # a trusted life has none
        if ranks is None:
            processes = [Process(where, fault, results[0], copies[0])]
        else:
            processes = [
                Process(where / str(rank), faults[rank], result, copies[rank])
                for rank, result in enumerate(results)
            ]
        for process in processes:
            bench.attempts += [Attempt.of(self.name, event) for event in process.attempts]
        return Life(processes, fault)

    def _name_of(
        self,
        script: str,
        argv: tuple[object, ...],
        faults: tuple[AnyFault, ...],
        ranks: int | None,
    ) -> str:
        """The name of a run, by what it is: whichever check launches it, and after which others."""
        words = [word for word in map(str, argv) if str(self.bench.scratch) not in word]
        text = f"{script} {' '.join(words)} {show_schedule(faults)} {ranks}"
        if self.shared_by_checks:
            text = f"{self.name}: {text}"
        name = hashlib.sha256(text.encode()).hexdigest()[:4]
        self._named[name] += 1
        return name if self._named[name] == 1 else f"{name}-{self._named[name]}"

    def once(self, key: tuple[object, ...], make: Callable[[Lab], T]) -> T:
        """`make(lab)`, run by the first check of the grading that asks for it.

        `make` gets its own lab, so it doesn't matter which check asks first: draws and the names of
        runs stay the same. The runs count as those of each check that asks. If another check has
        already found that this task hangs, that finding is raised instead.
        """
        if known := self.hopeless():
            raise known

        def made() -> tuple[Callable[[], T], Lab]:
            # without `hopeless`: other checks need it, too, even if this one's task has failed
            lab = Lab(self.bench, " ".join(map(str, key)), self.only, debugger=self.debugger)
            lab.shared_by_checks = True
            try:
                result = make(lab)
            except (Finding, Exception) as error:
                return partial(_again, error), lab
            return lambda: result, lab

        answer, lab = self.bench.once(("once", *key), made)
        self.runs += [run for run in lab.runs if not any(run is known for known in self.runs)]
        self.figures |= lab.figures
        return answer()

    def _shown(self, where: Path, ranks: int | None, label: str) -> AbstractContextManager[object]:
        """While it's open, what the processes of this life print is shown, if anybody looks."""
        if not self.bench.show or not label:
            return nullcontext()
        life = f"{self.short_name} life {label}"
        if ranks is None:
            files = {life: where / "output"}
        else:
            files = {f"{life} rank {rank}": where / str(rank) / "output" for rank in range(ranks)}
        return followed(files, self.bench.show)

    def undisturbed(
        self, script: str, *argv: object, again: int = 0, ranks: int | None = None
    ) -> Run:
        """The baseline: the same script and arguments without a fault. Computed once a grading."""
        key = (self.bench.submission.key, script, *map(str, argv), again, ranks)
        # other checks need it, too, even if this one's task is hopeless by now
        alone = Lab(self.bench, self.name, self.only, debugger=self.debugger)
        run = self.bench.once(key, lambda: alone.launch(script, *argv, ranks=ranks))
        if not any(run is known for known in self.runs):
            self.runs.insert(0, run)
        return run

    @property
    def limits(self) -> Limits:
        """Of each life."""
        return self.bench.limits

    def again(self, undisturbed: Run) -> Run:
        """An undisturbed run once more: if the two differ, nothing can be compared with them."""
        script, *argv = undisturbed.command.split()
        return self.undisturbed(script, *argv, again=1, ranks=undisturbed.ranks)

    def bare(self, number: int) -> Run:
        """A run without the student's code; equal numbers give the same run."""
        return self.undisturbed(*BARE, "--randomness", "--seed", self.seed, again=number)

    def too_slow(self) -> bool:
        """Is a run without the student's code too slow, too? Asked anew each time."""
        # whatever has become of this check's task
        bare = Lab(self.bench, self.name, self.only).launch(*BARE, "--seed", self.seed)
        return not bare.finished or bare.last.process.result["wall"] > self.limits.wall / 4

    def trusted(
        self,
        script: str,
        *argv: object,
        ranks: int | None = None,
        given: dict[str, Any] | None = None,
    ) -> Run:
        """The same script without student code, as a yardstick. Computed once a grading."""
        key = ("trusted", script, *map(str, argv), ranks, json.dumps(given, sort_keys=True))
        alone = Lab(self.bench, self.name, self.only)
        return self.bench.once(
            key, lambda: alone.launch(script, *argv, ranks=ranks, given=given, trusted=True)
        )

    def schedules(self, *schedules: tuple[AnyFault, ...]) -> list[tuple[AnyFault, ...]]:
        """The fault schedules of a check, or the one that `grade --fault` asks for."""
        if self.only is None:
            return list(schedules)
        if self.only not in schedules and any(fault.in_save for fault in self.only):
            raise NotSelected  # a fault inside a save belongs to the check that printed it
        return [self.only]


def _again(error: Exception) -> Any:
    raise error


def _leads_out(link: Path) -> Finding:
    """Checks copy, change and write files where a life has saved, with more rights than a life."""
    return Finding(
        "link",
        [
            Found(f"a symbolic link to {os.readlink(link)!r}, which is outside: {link}"),
            ("expected", "a link in the directory leads to something in the directory"),
        ],
        means="copying or deleting the directory reaches files that aren't yours",
        think="where does your code put its files?",
    )


def too_large(most: int) -> Finding:
    """Checks copy what a life has saved, dozens of times."""
    ended = (
        f"the checkpoint directory holds more than {most >> 20} MiB (holes count), or folders "
        f"more than {scratch.DEEPEST} levels deep"
    )
    return Finding("limit", [Gist("ended", ended)], about="disk", ending=ended)


# scripts of later exercises, which get what exercise 1 asks for (grader/given)
GIVEN_GENERATORS = {
    "ex02/train_ddp.py",
    "ex02/train_sharded.py",
    "ex03/train_preempt.py",
    "ex03/under_torchrun.py",
}
BARE = ("ex01/train_epochs.py", "--bare")  # trains without the student's code


def _last_step(fault: AnyFault | None) -> int | None:
    """The last step that a life with this fault can reach; None: the end of training."""
    return fault.step if fault and fault.kind in ("kill", "tear") else None


def _last_save(argv: tuple[object, ...]) -> Callable[[AnyFault], int]:
    """Fault -> the last step before it at which --save-every saves; 0 without that option."""
    words = list(map(str, argv))
    every = int(words[words.index("--save-every") + 1]) if "--save-every" in words else 0

    def kept(fault: AnyFault) -> int:
        finished = fault.step - 1 if fault.in_save or fault.kind == "preempt" else fault.step
        return finished // every * every if every else 0

    return kept
