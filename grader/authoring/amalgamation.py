"""templates/checkpoint_utils.py is generated from the package in templates/exact_resume.

The modules follow each other in the order of their imports, so that each name is defined before it
is used. Their own imports are merged at the top; those from each other fall away. So the package
obeys three rules, which are checked here: its modules import each other at the top of a file, by
`from .module import name`, and no two modules define the same name.
"""

from __future__ import annotations

import ast
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from grader.course.catalog import Exercise
from grader.errors import UsageError

PACKAGE, FILE = Path("templates/exact_resume"), Path("templates/checkpoint_utils.py")
NOTE = f"""
Copy this one file; it needs only torch. It is the package {PACKAGE.name} in one file, without its
commands. `grade dev derive` generates it: change the package, not this file."""
WIDTH = 100


def write(root: Path) -> list[Path]:
    """Generate the file; return it if it wasn't up to date."""
    path, text = root / FILE, generated(root / PACKAGE)
    if path.exists() and path.read_text() == text:
        return []
    path.write_text(text)
    return [path]


def problems(root: Path, exercises: list[Exercise]) -> Iterator[str]:
    """One line if the file isn't what the package gives."""
    if not (root / PACKAGE).is_dir():
        return
    try:
        text = generated(root / PACKAGE)
    except UsageError as e:
        yield f"{PACKAGE}: {FILE.name} can't be generated; correct the import: {e}"
        return
    if not (root / FILE).exists() or (root / FILE).read_text() != text:
        yield f"{FILE}: isn't generated from {PACKAGE}; run grade dev derive"


def generated(package: Path) -> str:
    """The text of the single file."""
    modules = _in_order(package)
    _refuse_duplicates(modules)
    about = _Module(package / "__init__.py").docstring
    head = f'"""{about.rstrip()}\n{NOTE}\n"""\n\n{_imports(modules)}'
    return f"{head}\n\n" + "\n\n\n".join(map(_section, modules)) + "\n"


class _Module:
    def __init__(self, path: Path):
        self.path, text = path, path.read_text()
        self.tree = ast.parse(text, str(path))
        self.docstring = ast.get_docstring(self.tree) or ""
        rest = self.tree.body[1 if self.docstring else 0 :]
        self.imports = list(itertools.takewhile(_is_import, rest))
        rest = rest[len(self.imports) :]
        self.statements = [s for s in rest if not _defines_all(s)]
        self._refuse_hidden_imports()
        left_out = [s for s in rest if _defines_all(s)]
        after = self.imports[-1].end_lineno if self.imports else 0
        self.body = "\n".join(
            line
            for number, line in enumerate(text.splitlines(), 1)
            if number > (after or 0)
            and not any(s.lineno <= number <= (s.end_lineno or 0) for s in left_out)
        ).strip("\n")

    def others(self) -> list[str]:
        """The modules of the package that it imports, in that order."""
        return [node.module or "" for node in self.imports if _is_relative(node)]

    def names(self) -> Iterator[str]:
        for s in self.statements:
            if isinstance(s, (ast.FunctionDef, ast.ClassDef)):
                yield s.name
            targets = s.targets if isinstance(s, ast.Assign) else [getattr(s, "target", None)]
            for target in targets:
                yield from (n.id for n in ast.walk(target or ast.Pass()) if isinstance(n, ast.Name))

    def _refuse_hidden_imports(self) -> None:
        for statement in self.statements:
            for node in ast.walk(statement):
                if _is_relative(node):
                    self._refuse(node, "imports another module, but not at the top of the file")
        for node in self.imports:
            if _is_relative(node):
                if any(alias.asname for alias in node.names):
                    self._refuse(node, "imports a name under another name")
                if not node.module:
                    self._refuse(node, "imports a module instead of its names")

    def _refuse(self, node: ast.AST, why: str) -> None:
        raise UsageError(f"{self.path.name}, line {getattr(node, 'lineno', 0)} {why}")


def _is_import(node: ast.AST) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _is_relative(node: ast.AST) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and node.level > 0


def _defines_all(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id == "__all__"
    )


def _in_order(package: Path) -> list[_Module]:
    """What __init__.py imports, and what that imports: each module after those it imports."""
    found: dict[str, _Module] = {}
    open_: list[str] = []

    def add(name: str) -> None:
        if name in open_:
            raise UsageError(f"{' -> '.join([*open_, name])} is a circle")
        if name not in found:
            open_.append(name)
            module = _Module(package / f"{name}.py")
            for other in module.others():
                add(other)
            found[open_.pop()] = module

    for name in _Module(package / "__init__.py").others():
        add(name)
    return list(found.values())


def _refuse_duplicates(modules: list[_Module]) -> None:
    where: dict[str, str] = {}
    for module in modules:
        for name in set(module.names()):
            other = where.setdefault(name, module.path.name)
            if other != module.path.name:
                raise UsageError(f"{name} is defined in {other} and in {module.path.name}")


def _section(module: _Module) -> str:
    line = f"# --- {module.path.name} ".ljust(WIDTH, "-")
    about = [f"# {text}".rstrip() for text in module.docstring.splitlines()]
    begins_with_definition = module.body.startswith(("def ", "class ", "@"))
    blank = ["", ""] if begins_with_definition else [""]
    return "\n".join([line, *about, *blank, module.body])


def _imports(modules: list[_Module]) -> str:
    """Sorted as the linter wants them: the standard library's before others."""
    plain: set[str] = set()
    members: dict[str, set[str]] = {}
    for module in modules:
        for node in module.imports:
            if isinstance(node, ast.Import):
                plain |= {_alias(alias) for alias in node.names}
            elif (
                isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__"
            ):
                members.setdefault(node.module or "", set()).update(map(_alias, node.names))
    blocks = ["from __future__ import annotations"]
    for standard in (True, False):
        lines = [f"import {n}" for n in sorted(plain) if _is_standard(n) is standard]
        lines += [
            _from(n, sorted(members[n], key=_member_order))
            for n in sorted(members)
            if _is_standard(n) is standard
        ]
        blocks += ["\n".join(lines)] if lines else []
    return "\n\n".join(blocks)


def _alias(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name


def _is_standard(name: str) -> bool:
    return name.split()[0].partition(".")[0] in sys.stdlib_module_names


def _member_order(name: str) -> tuple[int, str]:
    """Constants, classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def _from(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"
