"""Keys at the door: closed to whoever has none, on every route and every spelling of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from server.access.keys import digest_of
from server.front import key_ring
from server.settings import Settings
from tests.server.api.chats import endless, error_of, hello, user
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

SECRET = "plait-" + "s" * 40
PUBLIC = ["/livez", "/readyz", "/health"]


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(hello), Settings(api_key=SecretStr(SECRET))) as front:
        yield front


def raw_status(front: RunningFront, method: str, target: str, *headers: str) -> int:
    """Send a request target exactly as it is, and return the status."""
    address = httpx.URL(front.url)
    with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
        lines = [f"{method} {target} HTTP/1.1", f"host: {address.host}", "connection: close", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        return int(connection.makefile("rb").readline().split()[1])


def test_every_route_of_the_schema_is_closed_without_a_key(front: RunningFront) -> None:
    with front.http() as http:
        schema = http.get("/openapi.json", headers={"authorization": f"Bearer {SECRET}"}).json()
    open_routes = []
    for path, methods in schema["paths"].items():
        for method in methods:
            if raw_status(front, method.upper(), path.replace("{", "").replace("}", "")) != 401:
                open_routes.append(path)
    assert set(open_routes) == set(PUBLIC)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models",
        "//v1/models",
        "/v1//models",
        "/./v1/models",
        "/livez/../v1/models",
        "/livez/..%2fv1/models",
        "/livez%2f..%2fv1%2fmodels",
        "/%76%31/models",
        "/v1/models/",
        "/v1/models?x=/livez",
        "/v1/models#/livez",
        "/v1/models;/livez",
        "/V1/models",
        "/livez/",
        "/livez/x",
        "/livez%00",
        "/livez;x",
        "/%6civez",
        "http://livez/v1/models",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/redoc",
        "/nowhere",
        "/static/../v1/models",
        "/static/none.js",
        "/static/",
        "//",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
def test_no_spelling_of_a_path_gets_round_the_key(front: RunningFront, target: str, method: str) -> None:
    assert raw_status(front, method, target) in (400, 401)


@pytest.mark.parametrize("host", ["livez", "a/?x=", "x:1/livez", "127.0.0.1@livez"])
def test_the_host_header_opens_nothing(front: RunningFront, host: str) -> None:
    assert raw_status(front, "GET", "/v1/models", f"x-forwarded-host: {host}", "x-original-url: /livez", "x-rewrite-url: /livez") == 401


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/static/style.css"])
def test_the_page_is_open_so_that_it_can_ask_for_the_key(front: RunningFront, path: str) -> None:
    assert raw_status(front, "GET", path) == raw_status(front, "HEAD", path) == 200


@pytest.mark.parametrize("path", PUBLIC)
def test_probes_are_open(front: RunningFront, path: str) -> None:
    assert raw_status(front, "GET", path) == 200
    assert raw_status(front, "GET", path, "authorization: Bearer wrong") == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "authorization:",
        "authorization: Bearer",
        "authorization: Bearer wrong",
        f"authorization: Basic {SECRET}",
        f"authorization: {SECRET}",
        f"authorization: Bearer {SECRET}x",
        f"authorization: Bearer {SECRET[:-1]}",
        f"authorization: Bearer {digest_of(SECRET)}",
        f"authorization: Bearer {SECRET} {SECRET}",
        f"authorization: Bearer {'x' * 5000}",
        "authorization: Bearer \xff\xfe",
        f"x-api-key: {SECRET}",
        f"cookie: authorization=Bearer {SECRET}",
    ],
)
def test_a_missing_or_wrong_key_is_401(front: RunningFront, header: str) -> None:
    assert raw_status(front, "GET", "/v1/models", *([header] if header else [])) == 401


def test_two_keys_in_one_request_are_none(front: RunningFront) -> None:
    """Which of two a proxy looked at and which we would is anybody's guess."""
    key = f"authorization: Bearer {SECRET}"
    assert raw_status(front, "GET", "/v1/models", key) == 200
    assert raw_status(front, "GET", "/v1/models", key, key) == 401


def test_the_refusal_is_openais_and_says_how_to_ask(front: RunningFront) -> None:
    with front.http() as http:
        response = http.get("/v1/models")
    assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
    assert error_of(response)["code"] == "invalid_api_key" and "Authorization: Bearer" in (error_of(response)["message"] or "")
    assert response.headers["x-should-retry"] == "false"


def test_the_engine_never_hears_of_a_request_without_a_key(front: RunningFront) -> None:
    with front.http() as http:
        assert http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user("hi")]}).status_code == 401
        assert front.engine.requests == []
        answer = http.post(
            "/v1/chat/completions", json={"model": "tiny_a", "messages": [user("hi")]}, headers={"authorization": f"Bearer {SECRET}"}
        )
    assert answer.status_code == 200, answer.text
    assert len(front.engine.requests) == 1


def test_without_keys_everybody_may_ask() -> None:
    with running_front(ScriptedEngine(endless)) as front, front.http() as http:
        assert http.get("/v1/models").status_code == 200
        assert http.get("/v1/models", headers={"authorization": "Bearer whatever"}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com"])
def test_a_server_open_to_others_needs_keys_or_a_word_for_it(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--insecure"):
        Settings(host=host)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{"tenant": "a", "sha256": digest_of(SECRET)}]}))
    for settings in (
        Settings(host=host, insecure=True),
        Settings(host=host, api_key=SecretStr(SECRET)),
        Settings(host=host, keys_file=tmp_path / "keys.json"),
    ):
        assert key_ring(settings).is_empty is settings.insecure


def test_a_key_in_two_places_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be used together"):
        Settings(api_key=SecretStr(SECRET), keys_file=tmp_path / "keys.json")


def test_the_key_is_not_shown_where_settings_are() -> None:
    assert SECRET not in repr(Settings(api_key=SecretStr(SECRET)))
