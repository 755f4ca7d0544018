"""What probes, scrapers and curious people ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.settings import Settings
from tests.server.api.chats import endless, error_of, hello, user
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(hello)) as running:
        yield running


def test_a_ready_server_says_so(front: RunningFront) -> None:
    with front.http() as http:
        assert http.get("/livez").json() == {"status": "alive"}
        for path in ("/readyz", "/health"):
            response = http.get(path)
            assert (response.status_code, response.json()["status"], response.json()["reasons"]) == (200, "ready", [])


def test_a_server_whose_engine_cannot_start_lives_but_is_not_ready() -> None:
    with running_front(ScriptedEngine(hello, failure="no weights")) as front, front.http() as http:
        front.engine.wait_until(lambda: http.get("/readyz").json()["status"] == "failed")
        response = http.get("/readyz")
        assert response.status_code == 503 and response.json()["reasons"] == ["no weights"]
        assert http.get("/livez").status_code == 200
        refused = http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user("hi")]})
        assert refused.status_code == 503 and error_of(refused)["code"] == "engine_unavailable"


def test_a_server_whose_engine_makes_no_progress_is_not_ready() -> None:

    settings = Settings(stall_after_s=0.05)
    with running_front(ScriptedEngine(endless), settings) as front, front.http() as http:
        with (
            http.stream("POST", "/v1/chat/completions", json={"model": "tiny_a", "messages": [user("hi")], "stream": True}),
            front.http() as other,
        ):
            front.engine.wait_until(lambda: other.get("/readyz").status_code == 503)
            assert other.get("/readyz").json()["status"] == "stalled"
        front.engine.wait_until(lambda: http.get("/readyz").status_code == 200)


def test_the_model_is_listed_with_what_it_can_do(front: RunningFront) -> None:
    with front.http() as http:
        (card,) = http.get("/v1/models").json()["data"]
        assert http.get("/v1/models/tiny_a").json() == card
        assert http.get("/v1/models/other").status_code == 404
        assert http.get("/v1/models/").json()["data"] == [card]
    assert (card["id"], card["object"], card["family"]) == ("tiny_a", "model", "bagel")
    assert card["image"] == {
        "default_size": "128x128",
        "offered_sizes": ["128x128", "128x96", "96x128", "128x64", "64x128"],
        "size_multiple": 16,
        "max_side": 128,
        "max_per_prompt": 16,
    }


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/version", "/v1/models", "/v1/models/tiny_a"])
def test_what_can_be_read_answers_head_without_a_body(front: RunningFront, path: str) -> None:
    with front.http() as http:
        whole, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert head.headers["content-length"] == whole.headers["content-length"]


def test_the_official_client_lists_the_model(front: RunningFront) -> None:
    assert [model.id for model in front.openai().models.list()] == ["tiny_a"]


def test_metrics_count_answers_and_steps(front: RunningFront) -> None:
    with front.http() as http:
        http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user("hi")]})
        families = {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
    finished = {
        sample.labels["reason"]: sample.value for sample in families["plait_requests_finished"].samples if sample.name.endswith("_total")
    }
    assert finished["stop"] >= 1
    assert families["plait_engine_steps"].samples[0].value > 1
    assert families["plait_pages_total"].samples[0].value == 256
    for name in (
        "plait_time_to_first_token_seconds",
        "plait_inter_token_seconds",
        "plait_e2e_request_seconds",
        "plait_engine_step_seconds",
    ):
        assert any(sample.name.endswith("_count") and sample.value > 0 for sample in families[name].samples), name


def test_routes_are_counted_by_pattern_so_that_clients_cannot_invent_series(front: RunningFront) -> None:
    with front.http() as http:
        for number in range(3):
            http.get(f"/no/such/{number}")
            http.get(f"/v1/models/m{number}")
        families = {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
    routes = {sample.labels["route"] for sample in families["plait_http_requests"].samples}
    assert "other" in routes and "/v1/models/{model_id:path}" in routes
    assert not any("such" in route or "m1" in route for route in routes)


def test_metrics_are_not_on_a_port_that_others_can_reach() -> None:
    with running_front(ScriptedEngine(hello), Settings(host="0.0.0.0", insecure=True)) as front, front.http() as http:
        assert http.get("/metrics").status_code == 404
        assert http.get("/readyz").status_code == 200


def test_a_metrics_port_takes_them_off_the_main_one() -> None:
    with running_front(ScriptedEngine(hello), Settings(metrics_port=0)) as front, front.http() as http, front.metrics_http() as metrics:
        assert http.get("/metrics").status_code == 404
        assert "plait_engine_ready 1.0" in metrics.get("/metrics").text
        assert metrics.get("/readyz").status_code == 200
        assert metrics.post("/v1/chat/completions", json={}).status_code == 404


def test_refusals_are_counted_by_reason(front: RunningFront) -> None:
    with front.http() as http:
        http.post("/v1/chat/completions", json={"messages": [user("hi")], "no_such_field": 1})
        text = http.get("/metrics").text
    assert 'plait_rejections_total{reason="unknown_parameter"} 1.0' in text


def test_the_front_page_shows_how_to_ask(front: RunningFront) -> None:
    with front.http() as http:
        page = http.get("/")
    assert page.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nothing", 404, "not_found"), ("GET", "/v1/chat/completions", 405, "method_not_allowed")],
)
def test_what_the_router_refuses_has_openai_s_shape(front: RunningFront, method: str, path: str, status: int, code: str) -> None:
    with front.http() as http:
        response = http.request(method, path)
    assert (response.status_code, error_of(response)["code"]) == (status, code)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/completions", "/v1/chat/completions"),
        ("/v1/nothing/like/it", None),
    ],
)
def test_a_wrong_address_is_answered_with_the_nearest_one(front: RunningFront, path: str, nearest: str | None) -> None:
    with front.http() as http:
        message = str(error_of(http.post(path, json={}))["message"])
    assert "nothing at this address" in message
    assert ("nearest" in message) is (nearest is not None) and (nearest is None or f"nearest one is {nearest};" in message)


@pytest.mark.parametrize(("sent", "is_kept"), [("abc-1.2_X", True), ("a b", False), ("x" * 129, False), ("a\tb", False)])
def test_a_request_id_is_echoed_only_if_it_is_harmless(front: RunningFront, sent: str, is_kept: bool) -> None:
    with front.http() as http:
        answer = http.get("/livez", headers={"x-request-id": sent}).headers["x-request-id"]
    assert (answer == sent) is is_kept and answer


def test_the_schema_is_served(front: RunningFront) -> None:
    with front.http() as http:
        assert "/v1/chat/completions" in http.get("/openapi.json").json()["paths"]
