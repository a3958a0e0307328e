"""The process of `grade crashtest`: loads the user's functions, tests them, writes the result.
Never the grader's own process: what is loaded here may do anything.

    python -m grader.crash.worker plan.json
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grader.crash import crashtest, description
from grader.crash.recorder import Incomplete, Unavailable
from grader.processes import die_with_parent

PASSED, BROKEN, WRONG, INCONCLUSIVE = 0, 1, 2, 3


class Refused(Exception):
    """The functions can't be had; the message says why."""


def function(name: str) -> Callable[..., Any]:
    """ "package.module:function", or "file.py:function"."""
    where, _, what = name.rpartition(":")
    try:
        if where.endswith(".py"):
            module_name = Path(where).stem
            if module_name in sys.modules and getattr(
                sys.modules[module_name], "__file__", None
            ) == str(Path(where).resolve()):
                module = sys.modules[module_name]
            else:
                spec = importlib.util.spec_from_file_location(module_name, Path(where).resolve())
                assert spec and spec.loader  # it ends in .py
                module = importlib.util.module_from_spec(spec)
                sys.modules[module_name] = module
                spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
    except FileNotFoundError:
        raise Refused(f"there is no file {where}") from None
    except ModuleNotFoundError as e:
        raise Refused(
            f"{name}: no module named {e.name} (it's looked for from the current directory)"
        ) from e
    except BaseException as e:
        last = traceback.extract_tb(e.__traceback__)[-1]
        raise Refused(
            f"{name} can't be imported: {type(e).__name__}: {e} "
            f"({os.path.basename(last.filename)}, line {last.lineno})"
        ) from e
    found: Any = module
    for part in what.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise Refused(f"{where} has no function {what}")
    called: Callable[..., Any] = found
    return called


def example(n: int) -> dict[str, Any]:
    """The default state of save n: 16 KiB of numbers, and a few of other kinds."""
    import torch

    draw = torch.Generator().manual_seed(n)
    return {
        "step": n,
        "model": {
            "weight": torch.randn(64, 63, generator=draw),
            "bias": torch.randn(64, generator=draw),
        },
        "loss": 1 / n,
        "note": f"save {n}",
    }


def main() -> int:
    die_with_parent()
    plan = json.loads(Path(sys.argv[1]).read_text())
    sys.path.insert(0, plan["cwd"])
    memory = plan["memory"] << 30
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    result = {"status": INCONCLUSIVE, "why": ""}
    try:
        save, load = function(plan["save"]), function(plan["load"])
        state = function(plan["state"]) if plan["state"] else example
        import torch

        from grader.harness.inside.digest import digest

        torch.set_num_threads(1)

        def loaded(directory: str) -> str | None:
            value = load(directory)
            return None if value is None else digest(value)

        program = crashtest.Program(
            {"": crashtest.saves(save, state, digest, plan["saves"])}, loaded, plan["fresh"]
        )
        report = crashtest.test(
            program,
            plan["models"] or None,
            errors=plan["errors"],
            flips=plan["flips"],
            seed=plan["seed"],
            workers=plan["jobs"],
            seconds=plan["seconds"],
        )
        result = {
            "status": PASSED if report.passed else BROKEN,
            "report": description.as_data(report),
            "text": description.text(report),
        }
        if plan["picture"] and report.failing:
            from grader.crash import picture

            picture.draw(report, report.failing[0], Path(plan["picture"]))
    except Refused as e:
        result = {"status": WRONG, "why": str(e)}
    except (Unavailable, Incomplete) as e:
        result["why"] = str(e)
    except RuntimeError as e:
        result = {"status": WRONG, "why": str(e)}
    Path(plan["result"]).write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
