"""Every option of the pictures in a chat and in a response, and what becomes of it."""

from __future__ import annotations

from server.api.field_table import FieldTable, Origin, honoured, no_op, refused
from server.api.step_cache_options import STEP_CACHE_FIELDS

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
            size="WIDTHxHEIGHT in pixels, or auto for the model's own",
            num_inference_steps="how many timesteps a picture gets; one less is computed",
            guidance="bagel (scales nested) or illume (scales side by side)",
            text_scale="how closely a picture follows the words; 1 is off",
            image_scale="how closely an edit keeps to its picture; where there is none, strengthens text_scale; 1 is off",
            interval="[low, high]: guidance is on while low < timestep <= high; timesteps fall from 1 to 0",
            renorm="what guidance may not make longer: global, the whole velocity; channel, each token's; text_channel, before image_scale",
            renorm_min="renorm shrinks to this part at most, from 0 to 1",
            shift="how much of the timesteps lies near the noise; 1 spaces them evenly",
            negative_prompt="what guidance leads away from",
            **STEP_CACHE_FIELDS,
            seed="the same seed draws the same pictures, whoever else is served",
            max_images=MAX_IMAGES,
            progress="true adds image_progress to the stream, at each step of a picture",
            partial_images="how many rough pictures are sent of each, in a stream",
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
            size="WIDTHxHEIGHT in pixels, or auto for the model's own",
            quality="how many steps a picture gets: low half of the model's own, high 1.5 times, xhigh 2, max 3",
            background="opaque or auto; pictures are never transparent",
            output_format="png, webp or jpeg",
            output_compression="quality of webp and jpeg, 0 to 100",
            partial_images="how many rough pictures are sent of each, in a stream",
        ),
        *honoured(
            Origin.PLAIT,
            max_images=MAX_IMAGES,
            num_inference_steps="how many timesteps a picture gets, instead of quality",
            text_scale="how closely a picture follows the words; 1 is off",
            image_scale="how closely an edit keeps to its picture; where there is none, strengthens text_scale; 1 is off",
            negative_prompt="what guidance leads away from",
            **STEP_CACHE_FIELDS,
            seed="the same seed draws the same pictures, whoever else is served",
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
