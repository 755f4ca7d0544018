"""Reading a model directory's configuration, and the sizes known by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.config import BagelConfig, ImageTransform, implied_vae_transform
from model.errors import CheckpointError
from model.sizes import LlmConfig, VaeConfig
from tests.model.checkpoints import GOLDEN, change_json, change_tensors, copy_checkpoint


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return copy_checkpoint(tmp_path)


def test_the_sizes_are_those_of_the_files() -> None:
    config = BagelConfig.from_directory(GOLDEN)
    assert (config.llm.hidden_size, config.llm.num_layers, config.llm.head_dim) == (64, 3, 16)
    assert (config.llm.num_heads, config.llm.num_kv_heads, config.llm.vocab_size) == (4, 2, 320)
    assert (config.latent_table_side, config.latent_patch_size, config.latent_stride, config.latent_dim) == (8, 2, 16, 64)
    assert config.vae == VaeConfig(ch=32, ch_mult=(1, 2, 1, 1), num_res_blocks=1)


def test_the_vit_has_one_layer_less_than_its_file_says() -> None:
    assert BagelConfig.from_directory(GOLDEN).vit.num_layers == 2


def test_constants_are_recovered_from_stored_shapes(directory: Path) -> None:
    (directory / "config.json").unlink()
    assert BagelConfig.from_directory(directory) == BagelConfig.from_directory(GOLDEN)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_latent_size": 32},
        {"vit_max_num_patch_per_side": 70},
        {"latent_patch_size": 4},
        {"vae_config": {"ch": 100, "ch_mult": []}},
        {"vae_config": {"ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "z_channels": 4}},
    ],
)
def test_stored_shapes_outweigh_config_json(directory: Path, fields: dict[str, object]) -> None:
    """A fine-tune's config.json may state the defaults of the reference's class, which are not the model's: the server did not start."""
    change_json(directory / "config.json", **fields)
    assert BagelConfig.from_directory(directory) == BagelConfig.from_directory(GOLDEN)


def test_a_table_that_is_not_stored_has_the_stated_side(directory: Path) -> None:
    change_tensors(directory / "ema.safetensors", lambda tensors: tensors.pop("latent_pos_embed.pos_embed"))
    change_json(directory / "config.json", max_latent_size=32)
    assert BagelConfig.from_directory(directory).latent_table_side == 32


def test_the_vits_table_may_be_left_out_of_a_file_that_does_not_say_its_side(directory: Path) -> None:
    """The learned positions beside it have as many rows; the released model's side was taken, and nothing fitted."""
    change_tensors(directory / "ema.safetensors", lambda tensors: tensors.pop("vit_pos_embed.pos_embed"))
    (directory / "config.json").unlink()
    assert BagelConfig.from_directory(directory).vit == BagelConfig.from_directory(GOLDEN).vit


def test_the_latents_scale_is_the_stated_one(directory: Path) -> None:
    change_json(directory / "config.json", vae_config={"scale_factor": 0.5, "shift_factor": 0.25})
    vae = BagelConfig.from_directory(directory).vae
    assert vae == replace(BagelConfig.from_directory(GOLDEN).vae, scale_factor=0.5, shift_factor=0.25)


@pytest.mark.parametrize(
    ("tensor", "shape", "message"),
    [
        ("encoder.conv_in.weight", (33, 3, 3, 3), r"ae\.safetensors: VAE width ch 33 must be a multiple of 32"),
        ("encoder.conv_out.weight", (1, 64, 3, 3), r"ae\.safetensors: VAE widths must be positive: .*z_channels 0"),
    ],
)
def test_a_vae_of_impossible_widths_is_refused(directory: Path, tensor: str, shape: tuple[int, ...], message: str) -> None:
    change_tensors(directory / "ae.safetensors", lambda tensors: tensors.update({tensor: torch.zeros(shape)}))
    with pytest.raises(CheckpointError, match=message):
        BagelConfig.from_directory(directory)


def test_constants_are_the_released_models_without_config_and_weights(tmp_path: Path) -> None:
    for name in ("llm_config.json", "vit_config.json"):
        shutil.copy(GOLDEN / name, tmp_path)
    config, real = BagelConfig.from_directory(tmp_path), BagelConfig.named("bagel-7b")
    assert (config.latent_table_side, config.latent_patch_size, config.vit.table_side) == (64, 2, 70)
    assert config.vae == real.vae
    assert (config.vae_transform, config.vit_transform) == (real.vae_transform, real.vit_transform)


def test_a_position_table_that_is_no_square_is_refused(directory: Path) -> None:
    (directory / "config.json").unlink()
    name = "latent_pos_embed.pos_embed"
    change_tensors(directory / "ema.safetensors", lambda tensors: tensors.update({name: torch.zeros(63, 64)}))
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: tensor 'latent_pos_embed.pos_embed': expected shape .* found \[63, 64\]"):
        BagelConfig.from_directory(directory)


@pytest.mark.parametrize("name", ["llm_config.json", "vit_config.json"])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: no such file"):
        BagelConfig.from_directory(directory)


def test_a_file_that_is_not_json_is_named(directory: Path) -> None:
    (directory / "llm_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"llm_config\.json: not valid JSON"):
        BagelConfig.from_directory(directory)


@pytest.mark.parametrize("content", ['{"name": ["BAGEL-7B-MoT"],}', "[]", ""])
def test_a_broken_config_json_counts_as_absent(directory: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    """The reference never opens this file, and a published copy of BAGEL's has a comma too many: the server did not start."""
    (directory / "config.json").write_text(content)
    assert BagelConfig.from_directory(directory) == BagelConfig.from_directory(GOLDEN)
    assert f"ignoring a file that is not needed: {directory / 'config.json'}" in caplog.text


def test_a_broken_plait_json_is_refused(directory: Path) -> None:
    (directory / "plait.json").write_text('{"family": "bagel",}')
    with pytest.raises(CheckpointError, match=r"plait\.json: not valid JSON"):
        BagelConfig.from_directory(directory)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("llm_config.json", "hidden_size", "64"),
        ("llm_config.json", "num_hidden_layers", 0),
        ("llm_config.json", "hidden_act", "gelu"),
        ("llm_config.json", "rope_scaling", {"type": "yarn"}),
        ("llm_config.json", "rope_parameters", {"rope_type": "yarn", "rope_theta": 500_000.0, "factor": 4.0}),
        ("llm_config.json", "rope_parameters", [500_000.0]),
        ("llm_config.json", "rms_norm_eps", True),
        ("vit_config.json", "num_hidden_layers", 1),
        ("vit_config.json", "hidden_act", "relu"),
        ("config.json", "interpolate_pos", True),
        ("config.json", "max_latent_size", -8),
        ("config.json", "vae_config", [1]),
    ],
)
def test_a_field_this_code_cannot_serve_is_refused_by_name(directory: Path, name: str, field: str, value: object) -> None:
    change_json(directory / name, **{field: value})
    with pytest.raises(CheckpointError, match=rf"{name}: field '{field}': expected .*found"):
        BagelConfig.from_directory(directory)


def test_theta_is_read_where_newer_transformers_write_it(directory: Path) -> None:
    """A file saved anew by transformers 5 has no ``rope_theta`` at its top; the released model's was taken instead, without a word."""
    change_json(directory / "llm_config.json", rope_theta=None, rope_parameters={"rope_theta": 500_000.0, "rope_type": "default"})
    assert BagelConfig.from_directory(directory).llm.rope_theta == 500_000.0


def test_rotary_positions_that_say_they_are_unscaled_are_served(directory: Path) -> None:
    change_json(directory / "llm_config.json", rope_scaling={"rope_type": "default", "type": "default"})
    assert BagelConfig.from_directory(directory) == BagelConfig.from_directory(GOLDEN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_scaling", {"rope_type": "default", "mrope_section": [2, 3, 3]}),
        ("rope_parameters", {"full_attention": {"rope_type": "default", "rope_theta": 500_000.0}}),
        ("rope_parameters", {"rope_theta": 500_000.0, "partial_rotary_factor": 0.5}),
    ],
)
def test_rotary_positions_with_more_to_them_are_refused(directory: Path, name: str, value: dict[str, object]) -> None:
    change_json(directory / "llm_config.json", **{name: value})
    with pytest.raises(CheckpointError, match=rf"llm_config\.json: unknown field .* in '{name}'"):
        BagelConfig.from_directory(directory)


@pytest.mark.parametrize("fields", [{"num_attention_heads": 5}, {"num_key_value_heads": 3}])
def test_heads_that_do_not_divide_are_refused(directory: Path, fields: dict[str, object]) -> None:
    change_json(directory / "llm_config.json", **fields)
    with pytest.raises(CheckpointError, match="must be a multiple of"):
        BagelConfig.from_directory(directory)


def test_a_separate_head_size_is_not_read(directory: Path) -> None:
    change_json(directory / "llm_config.json", head_dim=999)
    assert BagelConfig.from_directory(directory).llm.head_dim == 16


def test_the_released_transforms_follow_from_the_released_tables() -> None:
    config = BagelConfig.named("bagel-7b")
    assert config.vae_transform == ImageTransform(1024, 512, 16)
    assert config.vit_transform == ImageTransform(980, 224, 14)


@pytest.mark.parametrize("side", range(1, 70))
@pytest.mark.parametrize("stride", [16, 32, 48])
def test_an_implied_resize_has_bounds_that_a_picture_can_have(side: int, stride: int) -> None:
    """Else a picture of the smallest side was resized again by whoever resized it once more."""
    implied = implied_vae_transform(side, stride)
    assert implied.min_size % stride == implied.max_size % stride == 0
    assert 0 < implied.min_size <= implied.max_size == side * stride


def test_plait_json_sets_the_transforms(directory: Path) -> None:
    change_json(directory / "plait.json", vae_transform={"max_size": 96, "min_size": 32, "stride": 16})
    config = BagelConfig.from_directory(directory)
    assert config == replace(BagelConfig.from_directory(GOLDEN), vae_transform=ImageTransform(96, 32, 16))


@pytest.mark.parametrize(
    "transform",
    [{"max_size": 96, "min_size": 32}, {"max_size": 96, "min_size": 128, "stride": 16}, {"max_size": 96, "min_size": 32, "step": 16}],
)
def test_a_wrong_transform_is_refused(directory: Path, transform: dict[str, int]) -> None:
    change_json(directory / "plait.json", vae_transform=transform)
    with pytest.raises(CheckpointError, match=r"plait\.json: .*vae_transform"):
        BagelConfig.from_directory(directory)


@pytest.mark.parametrize(
    ("field", "transform", "bounds"),
    [
        ("vit_transform", {"max_size": 154, "min_size": 28, "stride": 14}, "max_size up to 140 and a multiple of 14 as stride"),
        ("vit_transform", {"max_size": 140, "min_size": 28, "stride": 10}, "max_size up to 140 and a multiple of 14 as stride"),
        ("vae_transform", {"max_size": 144, "min_size": 32, "stride": 16}, "max_size up to 128 and a multiple of 16 as stride"),
        ("vae_transform", {"max_size": 96, "min_size": 32, "stride": 8}, "max_size up to 128 and a multiple of 16 as stride"),
    ],
)
def test_a_transform_that_the_tables_cannot_place_is_refused(directory: Path, field: str, transform: dict[str, int], bounds: str) -> None:
    """The tiny tables have 10 and 8 places a side, of 14 and 16 pixels; the first large picture used to fail in the engine."""
    change_json(directory / "plait.json", **{field: transform})
    with pytest.raises(CheckpointError, match=rf"plait\.json: field '{field}': expected {bounds}, found"):
        BagelConfig.from_directory(directory)


def test_a_transform_may_be_as_large_as_its_table(directory: Path) -> None:
    change_json(directory / "plait.json", vit_transform={"max_size": 140, "min_size": 56, "stride": 28})
    assert BagelConfig.from_directory(directory).vit_transform == ImageTransform(140, 56, 28)


def test_an_unknown_size_name_is_refused() -> None:
    with pytest.raises(ValueError, match="known are tiny, mid, bagel-7b"):
        BagelConfig.named("huge")


def test_mid_is_the_size_measurements_are_stated_for() -> None:
    expected = LlmConfig(hidden_size=512, intermediate_size=1536, num_layers=8, num_heads=8, num_kv_heads=2, vocab_size=8192)
    config = BagelConfig.named("mid")
    assert config.llm == expected
    assert config.llm.head_dim == 64
    assert (config.vae_transform.max_size // config.latent_stride) ** 2 >= 256
