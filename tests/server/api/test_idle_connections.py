"""A connection is worth what is asked over it: whatever a client leaves undone, it is closed in time, and nobody who gets on is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TypeVarTuple

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from server.api.http_protocol import HEAD_TIMEOUT_S, BoundedHttpProtocol

Arguments = TypeVarTuple("Arguments")

HASTE = 100.0
MUCH = bytes(24 << 20)
"""More than the kernel keeps for a client that does not read."""
WITHIN_S = 10.0
LONG_S = 2 * HEAD_TIMEOUT_S
GET = b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n"

Test = Callable[[int, ServerState], Coroutine[None, None, None]]


class HastyLoop(asyncio.SelectorEventLoop):
    """A loop on which whoever waits for a time waits for a hundredth of it."""

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return super().call_later(delay / HASTE, callback, *args, context=context)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without reading a body: much, slowly, or briefly."""
    body = MUCH if scope["path"] == "/much" else b"ok"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    if scope["path"] == "/slow":
        await send({"type": "http.response.body", "body": body[:1], "more_body": True})
        await asyncio.sleep(LONG_S)
        body = body[1:]
    await send({"type": "http.response.body", "body": body})


def run_hastily(test: Test) -> None:
    """Run a test beside a server of `app`, whose port and connections it is given."""

    async def serve() -> None:
        config = uvicorn.Config(app, http=BoundedHttpProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        listener = await asyncio.get_running_loop().create_server(lambda: BoundedHttpProtocol(config, state, {}), "127.0.0.1", 0)
        async with listener, asyncio.timeout(WITHIN_S):
            await test(listener.sockets[0].getsockname()[1], state)

    with asyncio.Runner(loop_factory=HastyLoop) as runner:
        runner.run(serve())


@pytest.mark.parametrize(
    ("request_", "after"),
    [
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n", b"x"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n", b"x"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", b"5;"),
        (GET % b"/", b"\r\n"),
        (GET % b"/", b""),
    ],
    ids=["a body that never ends", "a body that ends late", "a chunk without a size", "an empty line", "nothing"],
)
def test_a_connection_that_was_answered_is_closed_whatever_comes_after_it(request_: bytes, after: bytes) -> None:
    """Any byte after the answer made the server wait for ever: with two of them a connection could be held for nothing."""

    async def test(port: int, _: ServerState) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_)
        assert b"200" in await reader.readuntil(b"\r\n\r\nok")
        writer.write(after)
        assert await reader.read() == b""
        writer.close()

    run_hastily(test)


def test_a_client_that_takes_nothing_of_its_answer_loses_the_connection() -> None:
    """It kept it for ever, with all that waited for it."""

    async def test(port: int, state: ServerState) -> None:
        with socket.socket() as deaf:
            deaf.setblocking(False)
            await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", port))
            await asyncio.get_running_loop().sock_sendall(deaf, GET % b"/much")
            await asyncio.sleep(1)
            assert len(state.connections) == 1
            while state.connections:
                await asyncio.sleep(1)

    run_hastily(test)


def test_a_client_that_reads_slowly_gets_the_whole_answer() -> None:
    async def test(port: int, _: ServerState) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=64 << 10)
        writer.write(GET % b"/much")
        await reader.readuntil(b"\r\n\r\n")
        num_read = 0
        while num_read < len(MUCH):
            num_read += len(await reader.readexactly(min(512 << 10, len(MUCH) - num_read)))
            await asyncio.sleep(3)
        writer.close()

    run_hastily(test)


def test_a_head_that_comes_slowly_does_not_end_the_answer_before_it() -> None:
    """The refusal of the next request was written into the middle of the answer to the last."""

    async def test(port: int, _: ServerState) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % b"/slow" + b"GET / HT")
        assert (await reader.readuntil(b"\r\n\r\nok")).count(b"HTTP/1.1") == 1
        writer.write(b"TP/1.1\r\nhost: x\r\n\r\n")
        assert b"200" in await reader.readuntil(b"\r\n\r\nok")
        writer.close()

    run_hastily(test)


@pytest.mark.parametrize("before", [b"", GET % b"/"], ids=["alone", "behind another request"])
def test_nothing_is_written_into_the_middle_of_an_answer(before: bytes) -> None:
    async def test(port: int, _: ServerState) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % b"/slow")
        received = await reader.readuntil(b"\r\n\r\no")
        writer.write(before + b"NONSENSE\r\n\r\n")
        assert (received + await reader.read()).count(b"HTTP/1.1") == 1
        writer.close()

    run_hastily(test)
