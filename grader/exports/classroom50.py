"""Classroom 50's result.json from a result of `grade --json`, and a workflow that makes one.

The contract: https://github.com/foundation50/classroom50/wiki/Advanced-Autograding ("The
result.json contract"), and what its runner accepts (runner.py, validate_result). Integer scores,
hyphenated keys, `passed` is true or false. There is no third verdict, so an inconclusive result
isn't exported: a script that exits with another status than 0 counts as a failure of the machine.

Who submitted what stands in the runner's environment (CLASSROOM, ASSIGNMENT, OWNER, SUBMISSION_TAG
...). A workflow of one's own has the checkout instead: its .classroom50.yaml, its commit, and
GitHub's variables.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from grader.errors import UsageError
from grader.exports.result_file import Result
from grader.verdicts import PASS

SCHEMA = "classroom50/result/v1"
TYPES = ("individual", "group", "team")
WORKFLOW = Path(__file__).with_name("classroom50_workflow.yaml")
COURSE = re.compile(r"([\w.-]+/[\w.-]+)@([\w./-]+)")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,38}")


@dataclass(frozen=True)
class Identity:
    """Who submitted what, and when. URLs where the name doesn't say otherwise."""

    classroom: str
    assignment: str
    assignment_type: str
    owner: str  # a login
    submission: str  # the tag: submit/...
    commit: str
    release: str
    review: str
    datetime: str  # of the submission, not of the grading


def result_text(result: Result, identity: Identity) -> str:
    return json.dumps(result_json(result, identity), indent=2) + "\n"


def result_json(result: Result, identity: Identity) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        **vars(identity),
        "score": result.score,
        "max-score": result.max_score,
        "tests": [
            {
                "test-name": f"{task.id} {task.title}",
                "passed": task.verdict == PASS,
                "score": task.score,
                "max-score": task.max_score,
                "verdict": task.verdict,
            }
            for task in result.tasks
        ],
    }


# --- who ------------------------------------------------------------------------------------------


def identify(env: Mapping[str, str], checkout: Path | None = None) -> Identity:
    """From the variables of Classroom 50's runner; what they lack, from the checkout and GitHub's.

    UsageError, with the variable's name, for what nothing tells.
    """
    known = {
        **(_of_checkout(env, checkout) if checkout else {}),
        **{k: v for k, v in env.items() if v},
    }
    owner = known.get("OWNER") or known.get("USERNAME")
    for name in ("CLASSROOM", "ASSIGNMENT", "SUBMISSION_TAG", "COMMIT_URL", "RELEASE_URL"):
        if name not in known:
            raise UsageError(f"{name} is unknown: set that variable, or give --checkout DIR")
    if not owner:
        raise UsageError("OWNER is unknown: set that variable, or give --checkout DIR")
    if not known["SUBMISSION_TAG"].startswith("submit/"):
        raise UsageError(f"SUBMISSION_TAG is '{known['SUBMISSION_TAG']}', and should be submit/...")
    kind = known.get("ASSIGNMENT_TYPE", TYPES[0])
    if kind not in TYPES:
        raise UsageError(f"ASSIGNMENT_TYPE is '{kind}', and should be one of {', '.join(TYPES)}")
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Identity(
        classroom=known["CLASSROOM"],
        assignment=known["ASSIGNMENT"],
        assignment_type=kind,
        owner=owner,
        submission=known["SUBMISSION_TAG"],
        commit=known["COMMIT_URL"],
        release=known["RELEASE_URL"],
        review=known.get("REVIEW_URL", known["COMMIT_URL"]),
        datetime=known.get("SUBMITTED_AT", now),
    )


def _of_checkout(env: Mapping[str, str], checkout: Path) -> dict[str, str]:
    """The same variables, as the runner derives them. The tag has the commit's time, so grading
    the commit again gives the same one.
    """
    names = _names(checkout)
    sha, committed = _commit(checkout)
    found = {**names, "SUBMITTED_AT": committed.strftime("%Y-%m-%dT%H:%M:%SZ")}
    ref = env.get("GITHUB_REF", "").removeprefix("refs/tags/")
    tag = ref if ref.startswith("submit/") else f"submit/{committed:%Y-%m-%dT%H-%M-%SZ}-{sha[:7]}"
    found["SUBMISSION_TAG"] = tag
    if repository := env.get("GITHUB_REPOSITORY"):
        web = f"{env.get('GITHUB_SERVER_URL', 'https://github.com')}/{repository}"
        found["COMMIT_URL"] = f"{web}/commit/{sha}"
        found["RELEASE_URL"] = f"{web}/releases/tag/{quote(tag, safe='')}"
        # CLASSROOM-ASSIGNMENT-OWNER
        prefix = f"{names['CLASSROOM']}-{names['ASSIGNMENT']}-"
        name = repository.partition("/")[2]
        owner = name[len(prefix) :] if name.lower().startswith(prefix) else env.get("GITHUB_ACTOR")
        found["OWNER"] = owner or ""
    return found


def _names(checkout: Path) -> dict[str, str]:
    """Classroom and assignment. The file is the student's, so it may hold anything."""
    file = checkout / ".classroom50.yaml"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise UsageError(f"can't read {file}, which names the classroom") from None
    found = {}
    for field in ("classroom", "assignment"):
        value = re.search(rf"^{field}:[ \t]*[\"']?({_NAME.pattern})[\"']?[ \t]*$", text, re.M)
        if not value:
            raise UsageError(f"{file} has no proper '{field}'")
        found[field.upper()] = value[1]
    return found


def _commit(checkout: Path) -> tuple[str, datetime]:
    """The checked-out commit, and when it was committed."""
    command = ["git", "-c", "safe.directory=*", "-C", str(checkout), "log", "-1", "--format=%H %ct"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        sha, seconds = done.stdout.split()
    except (OSError, subprocess.SubprocessError, ValueError):
        raise UsageError(f"{checkout} isn't a git checkout with a commit") from None
    return sha, datetime.fromtimestamp(int(seconds), timezone.utc)


# --- the workflow ---------------------------------------------------------------------------------


def workflow(course: str, exercises: list[str], torch: str) -> str:
    """A workflow that grades each push with the grader of `course`: OWNER/NAME@REF."""
    named = COURSE.fullmatch(course)
    if not named:
        raise UsageError(f"'{course}' isn't a repository with a version; write OWNER/NAME@REF")
    values = {
        "@REPOSITORY@": named[1],
        "@REF@": named[2],
        "@EXERCISES@": " ".join(exercises),
        "@TORCH@": torch,
    }
    text = WORKFLOW.read_text(encoding="utf-8")
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text
