"""The source tree as the architecture tests see it: modules, what each imports and when, and the rooms they stand in.

Everything is read from the syntax tree: nothing is imported, so an import inside a function or under `TYPE_CHECKING` counts like any
other, and a module that cannot be imported on this machine is judged all the same.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PRODUCT = ("kernels", "model", "server")
"""The packages that are shipped. Tests, load tests and training are not part of the house: they may look at every room."""


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name: ``target`` is the module where it is one of ours, else the dotted name as written.

    ``at_start`` says that importing the module executes it: it stands outside functions and outside ``if TYPE_CHECKING``.
    """

    target: str
    line: int
    at_start: bool


@dataclass(frozen=True, slots=True)
class Module:
    """One source file. ``path`` is relative to the root, with forward slashes."""

    name: str
    path: str
    source: str
    tree: ast.Module
    imports: tuple[Import, ...]


@dataclass(frozen=True, slots=True)
class Room:
    """A place on a floor: the modules whose name is one of ``prefixes`` or lies below one."""

    floor: int
    prefixes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.prefixes[0] if len(self.prefixes) == 1 else f"{self.prefixes[0]} and its neighbours"

    def holds(self, module: str) -> bool:
        return any(is_within(module, prefix) for prefix in self.prefixes)


class House:
    """All modules of a tree, by name, and the floor plan they are held to."""

    def __init__(self, modules: Mapping[str, Module], rooms: tuple[Room, ...]) -> None:
        self.modules = modules
        self.rooms = rooms

    @classmethod
    def read(cls, root: Path, rooms: tuple[Room, ...], packages: tuple[str, ...] = PRODUCT) -> House:
        """Parse every Python file of the product's packages under ``root``, or of others."""
        paths = sorted(path for package in packages for path in (root / package).rglob("*.py"))
        names = {_module_name(path.relative_to(root)): path for path in paths}
        return cls({name: _read_module(name, path, root, names.keys()) for name, path in names.items()}, rooms)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.modules.values())

    def room_of(self, module: str) -> Room | None:
        """The room of a module, the narrowest where rooms nest; None when the plan has none."""
        holding = [(len(prefix), room) for room in self.rooms for prefix in room.prefixes if is_within(module, prefix)]
        return max(holding, key=lambda item: item[0])[1] if holding else None

    def is_lobby(self, module: str) -> bool:
        """Whether a module is a package that only leads to rooms, as `server` does."""
        return any(is_within(prefix, module) for room in self.rooms for prefix in room.prefixes)

    @cached_property
    def project_imports(self) -> Mapping[str, frozenset[str]]:
        """For each module the modules of ours that it imports, at any time."""
        return {module.name: frozenset(i.target for i in module.imports if i.target in self.modules) for module in self}

    def path_to(self, start: str, goals: frozenset[str], *, at_start_only: bool) -> list[str] | None:
        """A shortest chain of imports from module ``start`` to a name within ``goals``, or None. Packages on the way are executed too."""
        came_from: dict[str, str | None] = {start: None}
        queue = [start]
        for name in queue:  # grows while it is walked: breadth first
            if any(is_within(name, goal) for goal in goals):
                return _unwind(name, came_from)
            for target in self._executed_by(name, at_start_only=at_start_only):
                if target not in came_from:
                    came_from[target] = name
                    queue.append(target)
        return None

    def _executed_by(self, name: str, *, at_start_only: bool) -> Iterator[str]:
        if name not in self.modules:
            return
        for entry in self.modules[name].imports:
            if entry.at_start or not at_start_only:
                yield from (package for package in _packages_of(entry.target) if package in self.modules)
                yield entry.target


def is_within(name: str, prefix: str) -> bool:
    """Whether the dotted ``name`` is ``prefix`` or lies below it."""
    return name == prefix or name.startswith(prefix + ".")


def decorator_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The dotted names of a function's decorators, without their arguments."""
    return [ast.unparse(item.func if isinstance(item, ast.Call) else item) for item in function.decorator_list]


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read_module(name: str, path: Path, root: Path, known: Iterable[str]) -> Module:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, filename=str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imports = tuple(_imports(tree, package, frozenset(known), at_start=True))
    return Module(name, path.relative_to(root).as_posix(), source, tree, imports)


def _imports(node: ast.AST, package: str, known: frozenset[str], *, at_start: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_start) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from _from_imports(child, package, known, at_start=at_start)
        elif isinstance(child, ast.Call) and ast.unparse(child.func).rpartition(".")[2] in ("import_module", "__import__"):
            yield _named_in_a_string(child)
        is_lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_typing = isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        yield from _imports(child, package, known, at_start=at_start and not is_lazy and not is_typing)


def _from_imports(node: ast.ImportFrom, package: str, known: frozenset[str], *, at_start: bool) -> Iterator[Import]:
    parents = package.split(".")
    base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
    module = ".".join(part for part in (base, node.module) if part)
    for alias in node.names:
        inner = f"{module}.{alias.name}"
        yield Import(module if module in known and inner not in known else inner, node.lineno, at_start)


def _named_in_a_string(call: ast.Call) -> Import:
    name = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    return Import(name if isinstance(name, str) else "<computed name>", call.lineno, at_start=False)


def _packages_of(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def _unwind(name: str, came_from: Mapping[str, str | None]) -> list[str]:
    chain: list[str] = []
    step: str | None = name
    while step is not None:
        chain.append(step)
        step = came_from[step]
    return chain[::-1]
