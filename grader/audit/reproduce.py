"""Shell scripts that show a finding again, without the audit and its probes.

A script can't count steps, so it waits for the checkpoint after which the fault came, or for as
long as that took here. Its first lines hold the command that repeats the fault at its exact step.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from shlex import join, quote

from grader.audit import power
from grader.audit.faults import (
    ELASTIC,
    FLIP,
    FULL,
    KILL,
    LIMIT,
    MISSING,
    POWER,
    RANK,
    SIGNAL,
    TEAR,
    TRUNCATE,
    TWICE,
    Fault,
)
from grader.audit.findings import UNDISTURBED, Finding
from grader.audit.lives import OUT
from grader.audit.problems import Outcome
from grader.audit.session import Audit

LARGEST = 64 << 20  # bytes of a disk state that is written beside its script
HEAD = """\
#!/bin/bash
# {title}   [{code}]
# {fault}
{evidence}
# At the exact step: {replay}
# bash {name} [FOLDER]   works in FOLDER, which must be new; without it, in a new one below TMPDIR.
set -u
here=$(cd "$(dirname "$0")" && pwd)
work=${{1:-$(mktemp -d)}}
mkdir -p "$work/out"
work=$(cd "$work" && pwd)
export out="$work/out"
cd {folder} || exit 2

life() {{  # NUMBER COMMAND...: runs in the background, in a session of its own
  number=$1
  shift
  echo "--- life $number: $*"
  setsid "$@" >"$work/life$number.log" 2>&1 &
  pid=$!
}}
ended() {{  # says how the life ended, and what it printed
  wait "$pid" 2>/dev/null
  echo "--- life $number: exit status $?"
  tail -n 5 "$work/life$number.log"
}}
die() {{  # SIGNAL: to all processes of the life
  echo "--- $1 to all processes of life $number"
  kill -s "$1" -- "-$pid"
}}
await() {{  # FILE: until the job has written it
  while [ ! -e "$out/$1" ] && kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
}}
newest() {{  # the newest file that may be a checkpoint
  find "$out" -type f -size +{small}c -printf '%T@ %p\\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-
}}
"""
TAIL = """\
life 9 {again}
ended
echo "--- what is left in $out"
ls -lR "$out"
"""


def write(audit: Audit, command: list[str], folder: Path) -> list[Path]:
    """A script for each finding; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, finding in enumerate(audit.findings, 1):
        outcome = next((o for o in audit.outcomes if o.fault.title == finding.faults[0]), None)
        if outcome is None:
            outcome = Outcome(UNDISTURBED)
        name = "-".join(filter(None, (finding.code, finding.component)))
        path = folder / f"{number:02}-{re.sub(r'[^a-zA-Z0-9]+', '-', name)}.sh"
        state = _write_state(audit, outcome.fault, path.with_suffix(""))
        path.write_text(script(audit, command, finding, outcome, path.name, state))
        path.chmod(0o755)
        paths.append(path)
    return paths


def _write_state(audit: Audit, fault: Fault, folder: Path) -> str:
    """The disk state of a power loss, beside the script; returns its folder's name."""
    if fault.kind != POWER or audit.power is None:
        return ""
    tree = audit.power.trees[fault.title]
    if sum(len(content) for content in tree.values() if content is not None) > LARGEST:
        return ""
    power.lay(tree, folder)
    return folder.name


def script(
    audit: Audit,
    command: list[str],
    finding: Finding,
    outcome: Outcome,
    name: str,
    state: str = "",
) -> str:
    commands = audit.runner.commands
    start, again = _words(commands.start), _words(commands.resume or commands.start)
    if outcome.fault.kind == ELASTIC and commands.elsewhere:
        again = _words(commands.elsewhere)
    replay = ["grade", "audit", "--seed", str(audit.seed), "--only", outcome.fault.title]
    head = HEAD.format(
        title=finding.title,
        code=finding.code,
        fault=f"fault: {_line(outcome.fault.title)}",
        evidence="\n".join(f"# seen: {_line(line)}" for line in finding.evidence),
        replay=_line(join([*replay, "--", *command])),
        name=name,
        folder=quote(os.getcwd()),
        small=max(1, outcome.fault.spec.get("size", 2) // 10),
    )
    lines = [f"{_words(commands.setup)} || exit 2"] if commands.setup else []
    if outcome.fault is UNDISTURBED:
        return head + "\n".join([*lines, "", TAIL.format(again=start)])
    lines += _steps(outcome, start, again, state)
    return head + "\n".join([*lines, "", TAIL.format(again=again)])


def _line(text: str) -> str:
    return " ".join(text.split())


def _words(words: list[str]) -> str:
    """A command line of the shell, with $out for {out}."""
    return " ".join(
        '"$out"'.join(quote(part) if part else "" for part in word.split(OUT)) for word in words
    )


def _steps(outcome: Outcome, start: str, again: str, state: str) -> list[str]:
    """The first lives and their fault."""
    fault = outcome.fault
    if fault.kind == POWER:
        if not state:
            return ["echo 'the disk state is too large to be kept: use the command above'; exit 2"]
        return [f'cp -a "$here/{state}/." "$out/"  # what the power loss left on the disk']
    wait = [f"sleep {outcome.after_seconds:.2f}"]
    if outcome.after_file:
        wait = [f"await {quote(outcome.after_file)}", f"sleep {outcome.since_file:.2f}"]
    first = [f"life 1 {start}", *wait]
    if fault.kind in (TEAR, FULL):
        blocks = max(1, fault.spec["bytes"] // 1024)
        ignore = "trap '' XFSZ; " if fault.kind == FULL else ""
        limited = f"""bash -c '{ignore}ulimit -f {blocks}; exec "$@"' bash {again}"""
        # the limit holds for all files of a life: so another life does the saves before
        return [*first, "die KILL", "ended", f"life 2 {limited}", "ended"]
    if fault.kind in (SIGNAL, LIMIT):
        number = signal.Signals(fault.spec["number"])
        to = "die USR1" if number == signal.SIGUSR1 else 'kill -s TERM "$pid"'
        grace = f"{fault.spec['grace']:g}"
        late = f'(sleep {grace}; kill -s KILL -- "-$pid") 2>/dev/null &'
        return [*first, to, late, "ended"]
    if fault.kind == RANK:
        kill = 'kill -s KILL "$(pgrep -P "$pid" | head -n 1)"  # one rank'
        return [*first, kill, "ended"]
    lines = [*first, "die KILL", "ended"]
    if fault.kind == KILL and fault.in_a_save:
        lines.insert(0, "# inside a save only the command above strikes at the right moment")
    if fault.kind == TWICE:
        lines += [f"life 2 {again}", f"sleep {outcome.after_seconds:.2f}", "die KILL", "ended"]
    elif fault.kind == TRUNCATE:
        lines += ['f=$(newest); truncate -s $(($(stat -c %s "$f") / 2)) "$f"']
    elif fault.kind == FLIP:
        at = f'at=$(($(stat -c %s "$f") * {round(100 * fault.place)} / 100))'
        read = 'byte=$(od -An -tu1 -j "$at" -N 1 "$f")'
        flipped = 'printf "$(printf "\\\\%03o" $((byte ^ 16)))"'
        put = f'{flipped} | dd of="$f" bs=1 seek="$at" conv=notrunc status=none'
        lines += ["f=$(newest)", at, read, put]
    elif fault.kind == MISSING:
        lines += [f'rm "$(dirname "$(newest)")"/{quote(Path(fault.file).name)}']
    return lines
