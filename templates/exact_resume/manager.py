"""The manager: a training job saved, stopped and resumed."""

from __future__ import annotations

import atexit
import logging
import math
import sys
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

from .config import Config
from .directory import CheckpointDirectory
from .interfaces import (
    DONE,
    EXIT_STATUS,
    FAILED,
    PREEMPTED,
    AnyPath,
)
from .job import _Job
from .lives import _Lives, _tell_if_open
from .lock import _Lock
from .packing import _Packed
from .policies import _Clock
from .ranks import _Ranks, _require_group, _warn_of_restarts
from .reporting import _say
from .resuming import _newest_intact, _refuse_files, _require_empty, _writing_into
from .saving import _Saver
from .signals import StopSignal, _end_workers, _name_of


class CheckpointManager:
    """Saves and resumes a training job. Make it after init_process_group; use it in `with`.

    Where `with` doesn't fit, call close() in a `finally`; the first step() starts it.

    directory  all ranks must see it; no other job may write into it
    state      name -> object with state_dict and load_state_dict, or a dict, NumPy array, tensor or
               generator, which is filled on resuming, or None. Equal on all ranks.
               Call the model "model" and its optimizer "optimizer". Scheduler, GradScaler and
               sampler may have any name
    config     its options; each may also be given by its name: every_steps=1000
    per_rank   as state, for objects that differ between ranks (a torchdata StatefulDataLoader)

    Raises ValueError or TypeError for arguments that can't work, CheckpointError for a directory
    that can't. On several ranks, all must call its methods at the same points.
    """

    def __init__(
        self,
        directory: AnyPath,
        state: Mapping[str, Any],
        config: Config | None = None,
        *,
        per_rank: Mapping[str, Any] | None = None,
        **options: Any,
    ):
        self.directory = CheckpointDirectory(directory)
        _refuse_files(self.directory.path)
        _require_group()
        self.config = replace(config or Config(), **options)
        self.job = _Job(state, per_rank or {}, self.config)
        self.state, self.per_rank = self.job.state, self.job.per_rank
        self.lives, self.lock = _Lives(self.directory.path), _Lock(self.directory.path)
        # a dead rank is noticed at once, whatever the timeout
        self.ranks = _Ranks(self.config.timeout)
        self.rank = self.ranks.rank
        if self.rank == 0:
            _warn_of_restarts()
        self.saver = _Saver(self.directory, self.config, self.lives.last.get("cost", 0.0))
        self.job.find_shards()
        self.epoch = self.steps = 0
        self.best, self.stopping = math.inf, False
        self.outcome: str | None = None
        self.reason: str | None = None  # why it stops or has stopped
        self.signal, self.clock = StopSignal(self.config.signals), _Clock(self.config)
        self.saved: tuple[int, int] | None = None
        # resume() or start_over() was called; training has begun; something was trained
        self.started = self.resumed = self.begun = self.moved = False

    def __enter__(self) -> CheckpointManager:
        self.started, self.outcome = True, None
        self.signal.__enter__()
        for sampler in self.job.samplers():
            sampler.at_start = self._begin
        return self

    def close(self) -> None:
        """What leaving the `with` block does. Call it in a `finally`, so that it sees an error."""
        self.__exit__(*sys.exc_info())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.outcome is not None:  # close() within `with`
            return
        self.outcome = FAILED
        atexit.register(_end_workers)
        for sampler in self.job.samplers():
            sampler.at_start = None
        if isinstance(error, SystemExit):
            self.reason = self.reason or f"sys.exit({error.code})"
            if error.code in (None, 0) or (self.stopping and error.code == EXIT_STATUS[PREEMPTED]):
                error = None  # it ends as it wants to
        elif error is not None:
            self.reason = f"{type(error).__name__}: {error}"[:500]
        try:
            if error is None:
                if self.moved and self.saved != self._position():  # trained since the last save
                    self.save()
                self.flush()
                self.outcome = PREEMPTED if self.stopping else DONE
        except BaseException as e:
            self.reason = f"{type(e).__name__}: {e}"[:500]
            raise
        finally:
            self.saver.close()
            if self.rank == 0:
                note = self._progress() | {"interrupted": kind is KeyboardInterrupt}
                note["reason"] = self.reason
                self.lives.end(self.outcome, self.moved, self.begun, self.lock.take, note)
            self.signal.__exit__()
            if self.stopping:
                self.signal.stay_deaf()
            self.lock.release()

    @property
    def exit_status(self) -> int:
        """For sys.exit: 0 done, 75 preempted, 1 failed.

        torchrun turns every status but 0 into 1: read status.json there.
        """
        return EXIT_STATUS[self.outcome or FAILED]

    def status(self) -> dict[str, Any]:
        """The last life's outcome, reason, steps ...; {} if none has trained here."""
        return self.lives.read()

    def _progress(self) -> dict[str, Any]:
        return {"steps": self.steps, "epoch": self.epoch, "cost": round(self.saver.cost, 3)}

    # --- when

    def step(self) -> bool:
        """Call it after every optimizer step, on every rank. It saves if due; True means stop."""
        self._moves()
        self.steps += 1
        every = self.config.every_steps
        return self._check(every is not None and self.steps % every == 0)

    def end_epoch(self, metric: float | None = None) -> bool:
        """Call it after an epoch and its evaluation, on every rank; True means stop.

        metric  lower is better, so negate an accuracy. Only rank 0's counts. The best checkpoint
                is saved separately
        """
        self._moves()
        self.epoch += 1
        for part in self.state.values():
            if hasattr(part, "next_epoch"):
                part.next_epoch()
        self._compare_with_best(metric)
        every = self.config.every_epochs
        return self._check(every is not None and self.epoch % every == 0)

    def save_best(self, metric: float) -> bool:
        """Call it after an evaluation within an epoch, on every rank; True: it's the best so far.

        metric  as for end_epoch; a better one than all before is saved as a best checkpoint
        """
        self._moves()
        return self._compare_with_best(metric)

    def _compare_with_best(self, metric: float | None) -> bool:
        mine = metric if self.rank == 0 and metric is not None and metric < self.best else None
        better, best = self.ranks.highest(mine is not None, -math.inf if mine is None else mine)
        if better:  # before the other checkpoint, which records self.best as saved
            self.best = best
            self.save("best")
        return bool(better)

    def should_stop(self) -> bool:
        """Call it in evaluation and other long work, on every rank; True means stop."""
        return self._check(False, save=False)

    def _check(self, due: bool, save: bool = True) -> bool:
        self.clock.tick()
        over = self.clock.is_over(self.saver.cost)
        self.signal.tell_if_replaced()
        signaled, any_over, late, any_failed = self.ranks.highest(
            self.signal.number, over, self.clock.is_late(), self.saver.has_failed()
        )
        if any_failed:
            self.flush()
        if (signaled or any_over) and not self.stopping:
            self.stopping = True
            self.reason = _name_of(int(signaled)) if signaled else self.clock.told()
            if self.rank == 0:
                _say(f"stopping after step {self.steps}: {self.reason}", logging.INFO)
        if save and (due or late or self.stopping):
            self.save()
        return self.stopping

    def _moves(self) -> None:
        if not self.started:
            self.__enter__()
            atexit.register(_tell_if_open, weakref.ref(self))
        if not self.moved:
            self._begin()
            self.ranks.together("training", lambda: self._capture() and None)  # what can't be saved
            self.moved = True

    def _begin(self) -> None:
        """What training needs and a look doesn't: the directory's lock, and to count as a life."""
        if not self.begun:
            self.ranks.together("training", self._own_directory)
            self.begun = True

    def _own_directory(self) -> None:
        """Refuse to train into others' checkpoints, beside another job, or in a crash loop."""
        if self.rank:
            return
        if not self.resumed:
            _require_empty(self.directory)
        with _writing_into(self.directory.path):
            self.lock.require()
            self.directory.clear_leftovers()
            self.lives.begin(self._progress(), self.config.max_stuck)

    # --- saving

    def save(self, kind: str = "step") -> None:
        """Save now, on every rank; CheckpointError (or OSError) if it fails.

        An asynchronous save returns when the state is copied; the next call raises its failure.
        """
        self.flush()
        tree: dict[str, _Packed] = {}
        self.ranks.together("the save", lambda: tree.update(self._capture()))
        self.saver.save(kind, self.steps, tree, self.job.changed_by_steps)
        self.clock.saved_at = time.monotonic()
        if kind == "step":
            self.saved = self._position()

    def flush(self) -> None:
        """Wait for the save in flight and raise its failure."""
        self.saver.flush()

    def _position(self) -> tuple[int, int]:
        return self.steps, self.epoch

    def _capture(self) -> dict[str, _Packed]:
        progress = {"epoch": self.epoch, "steps": self.steps, "best": self.best}
        return self.job.capture(self.ranks, progress)

    # --- resuming

    def resume(
        self, kind: str = "step", change: Mapping[str, Mapping[str, Any]] | None = None
    ) -> bool:
        """Load the newest intact checkpoint, on every rank; False if there is none.

        kind    "best" loads the best one instead
        change  what shall differ from the checkpoint: {"optimizer": {"lr": 1e-4}} for all groups,
                {"scheduler": {"base_lrs": [1e-4]}}; each change is logged
        Raises  CheckpointError if checkpoints exist but none is intact, or after max_stuck lives
                without a new one; Mismatch if the checkpoint doesn't fit this job.
        """
        self.flush()
        self.resumed = True
        self.job.check_change(change or {})
        found = _newest_intact(kind, self.directory, self.job, self.ranks)
        if found is not None:
            name, parts = found
            self.ranks.together(f"resuming from {name}", lambda: self._apply(name, parts))
            if self.rank == 0:
                _say(f"resumed from {self.directory.path / name}", logging.INFO)
            for line in self.job.change(change or {}):
                if self.rank == 0:
                    _say(f"changed on resuming: {line}")
        if kind == "step":
            self.saved = self._position() if found else None
        return found is not None

    def start_over(self) -> None:
        """Start from step 0; existing checkpoints are kept, as abandoned-..."""

        def put_aside() -> None:
            if self.rank == 0:
                self.lock.require()
                for kind in ("step", "best"):
                    self.directory.set_aside(kind, -1)

        self.resumed = True
        self.ranks.together("starting over", put_aside)

    def _apply(self, name: str, parts: dict[str, Any]) -> None:
        where = self.directory.path / name
        progress = self.job.apply(where, parts["shared"], parts["own"], self.ranks)
        self.epoch, self.steps, self.best = progress["epoch"], progress["steps"], progress["best"]
