"""Several ranks as one life: the same script in N processes, with torchrun's variables.

They meet through a file in their own folder: without ports, no two groups can collide, and
gloo's connections stay on loopback. A fault hits one rank. A collective that waits too long for the
others fails, so that a deadlock becomes a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grader.harness.faults import AnyFault
from grader.harness.inside.ranks import rank_environment
from grader.harness.launch import errors_of_ours, prepare, run_prepared
from grader.harness.launcher import FIRST, Launcher, Limits
from grader.harness.silence import ALONE


def run_ranks(
    launcher: Launcher,
    folder: Path,
    script: Path,
    argv: list[list[str]],
    limits: Limits,
    may_write: Sequence[Path] = (),
    faults: Sequence[AnyFault | None] | None = None,
    *,
    given: dict[str, Any] | None = None,
    sandbox: dict[str, Any] | None = None,
    start: str = FIRST,
) -> list[dict[str, Any]]:
    """Run one life of len(argv) ranks to the end of all; return the guardians' results.

    argv    each rank's arguments
    faults  one for each rank, or None
    Rank r lives in folder/r. The other parameters and errors are those of run_life.
    """
    meeting = folder / "meeting"  # where they find each other
    folders = [folder / str(rank) for rank in range(len(argv))]
    # a collective that fails, after PATIENCE, says more about a hang than silence does
    limits = replace(limits, quiet=limits.quiet + ALONE)
    with errors_of_ours(folder):
        meeting.mkdir(parents=True)
        jobs = [
            prepare(
                folders[rank],
                script,
                argv[rank],
                faults[rank] if faults else None,
                limits,
                [meeting, *may_write],
                env=rank_environment(rank, len(argv), meeting / "store"),
                given=given,
                sandbox=sandbox,
                others=folders[:rank] + folders[rank + 1 :],
            )
            for rank in range(len(argv))
        ]
        return run_prepared(launcher, jobs, limits, start)
