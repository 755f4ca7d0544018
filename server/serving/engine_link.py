"""The engine's end of the socket: what `server.engine.link.Link` asks for, over ZeroMQ.

Runs in the engine process and is handed to the engine by `server.cli.engine`; the front's end is `server.serving.engine_client`.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import zmq

from server.messages import EngineFailed, EngineReady, LoadProgress, StepReport
from server.wire import FromEngine, ToEngine, decode_to_engine, encode_from_engine

LINGER_MS = 2000
"""How long closing waits for the last report to leave."""


class SocketLink:
    """A connected Unix socket; use as a context manager, from one thread."""

    def __init__(self, socket_path: Path) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.PAIR)
        # No high-water mark: the engine must never block on a slow front, whose requests are bounded anyway.
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.connect(f"ipc://{socket_path}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let the last messages leave and close."""
        self._socket.close()
        self._context.term()

    def receive(self, timeout_s: float) -> list[ToEngine]:
        """Return what has arrived, waiting at most ``timeout_s`` seconds for the first message; 0 does not wait."""
        messages: list[ToEngine] = []
        if not self._socket.poll(int(timeout_s * 1000)):
            return messages
        while True:
            try:
                messages.append(decode_to_engine(self._socket.recv_multipart(zmq.NOBLOCK)))
            except zmq.Again:
                return messages

    def send_load_progress(self, progress: LoadProgress) -> None:
        """Tell the front how far loading is."""
        self._send(progress)

    def send_ready(self, ready: EngineReady) -> None:
        """Tell the front that requests may come, and their limits."""
        self._send(ready)

    def send_failed(self, failed: EngineFailed) -> None:
        """Tell the front that the engine cannot start and why; trying again would not help."""
        self._send(failed)

    def send(self, report: StepReport) -> None:
        """Send what one step produced."""
        self._send(report)

    def _send(self, message: FromEngine) -> None:
        self._socket.send_multipart(encode_from_engine(message))
