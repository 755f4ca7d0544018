"""A real nginx before the server, with its own defaults: nothing of a stream is held back, and a silent one is kept alive."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.settings import Settings
from tests.server.api.chats import endless, user
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen unix:{folder}/nginx.sock;
        # HTTP/1.0 to the server, buffering on: what nginx does when nobody has told it otherwise.
        location / {{ proxy_pass {url}; }}
    }}
}}
"""
STARTS_WITHIN_S = 20.0
BODY = {"model": "tiny_a", "messages": [user("hi")], "stream": True}


@pytest.fixture
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(endless), Settings(keep_alive_s=0.05)) as running:
        yield running


@pytest.fixture
def through_nginx(front: RunningFront, tmp_path: Path) -> Iterator[httpx.Client]:
    """Run nginx on a Unix socket before the front."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert nginx is not None, "this test needs nginx (Debian: nginx-light)"
    config = tmp_path / "nginx.conf"
    config.write_text(CONFIG.format(folder=tmp_path, url=front.url))
    with subprocess.Popen([nginx, "-p", str(tmp_path), "-e", f"{tmp_path}/error.log", "-c", str(config)]) as process:
        try:
            deadline = time.monotonic() + STARTS_WITHIN_S
            while not (tmp_path / "nginx.sock").exists():
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "error.log").read_text()
                time.sleep(0.01)
            transport = httpx.HTTPTransport(uds=str(tmp_path / "nginx.sock"))
            with httpx.Client(transport=transport, base_url="http://nginx", timeout=10) as http:
                yield http
        finally:
            process.terminate()


def test_the_first_token_arrives_while_the_answer_is_still_being_made(through_nginx: httpx.Client, front: RunningFront) -> None:
    """The engine goes on only after the client has the first token: a proxy that held it back would hold for ever."""
    with through_nginx.stream("POST", "/v1/chat/completions", json=BODY) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if '"content":"w"' in line)
        front.engine.release()
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_a_silent_stream_is_kept_alive(through_nginx: httpx.Client) -> None:
    with through_nginx.stream("POST", "/v1/chat/completions", json=BODY) as response:
        lines = response.iter_lines()
        assert [next(line for line in lines if line.startswith(":")) for _ in range(3)] == [": ping"] * 3


def test_whole_answers_and_errors_pass_unchanged(through_nginx: httpx.Client, front: RunningFront) -> None:
    front.engine.release()
    whole = through_nginx.post("/v1/chat/completions", json={**BODY, "stream": False})
    refused = through_nginx.post("/v1/chat/completions", json={**BODY, "n": 9}, headers={"x-request-id": "mine"})
    assert whole.json()["choices"][0]["message"]["content"] == "w"
    assert refused.status_code == 400 and refused.headers["x-request-id"] == "mine"
