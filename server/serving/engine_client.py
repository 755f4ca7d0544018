"""The front's side of the engine: starts it, feeds it, hands out what it says, and starts it again when it dies.

One Unix socket per engine process, so that nothing of a dead one is read by its successor. What ran in an engine that died gets a
`FinishedOutput` with reason ERROR, as if the engine had said so: nobody waits for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import zmq
import zmq.asyncio

from server.errors import EngineUnavailable
from server.messages import (
    Abort,
    EngineFailed,
    EngineReady,
    FinishedOutput,
    FinishReason,
    LoadProgress,
    Request,
    Shutdown,
    StepReport,
    StepStats,
    Usage,
)
from server.serving.engine_launch import EngineProcess, Launch
from server.serving.output_stream import OutputStream, outputs_in_order
from server.wire import FromEngine, ToEngine, WireError, decode_from_engine, encode_to_engine

logger = logging.getLogger(__name__)

DRAIN_WAIT_MS = 200
"""How long the last words of an ended engine may take to arrive."""

HANDED_AT_ONCE = 8
"""Outputs of a step that are handed out before they get the time to reach their clients."""

TURNS_OF_A_TOKEN = 3
"""Turns of the event loop from here to the socket: who writes the answer, who carries it into the store, who sends it."""

WATCH_S = 0.25
"""How often it is looked whether a busy engine gets on."""

FORCED_STOP_S = 5.0
"""How long what is cancelled may take to let go."""


class EnginePhase(Enum):
    """Where the engine is between its start and its end."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    """It cannot start, and trying again would not help."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Where the engine is. ``limits`` are there when it is ready; ``reason`` says why it is not."""

    phase: EnginePhase = EnginePhase.LOADING
    reason: str = "the engine is starting"
    progress: LoadProgress | None = None
    limits: EngineReady | None = None


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How soon an engine is started again. Times in seconds.

    Attributes:
        first_delay_s, max_delay_s: the delay doubles from one to the other while engines keep dying young.
        stable_after_s: an engine that lived this long ended no crash loop.
        stall_after_s: how long a busy engine may say nothing before it is ended.
        max_failed_starts: engines in a row that never became ready, after which it is given up.
    """

    first_delay_s: float = 0.5
    max_delay_s: float = 30.0
    stable_after_s: float = 60.0
    max_failed_starts: int = 3
    stall_after_s: float = 300.0


class EngineClient:
    """Keeps one engine running and multiplexes requests onto it. All methods must be called from one event loop."""

    def __init__(self, launch: Launch, directory: Path, on_report: Callable[[StepReport], None], policy: RestartPolicy) -> None:
        self._launch = launch
        self._directory = directory
        self._on_report = on_report
        self._policy = policy
        self._streams: dict[str, OutputStream] = {}
        self._outgoing: asyncio.Queue[ToEngine] = asyncio.Queue()
        self._status_changed = asyncio.Event()
        self._last_sign_of_life = time.monotonic()
        self._is_stopping = False
        self.num_engines = 0
        """Engine processes started so far."""
        self.status = EngineStatus()
        self.latest = StepStats()
        """The statistics of the engine's latest step."""

    @property
    def num_in_flight(self) -> int:
        """How many requests were sent to the engine and have not finished."""
        return len(self._streams)

    @property
    def stalled_s(self) -> float:
        """Seconds since the engine last reported although it has work; 0 when it has none."""
        return time.monotonic() - self._last_sign_of_life if self._streams else 0.0

    async def status_change(self) -> EngineStatus:
        """Wait until the status changes and return it."""
        await self._status_changed.wait()
        return self.status

    def submit(self, requests: Sequence[Request]) -> OutputStream:
        """Send requests; their outputs come through one stream, which the caller closes.

        Raises:
            EngineUnavailable: no engine is ready.
        """
        if self.status.phase is not EnginePhase.READY:
            raise EngineUnavailable(f"The engine is not ready: {self.status.reason}. Try again shortly.")
        stream = OutputStream([request.request_id for request in requests], self._abort)
        if not self._streams:
            self._last_sign_of_life = time.monotonic()
        for request in requests:
            self._streams[request.request_id] = stream
            self._outgoing.put_nowait(request)
        return stream

    def _abort(self, request_id: str) -> None:
        if request_id in self._streams:
            self._outgoing.put_nowait(Abort(request_id))

    async def run(self) -> None:
        """Keep an engine running until `stop` is called or no engine will start."""
        delay_s = self._policy.first_delay_s
        num_failed_starts = 0
        while True:
            started = time.monotonic()
            was_ready = await self._run_one_engine()
            if self._is_stopping:
                self._set_status(EngineStatus(EnginePhase.STOPPED, "the server is stopping"))
                return
            if self.status.phase is EnginePhase.FAILED:
                return
            num_failed_starts = 0 if was_ready else num_failed_starts + 1
            if num_failed_starts >= self._policy.max_failed_starts:
                self._set_status(EngineStatus(EnginePhase.FAILED, f"the engine ended {num_failed_starts} times without becoming ready"))
                return
            if time.monotonic() - started > self._policy.stable_after_s:
                delay_s = self._policy.first_delay_s
            self._set_status(EngineStatus(EnginePhase.RESTARTING, "the engine stopped and is being started again"))
            logger.error("the engine ended; starting another in %.1f s", delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, self._policy.max_delay_s)

    async def stop(self, grace_s: float, running: asyncio.Task[None]) -> None:
        """Ask the engine to end, wait at most ``grace_s`` seconds for ``running`` (the task of `run`), then end it by force."""
        self._is_stopping = True
        self._outgoing.put_nowait(Shutdown())
        await asyncio.wait({running}, timeout=grace_s)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=FORCED_STOP_S)
        if not done:
            logger.error("a task of the server did not end when it was told to, and is abandoned")
        for task in done:
            if not task.cancelled():
                task.result()

    async def _run_one_engine(self) -> bool:
        """Run one engine process to its end; return whether it ever was ready."""
        self.num_engines += 1
        self._outgoing = asyncio.Queue()
        if self._is_stopping:
            return False
        path = self._directory / f"engine-{self.num_engines}.sock"
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.PAIR)
        try:
            socket.set_hwm(0)
            socket.bind(f"ipc://{path}")
            path.chmod(0o600)
            await self._attend(socket, await self._launch(path))
            return self.status.limits is not None
        finally:
            self._fail_all()
            context.destroy(linger=0)
            path.unlink(missing_ok=True)

    async def _attend(self, socket: zmq.asyncio.Socket, process: EngineProcess) -> None:
        """Carry messages both ways until the process ends or breaks the protocol."""
        tasks: set[asyncio.Task[object]] = {
            asyncio.create_task(self._read(socket)),
            asyncio.create_task(self._write(socket)),
            asyncio.create_task(process.wait()),
            asyncio.create_task(self._stall()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if isinstance(error := task.exception(), WireError):
                    logger.error("the engine broke the protocol: %s", error)
                elif error is not None:
                    raise error
        finally:
            if process.returncode is None:
                process.kill()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await process.wait()
        await self._read_last_words(socket)

    async def _stall(self) -> None:
        """Return when the engine has had work for too long without a sign of life."""
        while self.stalled_s <= self._policy.stall_after_s:
            await asyncio.sleep(WATCH_S)
        logger.error("the engine has reported nothing for %.0f s although it has work; it is ended", self.stalled_s)

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            await self._take_in(decode_from_engine(await socket.recv_multipart()))

    async def _read_last_words(self, socket: zmq.asyncio.Socket) -> None:
        with contextlib.suppress(WireError):
            while await socket.poll(DRAIN_WAIT_MS):
                await self._take_in(decode_from_engine(await socket.recv_multipart()))

    async def _write(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            await socket.send_multipart(encode_to_engine(await self._outgoing.get()))

    async def _take_in(self, message: FromEngine) -> None:
        self._last_sign_of_life = time.monotonic()
        match message:
            case StepReport():
                self.latest = message.stats
                await self._hand_out(message)
                self._on_report(message)
            case EngineReady():
                self._set_status(EngineStatus(EnginePhase.READY, "ready", None, message))
            case LoadProgress():
                self._set_status(replace(self.status, phase=EnginePhase.LOADING, reason="the model is loading", progress=message))
            case EngineFailed():
                self._set_status(EngineStatus(EnginePhase.FAILED, message.message))

    async def _hand_out(self, report: StepReport) -> None:
        """Give every stream its outputs, and the first ones the time to send theirs before the last ones have theirs."""
        for number, output in enumerate(outputs_in_order(report), start=1):
            if number % HANDED_AT_ONCE == 0:
                for _ in range(TURNS_OF_A_TOKEN):
                    await asyncio.sleep(0)
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            if isinstance(output, FinishedOutput):
                del self._streams[output.request_id]
            stream.put(output)

    def _fail_all(self) -> None:
        message = "The engine stopped while this request was running; sending it again may help."
        for request_id, stream in self._streams.items():
            stream.put(FinishedOutput(request_id, FinishReason.ERROR, Usage(), "engine_unavailable", message))
        self._streams.clear()

    def _set_status(self, status: EngineStatus) -> None:
        self.status = status
        self._status_changed.set()
        self._status_changed = asyncio.Event()
