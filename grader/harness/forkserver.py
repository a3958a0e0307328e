"""A warm process with torch loaded, from which lives are forked.

A forked life reaches its first step about a hundred times sooner than `python train.py`, which
spends seconds in `import torch`.

python -I forkserver.py FD KIND MARK MODULE...
KIND is the kind of sandbox. A request is one line: the paths of a life's jobs, one for each rank.
The server answers {"id": the first path} when the life's guardians have left. When the grader's end
of the socket closes, every life ends.

It must never run a torch operator: a warm thread pool before the fork would hang the child.
"""

from __future__ import annotations

import compileall
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
import weakref
from contextlib import suppress
from typing import Any


def serve(sock: socket.socket) -> None:
    from grader.harness.guardian import begin
    from grader.processes import children, reap_descendants
    from grader.wakeup import wakeup_pipe

    reap_descendants()  # adopt the life of a guardian that was killed, to kill it, too
    gc.freeze()
    gc.enable()
    wake_r, wake_w = wakeup_pipe(signal.SIGCHLD)
    life_r, life_w = os.pipe()  # closes when we die: the guardians' lifeline
    guardians: dict[int, str] = {}  # process id -> its life's first job
    pending = b""

    def say(**message: object) -> None:
        sock.sendall(json.dumps(message).encode() + b"\n")

    def guard(job: dict[str, Any]) -> None:
        for fd in (sock.fileno(), wake_r, wake_w, life_w):
            os.close(fd)
        _guard(job, life_r)

    say(ready=os.getpid())
    while True:
        ready = select.select([sock, wake_r], [], [])[0]
        if wake_r in ready:
            os.read(wake_r, 4096)
            while True:
                try:
                    pid, _ = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if not pid:
                    break
                if pid in guardians:
                    life = guardians.pop(pid)
                    for orphan in set(children()) - set(guardians):
                        os.kill(orphan, signal.SIGKILL)
                    if life not in guardians.values():
                        say(id=life)
        if sock in ready:
            try:
                data = sock.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                os.close(life_w)  # the guardians end their lives; wait for them
                while guardians:
                    try:
                        guardians.pop(os.waitpid(-1, 0)[0], None)
                    except ChildProcessError:
                        break
                os._exit(0)
            pending += data
            *lines, pending = pending.split(b"\n")
            for line in lines:
                paths = json.loads(line)
                try:
                    for pid in begin([_read(path) for path in paths], guard):
                        guardians[pid] = paths[0]
                except OSError as e:
                    traceback.print_exc()
                    say(id=paths[0], error=f"{type(e).__name__}: {e}")


def _read(path: str) -> dict[str, Any]:
    with open(path) as f:
        job: dict[str, Any] = json.load(f)
        return job


def _guard(job: dict[str, Any], lifeline: int) -> None:
    from grader.harness import guardian
    from grader.harness.inside import child

    def start() -> int:
        pid = os.fork()
        if pid == 0:
            os.close(lifeline)
            child.live(job)
        return pid

    signal.set_wakeup_fd(-1)
    guardian.guard(job, start, lifeline)


def preload(modules: list[str]) -> None:
    """Import everything that a life would import.

    Optimizers import dynamo on first use, which alone takes 1.5 to 2 s.
    """
    import numpy  # noqa: F401
    import psutil  # noqa: F401
    import torch
    import torch._dynamo
    import torch.distributed.checkpoint._fsspec_filesystem
    import torch.distributed.checkpoint.state_dict
    import torch.distributed.fsdp
    import torch.utils.data  # noqa: F401

    for late in ("torch.utils.serialization.config", "torch.profiler._cupti_monitor"):
        with suppress(ImportError):  # newer versions import them in torch.save and optimizers
            importlib.import_module(late)

    for name in modules:
        importlib.import_module(name)

    # else torch frees its operator libraries at every life's end, which takes 40 ms for nothing
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        finalizer.atexit = False
    from grader.harness import readable_paths

    # lives can't write bytecode
    for folder in ("crash", "given", "harness", "workload"):
        compileall.compile_dir(os.path.join(readable_paths.GRADER, folder), quiet=2)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from grader.harness import readable_paths, sandbox

    gc.disable()  # collections take a fifth of the time in which torch is loaded, and free nothing
    sandbox.own(sys.argv[2])
    preload(sys.argv[4:])
    if sys.argv[2] != sandbox.NONE:
        readable_paths.everybodys()
    serve(socket.socket(fileno=int(sys.argv[1])))
