"""The queue: which jobs wait, for what, and until when."""

from __future__ import annotations

import time

from grader.slurm.standin import schedule
from grader.slurm.standin.formats import Refused
from grader.slurm.standin.job import Job, array_of
from grader.slurm.standin.loop import Loop


class Queue:
    def __init__(self, loop: Loop, options):
        self.loop, self.options = loop, options
        self.all: list[Job] = []
        self.next_id = int(options.settings.get("FirstJobId", 1))
        self._due = False

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id - 1

    def add(self, job: Job) -> None:
        self.all.append(job)
        self.schedule_soon()

    def schedule_soon(self) -> None:
        if not self._due:
            self._due = True
            self.loop.after(0, self._schedule)

    def _schedule(self) -> None:
        self._due = False
        options = self.options
        for job in schedule.order(self.all):
            if job.state != "PENDING" or self._must_wait(job):
                continue
            room = schedule.free(self.all, options.cpus, options.nodes)
            chosen = schedule.place(job, room, options.cpus)
            if chosen:
                self.start(job, chosen)
                continue
            job.reason = schedule.impossible(job, options.cpus, options.nodes) or "Resources"
            for victim in schedule.victims(job, self.all, options.cpus, options.nodes):
                self.preempt(victim)

    # what becomes of a job is for Jobs to say (lifecycle.py)

    def start(self, job: Job, nodes: dict[str, int]) -> None:
        raise NotImplementedError

    def preempt(self, job: Job) -> None:
        raise NotImplementedError

    def cancel(self, job: Job) -> None:
        raise NotImplementedError

    def _must_wait(self, job: Job) -> bool:
        if self._dependency(job):
            pass
        elif job.eligible > time.time():
            job.reason = "BeginTime"
        elif job.array and job.array["limit"] and self._at_once(job) >= job.array["limit"]:
            job.reason = "JobArrayTaskLimit"
        else:
            return False
        return True

    def _at_once(self, job: Job) -> int:
        array = job.array or {}
        return sum(j.active for j in self.all if j.array and j.array["job"] == array["job"])

    def _dependency(self, job: Job) -> bool:
        """Whether it still has to wait for other jobs. A condition that can no longer be met
        becomes its reason, and ends nothing.
        """
        unmet = []
        for kind, number in job.unmet:
            if kind == "singleton":
                others = [
                    j
                    for j in self.all
                    if j is not job
                    and j.spec["name"] == job.spec["name"]
                    and not j.over
                    and j.submitted < job.submitted
                ]
                if others:
                    unmet.append((kind, number))
                continue
            others = self.find(str(number))
            ended = all(j.over for j in others)
            good = all(j.state == "COMPLETED" for j in others)
            if not ended and not (kind == "after" and all(j.start for j in others)):
                unmet.append((kind, number))
            elif (kind == "afterok" and not good) or (kind == "afternotok" and good):
                job.never = True
                unmet.append((kind, number))
        job.unmet = unmet
        if unmet:
            job.reason = "DependencyNeverSatisfied" if job.never else "Dependency"
            if job.never and job.spec.get("kill_invalid"):
                self.loop.after(0, lambda: self.cancel(job))
        return bool(unmet)

    def find(self, ref: str) -> list[Job]:
        """What 7, 7_2 or 7_[1-3] means: the job, or the tasks of the array."""
        number, underscore, task = ref.partition("_")
        if not number.isdigit():
            raise Refused(f"error: Invalid job id: {ref}")
        if not underscore:
            return [
                j
                for j in self.all
                if j.id == int(number) or (j.array and j.array["job"] == int(number))
            ]
        try:
            tasks = array_of(task.strip("[]"))[0]
        except ValueError:
            raise Refused(f"error: Invalid job id: {ref}") from None
        return [
            j
            for j in self.all
            if j.array and j.array["job"] == int(number) and j.array["task"] in tasks
        ]
