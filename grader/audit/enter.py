"""The first process of an audited life: becomes the command, in a session of its own.

    python -I enter.py JOB.json MARK

Its guardian (harness/guardian.py) starts it. It needs only the standard library.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any


def main() -> None:
    with open(sys.argv[1]) as f:
        become(json.load(f))


def become(job: dict[str, Any]) -> None:
    os.setsid()
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # Python ignores these two; a program that isn't Python expects the default
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for fd, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(fd, target)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(job["cwd"])
    environment = job["command_env"] | {"GRADE_AUDIT_MAIN": str(os.getpid())}
    try:
        os.execvpe(job["command"][0], job["command"], environment)
    except OSError as e:
        print(f"{job['command'][0]}: {e.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


if __name__ == "__main__":
    main()
