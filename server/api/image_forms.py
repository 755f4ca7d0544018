"""An edit sent as ``multipart/form-data``, the way the official clients do, made into the JSON object the schema reads.

Files become data URIs, numbers and flags what they look like; the schema then judges as if they had been sent so. Names of files are
never looked at.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from server.api.image_schemas import MAX_EDITED_PICTURES, MAX_PROMPT_CHARS
from server.api.step_cache_options import STEP_CACHE_FIELDS
from server.errors import InvalidRequest, InvalidValue

PICTURE_PARAM = re.compile(r"images(\[(?P<place>[0-9]+)\](\.image_url)?)?$")
"""Where the JSON has the form's files."""

PICTURE_FIELDS = frozenset({"image", "image[]"})
NUMBER_FIELDS = frozenset(
    {"n", "output_compression", "partial_images", "seed", "num_inference_steps", "text_scale", "image_scale", *STEP_CACHE_FIELDS},
)
FLAG_FIELDS = frozenset({"stream"})
FLAGS = {"true": True, "false": False}
NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")

MAX_FIELDS = 64
MAX_FIELD_BYTES = 4 * MAX_PROMPT_CHARS
"""The longest prompt in the longest characters."""

Value = str | int | float | bool | list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Form:
    """A form as JSON, and what its ``num_pictures`` files are called there."""

    body: bytes
    num_pictures: int

    def named_here(self, error: InvalidRequest) -> InvalidRequest:
        """Return an error of the JSON with the form's own name for its field."""
        found = PICTURE_PARAM.match(error.param or "")
        if found is None:
            return error
        place = f"[{found['place']}]" if found["place"] and self.num_pictures > 1 else ""
        param = f"image{place}"
        return type(error)(error.message.replace(found.group(), param, 1), param)


async def read_form(request: Request) -> Form:
    """Read a form.

    Raises:
        InvalidRequest: it is no form, has too many or too large parts, or a part twice that can be there once.
    """
    # One file beyond the bound, so that the schema can name it.
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=MAX_EDITED_PICTURES + 1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        message = (
            f"The form cannot be read: expected multipart/form-data with a boundary and named parts, at most {MAX_EDITED_PICTURES} files, "
            f"{MAX_FIELDS} other fields and {MAX_FIELD_BYTES} bytes in each of those."
        )
        raise InvalidRequest(message) from error
    try:
        return await asyncio.to_thread(_as_json, form.multi_items())
    finally:
        await form.close()


def _as_json(parts: Sequence[tuple[str, UploadFile | str]]) -> Form:
    fields: dict[str, Value] = {}
    pictures: list[dict[str, str]] = []
    for name, value in parts:
        if name in PICTURE_FIELDS:
            pictures.append({"image_url": _data_uri(name, value)})
        elif name in fields:
            raise InvalidValue(f"{name[:64]}: is there twice.", name[:64])
        else:
            fields[name] = _typed(name, value) if isinstance(value, str) else ""
    if not pictures and "images" not in fields:
        raise InvalidValue("image: is required: one picture, or several, each as a file in a field of this name.", "image")
    if pictures:
        fields["images"] = pictures
    return Form(json.dumps(fields).encode(), len(pictures))


def _data_uri(name: str, value: UploadFile | str) -> str:
    if isinstance(value, str):
        raise InvalidValue(f"{name}: expected a file.", name)
    return "data:image/png;base64," + base64.b64encode(value.file.read()).decode("ascii")


def _typed(name: str, text: str) -> Value:
    """Return what a field's text stands for; what it cannot stand for is left for the schema to refuse."""
    if name in FLAG_FIELDS:
        return FLAGS.get(text.lower(), text)
    if name in NUMBER_FIELDS and NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return text
