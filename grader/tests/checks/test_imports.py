"""Who may import whom: no circle, nothing upwards, and no exercise's checks import another's."""

from __future__ import annotations

import ast
from pathlib import Path

from grader.course.catalog import ROOT
from grader.harness.readable_paths import INSIDE

# each layer may import the ones before it, and itself
LAYERS = (
    {"errors", "files", "interrupt", "processes", "processor_time", "wakeup"},
    {"course", "verdicts", "given"},
    {"harness"},
    {"crash", "slurm", "report"},
    {"workload", "mutants"},
    {"collection", "explain", "yardstick", "engine", "checks"},
    {"audit", "classroom", "exports", "notebooks", "watch", "authoring", "bench"},
    {"cli", "__main__"},
)
# what these import from above is data, or is asked for by name when a check is collected
EXCEPTIONS: set[tuple[str, str]] = set()


def modules() -> dict[str, Path]:
    """The grader's modules, but for its tests: dotted name -> file."""
    found = {}
    for path in sorted((ROOT / "grader").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith("grader.tests"):
            found[name] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the grader that this one imports, at its top or in a function."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found |= {inner} if inner in known else {base} & known.keys()
    return found - {name}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, path, known) for name, path in known.items()}


def circle(edges: dict[str, set[str]]) -> list[str]:
    """One circle of imports, as a path that ends where it begins; [] if there is none."""
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        done.add(name)
        for other in sorted(edges.get(name, ())):
            if found := search(other, [*path, name]):
                return found
        return []

    return next((found for name in sorted(edges) if (found := search(name, []))), [])


def upwards(edges: dict[str, set[str]]) -> list[tuple[str, str]]:
    level = {name: n for n, names in enumerate(LAYERS) for name in names}

    def of(module: str) -> str:
        return module.split(".")[1] if "." in module else ""

    return [
        (name, other)
        for name, others in edges.items()
        for other in sorted(others)
        if of(name) and of(other) and level[of(other)] > level[of(name)]
        if (name, other) not in EXCEPTIONS
    ]


def crossing(edges: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Modules of one exercise that import another exercise's."""
    exercises = ("ex01", "ex02", "ex03", "ex04")

    def of(module: str) -> set[str]:
        return set(module.split(".")) & set(exercises)

    return [
        (name, other)
        for name, others in edges.items()
        for other in sorted(others)
        if of(name) and of(other) and of(name) != of(other)
    ]


def test_no_import_goes_in_a_circle():
    assert circle(graph()) == []


def test_every_module_has_a_layer_and_no_import_goes_upwards():
    known = {name.split(".")[1] for name in modules() if "." in name}
    assert known == set().union(*LAYERS)
    assert upwards(graph()) == []


def test_no_exercise_imports_another_one():
    assert crossing(graph()) == []


def test_a_life_may_read_whatever_its_drivers_import():
    edges = graph()
    todo = [name for name in edges if name.startswith(("grader.workload", "grader.harness.inside"))]
    needed: set[str] = set()
    while todo:
        if (name := todo.pop()) not in needed:
            needed.add(name)
            todo += edges[name] - {"grader.harness.guardian"}  # it runs outside the life
    readable = {name.removesuffix(".py") for name in INSIDE} | {"grader", "given"}
    assert {name.split(".")[min(1, name.count("."))] for name in needed} <= readable


def test_faults_in_a_graph_are_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []
    assert upwards({"grader.course.catalog": {"grader.engine"}}) == [
        ("grader.course.catalog", "grader.engine")
    ]
    assert crossing({"grader.checks.ex01.best": {"grader.workload.ex02.ddp"}}) != []
