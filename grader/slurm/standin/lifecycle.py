"""The life of jobs: start, the ways to end, requeue. The sequences are those measured on the real
cluster; only the housekeeping between them is faster.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from grader.harness.sandbox import confine_jobs
from grader.slurm.standin.formats import Refused, log_name, stamp
from grader.slurm.standin.job import YEAR, Job
from grader.slurm.standin.loop import Loop
from grader.slurm.standin.queue import Queue
from grader.slurm.standin.stepd import Container
from grader.slurm.standin.steps import Steps

CONT, TERM, KILL = signal.SIGCONT, signal.SIGTERM, signal.SIGKILL
TWICE = 0.02  # s between the two SIGTERMs that a step gets at a limit, as measured
NO_OUTPUT = 53  # the signal that Slurm reports where the log couldn't be opened: "0:53"


class Jobs(Queue):
    def __init__(self, loop: Loop, directory: Path, options, sandbox: dict | None = None):
        super().__init__(loop, options)
        self.directory, self.sandbox = directory, sandbox
        self.records: list[dict] = []  # what `sacct -c` knows: a line for each end
        self.steps = Steps(self)

    # --- the start --------------------------------------------------------------------------------

    def start(self, job: Job, nodes: dict[str, int]) -> None:
        if (
            job.array
            and job.id == job.array["job"]
            and any(j is not job and j.id == job.id for j in self.all)
        ):
            job.id = self.new_id()  # the array's own number is the last one's to start
        each = job.spec.get("cpus_per_task") or 1
        job.nodes = nodes
        job.cpus = {
            n: self.options.cpus if job.spec.get("exclusive") else max(1, tasks) * each
            for n, tasks in nodes.items()
        }
        job.state, job.reason, job.start, job.exit = "RUNNING", "None", time.time(), 0
        job.warned = job.preempted = job.requeue = job.killed = False
        job.last_step = -1
        self.set_limit(job, job.spec.get("limit"))
        if job.launcher:
            job.launcher.allocated(job)
        else:
            self._start_batch(job)

    def _start_batch(self, job: Job) -> None:
        spool = self.directory / next(iter(job.nodes)) / f"job{job.id:05d}"
        spool.mkdir(parents=True, exist_ok=True)
        script = spool / "slurm_script"  # $0: a copy, gone when the job is
        script.write_bytes(os.fsencode(job.spec["script"]))
        script.chmod(0o700)
        fds: list[int] = []
        try:
            fds = self._open_files(job)
        except (OSError, Refused):
            job.exit = NO_OUTPUT
            job.reason = "JobLaunchFailure"
            return self._ended(job, "FAILED")
        task = {
            "argv": [str(script), *job.spec["args"]],
            "env": job.environment(self.conf),
            "cwd": job.spec["cwd"],
        }
        job.batch = Container(
            self.loop,
            [task],
            fds,
            job.spec["umask"],
            lambda _, status: self._shell_ended(job, status),
            lambda: self._batch_gone(job),
            self.confine,
        )
        for fd in fds:
            os.close(fd)
        return None

    def confine(self) -> None:
        """Called in a container: its tasks see only the commands, the settings, and the sandbox's
        paths.
        """
        if self.sandbox:
            # where the scripts' copies lie
            nodes = [f"n{n}" for n in range(1, self.options.nodes + 1)]
            known = [str(self.directory / name) for name in ("bin", "slurm.conf", "socket", *nodes)]
            confine_jobs([*self.sandbox["readable"], *known], self.sandbox["writable"])

    def _own(self, path: str) -> str:
        """The path, if a job may have its output written there; otherwise PermissionError."""
        real = os.path.realpath(path)
        if self.sandbox and real != os.devnull:
            if not any(
                real.startswith(os.path.realpath(folder) + os.sep)
                for folder in self.sandbox["writable"]
            ):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real

    def _open_files(self, job: Job) -> list[int]:
        """Standard input, output, error of the batch shell."""
        append = job.spec.get("open_mode") == "append" or (
            job.spec.get("open_mode") is None and self.options.settings.get("JobFileAppend") == "1"
        )
        how = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
        seen, fds = job.describe(), []
        try:
            fds.append(
                os.open(
                    os.path.join(job.spec["cwd"], job.spec.get("in") or os.devnull), os.O_RDONLY
                )
            )
            out = self._own(os.path.join(job.spec["cwd"], log_name(job.spec["out"], seen)))
            fds.append(os.open(out, how, 0o666 & ~job.spec["umask"]))
            err = job.spec.get("err")
            fds.append(
                os.open(
                    self._own(os.path.join(job.spec["cwd"], log_name(err, seen))),
                    how,
                    0o666 & ~job.spec["umask"],
                )
                if err
                else os.dup(fds[1])
            )
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    @property
    def conf(self) -> str:
        return f"{self.directory}/slurm.conf"

    # --- the clock --------------------------------------------------------------------------------

    def set_limit(self, job: Job, limit: int | None, end: float | None = None) -> None:
        """`limit` in minutes, or the moment of the end itself."""
        if end is not None and job.start is not None:
            limit = max(1, -(-int(end - job.start) // 60))
        job.limit = limit if limit is not None or job.start is None else YEAR
        if not job.start or job.state != "RUNNING":
            return
        job.end = end if end is not None else job.start + (job.limit or 0) * 60
        for name in ("limit", "warn"):  # the grace of a preemption continues
            if timer := job.timers.pop(name, None):
                timer.cancel()
        seconds = min(job.end - time.time(), YEAR * 60)
        job.timers["limit"] = self.loop.after(seconds, lambda: self.time_out(job))
        if job.spec.get("signal") and not job.warned:
            before = job.spec["signal"]["before"]
            job.timers["warn"] = self.loop.after(
                min(job.end - before - time.time(), YEAR * 60), lambda: self._warn(job)
            )

    def _warn(self, job: Job) -> None:
        if job.state == "RUNNING" and not job.preempted:
            job.warned = True
            number = job.spec["signal"]["number"]
            if job.spec["signal"]["shell"]:
                self._signal_shell(job, CONT, number)
            else:
                self.steps.signal(job, number, CONT)

    # --- the ends ---------------------------------------------------------------------------------

    def time_out(self, job: Job) -> None:
        if job.state == "RUNNING":
            job.reason = "TimeLimit"
            self._ask_then_kill(job, "TIMEOUT", " DUE TO TIME LIMIT", twice=True)

    def preempt(self, job: Job) -> None:
        """Ask its steps to end at once; at the end of the grace, ask steps and shell."""
        job.preempted = True
        if not self.options.grace:
            return self._grace_over(job)
        asked = self.options.settings.get(
            "SlurmctldParameters"
        ) == "preempt_send_user_signal" and job.spec.get("signal")
        if asked and asked["shell"]:
            self._signal_shell(job, CONT, asked["number"])
        elif asked:
            self.steps.signal(job, asked["number"], CONT)
        else:
            self.steps.signal(job, CONT, TERM, because="")
        job.timers["grace"] = self.loop.after(self.options.grace, lambda: self._grace_over(job))
        return None

    def _grace_over(self, job: Job) -> None:
        if job.state == "RUNNING":
            job.requeue = job.spec["may_requeue"]
            self._ask_then_kill(job, "PREEMPTED", " DUE TO PREEMPTION", twice=True)

    def cancel(self, job: Job) -> None:
        if job.state == "PENDING" and not job.completing:
            job.start = job.end = time.time()
            self._record(job, "CANCELLED")
            job.state = "CANCELLED"
            self._over(job)
        elif job.state == "RUNNING":
            self._ask_then_kill(job, "CANCELLED", "")
        elif job.completing and job.requeue:
            job.requeue, job.state = False, "CANCELLED"

    def ask_to_requeue(self, job: Job) -> None:
        """Refused if it can't be."""
        if not job.spec["may_requeue"] or "script" not in job.spec:
            raise Refused(f"Requested operation is presently disabled for job {job.ref}")
        if job.state == "RUNNING":
            job.requeue = True
            self._ask_then_kill(job, "PENDING", " DUE TO JOB REQUEUE")
        elif job.completing:
            job.requeue = True
        elif job.over:
            self._to_queue(job)
        else:
            raise Refused(f"Job is pending execution for job {job.ref}")

    def _ask_then_kill(self, job: Job, state: str, because: str, twice: bool = False) -> None:
        """Send SIGTERM to tasks and shell and, kill_wait later, SIGKILL to all that is left."""
        job.state, job.completing, job.end, job.preempted = state, True, time.time(), False
        self._cancel_timers(job)
        if twice:
            self.steps.signal(job, TERM)
            self.loop.after(TWICE, lambda: self.steps.signal(job, CONT, TERM, because=because))
        else:
            self.steps.signal(job, CONT, TERM, because=because)
        if job.batch:
            name = next(iter(job.nodes))
            job.batch.say(
                f"slurmstepd-{name}: error: *** JOB {job.id} ON {name} CANCELLED AT "
                f"{stamp(time.time())}{because} ***"
            )
            self._signal_shell(job, CONT, TERM)
        job.timers["kill"] = self.loop.after(self.options.kill_wait, lambda: self._kill(job))
        self._record(job, state)
        self.settle(job)

    def _signal_shell(self, job: Job, *numbers: int) -> None:
        if job.batch:
            job.batch.signal(*numbers)

    def _kill(self, job: Job) -> None:
        """Kill the shell's container first: srun is in it, and mustn't live to report the end of
        its tasks.
        """
        job.killed = True
        if job.batch:
            job.batch.kill()
        else:
            self.steps.kill(job)

    def _shell_ended(self, job: Job, status: int) -> None:
        job.exit = status

    def _batch_gone(self, job: Job) -> None:
        """The shell has ended, and its container has killed the rest: end the job."""
        job.batch = None
        if job.killed:
            self.steps.kill(job)
        if job.completing:
            return self.settle(job)
        self.end_by_itself(job)
        return None

    def end_by_itself(self, job: Job) -> None:
        code = os.waitstatus_to_exitcode(job.exit)
        wanted = self.options.settings.get("RequeueExit", "")
        if code > 0 and str(code) in wanted.split(",") and job.spec["may_requeue"]:
            job.requeue = True
        job.reason = "None" if code == 0 else "NonZeroExitCode" if code > 0 else "JobLaunchFailure"
        self._ended(job, "COMPLETED" if code == 0 else "FAILED")

    def _ended(self, job: Job, state: str) -> None:
        job.state, job.completing, job.end = state, True, time.time()
        self._cancel_timers(job)
        if job.steps:
            self.steps.signal(job, CONT, TERM, because="")
            job.timers["kill"] = self.loop.after(self.options.kill_wait, lambda: self._kill(job))
        self._record(job, state)
        self.settle(job)

    def settle(self, job: Job) -> None:
        """When no process of an ending job is left, finish it or put it back into the queue."""
        if not job.completing or job.batch is not None or job.steps:
            return None
        job.completing = False
        self._cancel_timers(job)
        if job.requeue:
            return self._to_queue(job)
        self._over(job)
        return None

    def _over(self, job: Job) -> None:
        self._clear_spool(job)
        job.record["exit"] = job.exit
        for line in job.waiting:
            line.over(job)
        job.waiting = []
        self.schedule_soon()

    def _to_queue(self, job: Job) -> None:
        self._clear_spool(job)
        job.requeue = False
        job.restarts += 1
        job.state, job.reason = "PENDING", "BeginTime"
        job.nodes, job.cpus, job.start, job.end, job.limit = (
            {},
            {},
            None,
            None,
            job.spec.get("limit"),
        )
        job.submitted = time.time()
        job.eligible = job.submitted + self.options.requeue_delay
        self.loop.after(self.options.requeue_delay + 0.001, self.schedule_soon)
        self.schedule_soon()

    def _clear_spool(self, job: Job) -> None:
        for name in job.nodes:
            with suppress(OSError):
                (self.directory / name / f"job{job.id:05d}" / "slurm_script").unlink()
            with suppress(OSError):
                (self.directory / name / f"job{job.id:05d}").rmdir()

    def _cancel_timers(self, job: Job) -> None:
        for timer in job.timers.values():
            timer.cancel()
        job.timers = {}

    def _record(self, job: Job, state: str) -> None:
        job.record = job.describe() | {"state": state}
        self.records.append(job.record)
