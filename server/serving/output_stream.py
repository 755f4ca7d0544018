"""What the engine says about the requests of one caller, in order, until each has finished."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from server.messages import FinishedOutput, ImageOutput, PreviewOutput, ProgressOutput, SilentDraw, StepReport, TextClosed, TokenOutput

Output = SilentDraw | TokenOutput | TextClosed | ProgressOutput | PreviewOutput | ImageOutput | FinishedOutput


class OutputStream:
    """A queue of outputs. It must be closed: what has not finished by then is aborted."""

    def __init__(self, request_ids: Iterable[str], abort: Callable[[str], None]) -> None:
        self._unfinished = set(request_ids)
        self._abort = abort
        self._outputs: deque[Output] = deque()
        self._reader: asyncio.Future[None] | None = None
        """Set while its one reader waits."""

    def put(self, output: Output) -> None:
        """Add what the engine said; called by the engine's client."""
        self._outputs.append(output)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def next(self) -> Output:
        """Return the next output. Each request's last one is a `FinishedOutput`."""
        while not self._outputs:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        output = self._outputs.popleft()
        if isinstance(output, FinishedOutput):
            self._unfinished.discard(output.request_id)
        return output

    @property
    def is_finished(self) -> bool:
        """True when every request has had its last output read."""
        return not self._unfinished

    def abort(self, request_id: str) -> None:
        """Ask the engine to end one request; its `FinishedOutput` still comes."""
        self._abort(request_id)

    def close(self) -> int:
        """Abort what has not finished; return how many that were."""
        num_aborted = len(self._unfinished)
        for request_id in self._unfinished:
            self._abort(request_id)
        self._unfinished.clear()
        return num_aborted


def outputs_in_order(report: StepReport) -> Iterable[Output]:
    """Yield a report's outputs so that each request's come in the order they happened."""
    yield from report.silent
    yield from report.tokens
    yield from report.closed
    yield from report.progress
    yield from report.previews
    yield from report.images
    yield from report.finished
