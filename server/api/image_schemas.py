"""The bodies of ``POST /v1/images/generations`` and ``/v1/images/edits``: OpenAI's fields, and a few of ours for how pictures are drawn.

An edit sent as a form becomes the same object; see `server.api.image_forms`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from server.api.chat_schemas import tenant_of
from server.api.drawing_options import OfficialOptions
from server.api.image_fields import EDIT_FIELDS, GENERATION_FIELDS
from server.api.message_schemas import MAX_URL_CHARS
from server.api.wire_object import WireObject, invalid, unsupported
from server.serving.asks import Ask, Message, Modality, ParamNames, PicturePart, TextPart
from server.serving.picture_links import address_of

MAX_PROMPT_CHARS = 32_000
MAX_EDITED_PICTURES = 16

NAMES = ParamNames(messages="prompt", max_tokens="n", size="size", negative_prompt="negative_prompt")

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]


class PictureRequest(OfficialOptions):
    """What generations and edits have in common."""

    prompt: Prompt
    model: Annotated[str, Field(max_length=256)] | None = None
    n: Annotated[int, Field(ge=1, le=10)] = 1
    response_format: Literal["b64_json", "url"] = "b64_json"
    stream: bool = False
    user: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None

    SYNONYMS: ClassVar[dict[str, str]] = {
        **OfficialOptions.SYNONYMS,
        "num_images": "n",
        "num_outputs_per_prompt": "n",
        "format": "output_format",
    }

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.partial_images and not self.stream:
            raise unsupported("partial_images needs stream=true", "partial_images")
        if self.response_format == "url" and self.stream:
            raise unsupported("streams carry pictures as b64_json", "response_format")
        return self

    def _ask(self, pictures: list[PicturePart]) -> Ask:
        """Return what is asked: the pictures to be read, then the words."""
        return Ask(
            messages=[Message([*pictures, TextPart(self.prompt)], "prompt")],
            modalities=frozenset({Modality.IMAGE}),
            pictures=replace(self.drawing(), max_images=1),
            n=self.n,
            seed=self.seed,
            tenant=tenant_of(self.safety_identifier or self.user),
            names=NAMES,
        )


class GenerationRequest(PictureRequest):
    """The body of a generation. What each field does is said in `server.api.image_fields`."""

    model_config = ConfigDict(json_schema_extra=GENERATION_FIELDS.describe)

    style: Literal["vivid", "natural"] | None = None

    REFUSED: ClassVar[dict[str, str]] = GENERATION_FIELDS.refusals()

    def ask(self) -> Ask:
        """Return what is asked, freed of its wire format."""
        return self._ask([])


class ImageReference(WireObject):
    """A picture to be read, by its address or, where it is one of our own, its id."""

    image_url: Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARS)] | None = None
    file_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None

    @model_validator(mode="after")
    def _names_one_picture(self) -> Self:
        if (self.image_url is None) == (self.file_id is None):
            raise invalid("expected either image_url or file_id", "image_url")
        return self

    def part(self, param: str) -> PicturePart:
        """Return the picture; ``param`` is where it stood."""
        if self.image_url is not None:
            return PicturePart(self.image_url, f"{param}.image_url")
        return PicturePart(address_of(self.file_id or ""), f"{param}.file_id")


class EditRequest(PictureRequest):
    """The body of an edit. What each field does is said in `server.api.image_fields`."""

    model_config = ConfigDict(json_schema_extra=EDIT_FIELDS.describe)

    images: Annotated[list[ImageReference], Field(min_length=1, max_length=MAX_EDITED_PICTURES)]

    REFUSED: ClassVar[dict[str, str]] = EDIT_FIELDS.refusals()
    SYNONYMS: ClassVar[dict[str, str]] = {**PictureRequest.SYNONYMS, "image": "images", "image_url": "images", "url": "images"}

    def ask(self) -> Ask:
        """Return what is asked, freed of its wire format."""
        return self._ask([image.part(f"images[{place}]") for place, image in enumerate(self.images)])
