"""The way of one ask through the front: prepared, sent to the engine, its outputs turned into events until every answer is complete."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

from server.errors import EngineUnavailable, PlaitError
from server.messages import FinishedOutput, FinishReason, ImageOutput, PreviewOutput, ProgressOutput
from server.metrics import Metrics
from server.serving.answer import Answer, AnswerStyle
from server.serving.answer_times import AnswerTimes
from server.serving.asks import Ask, Modality, PictureChoices
from server.serving.canon import encode_output, engine_canon
from server.serving.engine_client import EngineClient
from server.serving.events import Event
from server.serving.interest import while_awaited
from server.serving.output_stream import Output, OutputStream
from server.serving.prepare import Plan, Preparer
from server.serving.room import Room, Want
from server.serving.served_model import ServedModel
from server.store.store import Lease
from server.tracing import Tracing

MIN_DEADLINE_S = 0.001
"""What is left of a deadline that has passed: the engine ends the request and says why."""


class GenerationService:
    """Answers asks with one model on one engine."""

    def __init__(
        self, model: ServedModel, preparer: Preparer, engine: EngineClient, metrics: Metrics, tracing: Tracing, room: Room
    ) -> None:
        self._model = model
        self._preparer = preparer
        self._engine = engine
        self._metrics = metrics
        self._tracing = tracing
        self._room = room

    def place(self, ask: Ask) -> AbstractContextManager[None]:
        """Hold room for an ask until it is begun or has failed. Entering raises `Overloaded` when there is none."""
        draws = ask.modalities == frozenset({Modality.IMAGE})
        return self._room.place(Want(draws, ask.n, ask.deadline_s))

    async def prepare(self, ask: Ask, arrived: float) -> Prepared:
        """Check an ask that came in at ``arrived``, by the monotonic clock, and make the engine's requests of it.

        Raises:
            InvalidRequest: it cannot be done.
            EngineUnavailable, Overloaded: not now.
        """
        status = self._engine.status
        if status.limits is None:
            raise EngineUnavailable(f"The engine is not ready: {status.reason}. Try again shortly.")
        plan = await while_awaited(partial(self._preparer.prepare, ask, status.limits), self._preparer.threads_for(ask))
        return Prepared(ask, plan, arrived, self._tracing.traceparent())

    async def num_prompt_tokens(self, ask: Ask) -> int:
        """Return how many tokens the prompt of an ask has.

        Raises:
            InvalidRequest: it has none that could be read.
            Overloaded: not now.
        """
        return await while_awaited(partial(self._preparer.num_prompt_tokens, ask), self._preparer.threads_for(ask))

    def begin(self, prepared: Prepared, lease: Lease, tape: Tape) -> Generation:
        """Send what was prepared to the engine for the stream of a ``lease`` never used before, less what is on the tape already.

        Raises:
            EngineUnavailable: no engine is ready.
        """
        name = f"{lease.stream_id}.{lease.fence}"
        answers = self._answers(lease.stream_id, prepared.ask, prepared.plan)
        deadline_s = _left_s(prepared)
        past = [[output for number, output in tape.past if number == choice] for choice in range(len(answers))]
        requests = {
            f"{name}.{choice}": replace(request, request_id=f"{name}.{choice}", canon=engine_canon(past[choice]), deadline_s=deadline_s)
            for choice, request in enumerate(prepared.plan.requests)
        }
        unfinished = [request for request, before in zip(requests.values(), past, strict=True) if not _is_finished(before)]
        outputs = self._engine.submit(unfinished)
        self._tracing.begin([request.request_id for request in unfinished], self._model.name, prepared.traceparent)
        by_id = {request_id: Voice(choice, answers[choice]) for choice, request_id in enumerate(requests)}
        return Generation(outputs, by_id, AnswerTimes(self._metrics, prepared.arrived, tape.past, tape.once_seen), tape)

    def _answers(self, name: str, ask: Ask, plan: Plan) -> list[Answer]:
        pictures = ask.pictures or PictureChoices()
        style = AnswerStyle(
            name=name,
            stops=ask.text.stop,
            output_format=pictures.output_format,
            encoder_quality=pictures.encoder_quality,
            thinking=plan.thinking,
            num_top=ask.text.logprobs or 0,
            tool_names=[] if ask.tool_use is None else [tool.name for tool in ask.tool_use.tools],
        )
        return [Answer(choice, self._model.tokenizer, style) for choice in range(len(plan.requests))]


def seeded(ask: Ask, seed: int) -> Ask:
    """Return an ask that draws the same wherever it is begun: with ``seed``, if its client chose none."""
    return ask if ask.seed is not None else replace(ask, seed=seed)


def _left_s(prepared: Prepared) -> float | None:
    """Return what is left of an ask's time: the engine counts from when it has the request."""
    if prepared.ask.deadline_s is None:
        return None
    return max(MIN_DEADLINE_S, prepared.ask.deadline_s - (time.monotonic() - prepared.arrived))


def _is_finished(outputs: list[Output]) -> bool:
    return any(isinstance(output, FinishedOutput) for output in outputs)


@dataclass(frozen=True, slots=True)
class Prepared:
    """An ask that can be done, and the engine's requests for it. ``arrived``: when it arrived, by the monotonic clock.

    ``traceparent`` is the trace it belongs to, if there is one.
    """

    ask: Ask
    plan: Plan
    arrived: float
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Tape:
    """What makes an answer survive its engine: what was said ``past``, by number of the answer, and who records what is said from now on.

    ``record`` gets every output, encoded as canon, before anything comes of it. ``once_seen`` calls what it is given when what is written
    next of the answer has gone out to its client.
    """

    past: Sequence[tuple[int, Output]]
    record: Callable[[bytes], None]
    once_seen: Callable[[Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Voice:
    """One of several answers, and its number."""

    choice: int
    answer: Answer


class Generation:
    """Answers under way. Await `repeated`, then `next` until it `is_finished`, then `close`.

    Closing early aborts what is unfinished, within one engine step.
    """

    def __init__(self, outputs: OutputStream, voices: dict[str, Voice], times: AnswerTimes, tape: Tape) -> None:
        self._outputs = outputs
        self._voices = voices
        self._times = times
        self._tape = tape
        self._shown = {place for choice, output in tape.past if (place := _place(choice, output)) is not None}

    @property
    def is_finished(self) -> bool:
        """True when all answers are complete."""
        return self._outputs.is_finished

    async def repeated(self) -> list[Event]:
        """Return the events of the past, of all answers, each one's in order."""
        answers = {voice.choice: voice.answer for voice in self._voices.values()}
        events = [event for choice, output in self._tape.past for event in await answers[choice].events(output)]
        for request_id, voice in self._voices.items():
            if voice.answer.is_stopped:
                self._outputs.abort(request_id)
        return events

    async def next(self) -> list[Event]:
        """Return the events of the engine's next output; it may give rise to none.

        Raises:
            PlaitError: one answer failed inside; the others are given up with it.
        """
        output = await self._outputs.next()
        voice = self._voices[output.request_id]
        if self._shown and _place(voice.choice, output) in self._shown:
            return []
        self._times.observe_output(voice.choice, output)
        was_stopped = voice.answer.is_stopped
        if not _is_failure(output):
            is_slow = isinstance(output, ImageOutput)
            encoded = await asyncio.to_thread(encode_output, voice.choice, output) if is_slow else encode_output(voice.choice, output)
            self._tape.record(encoded)
        try:
            events = await voice.answer.events(output)
        except PlaitError:
            self._times.observe_failure()
            raise
        if voice.answer.is_stopped and not was_stopped:
            self._outputs.abort(output.request_id)
        for event in events:
            self._times.observe_event(event)
        return events

    def close(self) -> None:
        """Give up what is unfinished."""
        self._times.observe_abandoned(self._outputs.close())


Place = tuple[str, int, int, int]
"""A moment on the way to a picture: a picture begun anew passes it a second time."""


def _place(choice: int, output: Output) -> Place | None:
    match output:
        case ProgressOutput():
            return "progress", choice, output.index, output.step
        case PreviewOutput():
            return "preview", choice, output.index, output.preview
        case _:
            return None


def _is_failure(output: Output) -> bool:
    return isinstance(output, FinishedOutput) and output.reason is FinishReason.ERROR
