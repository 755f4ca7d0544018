"""Measures one ask as its client sees it, by the clock that started when the request came in at the door.

A client counts from the bytes it sent to the bytes it gets: to the first words, then from token to token of one text. A picture between
two texts is no gap between tokens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from server.messages import FinishReason, ImageOutput, TextClosed, TokenOutput
from server.metrics import Metrics
from server.serving.events import Event, FinishedEvent, PictureEvent, PreviewEvent, TextEvent, ThoughtEvent
from server.serving.output_stream import Output


class AnswerTimes:
    """The times of one ask's answers. ``started``: when it arrived; ``past``: what was said before it came here, by answer."""

    def __init__(self, metrics: Metrics, started: float, past: Sequence[tuple[int, Output]]) -> None:
        self._metrics = metrics
        self._started = started
        self._last_token: dict[int, float] = {}
        self._spoken = {choice for choice, output in past if isinstance(output, TokenOutput)}
        self._drawn = {choice for choice, output in past if isinstance(output, ImageOutput)}
        self._previewed: set[int] = set(self._drawn)

    def observe_output(self, choice: int, output: Output) -> None:
        """Take note of what the engine said at the moment it is taken up: a token may make no words yet, and is one all the same."""
        match output:
            case TokenOutput():
                now = time.monotonic()
                last = self._last_token.get(choice)
                if last is not None:
                    self._metrics.inter_token_seconds.observe(now - last)
                self._last_token[choice] = now
            case TextClosed():
                self._last_token.pop(choice, None)
            case _:
                pass

    def observe_event(self, event: Event) -> None:
        """Take note of an event at the moment it is handed on."""
        seconds = time.monotonic() - self._started
        match event:
            case TextEvent() | ThoughtEvent() if event.choice not in self._spoken:
                self._spoken.add(event.choice)
                self._metrics.first_token_seconds.observe(seconds)
            case PreviewEvent() if event.choice not in self._previewed:
                self._previewed.add(event.choice)
                self._metrics.first_preview_seconds.observe(seconds)
            case PictureEvent():
                if event.choice not in self._drawn:
                    self._drawn.add(event.choice)
                    self._metrics.first_picture_seconds.observe(seconds)
                self._metrics.picture_seconds.observe(seconds)
            case FinishedEvent():
                self._metrics.observe_finished(event.reason, event.usage, seconds)
            case _:
                pass

    def observe_failure(self) -> None:
        """Take note that the engine failed the ask."""
        self._metrics.finished.labels(FinishReason.ERROR.value).inc()

    def observe_abandoned(self, num_answers: int) -> None:
        """Take note of answers nobody waits for any more."""
        self._metrics.finished.labels(FinishReason.ABORT.value).inc(num_answers)
