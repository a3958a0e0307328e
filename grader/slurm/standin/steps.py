"""Steps: what `srun` starts. The container is the parent of a step's tasks, as slurmstepd is; srun
only watches them.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Any

from grader.slurm.standin.formats import Refused, stamp
from grader.slurm.standin.stepd import Container


class Step:
    def __init__(self, job, request: dict, fds: list[int], client):
        self.job, self.request, self.fds, self.client = job, request, fds, client
        self.number = -1  # while it waits for the job's CPUs
        self.layout: dict[str, int] = {}
        self.cpus = 0
        self.container: Container | None = None
        self.failed = False
        self.end_announced = False  # of its end


class Steps:
    def __init__(self, jobs: Any):
        self.jobs = jobs
        self.queues: dict[int, list[Step]] = {}  # by job: those that wait

    # --- starting ---------------------------------------------------------------------------------

    def ask(self, job, request: dict, fds: list[int], client) -> Step:
        """Make a step, which starts now or when the job's other steps leave room. Refused if it
        never can.
        """
        step = Step(job, request, fds, client)
        each = request.get("cpus_per_task") or 1
        names = list(job.nodes)
        count = request.get("nodes") or 0
        if count > len(names):
            raise Refused(
                f"error: Unable to create step for job {job.id}: Requested node configuration "
                "is not available"
            )
        per_node = request.get("ntasks_per_node") or 0
        tasks = request.get("ntasks") or (per_node * (count or len(names)) if per_node else 0)
        if not tasks:
            tasks = (
                count
                or job.spec.get("ntasks")
                or (job.wanted_tasks if job.spec.get("ntasks_per_node") else len(names))
            )
        used = names[: count or min(tasks, len(names))]
        if request.get("nodelist"):
            used = [n for n in names if n in request["nodelist"]] or used
        if tasks < len(names) and not count and not request.get("nodelist"):
            client.say(
                f"srun: Warning: can't run {tasks} processes on {len(names)} nodes, setting "
                f"nnodes to {tasks}"
            )
        room = {n: job.cpus[n] // each for n in used}
        even = [tasks // len(used) + (i < tasks % len(used)) for i in range(len(used))]
        if all(even[i] <= room[n] for i, n in enumerate(used)):
            step.layout = dict(zip(used, even, strict=False))
        elif sum(room.values()) >= tasks:
            left = tasks
            for n in used:
                step.layout[n] = min(left, room[n])
                left -= step.layout[n]
        else:
            raise Refused(
                f"error: Unable to create step for job {job.id}: More processors requested than "
                "permitted"
            )
        whole = sum(job.cpus.values())
        step.cpus = 0 if request.get("overlap") else tasks * each if request.get("exact") else whole
        if self._taken(job) + step.cpus > whole:
            client.say(
                f"srun: Job {job.id} step creation temporarily disabled, retrying (Requested "
                "nodes are busy)"
            )
            self.queues.setdefault(job.id, []).append(step)
        else:
            self._start(step)
        return step

    def _taken(self, job) -> int:
        return sum(s.cpus for s in job.steps.values())

    def _start(self, step: Step) -> None:
        job, request = step.job, step.request
        job.last_step += 1
        step.number = job.last_step
        job.steps[step.number] = step
        base = request["env"]
        if "script" not in job.spec:  # srun's own allocation
            base = job.environment(self.jobs.conf) | {"SLURM_UMASK": f"{request['umask']:04o}"}
        base = base | {
            "SLURM_JOB_ID": str(job.id),
            "SLURM_CONF": self.jobs.conf,
            "SLURM_UMASK": f"{request['umask']:04o}",
        }
        tasks = [
            {
                "argv": request["argv"],
                "env": env,
                "cwd": request["cwd"],
            }
            for env in job.task_environments(base, step.number, step.layout)
        ]
        step.client.started(step, [e for e in step.layout for _ in range(step.layout[e])])
        step.container = Container(
            self.jobs.loop,
            tasks,
            step.fds,
            request["umask"],
            lambda task, status: self._task_ended(step, task, status),
            lambda: self._gone(step),
            self.jobs.confine,
        )
        self._close(step)

    def _close(self, step: Step) -> None:
        for fd in step.fds:
            with suppress(OSError):
                os.close(fd)
        step.fds = []

    # --- ending -----------------------------------------------------------------------------------

    def _task_ended(self, step: Step, task: int, status: int) -> None:
        step.client.task_ended(task, status)
        if "script" not in step.job.spec and os.waitstatus_to_exitcode(status):
            step.job.exit = max(step.job.exit, status)
        if status and step.request.get("kill_on_bad_exit") and not step.failed:
            step.failed = True
            step.client.say(
                f"srun: launch/slurm: _step_signal: Terminating StepId={step.job.id}.{step.number}"
            )
            self._end_slowly(step)

    def end(self, step: Step, aloud: bool = True) -> None:
        """Kill the step: by `scancel JOB.STEP`, SIGTERM to srun, or the death of srun."""
        if aloud:
            self._announce_end(step, "")
        assert step.container  # it runs
        step.container.kill()

    def _end_slowly(self, step: Step) -> None:
        self._announce_end(step, "")
        assert step.container  # it runs
        step.container.signal(signal.SIGCONT, signal.SIGTERM)
        self.jobs.loop.after(self.jobs.options.kill_wait, step.container.kill)

    def _gone(self, step: Step) -> None:
        job = step.job
        job.steps.pop(step.number, None)
        step.client.gone()
        queue = self.queues.get(job.id, [])
        while (
            queue
            and job.state == "RUNNING"
            and self._taken(job) + queue[0].cpus <= sum(job.cpus.values())
        ):
            waiting = queue.pop(0)
            waiting.client.say(f"srun: Step created for job {job.id}")
            self._start(waiting)
        if "script" not in job.spec and job.state == "RUNNING":
            self.jobs.end_by_itself(job)
        self.jobs.settle(job)

    def drop(self, step: Step) -> None:
        """Remove a waiting step: its srun has gone."""
        self._close(step)
        queue = self.queues.get(step.job.id, [])
        if step in queue:
            queue.remove(step)

    # --- signals ----------------------------------------------------------------------------------

    def signal(
        self, job, *numbers: int, because: str | None = None, children: bool = False
    ) -> None:
        """Signal all steps of a job. `because`: if the signal ends them, the reason to print."""
        for step in list(job.steps.values()):
            if because is not None:
                self._announce_end(step, because)
            step.container.signal(*numbers, children=children)

    def _announce_end(self, step: Step, because: str) -> None:
        if step.end_announced:
            return
        step.end_announced = True
        assert step.container  # it runs
        name = next(iter(step.layout))
        step.container.say(
            f"slurmstepd-{name}: error: *** STEP {step.job.id}.{step.number} ON {name} "
            f"CANCELLED AT {stamp(time.time())}{because} ***"
        )
        step.client.aborted()

    def kill(self, job) -> None:
        for step in list(job.steps.values()):
            step.container.kill()
