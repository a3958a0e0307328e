"""The guardian of one life: it starts the student's process, limits it, and cleans up after it.

The guardian is trusted code between the grader and the student's process. It sits in the same place
whether the fork server forked the life or it was started plainly, so both give equal verdicts.

- On Linux it is the reaper of every descendant, even after a fork or setsid. So when the main
  process ends, everything left of the life is the guardian's child, and it kills all of that.
- It ends the life at its limits of wall time, CPU time, memory, output and disk usage, and when it
  has been silent for too long (silence.py).
- It watches a lifeline (a pipe): when the grader dies, the life ends, too.

It writes the outcome to `result` as JSON:
    status       exit status or -signal
    ended        null, or which limit ended it: wall, quiet, cpu, memory, output, disk; or "stopped"
    wall, cpu    s
    waited       s that it couldn't run, since it waited for a processor or the disk
    stalls       where in time that was: [from, to, seconds of it], in time.monotonic()'s seconds
    silent       s since its last report, less such time
    left_behind  processes still alive at the end
"""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import select
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

if __name__ == "__main__":  # started plainly with -I, it finds only the standard library
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from grader.files import write_atomically
from grader.harness import sandbox
from grader.harness.silence import Silence, ask_where
from grader.processes import children, descendants, kill_session, reap_descendants
from grader.wakeup import wakeup_pipe

POLL = 0.1  # s between two checks of memory and output; the process's end needs no polling
DISK_POLL = 1.0  # s between two measurements of disk usage
MOST_FILES = 20_000  # more files than this are over any limit


def guard(job: dict[str, Any], start: Callable[[], int], lifeline: int) -> dict[str, Any]:
    """Run `start`, which forks the main process and returns its pid, within job["limits"]."""
    sandbox.around_guardian(job["sandbox"])
    became_reaper = reap_descendants()
    wake_r, _ = wakeup_pipe(signal.SIGCHLD, signal.SIGTERM)

    limits, began = job["limits"], time.monotonic()
    disk_seen = began
    main = start()
    silence = Silence(job, main)
    status, cpu, ended = None, 0.0, None
    while status is None:
        ready = select.select([wake_r, lifeline], [], [], POLL)[0]
        if wake_r in ready and signal.SIGTERM in os.read(wake_r, 4096):
            ended = "stopped"
        if lifeline in ready:
            ended = "stopped"
        while status is None:
            pid, code, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                break
            if pid == main:
                status, cpu = os.waitstatus_to_exitcode(code), usage.ru_utime + usage.ru_stime
        if status is None and not ended:
            now = time.monotonic()
            ended = _over(job, main, now - began)
            if silence.lasts_too_long() and not ended:
                ended = "quiet"
            if not ended and now - disk_seen > DISK_POLL:
                ended = "disk" if _written(job["may_write"]) > limits["disk"] else None
                disk_seen = now
        if status is None and ended:
            if ended in ("quiet", "wall"):  # at the other limits, no time is left to ask
                ask_where(main, job["stack"])
            kill_session(main)
            _, code, usage = os.wait4(main, 0)
            status, cpu = os.waitstatus_to_exitcode(code), usage.ru_utime + usage.ru_stime
    # SIGXCPU needs no comparison: the kernel counts in ticks, and may send it slightly early
    if ended is None and (
        status == -signal.SIGXCPU or (status == -signal.SIGKILL and cpu >= limits["cpu"])
    ):
        ended = "cpu"
    result = {
        "status": status,
        "ended": ended,
        "wall": round(time.monotonic() - began, 4),
        "cpu": round(cpu, 4),
        "waited": round(silence.stalled, 4),
        "stalls": silence.stalls,
        "silent": round(silence.seconds, 4),
        "left_behind": _kill_the_rest(main, became_reaper),
    }
    write_atomically(job["result"], json.dumps(result))
    return result


def _over(job: dict[str, Any], main: int, wall: float) -> str | None:
    limits = job["limits"]
    if wall > limits["wall"]:
        return "wall"
    watched = (
        ("output", "output", "output"),
        ("events", "events", "disk"),
    )
    for key, limit, name in watched:
        try:
            if os.stat(job[key]).st_size > limits[limit]:
                return name
        except OSError:
            pass
    if _memory(main, job["sandbox"]["kind"] == sandbox.NAMESPACES) > limits["memory"]:
        return "memory"
    return None


def _written(folders: list[str]) -> float:
    """Bytes on disk below the folders; infinite if there are too many files."""
    total, seen, todo = sum(_unnamed(on_disk=folders)), 0, list(folders)
    while todo:
        try:
            entries = os.scandir(todo.pop())
        except OSError:
            continue  # it has gone in the meantime
        with entries:
            for entry in entries:
                seen += 1
                if seen > MOST_FILES:
                    return math.inf
                try:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                except OSError as e:
                    if e.errno == errno.ENAMETOOLONG:  # nesting this deep only hides something
                        return math.inf
    return total


def _unnamed(on_disk: list[str] | None = None) -> list[int]:
    """Bytes of each file without a name that the life's processes hold open.

    on_disk  only files on the disks of these folders; without it, only files in memory (memfd)
    """
    disks = {os.stat(folder).st_dev for folder in on_disk or [] if os.path.isdir(folder)}
    found: dict[tuple[int, int], int] = {}
    for pid in descendants():
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                at = f"/proc/{pid}/fd/{name}"
                st = os.stat(at)
                if not stat.S_ISREG(st.st_mode) or st.st_nlink:
                    continue
                if st.st_dev in disks if on_disk else os.readlink(at).startswith("/memfd:"):
                    found[st.st_dev, st.st_ino] = st.st_blocks * 512
        except OSError:
            pass  # it has ended in the meantime
    return list(found.values())


def _memory(main: int, own_file_systems: bool) -> int:
    """Bytes that the life's processes hold, and what they keep in a /tmp and /dev/shm of their own.

    Pages shared with the fork server cost nothing; shared memory counts once.
    """
    total, kept, shared_memory = 0, sum(_unnamed()), 0
    if own_file_systems:
        for name in ("tmp", "dev/shm"):
            try:
                there = f"/proc/{main}/root/{name}"
                # only after it has entered its sandbox
                if os.stat(there).st_dev != os.stat(f"/{name}").st_dev:
                    found = os.statvfs(there)
                    kept += (found.f_blocks - found.f_bfree) * found.f_frsize
            except OSError:
                pass  # it has ended in the meantime
    # psutil would scan every process of the machine to find a few children
    if os.path.exists("/proc/self/statm"):
        for pid in descendants():
            try:
                with open(f"/proc/{pid}/statm") as f:
                    _, resident, shared, *_ = map(int, f.read().split())
                total += (resident - shared) * resource.getpagesize()
                with open(f"/proc/{pid}/status") as f:
                    mapped = next(
                        (line for line in f if line.startswith("RssShmem:")), "RssShmem: 0"
                    )
                shared_memory = max(shared_memory, int(mapped.split()[1]) << 10)
            except OSError:
                pass  # it has ended in the meantime
        return total + max(kept, shared_memory)  # kept files may also be mapped

    import psutil

    try:
        parent = psutil.Process(main)
        for process in [parent, *parent.children(recursive=True)]:
            info = process.memory_info()
            total += info.rss - getattr(info, "shared", 0)
    except psutil.Error:
        pass
    return total


def _kill_the_rest(main: int, reaper: bool) -> int:
    """Kill everything that outlived the main process; return how many processes that were."""
    killed, deadline = set(), time.monotonic() + 10
    if not reaper:  # outside Linux, only its process group can be found
        try:
            os.killpg(main, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        return 0
    while time.monotonic() < deadline:
        try:  # an orphan's orphans become our children as soon as it is dead
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        for pid in children():
            killed.add(pid)
            kill_session(pid)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    return len(killed)


def set_limits(job: dict[str, Any]) -> None:
    """Set the main process's limits, before any of the student's code runs."""
    cpu = int(job["limits"]["cpu"])
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def begin(jobs: list[dict[str, Any]], body: Callable[[dict[str, Any]], None]) -> list[int]:
    """Fork a guardian for each rank of a life; return their process ids.

    Each runs `body(job)` and exits.
    """
    kind = jobs[0]["sandbox"]["kind"]

    def fork(job: dict[str, Any]) -> int:
        pid = os.fork()
        if pid == 0:
            status = 0
            try:
                body(job)
            except BaseException:
                traceback.print_exc()
                status = 70
            finally:
                os._exit(status)
        return pid

    with sandbox.SharedNetwork(kind) if jobs[0]["sandbox"]["network"] else nullcontext():
        return [sandbox.in_new_pid_namespace(kind, partial(fork, job)) for job in jobs]


def main() -> None:
    """Plain mode: python -I guardian.py MARK JOB.json..., with the lifeline as standard input."""
    mark, *paths = sys.argv[1:]
    jobs = []
    for path in paths:
        with open(path) as f:
            jobs.append(json.load(f))
    sandbox.own(jobs[0]["sandbox"]["kind"])

    def body(job: dict[str, Any]) -> None:
        def start() -> int:
            pid = os.fork()
            if pid == 0:
                command = [sys.executable, "-I", job["child"], job["path"], mark]
                os.execve(sys.executable, command, job["env"])
            return pid

        guard(job, start, lifeline=0)

    for pid in begin(jobs, body):
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
