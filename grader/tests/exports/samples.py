"""Small results, as `grade --json` and `grade class` write them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from grader.course.catalog import ROOT


def task(number: int, verdict: str, score: int, most: int, message: str = "") -> dict[str, Any]:
    return {
        "id": f"ex01.{number}",
        "title": f"title {number}",
        "verdict": verdict,
        "score": score,
        "max_score": most,
        "seconds": 1.5,
        "message": message,
        "evidence": {"code": "state-lost"} if verdict == "fail" else {},
    }


PASSED = task(1, "pass", 4, 4)
FAILED = task(
    2,
    "fail",
    0,
    5,
    "check      a run rejoins\nreplay     grade ex01.2/a-run --submission /autograder/x --seed 7\n"
    "log        /tmp/log",
)
BLOCKED = task(3, "blocked", 0, 6, "builds on  ex01.2: get that to pass first")
OPEN = task(4, "inconclusive", 0, 7, "machine    too slow")


def result(*tasks: dict[str, Any], name: str = "ex01") -> dict[str, Any]:
    tasks = tuple({**each, "id": each["id"].replace("ex01", name)} for each in tasks)
    score = sum(each["score"] for each in tasks)
    most = sum(each["max_score"] for each in tasks)
    exercise = {
        "id": name,
        "score": score,
        "max_score": most,
        "seed": 7,
        "sandbox": "landlock",
        "tasks": list(tasks),
    }
    return {
        "schema": "grade/v1",
        "score": score,
        "max_score": most,
        "seconds": 12.6,
        "exercises": [exercise],
    }


def written(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def grade(*args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "grader", *map(str, args)],
        **{"capture_output": True, "text": True, "env": env, "cwd": ROOT, "timeout": 120} | options,
    )
