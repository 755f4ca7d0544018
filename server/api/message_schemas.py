"""The messages of a conversation as clients send them: every shape that our own answers have, and OpenAI's.

An assistant message may come back exactly as it was answered: ``content`` (plain text), ``images`` and ``content_parts``, where the last
gives the order and refers to pictures by ``image_index``. Clients that know nothing of ``content_parts`` keep it in a place of their own
and send it back from there; and their helpers add what they have read out of an answer, which has no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, JsonValue, Tag, ValidationError, model_validator

from server.api.tool_schemas import MAX_TOOLS, PastCall
from server.api.wire_object import WireObject, invalid
from server.errors import InvalidValue
from server.serving.asks import Message, PicturePart, TextPart
from server.serving.tools import past_call, past_result

MAX_TEXT_CHARS = 1_000_000
MAX_URL_CHARS = 30_000_000
MAX_PARTS = 512

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
Index = Annotated[int, Field(ge=0, le=MAX_PARTS)]


class ImageUrl(WireObject):
    """Where a picture is.

    ``detail`` and ``format`` have no effect: every picture is read at the one resolution that the model takes, and says itself what it is.
    """

    url: Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARS)]
    detail: Literal["auto", "low", "high", "original"] | None = None
    format: Annotated[str, Field(max_length=64)] | None = None


class CacheBreakpoint(WireObject):
    """Accepted, without effect: prompts are found in the cache by their content."""

    mode: Literal["explicit"] | None = None
    ttl: Annotated[str, Field(max_length=16)] | None = None


class TextInput(WireObject):
    type: Literal["text"]
    text: Text
    index: Index | None = None
    prompt_cache_breakpoint: CacheBreakpoint | None = None

    def said(self, images: Sequence[ImageEntry], param: str) -> list[TextPart | PicturePart]:
        """Return what the part says; it stood at ``param``."""
        return [TextPart(self.text)]


class ImageInput(WireObject):
    """A picture, by its own address or, in ``content_parts``, by its place in ``images``."""

    type: Literal["image_url"]
    image_url: ImageUrl | None = None
    image_index: Index | None = None
    index: Index | None = None
    prompt_cache_breakpoint: CacheBreakpoint | None = None

    @model_validator(mode="after")
    def _names_one_picture(self) -> Self:
        if (self.image_url is None) == (self.image_index is None):
            raise invalid("expected either image_url or image_index", "image_url")
        return self

    def said(self, images: Sequence[ImageEntry], param: str) -> list[TextPart | PicturePart]:
        """Return the picture, which may be one of ``images``; the part stood at ``param``.

        Raises:
            InvalidValue: it refers to a picture that is not there.
        """
        if self.image_url is not None:
            return [PicturePart(self.image_url.url, f"{param}.image_url.url")]
        return [PicturePart(_referred(self.image_index, images, param), f"{param}.image_index")]


class ImageEntry(WireObject):
    """One of ``images``."""

    type: Literal["image_url"]
    image_url: ImageUrl
    index: Index | None = None


class AnswerText(TextInput):
    """Words of an answer. Clients that keep a history in parts put the rest of the answer's message beside its words."""

    role: JsonValue = None
    refusal: JsonValue = None
    annotations: JsonValue = None
    images: JsonValue = None
    content_parts: JsonValue = None
    reasoning_content: JsonValue = None
    tool_calls: JsonValue = None
    parsed: JsonValue = None

    def said(self, images: Sequence[ImageEntry], param: str) -> list[TextPart | PicturePart]:
        """Return the words, with the pictures that were kept beside them; the part stood at ``param``."""
        kept = KeptOrder.of(self.text, self.images, self.content_parts)
        return super().said(images, param) if kept is None else kept.said(f"{param}.content_parts")


def _kind_of_part(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"({kind})" if kind in ("text", "image_url") else None


def _kind_of_content(value: object) -> str | None:
    if isinstance(value, str):
        return "(string)"
    return "(parts)" if isinstance(value, list) else None


OF_KNOWN_TYPE = Discriminator(
    _kind_of_part, custom_error_type="invalid_value", custom_error_message="expected a part of type 'text' or 'image_url'"
)
TEXT_OR_PARTS = Discriminator(
    _kind_of_content, custom_error_type="invalid_value", custom_error_message="expected a string or a list of parts"
)

Part = Annotated[Annotated[TextInput, Tag("(text)")] | Annotated[ImageInput, Tag("(image_url)")], OF_KNOWN_TYPE]
Parts = Annotated[list[Part], Field(max_length=MAX_PARTS)]
Content = Annotated[Annotated[Text, Tag("(string)")] | Annotated[Parts, Tag("(parts)")], TEXT_OR_PARTS]

AnswerPart = Annotated[Annotated[AnswerText, Tag("(text)")] | Annotated[ImageInput, Tag("(image_url)")], OF_KNOWN_TYPE]
AnswerParts = Annotated[list[AnswerPart], Field(max_length=MAX_PARTS)]
AnswerContent = Annotated[Annotated[Text, Tag("(string)")] | Annotated[AnswerParts, Tag("(parts)")], TEXT_OR_PARTS]


class KeptOrder(WireObject):
    """The order of an answer, as a client has kept it elsewhere than in its place."""

    images: Annotated[list[ImageEntry], Field(max_length=MAX_PARTS)] = Field(default_factory=list)
    content_parts: Annotated[Parts, Field(min_length=1)]

    @classmethod
    def of(cls, words: str, images: object, parts: JsonValue) -> Self | None:
        """Return the order of an answer that says ``words``; None where what was kept is no such order."""
        try:
            kept = cls.model_validate({"images": images, "content_parts": parts})
            content_parts(kept.content_parts, kept.images, "")
        except (ValidationError, InvalidValue):
            return None
        return kept if spoken(kept.content_parts) == words else None

    def said(self, param: str) -> list[TextPart | PicturePart]:
        """Return the answer in order; ``param`` is where it stood."""
        return content_parts(self.content_parts, self.images, param)


SpeakerName = Annotated[str, Field(max_length=256)] | None
"""Who speaks. Frameworks send it with every message; it has no effect, since the model has no place for names."""


class PromptMessage(WireObject):
    """What the user or the system says."""

    role: Literal["system", "developer", "user"]
    content: Content
    name: SpeakerName = None

    def message(self, param: str) -> Message:
        """Return the message in order; ``param`` is where it stood."""
        return Message(content_parts(self.content, [], f"{param}.content"), param)


class AssistantMessage(WireObject):
    """What the model said earlier.

    A plan in ``reasoning_content`` is accepted because answers have it, and is not part of the history; nor is what a client's helper has
    ``parsed``. Of ``provider_specific_fields``, where LiteLLM keeps what it does not know, the order of words and pictures is read.
    """

    role: Literal["assistant"]
    content: AnswerContent | None = None
    name: SpeakerName = None
    images: Annotated[list[ImageEntry], Field(max_length=MAX_PARTS)] | None = None
    content_parts: Parts | None = None
    reasoning_content: Text | None = None
    tool_calls: Annotated[list[PastCall], Field(max_length=MAX_TOOLS)] | None = None
    annotations: Annotated[list[str], Field(max_length=0)] | None = None
    parsed: JsonValue = None
    provider_specific_fields: dict[str, JsonValue] | None = None

    REFUSED: ClassVar[dict[str, str]] = {
        "refusal": "this server makes no refusals; put the text into content",
        "audio": "this server has no audio",
        "function_call": "send it as tool_calls",
    }

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.content is None and not self.images and not self.content_parts and not self.tool_calls:
            raise invalid("expected content, images, content_parts or tool_calls", "content")
        if self.content_parts is None:
            return self
        if self.content and isinstance(self.content, list):
            raise invalid("expected a string beside content_parts, which gives the order", "content")
        if self.content and self.content != spoken(self.content_parts):
            raise invalid("differs from the text of content_parts; leave one of them out", "content")
        return self

    def message(self, param: str) -> Message:
        """Return the message in order: that of ``content_parts`` if given, else words before pictures; calls of tools come last."""
        calls = [past_call(call.function.name, call.function.arguments) for call in self.tool_calls or []]
        return Message([*self._said(param), *calls], param)

    def _said(self, param: str) -> list[TextPart | PicturePart]:
        images = self.images or []
        if self.content_parts is not None:
            return content_parts(self.content_parts, images, f"{param}.content_parts")
        kept = self._kept_order()
        if kept is not None:
            return kept.said(f"{param}.provider_specific_fields.content_parts")
        pictures = [PicturePart(entry.image_url.url, f"{param}.images[{place}].image_url.url") for place, entry in enumerate(images)]
        return [*content_parts(self.content or "", [], f"{param}.content"), *pictures]

    def _kept_order(self) -> KeptOrder | None:
        fields = self.provider_specific_fields or {}
        if isinstance(self.content, list):
            return None
        return KeptOrder.of(self.content or "", self.images or fields.get("images"), fields.get("content_parts"))


class ToolText(TextInput):
    REFUSED: ClassVar[dict[str, str]] = {"image_url": "tools answer in words; send a picture in a user's message"}


ToolContent = Annotated[
    Annotated[Text, Tag("(string)")] | Annotated[list[ToolText], Field(max_length=MAX_PARTS), Tag("(parts)")],
    Discriminator(
        _kind_of_content,
        custom_error_type="invalid_value",
        custom_error_message="expected a string or a list of parts of type 'text'",
    ),
]


class ToolMessage(WireObject):
    """What a tool answered. ``tool_call_id`` has no effect: answers are read in the order in which they stand."""

    role: Literal["tool"]
    content: ToolContent
    tool_call_id: Annotated[str, Field(max_length=256)]
    name: SpeakerName = None

    def message(self, param: str) -> Message:
        """Return the message."""
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return Message([past_result(text)], param)


def _kind_of_message(value: object) -> str | None:
    role = value.get("role") if isinstance(value, dict) else None
    if role in ("system", "developer", "user"):
        return "(prompt)"
    return f"({role})" if role in ("assistant", "tool") else None


AnyMessage = Annotated[
    Annotated[PromptMessage, Tag("(prompt)")] | Annotated[AssistantMessage, Tag("(assistant)")] | Annotated[ToolMessage, Tag("(tool)")],
    Discriminator(
        _kind_of_message,
        custom_error_type="invalid_value",
        custom_error_message="expected an object whose role is 'system', 'developer', 'user', 'assistant' or 'tool'",
    ),
]


def content_parts(
    content: str | Sequence[TextInput | ImageInput], images: Sequence[ImageEntry], param: str
) -> list[TextPart | PicturePart]:
    """Return content as parts in order, with references to ``images`` resolved.

    Raises:
        InvalidValue: a reference to a picture that is not there.
    """
    if isinstance(content, str):
        return [TextPart(content)]
    return [said for place, part in enumerate(content) for said in part.said(images, f"{param}[{place}]")]


def spoken(parts: Sequence[TextInput | ImageInput]) -> str:
    """Return the words of parts."""
    return "".join(part.text for part in parts if isinstance(part, TextInput))


def _referred(image_index: int | None, images: Sequence[ImageEntry], where: str) -> str:
    for place, entry in enumerate(images):
        if (place if entry.index is None else entry.index) == image_index:
            return entry.image_url.url
    raise InvalidValue(f"{where}.image_index: images has no entry {image_index}; it has {len(images)}.", f"{where}.image_index")
