"""Model families: inference from names, overrides, and a strict plait.json."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from model.config import BagelConfig, ImageTransform
from model.errors import CheckpointError
from model.guidance_rules import GuidanceMode, Renorm
from model.model_names import directory_name
from model.profile import THINK_IMAGE_PROMPT, THINK_TEXT_PROMPT, AfterImage, AfterTextEnd, BeginOfImage, Family, FamilyProfile
from tests.model.checkpoints import change_json

CONFIG = BagelConfig.named("tiny")


def read(path: Path, family: Family | None = None) -> FamilyProfile:
    return FamilyProfile.from_directory(path, CONFIG, family)


def test_a_directory_without_hints_is_bagel(tmp_path: Path) -> None:
    profile = read(tmp_path)
    assert profile == FamilyProfile.of_family(Family.BAGEL, CONFIG)
    assert profile.begin_of_image is BeginOfImage.NEVER
    assert profile.after_text_end is AfterTextEnd.FINISH


@pytest.mark.parametrize("name", ["Bagel-Zebra-CoT", "ILLUME-X-7B", "my_interleaved_model"])
def test_a_telling_directory_name_is_interleaved(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    profile = read(tmp_path / name)
    assert profile.family is Family.INTERLEAVED
    assert profile.begin_of_image is BeginOfImage.ANYWHERE
    assert profile.after_image is AfterImage.MODEL_DECIDES


def test_a_telling_name_in_config_json_is_interleaved(tmp_path: Path) -> None:
    change_json(tmp_path / "config.json", _name_or_path="org/zebra-cot")
    assert read(tmp_path).family is Family.INTERLEAVED


@pytest.mark.parametrize("name", ["Bagel-Zebra-CoT", ["BAGEL-7B-MoT", "Bagel-Zebra-CoT"]])
def test_a_list_of_names_in_config_json_is_looked_through(tmp_path: Path, name: object) -> None:
    """BAGEL's own file states its name in a list; a fine-tune that did so too was served as BAGEL."""
    change_json(tmp_path / "config.json", name=name)
    assert read(tmp_path).family is Family.INTERLEAVED


@pytest.mark.parametrize(
    ("cached", "family"),
    [
        ("models--multimodal-reasoning-lab--Bagel-Zebra-CoT", Family.INTERLEAVED),
        ("models--interleaved-lab--BAGEL-7B-MoT", Family.BAGEL),
    ],
)
def test_a_snapshot_in_a_hugging_face_cache_has_the_name_of_its_model(tmp_path: Path, cached: str, family: Family) -> None:
    """The last part of such a path is a commit's hash: an interleaved model was served as BAGEL."""
    snapshot = tmp_path / cached / "snapshots" / "ebce3241"
    snapshot.mkdir(parents=True)
    (tmp_path / "current").symlink_to(snapshot)
    assert read(snapshot).family is read(tmp_path / "current").family is family
    assert directory_name(snapshot) == directory_name(tmp_path / "current") == cached.rpartition("--")[2]


def test_a_link_named_for_the_model_tells(tmp_path: Path) -> None:
    (tmp_path / "v3").mkdir()
    (tmp_path / "Bagel-Zebra-CoT").symlink_to("v3")
    assert read(tmp_path / "Bagel-Zebra-CoT").family is Family.INTERLEAVED


@pytest.mark.parametrize(
    ("name", "stated", "asked", "line"),
    [
        ("Bagel-Zebra-CoT", None, None, "model family interleaved: inferred from the name 'Bagel-Zebra-CoT'"),
        ("v3", None, None, "model family bagel: inferred, since none of its names tells of another: v3"),
        ("v3", "interleaved", None, "model family interleaved: as plait.json states"),
        ("v3", "interleaved", Family.BAGEL, "model family bagel: as asked for"),
    ],
)
def test_the_log_says_which_family_and_why(
    tmp_path: Path, name: str, stated: str | None, asked: Family | None, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).mkdir()
    change_json(tmp_path / name / "plait.json", family=stated)
    with caplog.at_level(logging.INFO):
        read(tmp_path / name, asked)
    assert caplog.messages == [line]


def test_a_broken_config_json_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"name": ["BAGEL-7B-MoT"],}')
    assert read(tmp_path) == FamilyProfile.of_family(Family.BAGEL, CONFIG)


def test_illume_guides_with_equation_three_and_zebra_as_bagel(tmp_path: Path) -> None:
    for name, guidance in (("illume-x", GuidanceMode.ILLUME), ("zebra", GuidanceMode.BAGEL)):
        (tmp_path / name).mkdir()
        assert read(tmp_path / name).defaults.guidance is guidance


def test_plait_json_outweighs_the_names(tmp_path: Path) -> None:
    (tmp_path / "illume").mkdir()
    change_json(tmp_path / "illume" / "plait.json", family="bagel")
    assert read(tmp_path / "illume").family is Family.BAGEL


def test_the_argument_outweighs_plait_json(tmp_path: Path) -> None:
    change_json(tmp_path / "plait.json", family="bagel")
    assert read(tmp_path, Family.INTERLEAVED).family is Family.INTERLEAVED


def test_every_field_can_be_set(tmp_path: Path) -> None:
    change_json(
        tmp_path / "plait.json",
        boi="<image>",
        end_token_names=["<|endoftext|>"],
        begin_of_image="in_text",
        after_text_end="model_decides",
        after_image="finish",
        dropped_image_advances_position=True,
        defaults={
            "guidance": "illume",
            "text_to_image": {"text_scale": 2, "interval": [0.1, 0.9], "renorm": "channel", "num_timesteps": 8},
            "image_size": [64, 96],
            "offered_sizes": [[64, 96], [128, 128]],
        },
    )
    profile = read(tmp_path)
    assert (profile.boi, profile.eoi, profile.end_token_names) == ("<image>", "<|vision_end|>", ("<|endoftext|>",))
    assert (profile.begin_of_image, profile.after_text_end) == (BeginOfImage.IN_TEXT, AfterTextEnd.MODEL_DECIDES)
    assert (profile.after_image, profile.dropped_image_advances_position) == (AfterImage.FINISH, True)
    defaults = profile.defaults
    assert (defaults.guidance, defaults.image_size, defaults.offered_sizes) == (GuidanceMode.ILLUME, (64, 96), ((64, 96), (128, 128)))
    drawn = defaults.text_to_image
    assert (drawn.text_scale, drawn.image_scale, drawn.interval) == (2.0, 1.0, (0.1, 0.9))
    assert (drawn.renorm, drawn.num_timesteps) == (Renorm.CHANNEL, 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"famly": "bagel"}, "unknown field 'famly'"),
        ({"family": "zebra"}, r"field 'family': expected one of 'bagel', 'interleaved', found 'zebra'"),
        ({"begin_of_image": 1}, "field 'begin_of_image': expected a string"),
        ({"dropped_image_advances_position": "yes"}, "expected true or false"),
        ({"end_token_names": "<|im_end|>"}, "expected a list of strings"),
        ({"defaults": {"scale": 1}}, "unknown field 'scale' in 'defaults'"),
        ({"defaults": {"edit": {"cfg": 1}}}, "unknown field 'cfg' in 'defaults.edit'"),
        ({"defaults": {"edit": {"interval": [0]}}}, "field 'defaults.edit.interval': expected two numbers"),
        ({"defaults": {"edit": {"num_timesteps": 2.5}}}, "field 'defaults.edit.num_timesteps'"),
        ({"defaults": {"image_size": [64, 70]}}, r"field 'defaults.image_size': expected \[height, width\], multiples of 16 up to 128"),
        ({"defaults": {"offered_sizes": [[64, 256]]}}, "field 'defaults.offered_sizes.0'"),
    ],
)
def test_a_wrong_plait_json_is_refused_by_name(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    change_json(tmp_path / "plait.json", **fields)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path)
    assert "plait.json" in str(caught.value)


def test_the_released_defaults_are_the_references(tmp_path: Path) -> None:
    """Spec 6.4, the notebook's values."""
    profile = FamilyProfile.of_family(Family.BAGEL, BagelConfig.named("bagel-7b"))
    drawn, edit = profile.defaults.text_to_image, profile.defaults.edit
    assert (drawn.text_scale, drawn.image_scale, drawn.interval, drawn.renorm) == (4.0, 1.0, (0.4, 1.0), Renorm.GLOBAL)
    assert (edit.text_scale, edit.image_scale, edit.interval, edit.renorm) == (4.0, 2.0, (0.0, 1.0), Renorm.TEXT_CHANNEL)
    assert (drawn.timestep_shift, drawn.num_timesteps, drawn.renorm_min) == (3.0, 50, 0.0)
    assert profile.defaults.image_size == (1024, 1024)
    assert set(profile.defaults.offered_sizes) == {(1024, 1024), (768, 1024), (1024, 768), (576, 1024), (1024, 576)}
    assert (profile.vae_transform, profile.vit_transform) == (ImageTransform(1024, 512, 16), ImageTransform(980, 224, 14))


def test_input_transforms_smaller_than_the_latent_table_leave_the_drawn_sizes_alone(tmp_path: Path) -> None:
    """The bound of a drawn picture is the latent table, not the resize of pictures that come in."""
    config = replace(CONFIG, vae_transform=ImageTransform(96, 32, 16))
    profile = FamilyProfile.from_directory(tmp_path, config)
    assert profile.vae_transform == ImageTransform(96, 32, 16)
    assert profile.defaults.image_size == (128, 128)


@pytest.mark.parametrize("prompt", [THINK_TEXT_PROMPT, THINK_IMAGE_PROMPT])
def test_a_think_prompt_has_a_space_before_its_only_line_break(prompt: str) -> None:
    first, second = prompt.split("\n")
    assert first.endswith(". ")
    assert second.startswith("The ") and second.endswith(" here")
