"""A real HTTP front on a free port, in a thread of its own, over a scripted engine."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from openai import OpenAI

from server.api.http_server import HttpServer, run_in_event_loop, serving_beside
from server.front import Front, build_front, listening_socket
from server.serving.served_model import ServedModel
from server.settings import Settings
from tests.server.scripted_engine import ScriptedEngine

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_a"


def golden_model(family: str = "bagel") -> ServedModel:
    """Return what the front knows of the golden model."""
    return ServedModel.from_directory(GOLDEN, "tiny_a", family)


@dataclass(frozen=True, slots=True)
class RunningFront:
    url: str
    metrics_url: str
    engine: ScriptedEngine

    def http(self) -> httpx.Client:
        """Return a plain HTTP client."""
        return httpx.Client(base_url=self.url, timeout=10)

    def metrics_http(self) -> httpx.Client:
        """Return a client of the metrics port."""
        return httpx.Client(base_url=self.metrics_url, timeout=10)

    def openai(self) -> OpenAI:
        """Return the official client, which must not retry in tests."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=10)

    def wait_until_ready(self) -> None:
        """Wait for readiness, as a load balancer does."""
        with self.http() as http:
            self.engine.wait_until(lambda: http.get("/readyz").status_code == 200)


@contextmanager
def running_front(engine: ScriptedEngine, settings: Settings | None = None, family: str = "bagel") -> Iterator[RunningFront]:
    """Run a front until the block ends."""
    settings = settings or Settings()
    with (
        tempfile.TemporaryDirectory() as directory,
        listening_socket("127.0.0.1", 0) as listener,
        listening_socket("127.0.0.1", 0) as metrics_listener,
    ):
        front = build_front(settings, golden_model(family), engine.launch, Path(directory))
        http = HttpServer(front.app, drain_s=1)
        thread = threading.Thread(target=lambda: run_in_event_loop(_serve(front, http, listener, metrics_listener)))
        thread.start()
        running = RunningFront(_url(listener), _url(metrics_listener), engine)
        try:
            if engine.failure is None:
                running.wait_until_ready()
            yield running
        finally:
            engine.release()
            http.stop()
            thread.join()


def _url(listener: socket.socket) -> str:
    return "http://127.0.0.1:{1}".format(*listener.getsockname())


async def _serve(front: Front, http: HttpServer, listener: socket.socket, metrics_listener: socket.socket) -> None:
    task = asyncio.create_task(front.run())
    try:
        async with serving_beside(front.metrics_app, metrics_listener):
            await http.serve(listener)
    finally:
        await front.engine.stop(2.0, task)
        await front.close()
