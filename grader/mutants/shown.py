"""The mutants whose messages are kept in grader/tests/snapshots.

One for every kind of evidence: progress, optimizer, RNG, batches, crash, storage faults, damage,
retention; ranks that wait, differ, disagree, hold too much; signals, graces, time limits; jobs that
aren't run again, or in vain.
"""

from __future__ import annotations

SHOWN = {
    "ex01": [
        "optimizer-forgotten",
        "scheduler-required",
        "lenient-load",
        "numpy-rng-forgotten",
        "one-gpu-only",
        "in-place",
        "error-swallowed",
        "silent-restart",
        "digest-of-the-head",
        "step-forgotten",
        "nothing-skipped",
        "workers-left-behind",
        "best-forgotten",
        "no-shuffle",
        "epochs-ignored",
        "nan-is-best",
        "damaged-ones-counted",
        "leftovers-stay",
    ],
    "ex02": [
        "barrier-inside",
        "error-on-rank-0-only",
        "nobody-waits",
        "rank-0-rng-for-all",
        "nothing-skipped-ddp",
        "raw-optimizer-state",
        "a-file-for-each-rank",
        "each-rank-decides",
        "leftover-blocks",
        "partial-picked",
    ],
    "ex03": [
        "second-one-kills",
        "last-signal-counts",
        "saves-in-the-handler",
        "exit-0",
        "deaf-in-evaluation",
        "stops-without-saving",
        "batch-in-hand",
        "not-saved-at-the-end",
        "old-status-stays",
        "status-without-handler",
        "workers-die",
        "own-flag-only",
        "rank-0-decides",
        "no-time-limit",
        "grace-not-used",
        "far-too-early",
    ],
    "ex04": [
        "ordered-as-text",
        "digests-not-compared",
        "silent-restart",
        "never-requeued",
        "log-truncated",
        "hopeless-is-done",
        "afterok",
        "lock-file",
        "three-restarts-are-enough",
    ],
}
