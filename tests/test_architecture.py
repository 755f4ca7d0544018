"""The tree is the architecture: imports go down the floors below, and each house rule holds in every product file.

Each rule has two tests: the tree obeys it, and it fires on a violation planted in a small tree of its own. Then the promises about
what a process can do without are put to the test by really importing the modules with those packages taken away.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests import house_rules as rules
from tests.house import House, Room, is_within

ROOT = Path(__file__).parents[1]

FLOORS = (
    Room(0, ("kernels",)),
    Room(1, ("model",)),
    Room(
        2,
        (
            "server.messages",
            "server.errors",
            "server.logs",
            "server.metrics",
            "server.otlp_tracing",
            "server.plain_words",
            "server.settings",
            "server.time_slices",
            "server.tracing",
            "server.wire",
        ),
    ),
    Room(3, ("server.engine",)),
    Room(3, ("server.streams", "server.store")),
    Room(3, ("server.access",)),
    Room(4, ("server.serving",)),
    Room(5, ("server.api",)),
    Room(6, ("server.front", "server.durability")),
    Room(7, ("server.cli",)),
    Room(8, ("server.__main__",)),
)
"""A new file directly in server/ needs its name here."""

HTTP_STACK = ("fastapi", "starlette", "uvicorn", "httpx", "pydantic", "pydantic_settings", "msgspec", "zmq", "prometheus_client")

Rule = Callable[[House], list[str]]

RULES: tuple[Rule, ...] = (
    rules.modules_without_a_floor,
    rules.imports_that_do_not_go_down,
    rules.import_cycles,
    rules.torch_in_the_scheduler,
    rules.torch_in_the_front,
    rules.triton_outside_kernels,
    rules.environment_outside_settings,
    rules.series_outside_metrics,
    rules.files_named_after_nothing,
    rules.files_too_long,
    rules.functions_too_long,
    rules.code_from_data,
    rules.init_files_with_content,
    rules.catching_everything,
    rules.names_hidden_in_strings,
    rules.assertions_that_do,
    rules.assertions_that_are_caught,
)

VIOLATIONS: tuple[tuple[Rule, dict[str, str]], ...] = (
    (rules.modules_without_a_floor, {"server/cellar.py": ""}),
    (rules.imports_that_do_not_go_down, {"kernels/op.py": "import model.flow", "model/flow.py": ""}),
    (
        rules.imports_that_do_not_go_down,
        {"model/flow.py": "def f():\n    from server.engine import loop", "server/engine/loop.py": ""},
    ),
    (
        rules.imports_that_do_not_go_down,
        {"server/serving/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import server.api.b", "server/api/b.py": ""},
    ),
    (rules.imports_that_do_not_go_down, {"server/engine/a.py": "from server.store.b import Redis", "server/store/b.py": "Redis = 1"}),
    (rules.imports_that_do_not_go_down, {"server/store/a.py": "from ..api import b", "server/api/b.py": ""}),
    (
        rules.imports_that_do_not_go_down,
        {"model/flow.py": "import importlib as i\ni.import_module('server.api.b')", "server/api/b.py": ""},
    ),
    (rules.imports_that_do_not_go_down, {"model/flow.py": "name = 'x'\n__import__(name)"}),
    (rules.imports_that_do_not_go_down, {"model/flow.py": "from tests.house import House"}),
    (rules.import_cycles, {"model/a.py": "from model.b import g", "model/b.py": "def g() -> None:\n    import model.a"}),
    (
        rules.import_cycles,
        {"model/storybook/a.py": "from model.flow import f", "model/flow.py": "from model.storybook import b", "model/storybook/b.py": ""},
    ),
    (rules.torch_in_the_scheduler, {"server/engine/scheduler.py": "from model.flow import f", "model/flow.py": "import torch.nn\nf = 1"}),
    (rules.torch_in_the_scheduler, {"server/engine/pages.py": "def f() -> None:\n    import torch"}),
    (
        rules.torch_in_the_scheduler,
        {"server/engine/batch.py": "import model.flow", "model/flow.py": "", "model/__init__.py": "from torch import nn"},
    ),
    (rules.torch_in_the_front, {"server/api/a.py": "from model import config", "model/config.py": "from torch import Tensor"}),
    (rules.torch_in_the_front, {"server/wire.py": "import safetensors.torch"}),
    (rules.torch_in_the_front, {"server/cli/serve.py": "import server.engine.loop", "server/engine/loop.py": "import torch"}),
    (rules.triton_outside_kernels, {"model/flow.py": "import triton.language as tl"}),
    (rules.environment_outside_settings, {"model/flow.py": "import os\nprint(os.environ['HOME'])"}),
    (rules.environment_outside_settings, {"model/flow.py": "from os import getenv as read\nread('HOME')"}),
    (rules.environment_outside_settings, {"model/flow.py": "import os as system\nsystem.getenv('HOME')"}),
    (rules.series_outside_metrics, {"server/api/a.py": "from prometheus_client import Counter\nCounter('a', 'b')"}),
    (rules.series_outside_metrics, {"server/api/a.py": "import prometheus_client as p\np.Gauge('a', 'b')"}),
    (rules.files_named_after_nothing, {"model/utils.py": ""}),
    (rules.files_named_after_nothing, {"server/api/image_helpers.py": ""}),
    (rules.files_named_after_nothing, {"model/common/flow.py": "", "model/common/__init__.py": ""}),
    (rules.files_too_long, {"model/flow.py": "x = 1\n" * 401}),
    (rules.functions_too_long, {"model/flow.py": "async def f() -> None:\n" + "    x = 1\n" * 60}),
    (rules.code_from_data, {"model/a.py": "import pickle"}),
    (rules.code_from_data, {"model/a.py": "from torch import load\nload('x')"}),
    (rules.code_from_data, {"model/a.py": "import torch\ntorch.load('x', weights_only=True)"}),
    (rules.code_from_data, {"model/a.py": "eval('1')"}),
    (rules.code_from_data, {"model/a.py": "import numpy as np\nnp.load('x', allow_pickle=True)"}),
    (rules.init_files_with_content, {"model/__init__.py": '"""The model."""'}),
    (rules.catching_everything, {"model/a.py": "try:\n    f()\nexcept Exception:\n    pass"}),
    (rules.catching_everything, {"model/a.py": "try:\n    f()\nexcept:\n    pass"}),
    (rules.catching_everything, {"model/a.py": "try:\n    f()\nexcept (ValueError, BaseException):\n    pass"}),
    (rules.catching_everything, {"model/a.py": "from contextlib import suppress\nwith suppress(Exception):\n    f()"}),
    (rules.names_hidden_in_strings, {"model/a.py": "getattr(f, 'name', None)"}),
    (rules.assertions_that_do, {"model/a.py": "assert pages.pop() is not None"}),
    (rules.assertions_that_do, {"model/a.py": "assert (first := f) and all(g() for g in first)"}),
    (rules.assertions_that_do, {"model/a.py": "if __debug__:\n    f()"}),
    (rules.assertions_that_do, {"model/a.py": "import sys as system\nif system.flags.optimize:\n    f()"}),
    (rules.assertions_that_are_caught, {"model/a.py": "try:\n    f()\nexcept (ValueError, AssertionError):\n    pass"}),
    (rules.assertions_that_are_caught, {"model/a.py": "from contextlib import suppress\nwith suppress(AssertionError):\n    f()"}),
)

INNOCENT = {
    "kernels/__init__.py": '"""The ops."""',
    "kernels/op.py": "import torch\nimport triton\n\n@triton.jit\ndef kernel(x):\n" + "    y = 1\n" * 80,
    "model/__init__.py": "",
    "model/flow.py": "import collections\n\ndef f(net, name):\n    net.eval()\n    return collections.Counter(), getattr(net, name)",
    "model/shapes.py": "def f(x):\n    assert x is not None and all(len(y) > 0 for y in x[1:]), f'no {x}'",
    "model/tokenizer.py": "try:\n    f()\nexcept Exception as error:\n    raise ValueError('not a tokenizer') from error",
    "server/__init__.py": "",
    "server/messages.py": "",
    "server/settings.py": "import os\nHOME = os.environ['HOME']",
    "server/metrics.py": "from prometheus_client import Counter\nsteps = Counter('steps', 'Steps.')",
    "server/wire.py": "from server import messages",
    "server/engine/pages.py": "from server.messages import x",
    "server/engine/loop.py": "import torch\nfrom server.engine import pages\ntry:\n    pages.f()\nexcept Exception:\n    raise",
    "server/serving/a.py": "from server import wire",
    "server/api/b.py": "from prometheus_client import generate_latest\nfrom server.serving.a import c\nimport server.metrics",
    "server/cli/engine.py": "import server.api.b\n\ndef engine_process():\n    import server.engine.loop",
}


@pytest.fixture(scope="module")
def house() -> House:
    return House.read(ROOT, FLOORS)


def plant(root: Path, files: dict[str, str]) -> House:
    for path, source in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source, encoding="utf-8")
    return House.read(root, FLOORS)


def name_of(rule: Rule) -> str:
    return rule.__name__


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_no_module_has(rule: Rule, house: House) -> None:
    violations = rule(house)
    assert not violations, f"{name_of(rule)}:\n" + "\n".join(violations)


@pytest.mark.parametrize(("rule", "files"), VIOLATIONS, ids=[name_of(rule) for rule, _ in VIOLATIONS])
def test_a_planted_violation_is_found(rule: Rule, files: dict[str, str], tmp_path: Path) -> None:
    assert rule(plant(tmp_path, files))


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_an_innocent_tree_has_none(rule: Rule, tmp_path: Path) -> None:
    assert rule(plant(tmp_path, INNOCENT)) == []


def test_every_rule_has_a_planted_violation() -> None:
    assert {name_of(rule) for rule in RULES} == {name_of(rule) for rule, _ in VIOLATIONS}


def test_no_load_tests_import_each_other_in_a_circle() -> None:
    tree = House.read(ROOT, (), ("loadtests",))
    assert "loadtests.comparison.compare" in tree.project_imports["loadtests.simulate.__main__"]
    assert rules.import_cycles(tree) == []


def test_the_house_is_not_empty(house: House) -> None:
    """The rules would hold in an empty tree: make sure that they look at the real one."""
    assert {"kernels.plan", "model.config", "server.messages", "server.engine.scheduler"} <= house.modules.keys()


def test_engine_and_model_need_no_server_packages(house: House) -> None:
    names = [name for name in below(house, "kernels", "model", "server.engine", "server.messages") if not needs_triton(house, name)]
    assert_imports_without(HTTP_STACK, names)


def test_a_machine_without_triton_can_serve(house: House) -> None:
    names = [name for name in below(house, "kernels", "model", "server") if not needs_triton(house, name)]
    assert_imports_without(("triton",), names)


def test_the_front_runs_without_torch(house: House) -> None:
    assert_imports_without(("torch", "triton"), below(house, *rules.FRONT, *rules.SHARED_BY_BOTH, "server.cli", "server.__main__"))


def test_the_front_leaves_grammars_to_their_writers() -> None:
    """Two bounds of fields brought the grammar library into it, which a stranger's schemas are kept away from."""
    assert_imports_without(("llguidance",), ["server.front"])


def test_taking_a_package_away_is_noticed(house: House) -> None:
    with pytest.raises(AssertionError, match="torch was taken away"):
        assert_imports_without(("torch",), ["kernels.plan"])


def below(house: House, *prefixes: str) -> list[str]:
    return [name for name in house.modules if any(is_within(name, prefix) for prefix in prefixes)]


def needs_triton(house: House, name: str) -> bool:
    return any(entry.at_start and is_within(entry.target, "triton") for entry in house.modules[name].imports)


def assert_imports_without(absent: Iterable[str], names: list[str]) -> None:
    """Import ``names`` in a fresh interpreter that has none of the ``absent`` packages."""
    program = f"""
import importlib, sys

class TakenAway:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(absent)!r}:
            raise ModuleNotFoundError(f"{{name}} was taken away by this test", name=name)

sys.meta_path.insert(0, TakenAway())
for name in {names!r}:
    importlib.import_module(name)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
