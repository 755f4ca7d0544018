"""Every field a request of the Images API may carry, and what becomes of it."""

from __future__ import annotations

from server.api.drawing_options import DRAWING_FIELDS, OFFICIAL_FIELDS
from server.api.field_table import FieldTable, Origin, honoured, no_op, refused
from server.api.picture_fields import ADDRESS_OR_BYTES

COMMON = (
    *honoured(
        Origin.OPENAI,
        prompt="what is to be drawn, or changed",
        model="must name the model served here; may be left out",
        n="how many pictures, 1 to 10; they differ in seed",
        **OFFICIAL_FIELDS,
        response_format=ADDRESS_OR_BYTES,
        stream="send events while the pictures are drawn",
        user="older name of safety_identifier",
        safety_identifier="whose request this is: no two users share cached prompts; without keys, they share the machine fairly",
    ),
    *honoured(
        Origin.PLAIT,
        num_inference_steps="how many timesteps a picture gets, instead of quality",
        **DRAWING_FIELDS,
    ),
    *no_op(moderation="this server does not moderate"),
    *refused(
        Origin.OPENAI,
        svg="pictures are pixels; use output_format png, webp or jpeg",
        complexity="planning cannot be chosen; use quality or num_inference_steps",
        frame_count="pictures do not move",
        frame_duration_ms="pictures do not move",
    ),
)

GENERATION_FIELDS = FieldTable(
    "image-fields",
    "a picture to be drawn",
    "POST /v1/images/generations",
    (
        *COMMON,
        *no_op(style="say it in the prompt"),
        *refused(
            Origin.ELSEWHERE,
            image="use /v1/images/edits to give pictures",
            images="use /v1/images/edits to give pictures",
        ),
    ),
)

EDIT_FIELDS = FieldTable(
    "edit-fields",
    "a picture to be edited",
    "POST /v1/images/edits",
    (
        *honoured(
            Origin.OPENAI, images="the pictures to edit, up to 16, by address or id; in a form they are files called image or image[]"
        ),
        *COMMON,
        *refused(
            Origin.OPENAI,
            mask="the model edits whole pictures; say in the prompt what must stay",
            markup="the model edits whole pictures; say in the prompt where to change what",
            input_fidelity="use image_scale: the higher, the closer to the pictures given",
        ),
    ),
)
