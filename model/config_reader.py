"""Reading a model directory's configuration files into sizes.

``llm_config.json`` and ``vit_config.json`` are required. What the reference hard-codes comes from the shapes stored in the weight files,
else from an optional ``config.json``, else it is the released model's (spec 1.2): published copies of ``config.json`` differ, and none of
them outweighs the weights themselves. Image transforms may be set in ``plait.json``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from model.checkpoint_files import VAE_NAME, has_main_file, main_tensors, vae_tensors
from model.errors import CheckpointError
from model.json_object import JsonObject
from model.safetensors_header import StoredTensor
from model.sizes import ImageTransform, LlmConfig, VaeConfig, VitConfig

PLAIT_FILE = "plait.json"
"""This server's own file in a model directory: family profile and image transforms (`model.profile`)."""

REAL_LATENT_PATCH_SIZE = 2
REAL_LATENT_TABLE_SIDE = 64
REAL_VIT_TABLE_SIDE = 70

LATENT_TABLE = "latent_pos_embed.pos_embed"
VIT_TABLE = "vit_pos_embed.pos_embed"
VIT_EMBEDDING = "vit_model.vision_model.embeddings.position_embedding.weight"
"""As many rows as the ViT's table, which may be left out of a file: it can be computed."""
LATENT_PROJECTION = "vae2llm.weight"

ROPE_KINDS = frozenset({"rope_type", "type"})
"""Fields that say which rotary positions a language model has: today's name and the older one."""

MISSING_VIT_LAYERS = 1
"""``vit_config.json`` counts one layer more than exists; the reference drops the last (spec 1.2)."""


@dataclass(frozen=True, slots=True)
class ConfigParts:
    """What the files say; transforms are None where no file sets them."""

    llm: LlmConfig
    vit: VitConfig
    vae: VaeConfig
    latent_patch_size: int
    latent_table_side: int
    vae_transform: ImageTransform | None
    vit_transform: ImageTransform | None


def read_parts(directory: Path) -> ConfigParts:
    """Read the sizes of the model in ``directory``. Raises `CheckpointError` naming the file and the field."""
    constants = JsonObject.read_lenient(directory / "config.json")
    plait = JsonObject.read_optional(directory / PLAIT_FILE)
    llm_json = JsonObject.read(directory / "llm_config.json", "the language model's sizes")
    vit_json = JsonObject.read(directory / "vit_config.json", "the ViT's sizes")
    _refuse_other_connector(constants)
    shapes = main_tensors(directory) if has_main_file(directory) else {}
    vit_table = shapes.get(VIT_TABLE) or shapes.get(VIT_EMBEDDING)
    vae = _read_vae(directory, constants.child("vae_config"))
    try:
        return ConfigParts(
            llm=_read_llm(llm_json),
            vit=_read_vit(vit_json, _table_side(constants, "vit_max_num_patch_per_side", vit_table, REAL_VIT_TABLE_SIDE)),
            vae=vae,
            latent_patch_size=_latent_patch_size(constants, shapes.get(LATENT_PROJECTION), vae.z_channels),
            latent_table_side=_table_side(constants, "max_latent_size", shapes.get(LATENT_TABLE), REAL_LATENT_TABLE_SIDE),
            vae_transform=_read_transform(plait, "vae_transform"),
            vit_transform=_read_transform(plait, "vit_transform"),
        )
    except ValueError as error:
        raise CheckpointError.in_file(directory, str(error)) from error


def _read_llm(fields: JsonObject) -> LlmConfig:
    if fields.string("hidden_act", "silu") != "silu":
        raise fields.wrong("hidden_act", "'silu'")
    num_heads = fields.positive("num_attention_heads")
    return LlmConfig(
        hidden_size=fields.positive("hidden_size"),
        intermediate_size=fields.positive("intermediate_size"),
        num_layers=fields.positive("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=fields.positive("num_key_value_heads", num_heads),
        vocab_size=fields.positive("vocab_size"),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(fields),
        max_positions=fields.positive("max_position_embeddings", 32768),
    )


def _rope_theta(fields: JsonObject) -> float:
    """Return theta, which stands at the top or, in files of transformers 5 and later, in ``rope_parameters``."""
    _unscaled(fields, "rope_scaling", ROPE_KINDS)
    parameters = _unscaled(fields, "rope_parameters", ROPE_KINDS | {"rope_theta"})
    return parameters.number("rope_theta", fields.number("rope_theta", 1_000_000.0))


def _unscaled(fields: JsonObject, name: str, allowed: frozenset[str]) -> JsonObject:
    """Return the object in the field ``name``, having seen that it asks for no rotary positions but the plain ones."""
    rope = fields.child(name)
    if any(rope.string(kind, "default") != "default" for kind in ROPE_KINDS):
        raise fields.wrong(name, "rotary positions of the type 'default': scaled ones are not implemented")
    rope.allow_only(allowed)
    return rope


def _read_vit(fields: JsonObject, table_side: int) -> VitConfig:
    if fields.string("hidden_act", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
        raise fields.wrong("hidden_act", "'gelu_pytorch_tanh'")
    num_layers = fields.positive("num_hidden_layers")
    if num_layers <= MISSING_VIT_LAYERS:
        raise fields.wrong("num_hidden_layers", f"more than {MISSING_VIT_LAYERS}, which the stored model lacks")
    return VitConfig(
        hidden_size=fields.positive("hidden_size"),
        intermediate_size=fields.positive("intermediate_size"),
        num_layers=num_layers - MISSING_VIT_LAYERS,
        num_heads=fields.positive("num_attention_heads"),
        patch_size=fields.positive("patch_size"),
        table_side=table_side,
        num_channels=fields.positive("num_channels", 3),
        layer_norm_eps=fields.number("layer_norm_eps", 1e-6),
    )


def _refuse_other_connector(constants: JsonObject) -> None:
    if constants.string("connector_act", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
        raise constants.wrong("connector_act", "'gelu_pytorch_tanh'")
    if constants.boolean("interpolate_pos", False):
        raise constants.wrong("interpolate_pos", "false: interpolated position tables are not implemented")


def _table_side(constants: JsonObject, field: str, table: StoredTensor | None, fallback: int) -> int:
    """Return the side of a square position table: the root of its stored rows, else as stated, else the released model's."""
    stated = constants.positive(field, fallback)
    if table is None:
        return stated
    side = math.isqrt(table.shape[0]) if len(table.shape) == 2 else 0
    if side == 0 or side * side != table.shape[0]:
        raise CheckpointError.in_tensor(table.path, table.name, f"expected shape [side * side, hidden], found {list(table.shape)}")
    return side


def _latent_patch_size(constants: JsonObject, projection: StoredTensor | None, z_channels: int) -> int:
    stated = constants.positive("latent_patch_size", REAL_LATENT_PATCH_SIZE)
    if projection is None:
        return stated
    columns = projection.shape[-1] if projection.shape else 0
    side = math.isqrt(columns // z_channels)
    if side == 0 or side * side * z_channels != columns:
        raise CheckpointError.in_tensor(
            projection.path, projection.name, f"expected shape [hidden, side * side * {z_channels}], found {list(projection.shape)}"
        )
    return side


def _read_vae(directory: Path, fields: JsonObject) -> VaeConfig:
    released = VaeConfig()
    try:
        return replace(
            _vae_from_shapes(directory) if (directory / VAE_NAME).is_file() else _stated_widths(fields),
            in_channels=fields.positive("in_channels", released.in_channels),
            out_ch=fields.positive("out_ch", released.out_ch),
            scale_factor=fields.number("scale_factor", released.scale_factor),
            shift_factor=fields.number("shift_factor", released.shift_factor),
        )
    except ValueError as error:
        raise CheckpointError.in_file(fields.path, str(error)) from error


def _stated_widths(fields: JsonObject) -> VaeConfig:
    released = VaeConfig()
    return VaeConfig(
        ch=fields.positive("ch", released.ch),
        ch_mult=fields.positives("ch_mult", released.ch_mult),
        num_res_blocks=fields.positive("num_res_blocks", released.num_res_blocks),
        z_channels=fields.positive("z_channels", released.z_channels),
    )


def _vae_from_shapes(directory: Path) -> VaeConfig:
    """Recover the autoencoder's widths from the shapes of its encoder (names and shapes: spec 1.4)."""
    path, tensors = directory / VAE_NAME, vae_tensors(directory)

    def rows(name: str) -> int:
        if name not in tensors:
            raise CheckpointError.in_tensor(path, name, "missing; the autoencoder's widths cannot be recovered without it")
        return tensors[name].shape[0] if tensors[name].shape else 0

    def count(pattern: str) -> int:
        number = 0
        while pattern.format(number) in tensors:
            number += 1
        return number

    ch = rows("encoder.conv_in.weight")
    levels = range(max(1, count("encoder.down.{}.block.0.conv1.weight")))
    try:
        return VaeConfig(
            ch=ch,
            ch_mult=tuple(rows(f"encoder.down.{level}.block.0.conv1.weight") // max(1, ch) for level in levels),
            num_res_blocks=count("encoder.down.0.block.{}.conv1.weight"),
            z_channels=rows("encoder.conv_out.weight") // 2,
        )
    except ValueError as error:
        raise CheckpointError.in_file(path, str(error)) from error


def _read_transform(plait: JsonObject, field: str) -> ImageTransform | None:
    if not plait.has(field):
        return None
    numbers = plait.child(field)
    numbers.allow_only(frozenset({"max_size", "min_size", "stride"}))
    try:
        return ImageTransform(numbers.positive("max_size"), numbers.positive("min_size"), numbers.positive("stride"))
    except ValueError as error:
        raise CheckpointError.in_file(plait.path, f"field {field!r}: {error}") from error
