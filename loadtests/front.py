"""What the HTTP front adds to a token: from the engine's report on its socket to the event in the client's hands.

Three processes, as in earnest: an engine that has nothing to compute and sends one token for every stream at each step, the server's own
front, and a client that reads all streams. Both ends take the time of the one clock that processes share, so the difference is the front
with its transport: decoding the report, text, JSON, the log, the socket, and waiting behind the other streams of the same step. The client
keeps to one processor and leaves the others to the server, as if it were on a machine of its own: else what it costs would count as theirs.

    python -m loadtests.front --streams 64 --tokens 100 --step-ms 50
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from loadtests.percentile import percentile
from server.api.http_server import HttpServer, run_in_event_loop
from server.front import build_front, listening_socket
from server.messages import (
    Abort,
    EngineReady,
    FinishedOutput,
    FinishReason,
    Request,
    Shutdown,
    StepReport,
    StepStats,
    TextClosed,
    TextSegment,
    TokenOutput,
    Usage,
)
from server.serving.engine_launch import EngineProcess
from server.serving.engine_link import SocketLink
from server.serving.served_model import ServedModel
from server.settings import Settings, engine_environment

READY = EngineReady(max_context_rows=1 << 20, max_positions=1 << 20, page_size=16, num_pages=1 << 16, dtype="float32", device="none")
WORD = "A"
"""The prompt, which the engine echoes: whatever its token is, it is a whole letter."""
CONTENT = b'"content":"A"'
WARM_UP_TOKENS = 10


@dataclass(frozen=True, slots=True)
class Load:
    num_streams: int
    num_tokens: int
    step_s: float


def run_engine(socket_path: Path, load: Load, times_path: Path) -> None:
    """Wait for every stream's request, then send one token of each at every step; write when each step was sent."""
    sent = array("d")
    with SocketLink(socket_path) as link:
        link.send_ready(READY)
        requests: list[Request] = []
        while len(requests) < load.num_streams:
            requests += [message for message in link.receive(1.0) if isinstance(message, Request)]
        tokens = [
            TokenOutput(one.request_id, segment.token_ids[0])
            for one in requests
            for segment in one.segments
            if isinstance(segment, TextSegment)
        ]
        for step in range(load.num_tokens):
            time.sleep(load.step_s)
            report = StepReport(tokens, [], [], [], [], StepStats(step=step))
            sent.append(time.monotonic())
            link.send(report)
        finished = [FinishedOutput(one.request_id, FinishReason.STOP, Usage()) for one in requests]
        link.send(StepReport([], [TextClosed(one.request_id) for one in requests], [], [], finished, StepStats()))
        times_path.write_bytes(sent.tobytes())
        while not any(isinstance(message, Shutdown | Abort) for message in link.receive(1.0)):
            pass


async def run_front(model_path: Path, port_path: Path, engine_command: list[str]) -> None:
    """Serve until the engine has been told to stop by the end of this process; it gets the environment that Plait's own would."""
    model = ServedModel.from_directory(model_path, "bench", None)

    async def launch(socket_path: Path) -> EngineProcess:
        return await asyncio.create_subprocess_exec(*engine_command, str(socket_path), env=engine_environment())

    with tempfile.TemporaryDirectory() as directory, listening_socket("127.0.0.1", 0) as listener:
        front = build_front(Settings(max_running=128), model, launch, Path(directory))
        http = HttpServer(front.app, drain_s=1)
        http.stop_on_signals(http.stop)
        engine = asyncio.create_task(front.run())
        port_path.write_text(str(listener.getsockname()[1]))
        try:
            await http.serve(listener)
        finally:
            await front.engine.stop(2.0, engine)
            await front.close()


class StreamReader(asyncio.Protocol):
    """Asks for a stream and notes when each of its tokens arrives; it reads no more, to cost little beside the front."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._rest = b""
        self.arrivals: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        messages = [{"role": "user", "content": WORD}]
        body = json.dumps({"model": "bench", "messages": messages, "stream": True, "max_tokens": self._num_tokens + 1})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        cast("asyncio.Transport", transport).write((head + body).encode())

    def data_received(self, data: bytes) -> None:
        """Count the tokens that have arrived."""
        now = time.monotonic()
        data = self._rest + data
        self.arrivals += [now] * data.count(CONTENT)
        self._rest = data[1 - len(CONTENT) :]
        if len(self.arrivals) >= self._num_tokens and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what was not read to its end."""
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the stream ended early"))


async def read_stream(port: int, num_tokens: int) -> list[float]:
    """Ask for a stream and return when each of its tokens arrived."""
    transport, reader = await asyncio.get_running_loop().create_connection(lambda: StreamReader(num_tokens), "127.0.0.1", port)
    await reader.done
    transport.close()
    return reader.arrivals


@dataclass(frozen=True, slots=True)
class Measured:
    """What the front added to each token, in seconds, and the processor time it took for one token on average, warm-up included."""

    added_s: list[float]
    cpu_s: float


def cpu_seconds(process_id: int) -> float:
    """Return the processor time of a process so far (Linux: proc(5), ``utime`` and ``stime``)."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def keep_apart(server_id: int) -> None:
    """Give this process one processor and the server the others, where there are two."""
    first, *others = sorted(os.sched_getaffinity(0))
    if others:
        os.sched_setaffinity(server_id, others)
        os.sched_setaffinity(0, {first})


async def measure(load: Load, model_path: Path) -> Measured:
    """Run the load once."""
    with tempfile.TemporaryDirectory() as directory:
        times_path, port_path = Path(directory) / "times", Path(directory) / "port"
        arguments = [str(load.num_streams), str(load.num_tokens), str(load.step_s), str(times_path)]
        command = [sys.executable, "-m", "loadtests.front", "front", str(model_path), str(port_path), *arguments]
        front = await asyncio.create_subprocess_exec(*command)
        keep_apart(front.pid)
        try:
            while not port_path.exists() or not port_path.read_text():
                await asyncio.sleep(0.05)
            port = int(port_path.read_text())
            await _until_ready(port)
            before_s = cpu_seconds(front.pid)
            arrivals = await asyncio.gather(*(read_stream(port, load.num_tokens) for _ in range(load.num_streams)))
            cpu_s = cpu_seconds(front.pid) - before_s
            while not times_path.exists():
                await asyncio.sleep(0.05)
            sent = array("d")
            sent.frombytes(times_path.read_bytes())
        finally:
            front.terminate()
            await front.wait()
    added_s = [at - sent[step] for stream in arrivals for step, at in enumerate(stream) if step >= WARM_UP_TOKENS]
    return Measured(added_s, cpu_s / (load.num_streams * load.num_tokens))


async def _until_ready(port: int) -> None:
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
        status = await reader.readline()
        writer.close()
        if b" 200 " in status:
            return
        await asyncio.sleep(0.05)


def main() -> None:
    """Run one of the three processes; without a name, the client that starts the others."""
    if len(sys.argv) > 1 and sys.argv[1] == "front":
        model_path, port_path, *arguments = sys.argv[2:]
        engine_command = [sys.executable, "-m", "loadtests.front", "engine", *arguments]
        run_in_event_loop(run_front(Path(model_path), Path(port_path), engine_command))
        return
    if len(sys.argv) > 1 and sys.argv[1] == "engine":
        num_streams, num_tokens, step_s, times_path, socket_path = sys.argv[2:]
        run_engine(Path(socket_path), Load(int(num_streams), int(num_tokens), float(step_s)), Path(times_path))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a model directory; only its tokenizer and configuration are read")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--step-ms", type=float, default=50.0, help="time between two steps of the engine")
    options = parser.parse_args()
    measured = run_in_event_loop(measure(Load(options.streams, options.tokens, options.step_ms / 1000), options.model))
    shown = {f"p{percent}_ms": round(1000 * percentile(measured.added_s, percent), 2) for percent in (50, 90, 99)}
    print(
        json.dumps(
            {
                "streams": options.streams,
                "tokens": len(measured.added_s),
                "step_ms": options.step_ms,
                **shown,
                "cpu_us_per_token": round(1e6 * measured.cpu_s),
            }
        )
    )


if __name__ == "__main__":
    main()
