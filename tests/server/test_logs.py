"""Log lines: one for each record, whatever is in it."""

from __future__ import annotations

import json
import logging

import pytest

from server.logs import JsonFormatter, TextFormatter
from tests.server.api.chats import hello, user
from tests.server.running_front import running_front
from tests.server.scripted_engine import ScriptedEngine

FORGED = 'fine\n12:00:00 ERROR   front  \x1b[31mforged {"level":"error"}'


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("server.test", logging.INFO, __file__, 1, "%s", (message,), None)


def test_a_line_cannot_be_forged_by_what_it_says() -> None:
    line = TextFormatter("front").format(record(FORGED))
    assert "\n" not in line and "\x1b" not in line and "forged" in line


def test_a_json_line_is_one_object_that_says_what_was_said() -> None:
    line = JsonFormatter("engine").format(record(FORGED))
    fields = json.loads(line)
    assert "\n" not in line
    assert (fields["message"], fields["process"], fields["level"]) == (FORGED, "engine", "info")


def test_a_request_s_line_has_its_id_and_status_as_members_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="server"), running_front(ScriptedEngine(hello)) as front, front.http() as http:
        http.get("/v1/models", headers={"x-request-id": "mine-7"})
    lines = [json.loads(JsonFormatter("front").format(record)) for record in caplog.records]
    line = next(line for line in lines if line.get("request_id") == "mine-7")
    assert (line["method"], line["route"], line["status"]) == ("GET", "/v1/models", 200)


def test_what_users_write_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="server"), running_front(ScriptedEngine(hello)) as front, front.http() as http:
        http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user("my secret")], "temperature": 99})
        http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user("my secret")]})
        http.get("/my-secret-path")
    assert "/v1/chat/completions 200" in caplog.text.replace("POST ", "")
    assert "secret" not in caplog.text and "wörld" not in caplog.text
