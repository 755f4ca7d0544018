"""The way of one ask through the front: prepared, sent to the engine, its outputs turned into events until every answer is complete."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from server.errors import EngineUnavailable, Overloaded, PlaitError
from server.messages import FinishReason
from server.metrics import Metrics
from server.serving.answer import Answer, AnswerStyle
from server.serving.asks import Ask, PictureChoices
from server.serving.engine_client import EngineClient
from server.serving.events import Event, FinishedEvent, PictureEvent, TextEvent, ThoughtEvent
from server.serving.output_stream import OutputStream
from server.serving.prepare import Plan, Preparer
from server.serving.retry_after import retry_after_s
from server.serving.served_model import ServedModel


class GenerationService:
    """Answers asks with one model on one engine."""

    def __init__(self, model: ServedModel, preparer: Preparer, engine: EngineClient, metrics: Metrics, max_in_flight: int) -> None:
        self._model = model
        self._preparer = preparer
        self._engine = engine
        self._metrics = metrics
        self._max_in_flight = max_in_flight

    async def prepare(self, ask: Ask) -> Prepared:
        """Check an ask and make the engine's requests of it.

        Raises:
            InvalidRequest: it cannot be done.
            EngineUnavailable, Overloaded: not now.
        """
        started = time.monotonic()
        if self._engine.num_in_flight + ask.n > self._max_in_flight:
            raise self._overloaded(ask, f"The server has {self._max_in_flight} requests in flight, as many as it takes.")
        status = self._engine.status
        if status.limits is None:
            raise EngineUnavailable(f"The engine is not ready: {status.reason}. Try again shortly.")
        if self._engine.latest.waiting >= status.limits.max_waiting:
            raise self._overloaded(ask, f"{status.limits.max_waiting} requests are waiting, as many as the server lets wait.")
        plan = await asyncio.to_thread(self._preparer.prepare, ask, status.limits)
        return Prepared(ask, plan, started)

    def begin(self, prepared: Prepared) -> Generation:
        """Send what was prepared to the engine.

        Raises:
            EngineUnavailable: no engine is ready.
        """
        outputs = self._engine.submit(prepared.plan.requests)
        return Generation(outputs, self._answers(prepared.ask, prepared.plan), AnswerTimes(self._metrics, prepared.started))

    def _overloaded(self, ask: Ask, why: str) -> Overloaded:
        seconds = retry_after_s(self._engine.latest, wants_pictures=ask.pictures is not None)
        return Overloaded(f"{why} Try again in {seconds} s.", seconds)

    def _answers(self, ask: Ask, plan: Plan) -> dict[str, Answer]:
        pictures = ask.pictures or PictureChoices()
        style = AnswerStyle(
            stops=ask.text.stop,
            output_format=pictures.output_format,
            encoder_quality=pictures.encoder_quality,
            thinking=plan.thinking,
            num_top=ask.text.logprobs or 0,
            tool_names=[] if ask.tool_use is None else [tool.name for tool in ask.tool_use.tools],
        )
        return {request.request_id: Answer(choice, self._model.tokenizer, style) for choice, request in enumerate(plan.requests)}


@dataclass(frozen=True, slots=True)
class Prepared:
    """An ask that can be done, and the engine's requests for it. ``started``: when it arrived, by the monotonic clock."""

    ask: Ask
    plan: Plan
    started: float


class AnswerTimes:
    """Measures one ask as its client sees it."""

    def __init__(self, metrics: Metrics, started: float) -> None:
        self._metrics = metrics
        self._started = started
        self._last_text: dict[int, float] = {}
        self._drawn: set[int] = set()

    def observe(self, event: Event) -> None:
        """Take note of an event at the moment it is handed on."""
        now = time.monotonic()
        match event:
            case TextEvent() | ThoughtEvent():
                last = self._last_text.get(event.choice)
                if last is None:
                    self._metrics.first_token_seconds.observe(now - self._started)
                else:
                    self._metrics.inter_token_seconds.observe(now - last)
                self._last_text[event.choice] = now
            case PictureEvent():
                if event.choice not in self._drawn:
                    self._drawn.add(event.choice)
                    self._metrics.first_picture_seconds.observe(now - self._started)
                self._metrics.picture_seconds.observe(now - self._started)
            case FinishedEvent():
                self._metrics.observe_finished(event.reason, event.usage, now - self._started)
            case _:
                pass

    def observe_failure(self) -> None:
        """Take note that the engine failed the ask."""
        self._metrics.finished.labels(FinishReason.ERROR.value).inc()

    def observe_abandoned(self, num_answers: int) -> None:
        """Take note of answers nobody waits for any more."""
        self._metrics.finished.labels(FinishReason.ABORT.value).inc(num_answers)


class Generation:
    """Answers under way. Iterate over `events`, then `close`: closing early aborts what is unfinished, within one engine step."""

    def __init__(self, outputs: OutputStream, answers: dict[str, Answer], times: AnswerTimes) -> None:
        self._outputs = outputs
        self._answers = answers
        self._times = times

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events of all answers, each one's in order; ends when all are complete.

        Raises:
            PlaitError: one answer failed inside; the others are given up with it.
        """
        while not self._outputs.is_finished:
            output = await self._outputs.next()
            answer = self._answers[output.request_id]
            was_stopped = answer.is_stopped
            try:
                events = await answer.events(output)
            except PlaitError:
                self._times.observe_failure()
                raise
            if answer.is_stopped and not was_stopped:
                self._outputs.abort(output.request_id)
            for event in events:
                self._times.observe(event)
                yield event

    def close(self) -> None:
        """Give up what is unfinished."""
        self._times.observe_abandoned(self._outputs.close())
