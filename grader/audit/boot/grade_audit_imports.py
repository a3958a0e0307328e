"""Does something as soon as the job has imported a module."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any


class After:
    """A finder that finds only one module, and calls `do` after its import."""

    def __init__(self, name: str, do: Callable[[], object]) -> None:
        self._name, self._do = name, do
        self._searching = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searching = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            self._do()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def after(name: str, do: Callable[[], object]) -> None:
    """Call `do` after this module's import: now, if that is done."""
    if name in sys.modules:
        do()
    else:
        sys.meta_path.insert(0, After(name, do))
