"""Stands in for the engine process at the socket: speaks the true wire protocol from a thread, and says what a script tells it.

The front under test does not know the difference. A script turns a request into steps; each step's outputs go out in one report.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from server.messages import (
    Abort,
    EngineFailed,
    EngineReady,
    FinishedOutput,
    FinishReason,
    ImageOutput,
    Picture,
    PreviewOutput,
    ProgressOutput,
    Request,
    Shutdown,
    SilentDraw,
    StepReport,
    StepStats,
    TextClosed,
    TokenOutput,
    Usage,
)
from server.serving.engine_link import SocketLink

Output = SilentDraw | TokenOutput | TextClosed | ProgressOutput | PreviewOutput | ImageOutput | FinishedOutput
Script = Callable[[Request], list[list[Output]]]
"""The steps of a request: what each one says. An empty step says nothing and lasts until `ScriptedEngine.release`."""

READY = EngineReady(max_context_rows=4096, max_positions=2048, page_size=16, num_pages=256, dtype="float32", device="cpu")
USAGE = Usage(prompt_text_tokens=7, completion_text_tokens=3)
DEADLINE_S = 10.0


def red_picture(height: int = 16, width: int = 32) -> Picture:
    """Return a picture whose first pixel is red and whose others are black."""
    return Picture(height, width, b"\xff\x00\x00" + bytes(3 * (height * width - 1)))


def finish(request: Request, reason: FinishReason = FinishReason.STOP) -> FinishedOutput:
    return FinishedOutput(request.request_id, reason, USAGE)


def report_of(outputs: list[Output]) -> StepReport:
    """Sort outputs into a report."""
    return StepReport(
        tokens=[output for output in outputs if isinstance(output, TokenOutput)],
        closed=[output for output in outputs if isinstance(output, TextClosed)],
        progress=[output for output in outputs if isinstance(output, ProgressOutput)],
        images=[output for output in outputs if isinstance(output, ImageOutput)],
        finished=[output for output in outputs if isinstance(output, FinishedOutput)],
        stats=StepStats(step_s=0.001, pages_used=3, pages_total=256),
        previews=[output for output in outputs if isinstance(output, PreviewOutput)],
    )


class ThreadProcess:
    """What `EngineProcess` asks for, over a thread."""

    def __init__(self, target: Callable[[Callable[[], bool]], int]) -> None:
        self.returncode: int | None = None
        self._is_killed = threading.Event()
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._target = target
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        status = self._target(self._is_killed.is_set)
        self._loop.call_soon_threadsafe(self._end, status)

    def _end(self, status: int) -> None:
        self.returncode = status
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        self._is_killed.set()


def after_canon(steps: list[list[Output]], num_items: int) -> list[list[Output]]:
    """Leave out of a script what another engine has said already: its first ``num_items`` draws and pictures."""
    left: list[list[Output]] = []
    for step in steps:
        while num_items and step:
            num_items -= isinstance(step[0], SilentDraw | TokenOutput | ImageOutput)
            step = step[1:]
        if step or not num_items:
            left.append(step)
    return left


@dataclass
class ScriptedEngine:
    """Plays ``script`` for each request, a step every ``pace_s`` seconds. ``failure`` makes every start fail with that message."""

    script: Script
    ready: EngineReady = READY
    failure: str | None = None
    requests: list[Request] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    num_starts: int = 0
    pace_s: float = 0.002
    _is_released: threading.Event = field(default_factory=threading.Event)
    _must_crash: threading.Event = field(default_factory=threading.Event)

    async def launch(self, socket_path: Path) -> ThreadProcess:
        """Start one engine; pass this method to `EngineClient`."""
        self.num_starts += 1
        return ThreadProcess(lambda is_killed: self._serve(socket_path, is_killed))

    def release(self) -> None:
        """Let requests go on past their empty steps."""
        self._is_released.set()

    def crash(self) -> None:
        """End the running engine without a word, as a killed process would."""
        self._must_crash.set()

    def wait_until(self, is_true: Callable[[], bool]) -> None:
        """Wait until something has happened; fail when it does not."""
        deadline = time.monotonic() + DEADLINE_S
        while not is_true():
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.002)

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests have come in all, those begun again included."""
        self.wait_until(lambda: len(self.requests) == count)

    def _serve(self, socket_path: Path, is_killed: Callable[[], bool]) -> int:
        running: dict[str, list[list[Output]]] = {}
        with SocketLink(socket_path) as link:
            if self.failure is not None:
                link.send_failed(EngineFailed(self.failure))
                return 3
            link.send_ready(self.ready)
            while not is_killed():
                if self._must_crash.is_set():
                    self._must_crash.clear()
                    return -9
                for message in link.receive(self.pace_s):
                    match message:
                        case Request():
                            self.requests.append(message)
                            running[message.request_id] = after_canon(self.script(message), len(message.canon))
                        case Abort():
                            self.aborted.append(message.request_id)
                            if running.pop(message.request_id, None) is not None:
                                aborted = FinishedOutput(message.request_id, FinishReason.ABORT, USAGE)
                                link.send(report_of([aborted]))
                        case Shutdown():
                            return 0
                self._step(link, running)
        return -9

    def _step(self, link: SocketLink, running: dict[str, list[list[Output]]]) -> None:
        outputs: list[Output] = []
        for request_id, steps in list(running.items()):
            if steps and (steps[0] or self._is_released.is_set()):
                outputs += steps.pop(0)
            if not steps:
                del running[request_id]
        if outputs:
            link.send(report_of(outputs))
