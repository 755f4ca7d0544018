"""Runs the application on a listening socket until told to stop, letting running answers finish."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TypeVar

import uvicorn
from starlette.types import ASGIApp

from server.api.http_protocol import BoundedHttpProtocol

StatusT = TypeVar("StatusT")


def run_in_event_loop(main: Coroutine[None, None, StatusT]) -> StatusT:
    """Run ``main`` in the fastest event loop there is (uvloop, where it can be installed) and return what it returns."""
    # Without log_config uvicorn would set up log lines of its own, in its own format.
    with asyncio.Runner(loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()) as runner:
        return runner.run(main)


class HttpServer:
    """One uvicorn server. ``drain_s``: seconds that running answers get once it is told to stop."""

    def __init__(self, app: ASGIApp, drain_s: float) -> None:
        config = uvicorn.Config(
            app,
            http=BoundedHttpProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=max(1, round(drain_s)),
        )
        self._server = _Uvicorn(config)
        self._on_first: Callable[[], None] = lambda: None

    async def serve(self, listener: socket.socket) -> None:
        """Serve until `stop`."""
        await self._server.serve([listener])

    def stop_on_signals(self, on_first: Callable[[], None]) -> None:
        """Stop on SIGINT and SIGTERM; a second one does not wait for running answers. Call it in the main thread's event loop."""
        self._on_first = on_first
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)

    def stop(self) -> None:
        """Take no more requests, let the running ones finish, and end."""
        self._server.should_exit = True

    def _on_signal(self) -> None:
        if self._server.should_exit:
            self._server.force_exit = True
        else:
            self._on_first()
        self._server.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Leaves signals to us: uvicorn raises them again after serving, which would end the process before the engine is stopped."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving_beside(app: ASGIApp, listener: socket.socket | None) -> AsyncIterator[None]:
    """Serve a second application until the block ends, where there is a socket for it: metrics are there to the last moment."""
    if listener is None:
        yield
        return
    beside = HttpServer(app, drain_s=1)
    task = asyncio.create_task(beside.serve(listener))
    try:
        yield
    finally:
        beside.stop()
        await task
