"""A crash of the student's code, put into evidence."""

from __future__ import annotations

import re
import signal

from grader.harness import scratch
from grader.verdicts import Finding, Gist


def crashed(crash: dict, when: list, fault: str | None = None) -> Finding:
    """A crash as the student should see it: their own frames, the exception last."""
    frames = student_frames(crash)
    if not frames and crash["frames"]:
        last = [f for f in crash["frames"] if "/grader/workload/" in f["file"]][-1:] or crash[
            "frames"
        ][-1:]
        where = f"{last[0]['file'].rpartition('/')[2]}:{last[0]['line']}"
        frames = [
            (
                "crashed",
                f"in the training script, {where}, with what your functions gave it: "
                f"{last[0]['text']}",
            )
        ]
    errors = _error_rows(crash)
    rows = [*when, *frames, *errors]
    at = frames[-1][1].split(" ")[0] if frames else ""
    unsafe = REFUSED in crash["message"]
    return Finding(
        "crashed",
        rows,
        fault,
        ending=errors[0][1],
        means=CODE_IN_IT if unsafe else "",
        think=WHICH_VALUE if unsafe else "",
        about=f"{crash['type']}:{at}",
    )


REFUSED = "Weights only load failed"  # says torch.load
CODE_IN_IT = (
    "the checkpoint holds more than plain data: to load it, Python would have to run code from it"
)
WHICH_VALUE = (
    "which saved value isn't a tensor, a number, a string, or a list, tuple or dict of them?"
)


def _error_rows(crash: dict) -> list[tuple[str, str]]:
    message = re.sub(r"\x1b\[[0-9;]*m", "", crash["message"]).strip()
    if REFUSED in message:
        culprit = re.search(r"Unsupported [a-z]+: (.*?) was not an allowed", message) or re.search(
            r"Unpickler error: (.*)", message
        )
        what = f": {culprit[1]}" if culprit else ""
        return [
            Gist(
                "error",
                f"{crash['type']}: a safe load (weights_only=True) refuses what was saved{what}"[
                    :300
                ],
            ),
        ]
    lines = [line for line in message.splitlines() if line.strip()]
    if len(lines) > 1 and lines[1].startswith("Original Traceback"):  # a DataLoader worker's
        return [Gist("error", lines[-1][:300]), ("", lines[0][:200])]
    if any(line.startswith("Traceback (most recent") for line in lines[1:]):
        # DCP's message holds the tracebacks of all ranks: what they end in, once each
        lines = list(
            dict.fromkeys(
                line for line in lines if not line.startswith((" ", "Traceback (most recent"))
            )
        )
    first, *more = lines or [""]
    return [
        Gist("error", f"{crash['type']}: {first}"[:300]),
        *(("", line.strip()[:200]) for line in more[:5]),
    ]


def student_frames(crash: dict) -> list[tuple[str, str]]:
    """The frames of the student's own files: where, in which function, and the line."""
    rows: list[tuple[str, str]] = []
    for frame in [*crash["frames"], *_frames_of_a_worker(crash.get("message", ""))]:
        if name := scratch.submitted(frame["file"]):
            where = f"{name}:{frame['line']}" + (
                f" in {frame['function']}" if frame["function"] else ""
            )
            rows.append(("crashed" if not rows else "", f"{where}: {frame['text']}"))
    return rows[-5:]


def _frames_of_a_worker(message: str) -> list[dict]:
    """Those in the message of an error that a DataLoader worker raised."""
    if "\nOriginal Traceback" not in message:
        return []
    found = re.findall(r'  File "(.*)", line (\d+), in (.*)\n    (.*)', message)
    names = ("file", "line", "function", "text")
    return [dict(zip(names, frame, strict=True)) for frame in found]


def raised_at(error: dict) -> str:
    """ ", own.py:3": the student's line that raised it, if one did."""
    frames = student_frames(error)
    return f", {frames[-1][1].split(' ')[0]}" if frames else ""


def slipped_at(error: dict) -> str:
    """The same, but for an error that this line raises on purpose."""
    frames = student_frames(error)
    return "" if frames and ": raise " in frames[-1][1] else raised_at(error)


def left_with(status: int) -> str:
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"exit status {status}"
