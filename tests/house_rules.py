"""The rules of the house. Each takes a `House` and returns its violations: one sentence each, with the place and what to do instead."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from tests.house import PRODUCT, House, Module, decorator_names, is_within

TORCH = frozenset({"torch", "triton", "torchvision", "safetensors.torch"})
NOT_PRODUCT = frozenset({"tests", "loadtests", "deploy"})

SCHEDULER_SIDE = tuple(f"server.engine.{name}" for name in ("sequence", "context", "pages", "prefix_cache", "batch", "budget", "scheduler"))
FRONT = ("server.api", "server.serving", "server.streams", "server.store", "server.access", "server.front")
SHARED_BY_BOTH = tuple(f"server.{name}" for name in ("settings", "errors", "messages", "wire", "logs", "metrics"))

SETTINGS = "server.settings"
METRICS = "server.metrics"
MAY_CATCH_EVERYTHING = ("server/engine/loop.py", "server/api/middleware.py", "server/engine/thread_beside.py")
"""One answers a step's fault, one a request's, and one carries what a thread met to the thread that waits for it."""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

EMPTY_WORDS = frozenset({"utils", "util", "common", "helpers", "helper", "misc"})
ENVIRONMENT = frozenset({"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"})
SERIES = frozenset({"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"})
CODE_LOADERS = frozenset({"pickle", "_pickle", "cPickle", "cloudpickle", "marshal", "dill", "shelve", "joblib", "jsonpickle"})
UNSAFE_CALLS = frozenset({"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"})
READS = frozenset({"isinstance", "issubclass", "len", "all", "any", "tuple", "data_ptr"})
"""What an assertion may call."""
EVERYTHING = frozenset({"Exception", "BaseException", "builtins.Exception", "builtins.BaseException"})


def modules_without_a_floor(house: House) -> list[str]:
    return [
        f"{module.path}: stands in no room of the floor plan; move it into one, or add the room to tests/test_architecture.py"
        for module in house
        if house.room_of(module.name) is None and not house.is_lobby(module.name)
    ]


def imports_that_do_not_go_down(house: House) -> list[str]:
    return [message for module in house for message in _upward_imports(house, module)]


def _upward_imports(house: House, module: Module) -> Iterator[str]:
    here = house.room_of(module.name)
    for entry in module.imports:
        place = f"{module.path}:{entry.line}: imports {entry.target}"
        top = entry.target.partition(".")[0]
        there = house.room_of(entry.target) if top in PRODUCT else None
        if top in NOT_PRODUCT:
            yield f"{place}: the product may not know {top}/"
        elif entry.target == "<computed name>":
            yield f"{place}: an import must name its module, so that a reader can follow it"
        elif here is None or there is None or here is there:
            continue
        elif there.floor > here.floor:
            yield f"{place}, up from floor {here.floor} ({here.name}) to floor {there.floor} ({there.name}); pass the object in instead"
        elif there.floor == here.floor:
            yield f"{place}: {here.name} and {there.name} stand on one floor and may not know each other"


def import_cycles(house: House) -> list[str]:
    """Modules import each other in one direction, and so do packages, which may be in a circle that none of their modules is in."""
    most_parts = max(len(name.split(".")) for name in house.modules)
    return [message for num_parts in range(1, most_parts + 1) for message in _cycle_among_names(house, num_parts)]


def _cycle_among_names(house: House, num_parts: int) -> Iterator[str]:
    """Find a cycle with every name cut to ``num_parts`` parts."""
    imports: dict[str, set[str]] = defaultdict(set)
    for name, targets in house.project_imports.items():
        here = _cut(name, num_parts)
        imports[here] |= {_cut(target, num_parts) for target in targets} - {here}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        yield "a cycle of imports: " + " <- ".join(error.args[1])


def _cut(name: str, num_parts: int) -> str:
    return ".".join(name.split(".")[:num_parts])


def torch_in_the_scheduler(house: House) -> list[str]:
    return _reaches_torch(house, SCHEDULER_SIDE, "the scheduler side of the engine is plain Python", at_start_only=False)


def torch_in_the_front(house: House) -> list[str]:
    reason = "the API process has no torch"
    return [
        *_reaches_torch(house, (*FRONT, *SHARED_BY_BOTH), reason, at_start_only=False),
        *_reaches_torch(house, ("server.cli", "server.__main__"), reason, at_start_only=True),
    ]


def _reaches_torch(house: House, prefixes: tuple[str, ...], reason: str, *, at_start_only: bool) -> list[str]:
    starts = [module for module in house if any(is_within(module.name, prefix) for prefix in prefixes)]
    chains = [(module, house.path_to(module.name, TORCH, at_start_only=at_start_only)) for module in starts]
    return [f"{module.path}: reaches torch ({' -> '.join(chain)}), but {reason}" for module, chain in chains if chain]


def triton_outside_kernels(house: House) -> list[str]:
    return [
        f"{module.path}:{entry.line}: imports {entry.target}; Triton is for kernels/"
        for module in house
        for entry in module.imports
        if is_within(entry.target, "triton") and not is_within(module.name, "kernels")
    ]


def environment_outside_settings(house: House) -> list[str]:
    return [
        f"{module.path}:{line}: touches {name}; only server/settings.py reads the environment, the rest takes arguments"
        for module in house
        if module.name != SETTINGS
        for line, name in _used_names(module)
        if name in ENVIRONMENT
    ]


def series_outside_metrics(house: House) -> list[str]:
    series = {f"prometheus_client.{kind}" for kind in SERIES} | {f"prometheus_client.metrics.{kind}" for kind in SERIES}
    return [
        f"{module.path}:{line}: names a Prometheus series ({name}); only server/metrics.py does"
        for module in house
        if module.name != METRICS
        for line, name in _used_names(module)
        if name in series
    ]


def _used_names(module: Module) -> Iterator[tuple[int, str]]:
    """Every dotted name that is used or imported, with ``import x as y`` and ``from x import y`` undone."""
    meaning: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            meaning |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                meaning[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield node.lineno, f"{node.module}.{alias.name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute | ast.Name):
            first, dot, rest = ast.unparse(node).partition(".")
            yield node.lineno, meaning.get(first, first) + dot + rest


def files_named_after_nothing(house: House) -> list[str]:
    return [
        f"{module.path}: name it after what it does, not {word}"
        for module in house
        for word in sorted(EMPTY_WORDS & set(module.name.rpartition(".")[2].split("_")))
    ]


def files_too_long(house: House) -> list[str]:
    lengths = [(module, len(module.source.splitlines())) for module in house]
    return [f"{module.path}: {length} lines; at most {MAX_FILE_LINES}" for module, length in lengths if length > MAX_FILE_LINES]


def functions_too_long(house: House) -> list[str]:
    return [
        f"{module.path}:{node.lineno}: {node.name} has {length} lines; at most {MAX_FUNCTION_LINES}, aim at 10 to 30"
        for module in house
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
        if not any(name.endswith("triton.jit") or name == "jit" for name in decorator_names(node))
    ]


def code_from_data(house: House) -> list[str]:
    return [
        f"{module.path}:{line}: {what}, which can run code that is hidden in data; read safetensors, JSON or msgpack"
        for module in house
        for line, what in _code_loading(module)
    ]


def _code_loading(module: Module) -> Iterator[tuple[int, str]]:
    for entry in module.imports:
        if entry.target.partition(".")[0] in CODE_LOADERS:
            yield entry.line, f"imports {entry.target}"
    for line, name in _used_names(module):
        if name in UNSAFE_CALLS:
            yield line, f"uses {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield node.lineno, "allows pickle"


def init_files_with_content(house: House) -> list[str]:
    return [
        f"{module.path}: stays empty; import from the module that defines the name"
        for module in house
        if module.path.endswith("__init__.py") and module.path != "kernels/__init__.py" and module.source.strip()
    ]


def catching_everything(house: House) -> list[str]:
    return [
        f"{module.path}:{line}: catches everything; catch what you can answer (only {', '.join(MAY_CATCH_EVERYTHING)} may)"
        for module in house
        if module.path not in MAY_CATCH_EVERYTHING
        for line in _broad_catches(module)
    ]


def _broad_catches(module: Module) -> Iterator[int]:
    for node in ast.walk(module.tree):
        match node:
            case ast.ExceptHandler(type=caught) if (caught is None or _names_everything(caught)) and not _only_translates(node):
                yield node.lineno
            case ast.Call(func=func) if ast.unparse(func).endswith("suppress") and any(map(_names_everything, node.args)):
                yield node.lineno


def _only_translates(handler: ast.ExceptHandler) -> bool:
    """Whether a handler does nothing but raise a better error from the one it got: some libraries raise a bare `Exception`."""
    return len(handler.body) == 1 and isinstance(handler.body[0], ast.Raise) and handler.body[0].cause is not None


def _names_everything(node: ast.expr) -> bool:
    choices = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(ast.unparse(choice) in EVERYTHING for choice in choices)


def names_hidden_in_strings(house: House) -> list[str]:
    return [
        f"{module.path}:{node.lineno}: {ast.unparse(node)} hides a name in a string; give the thing a type that has it"
        for module in house
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr")
        if len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
    ]


def assertions_that_do(house: House) -> list[str]:
    return [
        f"{module.path}:{node.lineno}: {ast.unparse(node)} may do something, which python -O leaves out; do it before"
        for module in house
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Assert) and not all(map(_only_reads, ast.walk(node.test)))
    ] + [
        f"{module.path}:{line}: hangs on {name}; the product does the same under python -O"
        for module in house
        for line, name in _used_names(module)
        if name in ("__debug__", "sys.flags.optimize")
    ]


def assertions_that_are_caught(house: House) -> list[str]:
    return [
        f"{module.path}:{node.lineno}: catches an assertion, which python -O leaves out; check, and raise what says what is wrong"
        for module in house
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler | ast.Call) and _catches_assertions(node)
    ]


def _catches_assertions(node: ast.ExceptHandler | ast.Call) -> bool:
    caught = [node.type] if isinstance(node, ast.ExceptHandler) else node.args if ast.unparse(node.func).endswith("suppress") else []
    return any("AssertionError" in ast.unparse(entry) for entry in caught if entry)


def _only_reads(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in READS
        case ast.Call() | ast.NamedExpr() | ast.Await() | ast.Yield() | ast.YieldFrom():
            return False
        case _:
            return True
