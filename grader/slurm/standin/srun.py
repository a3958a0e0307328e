"""srun: asks for a step, watches it, and passes on the signals that Slurm's srun passes on."""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time

from . import sbatch
from .formats import Refused, hostnames, unknown
from .options import FLAG, MAYBE, VALUE, parse, say
from .protocol import call

TABLE = sbatch.SIZE | {
    "o output": VALUE,
    "e error": VALUE,
    "i input": VALUE,
    "open-mode": VALUE,
    "K kill-on-bad-exit": MAYBE,
    "u unbuffered": FLAG,
    "exact": FLAG,
    "overlap": FLAG,
    "export": VALUE,
    "D chdir": VALUE,
    "jobid": VALUE,
    "mem": VALUE,
    "Q quiet": FLAG,
    "cpu-bind": VALUE,
    "mpi": VALUE,
}
AGAIN = 1.0  # s within which a second SIGINT means it


def main(directory: str, args: list[str]) -> int:
    options, argv = parse(args, TABLE, stop_at_first=True)
    if not argv:
        raise Refused("fatal: No command given to execute.")
    if options.get("mpi", "none") != "none" or options.get("cpu-bind", "none").split(",")[
        -1
    ] not in ("none", "no"):
        raise unknown("--mpi and --cpu-bind, but for none")
    for name, value in os.environ.items():
        if name.startswith("SRUN_") and name not in ("SRUN_DEBUG", "SRUN_CPUS_PER_TASK"):
            raise unknown(f"the variable {name}={value}")
    job = options.get("jobid") or os.environ.get("SLURM_JOB_ID")
    request: dict = {
        "do": "srun",
        "argv": argv,
        "env": sbatch.environment(options.get("export")),
        "umask": sbatch._umask(),
        "cwd": os.path.abspath(options.get("chdir") or os.getcwd()),
        "job": job,
        "overlap": bool(options.get("overlap")),
        "exact": bool(options.get("exact")),
        "kill_on_bad_exit": options.get("kill-on-bad-exit") not in (None, "0"),
        "nodelist": hostnames(options["nodelist"]) if "nodelist" in options else None,
    }
    for key in ("nodes", "ntasks", "cpus-per-task", "ntasks-per-node"):
        request[key.replace("-", "_")] = sbatch.number(options, key)
    if job is None:
        name = options.get("job-name") or os.path.basename(argv[0])
        request["spec"] = sbatch.describe(
            {
                k: v
                for k, v in options.items()
                if f"{k}"
                in (
                    "nodes",
                    "ntasks",
                    "cpus-per-task",
                    "ntasks-per-node",
                    "nodelist",
                    "time",
                    "partition",
                    "exclusive",
                )
            }
        )
        request["spec"] |= {"name": name, "command": argv[0], "args": []}
    return Watch(directory, request, options).run()


class Watch:
    def __init__(self, directory: str, request: dict, options: dict):
        self.quiet = bool(options.get("quiet"))
        self.step = ""
        self.nodes: list[str] = []  # of each task
        self.codes: dict[int, int] = {}  # of the tasks that have ended
        self.signalled, self.interrupted = False, 0.0
        self.end_announced = self.given_up = False
        fds = [0, 1, 2]
        self.opened: list[int] = []
        for target, key, how in (
            (0, "input", os.O_RDONLY),
            (1, "output", os.O_WRONLY | os.O_CREAT),
            (2, "error", os.O_WRONLY | os.O_CREAT),
        ):
            name = options.get(key) or (options.get("output") if key == "error" else None)
            if name:
                if "%" in name:
                    raise unknown(f"srun --{key} with a %")
                how |= (
                    0
                    if target == 0
                    else os.O_APPEND
                    if options.get("open-mode") in ("a", "append")
                    else os.O_TRUNC
                )
                try:
                    fds[target] = (
                        fds[1]
                        if key == "error" and "error" not in options
                        else os.open(name, how, 0o666)
                    )
                except OSError as e:
                    raise Refused(f"error: Could not open {name}: {e.strerror}") from e
        for fd in range(3):  # a closed one
            try:
                os.fstat(fd)
            except OSError:
                os.open(os.devnull, os.O_RDWR)
        self.line = call(directory, request, fds)
        self.over = False

    def run(self) -> int:
        # as grader/wakeup.py does, which a job in its sandbox can't import
        wake, woken = os.pipe()
        for fd in (wake, woken):
            os.set_blocking(fd, False)
        for number in (
            signal.SIGTERM,
            signal.SIGHUP,
            signal.SIGQUIT,
            signal.SIGINT,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGCONT,
        ):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        selector = selectors.DefaultSelector()
        selector.register(self.line.sock, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while not self.over:
            for key, _ in selector.select():
                if key.fileobj == wake:
                    for caught in os.read(wake, 4096):
                        self.caught(caught)
                elif not self.handle_messages():
                    selector.unregister(self.line.sock)
        if self.signalled:
            self.say(f"Force Terminated StepId={self.step}")
        return max(self.codes.values(), default=0)

    def say(self, text: str) -> None:
        if not self.quiet:
            say("srun", text)

    def handle_messages(self) -> bool:
        """Handle the controller's messages; return whether more can come."""
        messages = self.line.read()
        if messages is None:
            if not self.over:
                self.say("error: the stand-in ended")
                self.codes[-1], self.over = 1, True
            return False
        for message in messages:
            if "refused" in message:
                self.over = True
                raise Refused(message["refused"], message.get("status", 1))
            if "say" in message and not self.quiet:
                print(message["say"], file=sys.stderr, flush=True)
            if "started" in message:
                self.step, self.nodes = message["started"], message["nodes"]
            if "aborted" in message and not self.end_announced:
                self.end_announced = True
                self.say("Job step aborted: Waiting up to 7 seconds for job step to finish.")
            if "task" in message:
                self.ended(message["task"], message["status"])
            if "gone" in message:
                self.over = True
        return True

    def ended(self, task: int, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.codes[task] = code if code >= 0 else 128 - code
        if code < 0:
            self.signalled = not self.end_announced
            if not self.given_up:
                self.say(
                    f"error: {self.nodes[task]}: task {task}: "
                    f"{(signal.strsignal(-code) or '?').split(':')[0]}"
                )
        elif code:
            self.say(f"error: {self.nodes[task]}: task {task}: Exited with exit code {code}")

    def caught(self, number: int) -> None:
        if number in (signal.SIGUSR1, signal.SIGUSR2):
            return self.pass_on(number)
        if number == signal.SIGCONT:
            return self.say("got SIGCONT")
        if number == signal.SIGINT and time.monotonic() - self.interrupted > AGAIN:
            self.interrupted = time.monotonic()
            self.say("interrupt (one more within 1 sec to abort)")
            for task in range(len(self.nodes)):
                if task not in self.codes:
                    self.say(f"StepId={self.step} task {task}: running")
            return None
        if number == signal.SIGINT:
            self.say(f"sending Ctrl-C to StepId={self.step}")
            self.say("forcing job termination")
            self.given_up = True
            return self.pass_on(number, end=True)
        if number == signal.SIGQUIT:
            self.say("Quit")
        self.say("forcing job termination")
        self.pass_on(signal.SIGKILL)
        return None

    def pass_on(self, number: int, end: bool = False) -> None:
        if self.step and not self.over:
            self.line.send({"do": "signal_step", "signal": int(number), "end": end})
        elif not self.step and number == signal.SIGKILL:
            raise Refused("error: interrupted before the step began")
