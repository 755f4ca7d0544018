"""Items of a response while they grow: a message or a plan being written, a picture being drawn, and the events that show it."""

from __future__ import annotations

from collections.abc import Iterator

from server.api.image_answers import QualityOut
from server.api.image_writer import FORMAT_SHOWN, size_text
from server.api.response_answers import (
    ArgumentsDeltaOut,
    ArgumentsDoneOut,
    CallOut,
    EventOut,
    InsideItemOut,
    ItemEventOut,
    ItemOut,
    ItemStatusOut,
    LogprobOut,
    MessageOut,
    PartEventOut,
    PartialPictureOut,
    PartOut,
    PictureCallOut,
    ReasoningOut,
    TextDeltaOut,
    TextDoneOut,
    TextOut,
    ThoughtDeltaOut,
    ThoughtDoneOut,
    ThoughtOut,
    TopLogprobOut,
)
from server.serving.events import AlternativeToken, CallEvent, PictureEvent, PreviewEvent, ScoredToken

CALL = "response.image_generation_call"
ARGUMENTS = "response.function_call_arguments"
CONTENT_INDEX = 0
"""An item holds one text."""


class Numbering:
    """Numbers the events of one response, from 0 without gaps."""

    def __init__(self) -> None:
        self._count = 0

    def next(self) -> int:
        """Return the next number."""
        self._count += 1
        return self._count - 1


class TextDraft:
    """A message, or a plan when ``is_thought``; ``part`` tells which piece of the answer it is."""

    def __init__(self, index: int, item_id: str, part: int, *, is_thought: bool) -> None:
        self.part = part
        self.is_thought = is_thought
        self._index = index
        self._item_id = item_id
        self._text = ""
        self._logprobs: list[LogprobOut] = []

    def opened(self, numbers: Numbering) -> Iterator[EventOut]:
        """Yield the events that begin the item."""
        item: ItemOut
        if self.is_thought:
            item = ReasoningOut(id=self._item_id, status="in_progress", content=[])
        else:
            item = MessageOut(id=self._item_id, status="in_progress", content=[])
        yield ItemEventOut(type="response.output_item.added", sequence_number=numbers.next(), output_index=self._index, item=item)
        yield self._part_event("response.content_part.added", numbers)

    def grown(self, text: str, scored: list[ScoredToken], numbers: Numbering) -> EventOut:
        """Return the event of more words."""
        self._text += text
        if self.is_thought:
            return ThoughtDeltaOut(
                type="response.reasoning_text.delta",
                sequence_number=numbers.next(),
                item_id=self._item_id,
                output_index=self._index,
                content_index=CONTENT_INDEX,
                delta=text,
            )
        logprobs = [_logprob(entry) for entry in scored]
        self._logprobs += logprobs
        return TextDeltaOut(
            type="response.output_text.delta",
            sequence_number=numbers.next(),
            item_id=self._item_id,
            output_index=self._index,
            content_index=CONTENT_INDEX,
            delta=text,
            logprobs=logprobs,
        )

    def closed(self, numbers: Numbering, *, is_cut: bool) -> Iterator[EventOut]:
        """Yield the events that end the item; ``is_cut`` when it was to go on."""
        yield self._text_done(numbers)
        yield self._part_event("response.content_part.done", numbers)
        item = self.item("incomplete" if is_cut else "completed")
        yield ItemEventOut(type="response.output_item.done", sequence_number=numbers.next(), output_index=self._index, item=item)

    def item(self, status: ItemStatusOut) -> ItemOut:
        """Return the item as it stands."""
        if self.is_thought:
            return ReasoningOut(id=self._item_id, status=status, content=[ThoughtOut(text=self._text)])
        return MessageOut(id=self._item_id, status=status, content=[TextOut(text=self._text, logprobs=self._logprobs)])

    def _text_done(self, numbers: Numbering) -> EventOut:
        if self.is_thought:
            return ThoughtDoneOut(
                type="response.reasoning_text.done",
                sequence_number=numbers.next(),
                item_id=self._item_id,
                output_index=self._index,
                content_index=CONTENT_INDEX,
                text=self._text,
            )
        return TextDoneOut(
            type="response.output_text.done",
            sequence_number=numbers.next(),
            item_id=self._item_id,
            output_index=self._index,
            content_index=CONTENT_INDEX,
            text=self._text,
            logprobs=self._logprobs,
        )

    def _part_event(self, name: str, numbers: Numbering) -> EventOut:
        part: PartOut = ThoughtOut(text=self._text) if self.is_thought else TextOut(text=self._text, logprobs=self._logprobs)
        return PartEventOut(
            type=name,
            sequence_number=numbers.next(),
            item_id=self._item_id,
            output_index=self._index,
            content_index=CONTENT_INDEX,
            part=part,
        )


class PictureDraft:
    """A picture; ``size`` and ``quality`` are those asked for."""

    def __init__(self, index: int, item_id: str, size: str, quality: QualityOut | None) -> None:
        self._index = index
        self._item_id = item_id
        self._size = size
        self._quality = quality

    def opened(self, numbers: Numbering) -> Iterator[EventOut]:
        """Yield the events that begin the item."""
        item = PictureCallOut(id=self._item_id, status="in_progress")
        yield ItemEventOut(type="response.output_item.added", sequence_number=numbers.next(), output_index=self._index, item=item)
        yield self._event("in_progress", numbers)
        yield self._event("generating", numbers)

    def partial(self, event: PreviewEvent, numbers: Numbering) -> EventOut:
        """Return the event of a rough picture."""
        return PartialPictureOut(
            type=f"{CALL}.partial_image",
            sequence_number=numbers.next(),
            item_id=self._item_id,
            output_index=self._index,
            partial_image_index=event.preview,
            partial_image_b64=event.base64,
            quality=self._quality or "auto",
            size=self._size,
        )

    def closed(self, item: ItemOut, numbers: Numbering) -> Iterator[EventOut]:
        """Yield the events that end the item."""
        yield self._event("completed", numbers)
        yield ItemEventOut(type="response.output_item.done", sequence_number=numbers.next(), output_index=self._index, item=item)

    def item(self, event: PictureEvent) -> ItemOut:
        """Return the finished item."""
        return PictureCallOut(
            id=self._item_id,
            status="completed",
            result=event.base64,
            background="opaque",
            output_format=FORMAT_SHOWN[event.output_format],
            quality=self._quality or "auto",
            size=size_text(event),
        )

    def _event(self, name: str, numbers: Numbering) -> EventOut:
        return InsideItemOut(type=f"{CALL}.{name}", sequence_number=numbers.next(), item_id=self._item_id, output_index=self._index)


def called(index: int, item_id: str, event: CallEvent, numbers: Numbering) -> Iterator[EventOut]:
    """Yield the events of a call, which comes whole."""
    begun = CallOut(id=item_id, status="in_progress", call_id=event.call_id, name=event.name, arguments="")
    yield ItemEventOut(type="response.output_item.added", sequence_number=numbers.next(), output_index=index, item=begun)
    yield ArgumentsDeltaOut(
        type=f"{ARGUMENTS}.delta", sequence_number=numbers.next(), item_id=item_id, output_index=index, delta=event.arguments
    )
    yield ArgumentsDoneOut(
        type=f"{ARGUMENTS}.done",
        sequence_number=numbers.next(),
        item_id=item_id,
        output_index=index,
        name=event.name,
        arguments=event.arguments,
    )
    item = call_item(item_id, event)
    yield ItemEventOut(type="response.output_item.done", sequence_number=numbers.next(), output_index=index, item=item)


def call_item(item_id: str, event: CallEvent) -> CallOut:
    """Return a call as an item."""
    return CallOut(id=item_id, status="completed", call_id=event.call_id, name=event.name, arguments=event.arguments)


def _logprob(entry: ScoredToken) -> LogprobOut:
    top = [_alternative(other) for other in entry.top]
    return LogprobOut(token=entry.token.text, bytes=list(entry.token.utf8), logprob=entry.token.logprob, top_logprobs=top)


def _alternative(token: AlternativeToken) -> TopLogprobOut:
    return TopLogprobOut(token=token.text, bytes=list(token.utf8), logprob=token.logprob)
