"""Writes events into the Images API's wire format: one answer at the end, or a piece for each preview and each finished picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
from server.api.whole_answer import whole_answer
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


class PicturesWriter:
    """Writes one answer at the end; where pictures are kept, addresses stand in for the bytes. See `Writer`."""

    def __init__(self, heading: PictureHeading) -> None:
        self._heading = heading
        self._pictures: dict[int, PictureEvent] = {}
        self._usages: list[Usage] = []

    def begin(self) -> Iterable[Piece]:
        """Return nothing."""
        return ()

    def take(self, event: Event) -> Iterable[Piece]:
        """Keep a picture, and what it took.

        Raises:
            GenerationFailed: the server ended the answer.
        """
        if isinstance(event, PictureEvent):
            self._pictures[event.choice] = event
        elif isinstance(event, FinishedEvent):
            _check_drawn(event, self._pictures)
            self._usages.append(event.usage)
        return ()

    def end(self) -> Iterable[Piece]:
        """Return the answer."""
        first = self._pictures[0]
        answer = PicturesOut(
            created=self._heading.created,
            output_format=FORMAT_SHOWN[first.output_format],
            quality=self._heading.quality,
            size=size_text(first),
            data=[_picture(self._pictures[choice]) for choice in sorted(self._pictures)],
            usage=usage_of(self._usages),
        )
        return (whole_answer(answer.model_dump_json()),)


def _picture(event: PictureEvent) -> PictureOut:
    return PictureOut(b64_json=event.base64) if event.address is None else PictureOut(url=event.address)


class PictureEventWriter:
    """Writes a piece for each preview and each finished picture; the last picture's is the final one. See `Writer`."""

    def __init__(self, heading: PictureHeading) -> None:
        self._heading = heading
        self._pictures: dict[int, PictureEvent] = {}
        self._num_finished = 0

    def begin(self) -> Iterable[Piece]:
        """Return nothing."""
        return ()

    def take(self, event: Event) -> Iterator[Piece]:
        """Yield what clients see of an event.

        Raises:
            GenerationFailed: the server ended the answer.
        """
        if isinstance(event, PreviewEvent):
            partial = _partial(event, self._heading)
            yield Piece(partial.model_dump_json(), partial.type)
        elif isinstance(event, PictureEvent):
            self._pictures[event.choice] = event
        elif isinstance(event, FinishedEvent):
            _check_drawn(event, self._pictures)
            self._num_finished += 1
            completed = _completed(self._pictures.pop(event.choice), event.usage, self._heading)
            yield Piece(completed.model_dump_json(), completed.type, is_final=self._num_finished == self._heading.num_pictures)

    def end(self) -> Iterable[Piece]:
        """Return nothing."""
        return ()


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
