"""Results for machines: JSON (schema grade/v1) and JUnit XML."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any, TextIO
from xml.etree import ElementTree

from grader.errors import UsageError
from grader.verdicts import BLOCKED, FAIL, INCONCLUSIVE, PASS, ExerciseResult


def as_json(results: list[ExerciseResult]) -> dict[str, Any]:
    """{"schema": "grade/v1", "score", "max_score", "seconds", "exercises": [...]}

    Points are integers. Seconds are wall time: an exercise's from its grading's begin to its end,
    and their sum; a task's from its first check's begin to its last one's end. Tasks run at the
    same time, so theirs don't add up.
    """
    return {
        "schema": "grade/v1",
        "score": sum(r.score for r in results),
        "max_score": sum(r.max_score for r in results),
        "seconds": round(sum(r.seconds for r in results), 3),
        "exercises": [
            {
                "id": r.id,
                "score": r.score,
                "max_score": r.max_score,
                "seed": r.seed,
                "sandbox": r.sandbox,
                **({"clusters": r.clusters} if r.clusters else {}),
                "tasks": [
                    {
                        "id": t.id,
                        "title": t.title,
                        "verdict": t.verdict,
                        "score": t.score,
                        "max_score": t.max_score,
                        "seconds": t.seconds,
                        "message": t.message,
                        "evidence": t.evidence,
                    }
                    for t in r.tasks
                ],
            }
            for r in results
        ],
    }


def json_text(results: list[ExerciseResult]) -> str:
    return json.dumps(as_json(results), indent=2) + "\n"


def junit_text(results: list[ExerciseResult]) -> str:
    """A test suite per exercise, a test case per task; inconclusive: error, blocked: skipped."""
    suites = ElementTree.Element("testsuites")
    for r in results:
        count = {
            v: str(sum(t.verdict == v for t in r.tasks)) for v in (FAIL, INCONCLUSIVE, BLOCKED)
        }
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=r.id,
            tests=str(len(r.tasks)),
            failures=count[FAIL],
            errors=count[INCONCLUSIVE],
            skipped=count[BLOCKED],
            time=str(r.seconds),
        )
        for t in r.tasks:
            case = ElementTree.SubElement(
                suite, "testcase", classname=r.id, name=f"{t.id} {t.title}", time=str(t.seconds)
            )
            if t.verdict != PASS:
                tag = {FAIL: "failure", INCONCLUSIVE: "error", BLOCKED: "skipped"}[t.verdict]
                first = t.evidence["rows"][0] if t.evidence.get("rows") else ["", t.verdict]
                ElementTree.SubElement(case, tag, message=first[1]).text = t.message
    ElementTree.indent(suites)
    return (
        '<?xml version="1.0" '
        f'encoding="utf-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'
    )


class Target:
    """Where results go. Opening it before the grading shows errors early.

    An existing file stays as it is until the results are there. Pipes and devices are written to
    directly.
    """

    def __init__(self, path: Path):
        self.path, self._new = str(path), ""
        try:
            self._file = sys.stdout if self.path == "-" else self._open()
        except OSError as e:
            raise UsageError(f"can't write {path}: {e.strerror}") from e

    def _open(self) -> TextIO:
        try:
            mode = os.stat(self.path).st_mode
        except FileNotFoundError:
            mode = None
        real = os.path.realpath(self.path)
        if (mode is not None and not stat.S_ISREG(mode)) or os.path.abspath(self.path).startswith(
            "/dev/"
        ):
            file = open(os.open(self.path, os.O_WRONLY | os.O_APPEND), "w", encoding="utf-8")
            if real == "/dev/full":  # it can be opened but not written to
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return file
        if mode is not None and not os.access(real, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self._real, self._new = (
            real,
            os.path.join(os.path.dirname(real), f".grade-{os.getpid()}-{id(self)}"),
        )
        file = open(self._new, "x", encoding="utf-8")
        if mode is not None:
            os.chmod(self._new, stat.S_IMODE(mode))
        return file

    def write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
            if self._new:
                os.replace(self._new, self._real)
        except OSError as e:
            raise OSError(e.errno, f"can't write the results: {e.strerror}", self.path) from e

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._file is not sys.stdout:
                self._file.close()
        with contextlib.suppress(OSError):
            if self._new:
                os.unlink(self._new)


def exit_code(results: list[ExerciseResult]) -> int:
    """0 all pass; 1 some failed or blocked; 3 inconclusive, or the grader itself failed."""
    verdicts = {t.verdict for r in results for t in r.tasks}
    if FAIL in verdicts:
        return 1
    if INCONCLUSIVE in verdicts:
        return 3
    return 1 if BLOCKED in verdicts else 0
