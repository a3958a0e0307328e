"""Results for machines: JSON (schema grade/v1) and JUnit XML."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from grader.verdicts import BLOCKED, FAIL, INCONCLUSIVE, PASS, ExerciseResult


def as_json(results: list[ExerciseResult]) -> dict:
    """{"schema": "grade/v1", "score", "max_score", "seconds", "exercises": [...]}; points are integers."""
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


def write_json(results: list[ExerciseResult], path: Path) -> None:
    path.write_text(json.dumps(as_json(results), indent=2) + "\n")


def write_junit(results: list[ExerciseResult], path: Path) -> None:
    """One test suite an exercise, one test case a task. Inconclusive is an error, blocked is skipped."""
    suites = ElementTree.Element("testsuites")
    for r in results:
        count = {v: str(sum(t.verdict == v for t in r.tasks)) for v in (FAIL, INCONCLUSIVE, BLOCKED)}
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
            case = ElementTree.SubElement(suite, "testcase", classname=r.id, name=f"{t.id} {t.title}", time=str(t.seconds))
            if t.verdict != PASS:
                tag = {FAIL: "failure", INCONCLUSIVE: "error", BLOCKED: "skipped"}[t.verdict]
                first = t.evidence["rows"][0] if t.evidence.get("rows") else ["", t.verdict]
                ElementTree.SubElement(case, tag, message=first[1]).text = t.message
    ElementTree.indent(suites)
    ElementTree.ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)


def exit_code(results: list[ExerciseResult]) -> int:
    """0 all pass; 1 some failed or blocked; 3 inconclusive or infrastructure."""
    verdicts = {t.verdict for r in results for t in r.tasks}
    if FAIL in verdicts:
        return 1
    if INCONCLUSIVE in verdicts:
        return 3
    return 1 if BLOCKED in verdicts else 0
