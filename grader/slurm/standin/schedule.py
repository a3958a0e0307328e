"""Which jobs run where, and which have to make room."""

from __future__ import annotations

from grader.slurm.standin.job import Job

TIERS = {"low": 1, "high": 10}  # PriorityTier; jobs of high preempt those of low


def place(job: Job, free: dict[str, int], cpus: int) -> dict[str, int] | None:
    """Tasks per node; None if there is no room now. `cpus` is what a node has in all."""
    spec, tasks = job.spec, job.wanted_tasks
    each = spec.get("cpus_per_task") or 1
    names = spec.get("nodelist") or []
    count = max(spec.get("nodes") or 0, len(names))
    order = names + [n for n in free if n not in names]
    room = {
        n: (cpus if free[n] == cpus else 0) if spec.get("exclusive") else free[n] for n in order
    }
    if any(room[n] < each for n in names):
        return None
    if not count:  # as few as it takes
        fits = [n for n in order if room[n] // each > 0]
        whole = next((n for n in fits if room[n] // each >= tasks), None)
        if whole:
            return {whole: tasks}
        chosen, left = {}, tasks
        for n in fits:
            chosen[n] = min(left, room[n] // each)
            left -= chosen[n]
            if not left:
                return chosen
        return None
    shares = [tasks // count + (i < tasks % count) for i in range(count)]
    chosen = {}
    for n in order:
        share = shares[len(chosen)] if len(chosen) < count else None
        if share is not None and room[n] >= max(1, share) * each:
            chosen[n] = share
    return chosen if len(chosen) == count and all(n in chosen for n in names) else None


def impossible(job: Job, cpus: int, nodes: int) -> str:
    """Why it could never run; empty if it could."""
    if (job.spec.get("nodes") or 1) > nodes:
        return "PartitionNodeLimit"
    everything = {f"n{n}": cpus for n in range(1, nodes + 1)}
    return "" if place(job, everything, cpus) else "PartitionConfig"


def free(jobs: list[Job], cpus: int, nodes: int, but: tuple[Job, ...] = ()) -> dict[str, int]:
    left = {f"n{n}": cpus for n in range(1, nodes + 1)}
    for job in jobs:
        if job.active and job not in but:
            for name, taken in job.cpus.items():
                left[name] -= taken
    return left


def victims(job: Job, jobs: list[Job], cpus: int, nodes: int) -> list[Job]:
    """The jobs of a lower tier that must be preempted for it, the youngest first; none if that
    wouldn't make enough room.
    """
    lower = [
        j
        for j in jobs
        if j.state == "RUNNING" and "script" in j.spec and TIERS[j.partition] < TIERS[job.partition]
    ]
    if any(j.preempted for j in lower) or any(j.completing for j in jobs):
        going = tuple(j for j in jobs if j.preempted or j.completing)
        if place(job, free(jobs, cpus, nodes, going), cpus):
            return []  # room is being made already
    chosen: list[Job] = []
    for one in sorted(lower, key=lambda j: j.start or 0, reverse=True):
        chosen.append(one)
        if place(job, free(jobs, cpus, nodes, tuple(chosen)), cpus):
            break
    else:
        return []
    for one in list(chosen):  # those that needn't
        rest = tuple(j for j in chosen if j is not one)
        if place(job, free(jobs, cpus, nodes, rest), cpus):
            chosen.remove(one)
    return [j for j in chosen if not j.preempted]


def order(jobs: list[Job]) -> list[Job]:
    """Pending jobs, by tier and age."""
    pending = [j for j in jobs if j.state == "PENDING" and not j.completing]
    return sorted(
        pending,
        key=lambda j: (
            -TIERS[j.partition],
            j.array["job"] if j.array else j.id,
            j.array["task"] if j.array else 0,
        ),
    )
