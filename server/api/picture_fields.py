"""Every option of the pictures in a chat and in a response, and what becomes of it."""

from __future__ import annotations

from server.api.drawing_options import DRAWING_FIELDS, OFFICIAL_FIELDS, PREVIEWS, SIZE
from server.api.field_table import FieldTable, Origin, honoured, no_op, refused

ADDRESS_OR_BYTES = (
    "b64_json, or url: an address of this server; where it has keys, the address needs one as well, so <img src> cannot show it"
)

MAX_IMAGES = (
    "most pictures of the answer, 1 to 16, after which it goes on without; left out, 8 where the model decides (finish_reason length where "
    "it wants more), else 1"
)

PICTURE_FIELDS = FieldTable(
    "picture-fields",
    "the pictures of a chat",
    "image, in POST /v1/chat/completions",
    (
        *honoured(
            Origin.PLAIT,
            size=SIZE,
            num_inference_steps="how many timesteps a picture gets; one less is computed",
            guidance="bagel (scales nested) or illume (scales side by side)",
            **DRAWING_FIELDS,
            interval="[low, high]: guidance is on while low < timestep <= high; timesteps fall from 1 to 0",
            renorm="what guidance may not make longer: global, the whole velocity; channel, each token's; text_channel, before image_scale",
            renorm_min="renorm shrinks to this part at most, from 0 to 1",
            shift="how much of the timesteps lies near the noise; 1 spaces them evenly",
            max_images=MAX_IMAGES,
            progress="true adds image_progress to the stream, at each step of a picture",
            partial_images=PREVIEWS,
            output_format="png, webp or jpeg",
            response_format=ADDRESS_OR_BYTES,
        ),
    ),
)

TOOL_FIELDS = FieldTable(
    "picture-tool-fields",
    "the tool that draws",
    "image_generation, in POST /v1/responses",
    (
        *honoured(
            Origin.OPENAI,
            type="image_generation",
            model="the model that answers draws too: its name, or left out",
            **OFFICIAL_FIELDS,
        ),
        *honoured(
            Origin.PLAIT,
            max_images=MAX_IMAGES,
            num_inference_steps="how many timesteps a picture gets, instead of quality",
            **DRAWING_FIELDS,
        ),
        *no_op(action="the prompt decides whether something is drawn or changed", moderation="this server does not moderate"),
        *refused(
            Origin.OPENAI,
            input_fidelity="use image_scale: the higher, the closer to the pictures given",
            input_image_mask="the model edits whole pictures; say in the prompt what must stay",
            complexity="planning cannot be chosen; use quality or num_inference_steps",
            svg="pictures are pixels; use output_format png, webp or jpeg",
            frame_count="pictures do not move",
            frame_duration_ms="pictures do not move",
        ),
    ),
)
