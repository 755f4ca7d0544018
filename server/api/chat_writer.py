"""Writes events into OpenAI's wire format: one completion at the end, or a chunk for each event."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pydantic_core import to_json

from server.api.chat_answers import (
    AlternativeOut,
    ChatCompletionOut,
    ChoiceOut,
    ChunkChoiceOut,
    ChunkOut,
    CompletionTokensOut,
    CountedChunkOut,
    DeltaOut,
    FinishReasonOut,
    FunctionCallOut,
    ImageOut,
    ImagePartOut,
    ImageUrlOut,
    LogprobsOut,
    MessageOut,
    PartOut,
    ProgressOut,
    PromptTokensOut,
    TextPartOut,
    TokenLogprobOut,
    ToolCallChunkOut,
    ToolCallOut,
    UsageOut,
)
from server.api.event_stream import DONE
from server.api.whole_answer import whole_answer
from server.errors import GenerationFailed
from server.messages import FinishReason, Usage
from server.serving.events import (
    AlternativeToken,
    CallEvent,
    Event,
    FinishedEvent,
    PictureEvent,
    PreviewEvent,
    ProgressEvent,
    ScoredToken,
    TextEvent,
    ThoughtEvent,
)
from server.serving.surfaces import Piece

STAND_IN = secrets.token_hex(16)
"""Stands for the words in the JSON of a chunk; no client can have written it elsewhere."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What every piece of one answer repeats. ``num_choices`` is how many answers it holds.

    ``with_usage``: a stream ends with the usage.
    """

    completion_id: str
    created: int
    model: str
    num_choices: int
    with_logprobs: bool
    with_usage: bool
    metadata: dict[str, str] | None


@dataclass(slots=True)
class _Draft:
    """One choice as it grows."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    images: list[ImageOut] = field(default_factory=list)
    parts: dict[int, PartOut] = field(default_factory=dict)
    scored: list[ScoredToken] = field(default_factory=list)
    calls: list[ToolCallOut] = field(default_factory=list)
    finish_reason: FinishReasonOut = "stop"

    def take(self, event: Event) -> None:
        match event:
            case TextEvent():
                self.texts.append(event.text)
                self.scored += event.scored
                before = self.parts.get(event.part)
                written = before.text if isinstance(before, TextPartOut) else ""
                self.parts[event.part] = TextPartOut(index=event.part, text=written + event.text)
            case ThoughtEvent():
                self.thoughts.append(event.text)
            case CallEvent():
                self.calls.append(ToolCallOut(id=event.call_id, function=_function(event)))
            case PictureEvent():
                self.images.append(_image(event))
                self.parts[event.part] = ImagePartOut(index=event.part, image_index=event.index)
            case FinishedEvent():
                self.finish_reason = _finish_reason(event)
            case ProgressEvent() | PreviewEvent():
                pass

    def choice(self, index: int, *, with_logprobs: bool) -> ChoiceOut:
        message = MessageOut(
            content=None if self.calls and not self.texts else "".join(self.texts),
            images=self.images or None,
            content_parts=[self.parts[part] for part in sorted(self.parts)] if self.images else None,
            reasoning_content="".join(self.thoughts) or None,
            tool_calls=self.calls or None,
        )
        return ChoiceOut(
            index=index, message=message, logprobs=_logprobs(self.scored) if with_logprobs else None, finish_reason=self.finish_reason
        )


class CompletionWriter:
    """Writes one completion at the end; see `Writer`."""

    def __init__(self, heading: Heading) -> None:
        self._heading = heading
        self._drafts = [_Draft() for _ in range(heading.num_choices)]
        self._finished: list[FinishedEvent] = []

    def begin(self) -> Iterable[Piece]:
        """Return nothing."""
        return ()

    def take(self, event: Event) -> Iterable[Piece]:
        """Keep an event."""
        self._drafts[event.choice].take(event)
        if isinstance(event, FinishedEvent):
            self._finished.append(event)
        return ()

    def end(self) -> Iterable[Piece]:
        """Return the completion."""
        heading = self._heading
        choices = [draft.choice(index, with_logprobs=heading.with_logprobs) for index, draft in enumerate(self._drafts)]
        completion = ChatCompletionOut(
            id=heading.completion_id,
            created=heading.created,
            model=heading.model,
            choices=choices,
            usage=_usage(self._finished),
            metadata=heading.metadata,
        )
        return (whole_answer(completion.model_dump_json()),)


class ChunkWriter:
    """Writes a chunk for each event, after one that opens each choice, and one that sums up where the usage is wanted. See `Writer`."""

    def __init__(self, heading: Heading) -> None:
        self._heading = heading
        self._words = _WordChunks(heading)
        self._finished: list[FinishedEvent] = []

    def begin(self) -> Iterator[Piece]:
        """Yield what opens each choice."""
        for index in range(self._heading.num_choices):
            yield self._piece(ChunkChoiceOut(index=index, delta=DeltaOut(role="assistant", content=""), finish_reason=None))

    def take(self, event: Event) -> Iterable[Piece]:
        """Return an event's chunk."""
        if isinstance(event, TextEvent) and not self._heading.with_logprobs:
            return (Piece(self._words.chunk(event)),)
        if isinstance(event, ProgressEvent | PreviewEvent):
            return (Piece(_chunk(self._heading, [], progress=_progress(event))),)
        if isinstance(event, FinishedEvent):
            self._finished.append(event)
        return (self._piece(_chunk_choice(event, with_logprobs=self._heading.with_logprobs)),)

    def end(self) -> Iterator[Piece]:
        """Yield the sum, where it is wanted, and the end of the stream."""
        if self._heading.with_usage:
            yield Piece(_chunk(self._heading, [], usage=_usage(self._finished)))
        yield Piece(DONE, is_final=True)

    def _piece(self, choice: ChunkChoiceOut) -> Piece:
        return Piece(_chunk(self._heading, [choice]))


class _WordChunks:
    """Chunks of plain words, most of what is ever written: only the words differ, so the rest of the JSON is made once for each piece."""

    def __init__(self, heading: Heading) -> None:
        self._heading = heading
        self._frames: dict[tuple[int, int], list[str]] = {}

    def chunk(self, event: TextEvent) -> str:
        """Return the chunk of some words, the same as `_chunk` would make."""
        frame = self._frames.get((event.choice, event.part))
        if frame is None:
            example = TextEvent(event.choice, event.part, STAND_IN)
            frame = _chunk(self._heading, [_chunk_choice(example, with_logprobs=False)]).split(f'"{STAND_IN}"')
            self._frames[event.choice, event.part] = frame
        return to_json(event.text).decode().join(frame)


def _chunk(heading: Heading, choices: list[ChunkChoiceOut], *, progress: ProgressOut | None = None, usage: UsageOut | None = None) -> str:
    kind = CountedChunkOut if heading.with_usage else ChunkOut
    return kind(
        id=heading.completion_id,
        created=heading.created,
        model=heading.model,
        choices=choices,
        usage=usage,
        image_progress=progress,
        metadata=heading.metadata,
    ).model_dump_json()


def _chunk_choice(event: Event, *, with_logprobs: bool) -> ChunkChoiceOut:
    match event:
        case TextEvent():
            delta = DeltaOut(content=event.text, content_parts=[TextPartOut(index=event.part, text=event.text)])
            logprobs = _logprobs(event.scored) if with_logprobs else None
            return ChunkChoiceOut(index=event.choice, delta=delta, logprobs=logprobs)
        case ThoughtEvent():
            return ChunkChoiceOut(index=event.choice, delta=DeltaOut(reasoning_content=event.text))
        case CallEvent():
            call = ToolCallChunkOut(index=event.index, id=event.call_id, function=_function(event))
            return ChunkChoiceOut(index=event.choice, delta=DeltaOut(tool_calls=[call]))
        case PictureEvent():
            part = ImagePartOut(index=event.part, image_index=event.index)
            return ChunkChoiceOut(index=event.choice, delta=DeltaOut(images=[_image(event)], content_parts=[part]))
        case FinishedEvent():
            return ChunkChoiceOut(index=event.choice, delta=DeltaOut(), finish_reason=_finish_reason(event))
        case ProgressEvent() | PreviewEvent():
            raise AssertionError("progress belongs to no choice")


def _progress(event: ProgressEvent | PreviewEvent) -> ProgressOut:
    progress = ProgressOut(choice=event.choice, index=event.index, step=event.step, num_steps=event.num_steps)
    if isinstance(event, ProgressEvent):
        return progress
    partial = {"partial_image_index": event.preview, "partial_image_b64": event.base64}
    return progress.model_copy(update=partial)


def _image(event: PictureEvent) -> ImageOut:
    return ImageOut(index=event.index, image_url=ImageUrlOut(url=event.url))


def _function(event: CallEvent) -> FunctionCallOut:
    return FunctionCallOut(name=event.name, arguments=event.arguments)


def _finish_reason(event: FinishedEvent) -> FinishReasonOut:
    match event.reason:
        case FinishReason.STOP:
            return "tool_calls" if event.num_calls else "stop"
        case FinishReason.LENGTH:
            return "length"
        case FinishReason.ABORT | FinishReason.ERROR:
            raise GenerationFailed("The request was ended by the server.", "aborted")


def _logprobs(scored: list[ScoredToken]) -> LogprobsOut:
    return LogprobsOut(
        content=[
            TokenLogprobOut(**_alternative(entry.token).model_dump(), top_logprobs=[_alternative(other) for other in entry.top])
            for entry in scored
        ]
    )


def _alternative(token: AlternativeToken) -> AlternativeOut:
    return AlternativeOut(token=token.text, logprob=token.logprob, bytes=list(token.utf8))


def _usage(finished: list[FinishedEvent]) -> UsageOut:
    """Sum up the answers; their common prompt counts once."""
    prompt = finished[0].usage if finished else Usage()
    text = sum(event.usage.completion_text_tokens for event in finished)
    image = sum(event.usage.completion_image_tokens for event in finished)
    thoughts = sum(event.num_thought_tokens for event in finished)
    num_prompt = prompt.prompt_text_tokens + prompt.prompt_image_tokens
    return UsageOut(
        prompt_tokens=num_prompt,
        completion_tokens=text + image,
        total_tokens=num_prompt + text + image,
        prompt_tokens_details=PromptTokensOut(
            cached_tokens=prompt.cached_text_tokens + prompt.cached_image_tokens,
            text_tokens=prompt.prompt_text_tokens,
            image_tokens=prompt.prompt_image_tokens,
        ),
        completion_tokens_details=CompletionTokensOut(text_tokens=text, image_tokens=image, reasoning_tokens=thoughts),
    )
