"""What happened to a job that a scheduler stopped, moment by moment, by the scheduler's clock."""

from __future__ import annotations

from grader.harness.preemption import Sent
from grader.harness.run import Life, Process


def stop_log(life: Life) -> list[tuple[float, str]]:
    """[(s since the life began, what happened)]: the moments that matter for how it was stopped.

    Each rank has its own moments; those that are equal on all ranks come from rank 0.
    """
    rows = [
        row
        for rank, one in enumerate(life.processes)
        for row in _of(one, f"rank {rank}: " if life.world > 1 else "", rank == 0)
    ]
    return sorted(rows, key=lambda row: row[0])


def _of(life: Process, who: str, speaks: bool) -> list[tuple[float, str]]:
    rows = []
    trained = [e["step"] for e in life.all("trained")]
    signalled = [e["clock"] for e in life.all("signal")]
    for e in life.events:
        name = e["event"]
        if name == "signal":
            sent = Sent(e["signal"], e["step"], e["phase"], e["number"])
            rows.append((e["clock"], f"{who}{sent.story}"))
        elif (
            name == "trained" and signalled and e["step"] in trained and e["clock"] >= signalled[0]
        ):
            rows.append((e["clock"], f"{who}step {e['step']} is done"))
        elif name == "saving" and speaks:
            rows.append((e["clock"], f"saves step {e['step']}"))
        elif name == "saved" and speaks:
            rows.append((e["clock"], f"has saved step {e['step']}"))
        elif name == "killed":
            rows.append((e["clock"], f"{who}SIGKILL, in {e['during']}"))
        elif name == "left":
            rows.append(
                (
                    e["clock"],
                    f"{who}exits with status {e['status']}, after step "
                    f"{max(trained, default=life.resumed_at)}",
                )
            )
    if not any(e["event"] in ("killed", "left") for e in life.events):
        last = max([e["clock"] for e in life.events if "clock" in e], default=0.0)
        rows.append(
            (
                last,
                f"{who}has ended, with {'exit status' if life.status >= 0 else 'signal'} "
                f"{abs(life.status)}",
            )
        )
    return rows
