"""Measures one ask as its client sees it, by the clock that started when the request came in at the door.

A client counts from the bytes it sent to the bytes it gets: to the first words, then from token to token of one text. So what comes first
is counted when it has gone out, past the store that is to keep it and the socket's turn. A picture between two texts is no gap between
tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from server.messages import FinishReason, ImageOutput, TextClosed, TokenOutput
from server.metrics import Metrics
from server.serving.events import Event, FinishedEvent, PictureEvent, PreviewEvent, TextEvent, ThoughtEvent
from server.serving.output_stream import Output


class AnswerTimes:
    """The times of one ask's answers."""

    def __init__(
        self,
        metrics: Metrics,
        started: float,
        past: Sequence[tuple[int, Output]],
        once_seen: Callable[[Callable[[], None]], None],
    ) -> None:
        """Begin to count.

        Args:
            metrics: where the times go.
            started: when the ask arrived, by the monotonic clock.
            past: what was said before it came here, by answer.
            once_seen: calls what it is given when the event at hand has gone out to the client.
        """
        self._metrics = metrics
        self._once_seen = once_seen
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
        """Take note of an event before it is written."""
        match event:
            case TextEvent() | ThoughtEvent() if event.choice not in self._spoken:
                self._spoken.add(event.choice)
                self._observe_once_seen(self._metrics.first_token_seconds.observe)
            case PreviewEvent() if event.choice not in self._previewed:
                self._previewed.add(event.choice)
                self._observe_once_seen(self._metrics.first_preview_seconds.observe)
            case PictureEvent():
                if event.choice not in self._drawn:
                    self._drawn.add(event.choice)
                    self._observe_once_seen(self._metrics.first_picture_seconds.observe)
                self._observe_once_seen(self._metrics.picture_seconds.observe)
            case FinishedEvent():
                self._metrics.observe_finished(event.reason, event.usage, self._elapsed_s())
            case _:
                pass

    def _observe_once_seen(self, observe: Callable[[float], None]) -> None:
        self._once_seen(lambda: observe(self._elapsed_s()))

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def observe_failure(self) -> None:
        """Take note that the engine failed the ask."""
        self._metrics.finished.labels(FinishReason.ERROR.value).inc()

    def observe_abandoned(self, num_answers: int) -> None:
        """Take note of answers nobody waits for any more."""
        self._metrics.finished.labels(FinishReason.ABORT.value).inc(num_answers)
