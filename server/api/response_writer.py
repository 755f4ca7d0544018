"""Writes events into the Responses API's wire format: items in the order they are made, whole or as they grow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from server.api.image_answers import QualityOut
from server.api.response_answers import (
    EventOut,
    IncompleteOut,
    InputTokensOut,
    ItemOut,
    OutputTokensOut,
    ResponseEventOut,
    ResponseOut,
    ResponseUsageOut,
)
from server.api.response_drafts import Numbering, PictureDraft, TextDraft, call_item, called
from server.api.whole_answer import whole_answer
from server.errors import GenerationFailed
from server.messages import FinishReason
from server.serving.events import (
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

THOUGHT_PART = -1
"""A plan is no piece of the answer."""


@dataclass(frozen=True, slots=True)
class ResponseHeading:
    """The response before its answer. ``size`` and ``quality`` are those asked for, of pictures on their way."""

    response: ResponseOut
    size: str
    quality: QualityOut | None


class ResponseDraft:
    """A response as it grows."""

    def __init__(self, heading: ResponseHeading) -> None:
        self._heading = heading
        self._key = heading.response.id.partition("_")[2]
        self._numbers = Numbering()
        self._items: list[ItemOut] = []
        self._text: TextDraft | None = None
        self._picture: PictureDraft | None = None

    def begin(self) -> Iterator[EventOut]:
        """Yield what stands before every answer."""
        for name in ("response.created", "response.in_progress"):
            yield ResponseEventOut(type=name, sequence_number=self._numbers.next(), response=self._heading.response)

    def take(self, event: Event) -> Iterator[EventOut]:
        """Yield what clients see of an event."""
        match event:
            case TextEvent():
                yield from self._write(event.text, event.scored, event.part, is_thought=False)
            case ThoughtEvent():
                yield from self._write(event.text, [], THOUGHT_PART, is_thought=True)
            case ProgressEvent():
                yield from self._begin_picture()
            case PreviewEvent():
                yield from self._begin_picture()
                assert self._picture is not None
                yield self._picture.partial(event, self._numbers)
            case PictureEvent():
                yield from self._begin_picture()
                yield from self._end_picture(event)
            case CallEvent():
                yield from self._call(event)
            case FinishedEvent():
                yield from self._close_text(is_cut=event.reason is FinishReason.LENGTH)

    def end(self, event: FinishedEvent, completed_at: int) -> ResponseEventOut:
        """Return the last event.

        Raises:
            GenerationFailed: the server ended the answer.
        """
        if event.reason in (FinishReason.ABORT, FinishReason.ERROR):
            raise GenerationFailed("The request was ended by the server.", "aborted")
        is_cut = event.reason is FinishReason.LENGTH
        response = self._heading.response.model_copy(
            update={
                "status": "incomplete" if is_cut else "completed",
                "completed_at": None if is_cut else completed_at,
                "incomplete_details": IncompleteOut(reason="max_output_tokens") if is_cut else None,
                "output": self._items,
                "usage": _usage(event),
            }
        )
        name = "response.incomplete" if is_cut else "response.completed"
        return ResponseEventOut(type=name, sequence_number=self._numbers.next(), response=response)

    def fail(self, response: ResponseOut) -> ResponseEventOut:
        """Return the event that ends an answer before its time, with what there is of it, to half a text."""
        if self._text is not None:
            self._items[-1] = self._text.item("incomplete")
        kept = response.model_copy(update={"output": self._items})
        return ResponseEventOut(type="response.failed", sequence_number=self._numbers.next(), response=kept)

    def _write(self, text: str, scored: list[ScoredToken], part: int, *, is_thought: bool) -> Iterator[EventOut]:
        if self._text is None or self._text.part != part:
            yield from self._close_text(is_cut=False)
            item_id = f"{'rs' if is_thought else 'msg'}_{self._key}_{len(self._items)}"
            self._text = TextDraft(len(self._items), item_id, part, is_thought=is_thought)
            self._items.append(self._text.item("in_progress"))
            yield from self._text.opened(self._numbers)
        yield self._text.grown(text, scored, self._numbers)

    def _close_text(self, *, is_cut: bool) -> Iterator[EventOut]:
        if self._text is not None:
            yield from self._text.closed(self._numbers, is_cut=is_cut)
            self._items[-1] = self._text.item("incomplete" if is_cut else "completed")
            self._text = None

    def _begin_picture(self) -> Iterator[EventOut]:
        if self._picture is None:
            yield from self._close_text(is_cut=False)
            index = len(self._items)
            self._picture = PictureDraft(index, f"ig_{self._key}_{index}", self._heading.size, self._heading.quality)
            yield from self._picture.opened(self._numbers)

    def _end_picture(self, event: PictureEvent) -> Iterator[EventOut]:
        assert self._picture is not None
        item = self._picture.item(event)
        self._items.append(item)
        yield from self._picture.closed(item, self._numbers)
        self._picture = None

    def _call(self, event: CallEvent) -> Iterator[EventOut]:
        yield from self._close_text(is_cut=False)
        index = len(self._items)
        item_id = f"fc_{self._key}_{index}"
        self._items.append(call_item(item_id, event))
        yield from called(index, item_id, event, self._numbers)


def _usage(event: FinishedEvent) -> ResponseUsageOut:
    usage = event.usage
    num_input = usage.prompt_text_tokens + usage.prompt_image_tokens
    num_output = usage.completion_text_tokens + usage.completion_image_tokens
    return ResponseUsageOut(
        input_tokens=num_input,
        input_tokens_details=InputTokensOut(
            cached_tokens=usage.cached_text_tokens + usage.cached_image_tokens,
            text_tokens=usage.prompt_text_tokens,
            image_tokens=usage.prompt_image_tokens,
        ),
        output_tokens=num_output,
        output_tokens_details=OutputTokensOut(
            reasoning_tokens=event.num_thought_tokens,
            text_tokens=usage.completion_text_tokens,
            image_tokens=usage.completion_image_tokens,
        ),
        total_tokens=num_input + num_output,
    )


class ResponseWriter:
    """Writes one response at the end; see `Writer`."""

    def __init__(self, draft: ResponseDraft) -> None:
        self._draft = draft

    def begin(self) -> Iterable[Piece]:
        """Return nothing."""
        return ()

    def take(self, event: Event) -> Iterable[Piece]:
        """Keep an event; return the response when it is the last one."""
        for _ in self._draft.take(event):
            pass
        if isinstance(event, FinishedEvent):
            return (whole_answer(self._draft.end(event, int(time.time())).response.model_dump_json()),)
        return ()

    def end(self) -> Iterable[Piece]:
        """Return nothing."""
        return ()


class ResponseEventWriter:
    """Writes a piece for each event of the response; see `Writer`."""

    def __init__(self, draft: ResponseDraft) -> None:
        self._draft = draft

    def begin(self) -> Iterator[Piece]:
        """Yield what stands before every answer."""
        for shown in self._draft.begin():
            yield Piece(shown.model_dump_json(), shown.type)

    def take(self, event: Event) -> Iterator[Piece]:
        """Yield what clients see of an event."""
        for shown in self._draft.take(event):
            yield Piece(shown.model_dump_json(), shown.type)
        if isinstance(event, FinishedEvent):
            last = self._draft.end(event, int(time.time()))
            yield Piece(last.model_dump_json(), last.type, is_final=True)

    def end(self) -> Iterable[Piece]:
        """Return nothing."""
        return ()
