"""Writes events into the Images API's wire format: one answer at the end, or a piece for each preview and each finished picture."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from server.api.image_answers import (
    CompletedPictureOut,
    FormatOut,
    PartialPictureOut,
    PictureOut,
    PicturesOut,
    PictureTokensOut,
    PictureUsageOut,
    QualityOut,
)
from server.api.image_schemas import PictureRequest
from server.errors import GenerationFailed
from server.messages import FinishReason, Usage
from server.serving.asks import PictureFormat
from server.serving.events import Event, FinishedEvent, PictureEvent, PreviewEvent
from server.serving.surfaces import Piece

Kind = Literal["image_generation", "image_edit"]

FORMAT_SHOWN: dict[PictureFormat, FormatOut] = {PictureFormat.PNG: "png", PictureFormat.WEBP: "webp", PictureFormat.JPEG: "jpeg"}


@dataclass(frozen=True, slots=True)
class PictureHeading:
    """What every piece of one answer repeats. ``quality`` is None where the request gave steps instead."""

    kind: Kind
    created: int
    num_pictures: int
    size: str
    quality: QualityOut | None

    @classmethod
    def of(cls, request: PictureRequest, kind: Kind, created: int) -> PictureHeading:
        """Return the heading of the answer to ``request``."""
        return cls(kind, created, request.n, request.size or "auto", _quality(request))


def _quality(request: PictureRequest) -> QualityOut | None:
    if request.num_inference_steps is not None:
        return None
    match request.quality:
        case "low" | "medium" | "high" | "xhigh" | "max":
            return request.quality
        case "hd":
            return "high"
        case "standard" | "auto" | None:
            return "medium"


async def write_pictures(events: AsyncIterator[Event], heading: PictureHeading) -> str:
    """Collect all pictures and return the answer as JSON; where they are kept, addresses stand in for the bytes.

    Raises:
        GenerationFailed, EngineUnavailable: from ``events``.
    """
    pictures: dict[int, PictureEvent] = {}
    usages: list[Usage] = []
    async for event in events:
        if isinstance(event, PictureEvent):
            pictures[event.choice] = event
        elif isinstance(event, FinishedEvent):
            _check_drawn(event, pictures)
            usages.append(event.usage)
    first = pictures[0]
    return PicturesOut(
        created=heading.created,
        output_format=FORMAT_SHOWN[first.output_format],
        quality=heading.quality,
        size=size_text(first),
        data=[_picture(pictures[choice]) for choice in sorted(pictures)],
        usage=usage_of(usages),
    ).model_dump_json()


def _picture(event: PictureEvent) -> PictureOut:
    return PictureOut(b64_json=event.base64) if event.address is None else PictureOut(url=event.address)


async def write_picture_events(events: AsyncIterator[Event], heading: PictureHeading) -> AsyncIterator[Piece]:
    """Yield a piece for each preview and each finished picture; the last picture's is the final one.

    Raises:
        GenerationFailed, EngineUnavailable: from ``events``.
    """
    pictures: dict[int, PictureEvent] = {}
    num_finished = 0
    async for event in events:
        if isinstance(event, PreviewEvent):
            partial = _partial(event, heading)
            yield Piece(partial.model_dump_json(), partial.type)
        elif isinstance(event, PictureEvent):
            pictures[event.choice] = event
        elif isinstance(event, FinishedEvent):
            _check_drawn(event, pictures)
            num_finished += 1
            completed = _completed(pictures.pop(event.choice), event.usage, heading)
            yield Piece(completed.model_dump_json(), completed.type, is_final=num_finished == heading.num_pictures)


def _partial(event: PreviewEvent, heading: PictureHeading) -> PartialPictureOut:
    return PartialPictureOut(
        type="image_edit.partial_image" if heading.kind == "image_edit" else "image_generation.partial_image",
        b64_json=event.base64,
        created_at=heading.created,
        output_format="webp",
        quality=heading.quality or "auto",
        size=heading.size,
        index=_index(event.choice, heading),
        partial_image_index=event.preview,
    )


def _completed(event: PictureEvent, usage: Usage, heading: PictureHeading) -> CompletedPictureOut:
    return CompletedPictureOut(
        type="image_edit.completed" if heading.kind == "image_edit" else "image_generation.completed",
        b64_json=event.base64,
        created_at=heading.created,
        output_format=FORMAT_SHOWN[event.output_format],
        quality=heading.quality or "auto",
        size=size_text(event),
        index=_index(event.choice, heading),
        usage=usage_of([usage]),
    )


def _index(choice: int, heading: PictureHeading) -> int | None:
    return choice if heading.num_pictures > 1 else None


def _check_drawn(event: FinishedEvent, pictures: dict[int, PictureEvent]) -> None:
    """See that an answer that has finished has its picture."""
    if event.reason in (FinishReason.ABORT, FinishReason.ERROR) or event.choice not in pictures:
        raise GenerationFailed("The request was ended by the server.", "aborted")


def size_text(event: PictureEvent) -> str:
    width, height = event.size
    return f"{width}x{height}"


def usage_of(usages: list[Usage]) -> PictureUsageOut:
    """Sum up the pictures; their common prompt counts once."""
    prompt = usages[0] if usages else Usage()
    text = sum(usage.completion_text_tokens for usage in usages)
    image = sum(usage.completion_image_tokens for usage in usages)
    num_input = prompt.prompt_text_tokens + prompt.prompt_image_tokens
    return PictureUsageOut(
        input_tokens=num_input,
        input_tokens_details=PictureTokensOut(text_tokens=prompt.prompt_text_tokens, image_tokens=prompt.prompt_image_tokens),
        output_tokens=text + image,
        output_tokens_details=PictureTokensOut(text_tokens=text, image_tokens=image),
        total_tokens=num_input + text + image,
    )
