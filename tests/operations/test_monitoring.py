"""A real Prometheus scrapes a real server: what dashboards and rules ask for is there, and endpoint pickers can read it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import jmespath
import pytest
from prometheus_client.parser import text_string_to_metric_families

from helm.dashboards import DASHBOARDS, DIRECTORY, dashboard, rendered
from loadtests.fleet.box import FleetPlan, running_fleet
from loadtests.fleet.processes import wait_until
from tests.operations.test_alerts import RULES, alerts

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
OPTIONS = ("--model", str(CHECKPOINT), "--num-threads", "1", "--num-pages", "4000")
WAIT_S = 60.0
METRIC = re.compile(r"\b(?:plait_[a-z0-9_]+|vllm:[a-z_]+)")


@dataclass(frozen=True, slots=True)
class Monitored:
    """A server that has answered with words and a picture, and the Prometheus that has scraped it since."""

    metrics: str
    prometheus: httpx.Client

    def query(self, expression: str) -> list[dict[str, object]]:
        """Return the result of an instant query; fail if Prometheus does not understand it."""
        answer = self.prometheus.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        result = answer["data"]["result"]
        return result if isinstance(result, list) else []


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    plan = FleetPlan(1, OPTIONS, with_prometheus=True, rules=RULES)
    with running_fleet(tmp_path_factory.mktemp("monitored"), plan) as fleet, httpx.Client(base_url=fleet.prometheus_url) as client:
        ask_for_words_and_a_picture(fleet.url)
        running = Monitored(fleet.replicas[0].metrics_url, client)
        wait_until(lambda: bool(running.query("plait_pictures_total > 0")), WAIT_S, "Prometheus did not scrape the picture")
        yield running


def ask_for_words_and_a_picture(url: str) -> None:
    body = {
        "model": "tiny_a",
        "modalities": ["text", "image"],
        "messages": [{"role": "user", "content": "draw"}],
        "max_completion_tokens": 4,
        "image": {"num_inference_steps": 3, "max_images": 1, "size": "64x64"},
    }
    assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code == 200


def dashboard_queries() -> list[str]:
    """Return every query with its variables as a user of all pods has them."""
    found: list[str] = []
    for name, panels in DASHBOARDS.items():
        found += jmespath.search("panels[].targets[].expr", dashboard(name, panels))
    assert len(found) > 50
    return [query.replace("$__rate_interval", "1m").replace("$namespace", ".*").replace("$pod", ".*") for query in found]


@pytest.mark.slow
def test_every_series_of_dashboards_and_rules_is_exported(monitored: Monitored) -> None:
    asked = {name for text in [*dashboard_queries(), *(str(alert["expr"]) for alert in alerts())] for name in METRIC.findall(text)}
    answer = monitored.prometheus.get("/api/v1/label/__name__/values").json()
    assert asked - set(answer["data"]) == set()
    assert len(asked) > 40


def test_prometheus_understands_every_query_of_the_dashboards(monitored: Monitored) -> None:
    for query in dashboard_queries():
        monitored.query(query)


def test_the_rules_are_loaded_and_none_fires_on_a_healthy_server(monitored: Monitored) -> None:
    groups = monitored.prometheus.get("/api/v1/rules").json()["data"]["groups"]
    assert {rule["name"] for group in groups for rule in group["rules"]} == {alert["alert"] for alert in alerts()}
    fired = monitored.query('ALERTS{alertstate="firing"}')
    assert fired == []


def test_an_endpoint_picker_finds_what_its_specification_names(monitored: Monitored) -> None:
    families = {family.name: family for family in text_string_to_metric_families(httpx.get(monitored.metrics).text)}
    for name in ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"):
        assert families[name].type == "gauge"
        assert len(families[name].samples) == 1
    (sample,) = families["vllm:cache_config_info"].samples
    assert (sample.labels["block_size"], sample.labels["num_gpu_blocks"]) == ("16", "4000")
    assert 0.0 <= families["vllm:kv_cache_usage_perc"].samples[0].value <= 1.0


def test_promtool_finds_the_exposition_well_formed(monitored: Monitored) -> None:
    text = httpx.get(monitored.metrics).text
    ours = "\n".join(line for line in text.splitlines() if "vllm:" not in line) + "\n"
    done = subprocess.run(["promtool", "check", "metrics"], input=ours, capture_output=True, text=True, timeout=60, check=False)
    assert "error" not in done.stderr.lower(), done.stderr


def test_no_label_grows_with_what_clients_send(monitored: Monitored) -> None:
    text = httpx.get(monitored.metrics).text
    assert len(text.splitlines()) < 1200


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_dashboard_files_are_the_generated_ones(name: str) -> None:
    assert (DIRECTORY / f"{name}.json").read_text(encoding="utf-8") == rendered(name), "run: python -m helm.dashboards"
