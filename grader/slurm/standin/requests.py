"""What clients ask the controller, and what it answers. A refusal is an answer, too."""

from __future__ import annotations

import os
from contextlib import suppress

from grader.slurm.standin import schedule
from grader.slurm.standin.formats import Refused
from grader.slurm.standin.job import Job, array_of
from grader.slurm.standin.lifecycle import KILL, Jobs
from grader.slurm.standin.protocol import Line
from grader.slurm.standin.steps import Step

SETTLE = 0.05  # s


class Client:
    """A connection to one client. For srun and sbatch --wait it stays open, and shows when the
    client dies.
    """

    def __init__(self, jobs: Jobs, line: Line):
        self.jobs, self.line = jobs, line
        self.step: Step | None = None
        self.job: Job | None = None
        self.request: dict = {}
        self.queued = False

    def send(self, message: dict) -> None:
        with suppress(OSError):
            self.line.send(message)

    def say(self, text: str) -> None:
        self.send({"say": text})

    def take(self, message: dict) -> None:
        try:
            getattr(self, f"do_{message['do']}")(message)
        except Refused as e:
            self.send({"refused": str(e), "status": e.status})

    def lost(self) -> None:
        """The client has gone. If it was srun, its step is killed, unless srun died with its whole
        job.
        """
        if self.step is not None and self.step.container is None:
            self.jobs.steps.drop(self.step)
        for fd in self.line.fds:
            with suppress(OSError):
                os.close(fd)
        self.line.fds = []
        if self.step is not None and self.step.container is not None:
            self.jobs.loop.after(SETTLE, self._orphaned)
        if self.job is not None and self.job.launcher is self:
            if self.job.state == "RUNNING" and self.job.steps:
                self.jobs.steps.kill(self.job)
            elif not self.job.over:
                self.jobs.cancel(self.job)
        for job in self.jobs.all:
            if self in job.waiting:
                job.waiting.remove(self)

    def _orphaned(self) -> None:
        assert self.step  # it was there when this was about to be called
        job = self.step.job
        shell_lives = job.batch is not None and job.batch.left
        if job.state == "RUNNING" and shell_lives and self.step.number in job.steps:
            self.jobs.steps.end(self.step, aloud=False)

    # --- sbatch -----------------------------------------------------------------------------------

    def do_submit(self, message: dict) -> None:
        spec = message["spec"]
        options = self.jobs.options
        if spec["partition"] not in schedule.TIERS:
            raise Refused(
                f"error: invalid partition specified: {spec['partition']}\nerror: Batch job "
                "submission failed: Invalid partition name specified"
            )
        for name in spec.get("nodelist") or []:
            if name not in [f"n{n}" for n in range(1, options.nodes + 1)]:
                raise Refused("error: Batch job submission failed: Invalid node name specified")
        if spec.get("may_requeue") is None:
            spec["may_requeue"] = True
        number = self.jobs.new_id()
        try:
            tasks, at_once = array_of(spec["array"]) if spec.get("array") else ([None], None)
        except ValueError:
            raise Refused(
                "error: Batch job submission failed: Invalid job array specification"
            ) from None
        made = []
        for task in tasks:
            job = Job(number, spec, limit=spec.get("limit"))
            if task is not None:
                job.array = {"job": number, "task": task, "tasks": tasks, "limit": at_once}
            job.unmet = [(kind, other) for kind, other in spec.get("depends") or []]
            job.reason = "Dependency" if job.unmet else "None"
            made.append(job)
        for job in made:
            if message.get("wait"):
                job.waiting.append(self)
            self.jobs.add(job)
        self.expected, self.worst = len(made), 0
        self.send({"id": number})

    def over(self, job: Job) -> None:
        """A job that sbatch --wait waits for."""
        code = os.waitstatus_to_exitcode(job.exit)
        self.worst = max(self.worst, code if code >= 0 else 1)
        self.expected -= 1
        if not self.expected:
            self.send({"over": self.worst})

    # --- srun -------------------------------------------------------------------------------------

    def do_srun(self, message: dict) -> None:
        self.request = message
        if message.get("job") is None:
            self.job = Job(
                self.jobs.new_id(),
                message["spec"] | {"may_requeue": False},
                limit=message["spec"].get("limit"),
            )
            self.job.launcher = self
            self.jobs.add(self.job)
            self.jobs.loop.after(SETTLE, self._queued)
            return
        found = [j for j in self.jobs.find(str(message["job"])) if j.id == int(message["job"])]
        if not found or found[0].state != "RUNNING":
            raise Refused(
                f"error: Unable to confirm allocation for job {message['job']}: Job/step "
                "already completing or completed"
            )
        self._step(found[0])

    def _step(self, job: Job) -> None:
        fds, self.line.fds = self.line.fds, []
        try:
            self.step = self.jobs.steps.ask(job, self.request, fds, self)
        except Refused as e:
            for fd in fds:
                os.close(fd)
            self.send({"refused": str(e), "status": e.status})
            if job.launcher is self:
                self.jobs.cancel(job)

    def _queued(self) -> None:
        if self.job is not None and self.job.state == "PENDING":
            self.queued = True
            self.say(f"srun: job {self.job.id} queued and waiting for resources")

    def allocated(self, job: Job) -> None:
        if self.queued:
            self.say(f"srun: job {job.id} has been allocated resources")
        self._step(job)

    def started(self, step, nodes: list[str]) -> None:
        self.send({"started": f"{step.job.id}.{step.number}", "nodes": nodes})

    def task_ended(self, task: int, status: int) -> None:
        self.send({"task": task, "status": status})

    def aborted(self) -> None:
        self.send({"aborted": True})

    def gone(self) -> None:
        self.send({"gone": True})

    def do_signal_step(self, message: dict) -> None:
        step = self.step
        if step is not None and step.container is not None:
            if message["signal"] != KILL:
                step.container.signal(message["signal"])
            if message["signal"] == KILL:
                self.jobs.steps.end(step)
            elif message.get("end"):
                self.jobs.loop.after(SETTLE, lambda: self.jobs.steps.end(step))

    # --- scancel, scontrol ------------------------------------------------------------------------

    def do_cancel(self, message: dict) -> None:
        """Cancel jobs by id, or by user, name, state ...; with a signal, send them that instead."""
        number, wanted = message.get("signal"), message["filter"]
        if message.get("step"):
            job_ref, _, step = message["step"].partition(".")
            for job in self.jobs.find(job_ref):
                if step.isdigit() and int(step) in job.steps:
                    one = job.steps[int(step)]
                    if number is None:
                        self.jobs.steps.end(one)
                    else:
                        one.container.signal(number)
            return self.send({"done": True})
        chosen = (
            [j for ref in message["jobs"] for j in self.jobs.find(ref)]
            if message["jobs"]
            else list(self.jobs.all)
        )
        for job in chosen:
            if job.over or any(
                v
                and {
                    "name": job.spec["name"],
                    "user": job.spec["user"],
                    "partition": job.partition,
                    "state": job.state,
                }[k]
                != v
                for k, v in wanted.items()
            ):
                continue
            if number is None or (
                number == KILL and not message.get("batch") and not message.get("full")
            ):
                self.jobs.cancel(job)
            elif job.state == "RUNNING":
                if message.get("full") or message.get("batch"):
                    if job.batch:
                        job.batch.signal(number, children=bool(message.get("full")))
                if not message.get("batch"):
                    self.jobs.steps.signal(job, number, children=bool(message.get("full")))
        self.send({"done": True})
        return None

    def _known(self, ref: str) -> list[Job]:
        found = self.jobs.find(ref)
        if not found:
            raise Refused(f"Invalid job id specified for job {ref}")
        return found

    def do_requeue(self, message: dict) -> None:
        for ref in message["jobs"]:
            for job in self._known(ref):
                self.jobs.ask_to_requeue(job)
        self.send({"done": True})

    def do_update(self, message: dict) -> None:
        for job in self._known(message["job"]):
            if job.over:
                raise Refused(f"Job has already finished for job {job.ref}")
            if "end" in message:
                if job.state != "RUNNING":
                    raise Refused(f"Job is pending execution for job {job.ref}")
                self.jobs.set_limit(job, None, message["end"])
            if "limit" in message:
                job.spec = job.spec | {"limit": message["limit"]}
                self.jobs.set_limit(job, message["limit"])
            if "requeue" in message:
                job.spec = job.spec | {"may_requeue": message["requeue"]}
        self.send({"done": True})

    # --- squeue, sacct, sinfo, scontrol show ------------------------------------------------------

    def do_jobs(self, message: dict) -> None:
        jobs = (
            self.jobs.all
            if message.get("jobs") is None
            else [j for ref in message["jobs"] for j in self.jobs.find(ref)]
        )
        if message.get("jobs") and not jobs:
            raise Refused("slurm_load_jobs error: Invalid job id specified")
        self.send({"jobs": [j.describe() for j in jobs]})

    def do_records(self, message: dict) -> None:
        self.send({"jobs": self.jobs.records})

    def do_nodes(self, message: dict) -> None:
        options, seen = self.jobs.options, []
        for name, left in schedule.free(self.jobs.all, options.cpus, options.nodes).items():
            going = any(j.completing and name in j.nodes for j in self.jobs.all)
            state = (
                "completing"
                if going
                else "idle"
                if left == options.cpus
                else "mixed"
                if left
                else "allocated"
            )
            seen.append({"name": name, "state": state, "cpus": options.cpus, "free": left})
        self.send({"nodes": seen})
