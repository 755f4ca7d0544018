"""What a hostile client can do before a request is known: little, for a short time, and at nobody else's cost."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from starlette.types import Message

from server.api.http_protocol import HEAD_TIMEOUT_S, MAX_HEAD_BYTES, MAX_HEADERS
from server.api.request_body import BodyBounds
from server.errors import RequestTimeout
from tests.server.api.chats import endless, error_of, hello, user
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(hello)) as front:
        yield front


def connect(front: RunningFront) -> socket.socket:
    address = httpx.URL(front.url)
    return socket.create_connection((address.host, address.port or 80), timeout=HEAD_TIMEOUT_S + 10)


def answer_to(front: RunningFront, *pieces: bytes) -> tuple[int, dict[str, dict[str, str | None]]]:
    """Send bytes as they are; return status and body of the answer."""
    with connect(front) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
        return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int, dict[str, dict[str, str | None]]]:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_headers_beyond_the_bound_are_refused_in_openais_shape(front: RunningFront) -> None:
    status, body = answer_to(front, b"GET /livez HTTP/1.1\r\nhost: x\r\nx: " + b"a" * (MAX_HEAD_BYTES + 1) + b"\r\n\r\n")
    assert status == 431 and body["error"]["code"] == "headers_too_large"


def test_the_time_of_a_request_counts_from_its_first_bytes(front: RunningFront) -> None:
    """As its client counts: a head that comes in pieces is waited for, and that wait is part of the answer's time."""
    with connect(front) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n")
        time.sleep(0.1)
        connection.sendall(b"connection: close\r\n\r\n")
        head = connection.recv(65536)
    duration = re.search(rb"begin;dur=([0-9.]+)", head)
    assert duration is not None and float(duration[1]) >= 100


def test_a_header_without_an_end_is_cut_off_as_it_grows(front: RunningFront) -> None:
    """It must not gather in memory until its end, which never comes."""
    with connect(front) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nx: ")
        sent = 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while sent < 64 << 20:
                sent += connection.send(b"a" * 4096)
    assert sent < 16 << 20, "what the kernel buffers, not what the server keeps"


def test_a_field_behind_the_body_is_no_header(front: RunningFront) -> None:
    """It was taken for one: after the head had been judged, and whatever a proxy had made of it."""
    content = json.dumps({"model": "tiny_a", "messages": [user("hi")]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    body = b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n%x\r\n%b\r\n0\r\nx-request-id: behind\r\n\r\n" % (len(content), content)
    with connect(front) as connection:
        connection.sendall(head + body)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 200") and b"behind" not in received


@pytest.mark.parametrize(
    ("begin", "piece"),
    [(b"0\r\n", b"a: b\r\n" * 1000), (b"0\r\na: ", b"a" * 4096), (b"5;", b"a" * 4096)],
    ids=["fields behind the body", "one field behind the body", "behind a chunk's size"],
)
def test_what_stands_round_a_body_is_cut_off_as_it_grows(front: RunningFront, begin: bytes, piece: bytes) -> None:
    """It gathered in memory until its end, which never came."""
    with connect(front) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + begin)
        sent = 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while sent < 64 << 20:
                sent += connection.send(piece)
    assert sent < 16 << 20, "what the kernel buffers, not what the server keeps"


def test_too_many_headers_are_refused(front: RunningFront) -> None:
    lines = b"".join(b"x-%d: y\r\n" % number for number in range(MAX_HEADERS + 1))
    status, body = answer_to(front, b"GET /livez HTTP/1.1\r\n" + lines + b"\r\n")
    assert status == 431 and body["error"]["code"] == "headers_too_large"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /livez HTTP/1.1\r\nbad header: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"GET /live\x00z HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_openais_shape(front: RunningFront, head: bytes) -> None:
    status, body = answer_to(front, head)
    assert status in (400, 505) and body["error"]["type"] == "invalid_request_error"


@pytest.mark.slow
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_of_http_1_0_gets_no_chunks_and_the_end_with_the_connection(front: RunningFront, is_stream: bool) -> None:
    """RFC 9112, 6.1. Older nginx is such a client, unless it is told otherwise."""
    content = json.dumps({"model": "tiny_a", "messages": [user("hi")], "stream": is_stream}).encode()
    with connect(front) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
        )
        connection.sendall(content)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"200 OK" in head and b"transfer-encoding" not in head and b"connection: close" in head
    if is_stream:
        assert body.startswith(b"id: 1\n") and body.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(body)["object"] == "chat.completion"


def test_connections_that_drip_are_closed_and_hold_up_nobody(front: RunningFront) -> None:
    dripping = [connect(front) for _ in range(50)]
    started = time.monotonic()
    for connection in dripping:
        connection.sendall(b"GET /livez HTTP/1.1\r\nx: ")
    with front.http() as http:
        assert http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user("hi")]}).status_code == 200
    answers = [read_answer(connection) for connection in dripping]
    assert {(status, body["error"]["code"]) for status, body in answers} == {(408, "request_timeout")}
    assert HEAD_TIMEOUT_S - 1 < time.monotonic() - started < HEAD_TIMEOUT_S + 8
    for connection in dripping:
        connection.close()


def test_a_connection_kept_alive_is_used_again(front: RunningFront) -> None:
    with front.http() as http:
        assert [http.get("/livez").status_code for _ in range(3)] == [200] * 3


async def test_a_body_that_drips_is_given_up() -> None:
    async def drip() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    receive = BodyBounds(max_bytes=1000, timeout_s=0.2).apply({"type": "http", "headers": []}, drip)
    with pytest.raises(RequestTimeout, match=r"0\.2 seconds"):
        for _ in range(100):
            await receive()


async def test_a_complete_body_leaves_the_wait_for_the_client_untimed() -> None:
    messages: list[Message] = [{"type": "http.request", "body": b"x"}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.sleep(0.2)
        return {"type": "http.disconnect"}

    bounded = BodyBounds(max_bytes=1000, timeout_s=0.05).apply({"type": "http", "headers": []}, receive)
    assert (await bounded())["type"] == "http.request"
    assert (await bounded())["type"] == "http.disconnect"


def test_a_compressed_body_is_refused(front: RunningFront) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    with front.http() as http:
        response = http.post("/v1/chat/completions", content=b"\x1f\x8b", headers=headers)
    assert response.status_code == 415 and error_of(response)["code"] == "unsupported_media_type"


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
@pytest.mark.parametrize("cut", [20, -9, None], ids=["in the head", "in the body", "nowhere"])
def test_an_offer_of_another_protocol_is_declined_and_the_request_answered(front: RunningFront, offer: str, cut: int | None) -> None:
    """Java's client sends one with everything: its bodies were lost."""
    body = json.dumps({"model": "tiny_a", "messages": [user("hi")]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    upgrade = f"connection: Upgrade, HTTP2-Settings\r\nupgrade: {offer}\r\nhttp2-settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n\r\n"
    request = (head + upgrade).encode() + body
    after = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with connect(front) as connection:
        for piece in (request[:cut], request[len(request[:cut]) :], after):
            connection.sendall(piece)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 2 and b'"role":"assistant"' in received and received.endswith(b'{"status":"alive"}')


def test_offers_without_end_are_declined_one_after_the_other(front: RunningFront) -> None:
    """Each was read inside the one before it: a thousand in one piece were taken for no HTTP."""
    offer = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    with connect(front) as connection:
        connection.sendall(offer * 1500 + b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 1501


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_failure(front: RunningFront, caplog: pytest.LogCaptureFixture) -> None:
    """It was one of the server's: a trace in the log, and a 500 that alerts count."""
    chat = 'plait_http_requests_total{route="/v1/chat/completions",status="%d"}'
    with connect(front) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{")
    with front.metrics_http() as http:
        front.engine.wait_until(lambda: chat % 499 in http.get("/metrics").text)
        assert chat % 500 not in http.get("/metrics").text
    assert "failed" not in caplog.text


def test_an_answer_before_another_request_is_given_up_when_the_client_leaves() -> None:
    """Only the latest request was told: the answer went on to its end, and what it wrote then was a failure of the server's."""
    content = json.dumps({"model": "tiny_a", "messages": [user("hi")]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with running_front(ScriptedEngine(endless)) as front:
        with connect(front) as connection:
            connection.sendall(2 * (head % len(content) + content))
            front.engine.wait_until(lambda: len(front.engine.requests) == 1)
        front.engine.wait_until(lambda: len(front.engine.aborted) == 1)
        with front.http() as http:
            assert http.get("/livez").status_code == 200
        assert len(front.engine.requests) == 1


@pytest.mark.slow
def test_a_refusal_waits_for_a_slow_upload(front: RunningFront) -> None:
    """The connection was closed after fifteen seconds, in the middle of the body, and the refusal was lost with it."""
    with connect(front) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 36\r\n\r\n")
        for _ in range(36):
            time.sleep(0.5)
            connection.sendall(b"a")
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 404") and received.count(b"HTTP/1.1 200 OK") == 1


@pytest.mark.slow
def test_the_beginning_of_a_next_request_ends_no_answer_that_has_not_begun() -> None:
    """After fifteen seconds the refusal of the next request came in the place of a whole answer."""
    content = json.dumps({"model": "tiny_a", "messages": [user("hi")]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with running_front(ScriptedEngine(endless)) as front, connect(front) as connection:
        connection.sendall(head % len(content) + content + b"GET /livez HTTP/1.1\r\n")
        time.sleep(HEAD_TIMEOUT_S + 1)
        front.engine.release()
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
