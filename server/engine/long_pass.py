"""A step under way that others are let through: it is left for them between two bits, or goes on beside them."""

from __future__ import annotations

import time

import torch

from model.stepwise import Steps
from server.engine.batch import BatchResult
from server.engine.bit_pace import BitPace
from server.engine.queued_bits import QueuedBits
from server.engine.thread_beside import Beside

AWAY_S = 5e-4
"""After so long others have had the device in between."""


class PassBeside:
    """A step that goes on while others are executed. ``result`` is there once `advance` has come to its end.

    It can be left at any time: ``next_bit_s`` is 0.
    """

    next_bit_s = 0.0

    def __init__(self, beside: Beside[BatchResult]) -> None:
        self._beside = beside
        self.result: BatchResult | None = None

    def advance(self, until_s: float) -> bool:
        """Let it have the processors whole until ``until_s`` of `time.monotonic`. Returns whether the step is done.

        Raises:
            RuntimeError: what the device raises; the step is then as if it had not been begun.
        """
        if not self._beside.help(until_s):
            return False
        self.result = self._beside.result()
        self.result.execute_s, self.result.beside_s = self._beside.seconds, self._beside.beside_s
        return True


class Pass:
    """A step that is left between its bits. ``result`` is there once `advance` has come to its end."""

    def __init__(self, steps: Steps[BatchResult], pace: BitPace, queued: QueuedBits) -> None:
        """Begin ``steps``; ``pace`` is that of passes cut like this one, and is kept up to date."""
        self._steps = steps
        self._queued = queued
        self._elapsed_s = 0.0
        self._pace = pace
        self._left_s: float | None = None
        self.result: BatchResult | None = None

    @property
    def next_bit_s(self) -> float:
        """In how many seconds the next bit should be over, after those that the device has been given before."""
        return (1 + self._queued.num_left) * self._pace.next_s

    def advance(self, until_s: float) -> bool:
        """Go on, at least one bit, and stop before one that should not be over by ``until_s`` of `time.monotonic`.

        Returns whether the step is done.

        Raises:
            RuntimeError: what the device raises; the step is then as if it had not been begun.
        """
        now_s = time.monotonic()
        with torch.inference_mode():
            while self.result is None:
                self._take_one_bit()
                before_s, now_s = now_s, time.monotonic()
                if self._left_s is not None and before_s - self._left_s < AWAY_S:
                    self._pace.note(now_s - before_s)
                self._left_s = now_s
                self._elapsed_s += now_s - before_s
                if now_s + self.next_bit_s > until_s:
                    self._leave(now_s)
                    break
        if self.result is None:
            return False
        self.result.execute_s = self._elapsed_s
        return True

    def _leave(self, now_s: float) -> None:
        self._queued.leave()
        self._left_s = time.monotonic()
        self._elapsed_s += self._left_s - now_s

    def _take_one_bit(self) -> None:
        try:
            next(self._steps)
            self._queued.add()
        except StopIteration as end:
            self.result = end.value
