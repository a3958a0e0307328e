"""sbatch: the options of the command line, of the environment and of #SBATCH lines, in this order
of precedence.
"""

from __future__ import annotations

import getpass
import os
import re
import sys

from .formats import Refused, hostnames, minutes, signal_number, unknown
from .options import FLAG, MAYBE, VALUE, parse
from .protocol import ask, call

SIZE = {
    "N nodes": VALUE,
    "n ntasks": VALUE,
    "c cpus-per-task": VALUE,
    "ntasks-per-node": VALUE,
    "w nodelist": VALUE,
    "t time": VALUE,
    "p partition": VALUE,
    "J job-name": VALUE,
    "exclusive": MAYBE,
}
# accepted and without effect: as on the real loopback cluster, which has no accounts, and holds no
# job to its memory
WITHOUT_EFFECT = {
    "mem": VALUE,
    "mem-per-cpu": VALUE,
    "mail-type": VALUE,
    "mail-user": VALUE,
    "A account": VALUE,
    "q qos": VALUE,
}
TABLE = (
    SIZE
    | WITHOUT_EFFECT
    | {
        "o output": VALUE,
        "e error": VALUE,
        "i input": VALUE,
        "open-mode": VALUE,
        "signal": VALUE,
        "requeue": FLAG,
        "no-requeue": FLAG,
        "d dependency": VALUE,
        "kill-on-invalid-dep": VALUE,
        "a array": VALUE,
        "export": VALUE,
        "W wait": FLAG,
        "parsable": FLAG,
        "wrap": VALUE,
        "D chdir": VALUE,
        "Q quiet": FLAG,
        "comment": VALUE,
    }
)
FROM_ENVIRONMENT = {
    "SBATCH_JOB_NAME": "job-name",
    "SBATCH_PARTITION": "partition",
    "SBATCH_TIMELIMIT": "time",
    "SBATCH_OPEN_MODE": "open-mode",
    "SBATCH_REQUEUE": "requeue",
    "SBATCH_NO_REQUEUE": "no-requeue",
    "SBATCH_SIGNAL": "signal",
    "SBATCH_OUTPUT": "output",
    "SBATCH_ERROR": "error",
    "SBATCH_INPUT": "input",
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_EXCLUSIVE": "exclusive",
    "SBATCH_EXPORT": "export",
    "SBATCH_WAIT": "wait",
}
KINDS = ("after", "afterany", "afterok", "afternotok", "singleton")


def main(directory: str, args: list[str]) -> int:
    given, rest = parse(args, TABLE, stop_at_first=True)
    if "wrap" in given:
        if rest:
            raise Refused("error: Script arguments not permitted with --wrap option")
        script, command = (
            f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{given['wrap']}\n",
            None,
        )
    else:
        script, command = _read(rest[0] if rest else None)
    options = from_script(script) | from_environment() | given
    if "requeue" in given:
        options.pop("no-requeue", None)
    spec = describe(options) | {
        "script": script,
        "args": rest[1:],
        "command": " ".join([command, *rest[1:]]) if command else None,
        "name": options.get("job-name")
        or (os.path.basename(rest[0]) if rest else "wrap" if "wrap" in given else "sbatch"),
    }
    wait = bool(options.get("wait"))
    line = call(directory, {"do": "submit", "spec": spec, "wait": wait}) if wait else None
    if line is None:
        number = ask(directory, {"do": "submit", "spec": spec})["id"]
    else:
        messages: list[dict] | None
        messages = line.read() or [{"refused": "error: the stand-in ended"}]
        if "refused" in messages[0]:
            raise Refused(messages[0]["refused"])
        number = messages.pop(0)["id"]
    if not options.get("quiet") or options.get("parsable"):
        print(number if options.get("parsable") else f"Submitted batch job {number}", flush=True)
    while line is not None:
        for message in messages or []:
            if "over" in message:
                return message["over"]
        messages = line.read()
        if messages is None:
            raise Refused("error: the stand-in ended before the job did")
    return 0


def _read(name: str | None) -> tuple[str, str | None]:
    try:
        if name is None:
            text, where = sys.stdin.buffer.read(), None
        else:
            where = os.path.abspath(name)
            with open(name, "rb") as f:
                text = f.read()
    except OSError:
        raise Refused(f"error: Unable to open file {name}") from None
    if not text:
        raise Refused("error: Batch script is empty!")
    if not text.startswith(b"#!"):
        raise Refused(
            "error: This does not look like a batch script.  The first\nerror: line must start "
            "with #! followed by the path to an interpreter.\nerror: For instance: #!/bin/sh"
        )
    if b"\r\n" in text:
        raise Refused(
            "error: Batch script contains DOS line breaks (\\r\\n)\nerror: instead of expected "
            "UNIX line breaks (\\n)."
        )
    return os.fsdecode(text), where


def from_script(text: str) -> dict:
    """#SBATCH lines, until the first line that is neither a comment nor empty."""
    found: dict = {}
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            words = _words(line[len("#SBATCH") :])
            options, rest = parse(words, TABLE, stop_at_first=False)
            if rest:
                raise Refused(f"error: #SBATCH line with {rest[0]!r}, which isn't an option", 2)
            found |= options
        elif line.strip() and not line.startswith("#"):
            break
    return found


def _words(text: str) -> list[str]:
    """The words of a line, quoted or not; a # begins a comment."""
    import shlex

    try:
        lexer = shlex.shlex(text, posix=True)
        lexer.whitespace_split = True
        return list(lexer)
    except ValueError as e:
        raise Refused(f"error: #SBATCH{text}: {e}", 2) from e


def from_environment() -> dict:
    found = {}
    for name, value in os.environ.items():
        if name.startswith("SBATCH_"):
            if name not in FROM_ENVIRONMENT:
                raise unknown(f"the variable {name}")
            key = FROM_ENVIRONMENT[name]
            found[key] = True if key in ("requeue", "no-requeue", "wait", "exclusive") else value
    return found


def number(options: dict, key: str) -> int | None:
    if key not in options:
        return None
    if not str(options[key]).isdigit() or int(options[key]) < 1:
        raise Refused(
            f'error: Invalid numeric value "{options[key]}" for --{key}.',
            2 if "-" in str(options[key]) else 255,
        )
    return int(options[key])


def describe(options: dict) -> dict:
    """The job as the controller gets it. Refused for values that it can't have."""
    spec: dict = {
        "env": environment(options.get("export")),
        "user": getpass.getuser(),
        "submit_dir": os.getcwd(),
        "umask": _umask(),
    }
    spec["cwd"] = os.path.abspath(options.get("chdir") or os.getcwd())
    for key in ("nodes", "ntasks", "cpus-per-task", "ntasks-per-node"):
        spec[key.replace("-", "_")] = number(options, key)
    spec["partition"] = options.get("partition") or "low"
    spec["exclusive"] = bool(options.get("exclusive"))
    if options.get("exclusive") not in (None, True):
        raise unknown(f"--exclusive={options['exclusive']}")
    spec["nodelist"] = hostnames(options["nodelist"]) if "nodelist" in options else None
    spec["out"] = options.get("output") or (
        "slurm-%A_%a.out" if "array" in options else "slurm-%j.out"
    )
    spec |= {
        "err": options.get("error"),
        "in": options.get("input"),
        "comment": options.get("comment"),
    }
    spec["may_requeue"] = (
        False if options.get("no-requeue") else True if options.get("requeue") else None
    )
    spec["open_mode"] = {
        "a": "append",
        "append": "append",
        "t": "truncate",
        "truncate": "truncate",
        None: None,
    }.get(options.get("open-mode"), "?")
    if spec["open_mode"] == "?":
        raise Refused("error: Invalid --open-mode specification", 255)
    spec["array"] = options.get("array")
    try:
        spec["limit"] = minutes(options["time"]) if "time" in options else None
    except ValueError:
        raise Refused("error: Invalid --time specification", 255) from None
    spec["signal"] = warning(options["signal"]) if "signal" in options else None
    spec["depends"] = dependencies(options.get("dependency", ""))
    spec["kill_invalid"] = options.get("kill-on-invalid-dep") == "yes"
    return spec


def environment(export: str | None) -> dict[str, str]:
    """ALL, or ALL and NAME=VALUE ..."""
    parts = (export or "ALL").split(",")
    if parts[0] != "ALL":
        raise unknown(f"--export={export}")
    env = dict(os.environ)
    for part in parts[1:]:
        name, equals, value = part.partition("=")
        if equals:
            env[name] = value
    return env


def warning(text: str) -> dict:
    """[B:]USR1[@60]"""
    found = re.fullmatch(r"(?:([A-Z]+):)?(\w+)(?:@(\d+))?", text)
    try:
        if not found or found[1] not in (None, "B", "R", "RB"):
            raise ValueError(text)
        if found[1] not in (None, "B"):
            raise unknown(f"--signal={found[1]}:")
        return {
            "shell": found[1] == "B",
            "number": signal_number(found[2]),
            "before": int(found[3] or 60),
        }
    except ValueError:
        raise Refused("error: Invalid --signal specification", 255) from None


def dependencies(text: str) -> list[tuple[str, int]]:
    found = []
    if "?" in text:
        raise unknown("--dependency with ?")
    for part in text.split(",") if text else []:
        kind, *jobs = part.split(":")
        if kind in ("aftercorr", "expand", "afterburstbuffer") or any(
            "+" in j or "_" in j for j in jobs
        ):
            raise unknown(f"--dependency={part}")
        if (
            kind not in KINDS
            or (kind != "singleton" and not jobs)
            or not all(j.isdigit() for j in jobs)
        ):
            raise Refused("error: Batch job submission failed: Job dependency problem")
        found += [(kind, int(j)) for j in jobs] or [(kind, 0)]
    return found


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now
