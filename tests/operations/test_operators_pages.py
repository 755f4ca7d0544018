"""The operators' pages name what there is: commands that the real tools understand, options, values, series and files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from server.cli.operator_pages import PAGES as PAGES_OF_LISTS
from server.metrics import FrontState, Metrics
from server.serving.engine_launch import command_line
from server.settings import Settings, option_of
from tests.helm.chart import CHART, VALUES, binary, helm

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "operations").glob("*.md"))
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ")
IDLE = FrontState("tiny", in_flight=0, is_ready=True, num_engine_starts=1, page_size=16, num_pages=256)
OF_OTHERS = {"--headless", "--use-server-token-count", "--atomic", "--build-arg"}
"""Options of locust, of aiperf, of an older helm and of docker."""
CODE = [*BLOCKS.splitlines(), *re.findall(r"`([^`\n]+)`", TEXT)]


def commands(program: str) -> list[list[str]]:
    """Return the words of every command that begins with ``program``, without pipes, redirections and comments."""
    found = [shlex.split(re.split(r"\s[|&>]|\$\(", line)[0], comments=True) for line in CODE if line.startswith(f"{program} ")]
    assert found
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", [*commands("helm"), *commands("kubectl")], ids=" ".join)
def test_helm_and_kubectl_understand_every_command_and_call_none_of_its_options_old(words: list[str]) -> None:
    """With ``--help`` last they read all that is before it and then do nothing."""
    done = run(str(binary(words[0])), *words[1:], "--help")
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in (done.stdout + done.stderr).splitlines()[0]
    assert "unknown" not in done.stderr


@pytest.mark.parametrize("verb", ["lint", "template"])
def test_commands_that_need_no_cluster_run(verb: str) -> None:
    (words,) = [words for words in commands("helm") if words[1] == verb and "./helm/plait" in words]
    assert "values.yaml" in words
    done = helm(*[{"./helm/plait": str(CHART), "values.yaml": str(VALUES[0])}.get(word, word) for word in words[1:]])
    assert done.returncode == 0, done.stderr


@cache
def help_of(module: str) -> str:
    return run(sys.executable, "-m", module, "--help").stdout


@pytest.mark.parametrize("words", commands(".venv/bin/python"), ids=" ".join)
def test_own_modules_have_the_options_they_are_given(words: list[str]) -> None:
    own = words[: words.index("--")] if "--" in words else words
    for option in [word for word in own[3:] if word.startswith("--")]:
        assert option in help_of(words[2]), option


def test_options_of_the_server_exist() -> None:
    """Those that a sentence names; the commands of blocks are looked at above."""
    named = set(re.findall(r"`(--[a-z-]+)[ `]", TEXT)) - OF_OTHERS
    served = subprocess.run(command_line(["serve", "--help"]), capture_output=True, text=True, timeout=60, check=True).stdout
    known = " ".join(
        [served, *(help_of(f"loadtests.{name}") for name in ("load.ramp", "fleet", "agreement")), helm("upgrade", "--help").stdout]
    )
    assert len(named) > 8
    assert {option for option in named if option not in known} == set()


def test_values_of_the_chart_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = yaml.safe_load((CHART / "values.schema.json").read_text(encoding="utf-8"))
    settings = schema["properties"]["settings"]["properties"]
    named = {tuple(name.split(".")) for name in re.findall(r"`([a-z]+[A-Za-z]*\.[A-Za-z_]+(?:\.[A-Za-z_]+)?)(?:: [a-z]+)?`", TEXT)}
    named = {path for path in named if path[0] in values}
    assert len(named) > 8
    for first, *rest in named:
        place = settings if first == "settings" else values[first]
        for key in rest:
            assert key in place, f"{first}.{'.'.join(rest)}"
            place = place[key]


def test_series_exist() -> None:
    catalogue = Metrics().catalogue
    known = {series.name for series in catalogue} | {f"{series.name}_bucket" for series in catalogue if series.kind == "histogram"}
    assert set(re.findall(r"plait_[a-z0-9_]+", TEXT)) - known == set()


@pytest.mark.parametrize("page", PAGES_OF_LISTS)
def test_pages_that_list_everything_are_those_of_the_code(page: str) -> None:
    """`python -m server.cli.operator_pages` renews them."""
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == PAGES_OF_LISTS[page]()


def test_every_option_has_a_row_with_its_unit_and_its_bounds() -> None:
    """Seven of them stood on no page at all."""
    page = PAGES_OF_LISTS["reference/settings.md"]()
    assert all(f"| `{option_of(name)}" in page for name in Settings.model_fields)
    assert "| `--inter-token-target-ms MILLISECONDS` |  | above 0 to 60,000 |" in page
    assert "| `--num-pages N` |  | from 1 to 1,073,741,824 |" in page


def test_every_series_that_is_exported_has_a_row_and_none_says_when_it_began() -> None:
    page = PAGES_OF_LISTS["operations/metrics.md"]()
    metrics = Metrics()
    exported = {line.split()[2] for line in metrics.exposition(IDLE).decode().splitlines() if line.startswith("# HELP")}
    assert len(exported) > 40 and all(f"| `{name}` |" in page or f"| `{name}_total` |" in page for name in exported)
    assert not any(name.endswith("_created") for name in exported)


def test_files_exist() -> None:
    named = set(re.findall(r"`((?:helm|deploy|docs|loadtests)/[\w./-]+\.\w+)`", TEXT))
    assert named and all((ROOT / name).exists() for name in named)
