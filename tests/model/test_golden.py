"""Every case of a golden directory, against the model alone: ``PLAIT_GOLDEN=<directory> pytest tests/model/test_golden.py``.

The recorded numbers come from the public reference implementation in float32. Nothing here knows the sizes of any particular set.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.config import ImageTransform
from model.flow import schedule
from model.json_object import JsonObject
from model.latents import grid_position_ids, patchify, pixels_from_u8, vit_patches
from model.profile import FamilyProfile
from model.safetensors_header import read_header
from model.tokenizer import Tokenizer
from model.transforms import resize_size
from tests.model.dense_context import DenseContext
from tests.model.golden_scenes import Branches, ChainStage, Scene, TextScene, expect_counters, interleaved_chain
from tests.model.golden_set import GoldenSet, read_list
from tests.model.reference_guidance import three_way

DIRECTORY = Path(os.environ.get("PLAIT_GOLDEN") or Path(__file__).parents[1] / "golden" / "tiny_a")
CASES = JsonObject.read(DIRECTORY / "cases.json", "the golden cases")
NAMES = sorted(read_header(DIRECTORY / "cases.safetensors"))

KINDS = "|".join(sorted({run.partition(".")[0] for run in CASES.child("gen").fields}))
"""What the generation runs are called before their settings: text-to-image, edit."""

TESTED_NAMES = (
    r"(timesteps|dts)\.n\d+_s[\d.]+",
    r"time_embed\.t[\d._]+",
    r"text\.(prompt_ids|prefill_(hidden|k|v)\.layer\d+|prefill_logits|decode\.(tokens_fed|logits|next_tokens))",
    r"vit\.(image\d+_u8|patches|position_ids|cu_seqlens|hidden|connector|embeds)",
    r"und\.(image_u8|image_resized_u8|vit_input|[kv]\.layer\d+|prompt_ids|prefill_logits|decode\.(tokens_fed|logits|next_tokens))",
    r"vae\.(image_u8|moments|latent_mean_scaled|sample_eps|latent_sample_scaled|latent_tokens|z|decoded)",
    rf"({KINDS})\.(.+\.)?(t|x|image|image_u8|step\d+\.v(_full|_cfg_text|_cfg_img)?)",
    rf"({KINDS})\.(noise|latent_position_ids|step0_hidden\.layer\d+|image_resized_u8|vae_input|vit_input|ctx_image\.[kv]\.layer\d+)",
    r"threeway\.v_(full|img_only|none|t[\d.]+_i[\d.]+)",
    r"il\.(noise\d+|image\d+\.(t|x|image|image_u8|step\d+\.v(_full|_cfg_text|_cfg_img)?)|image\d+_fed_u8|image\d+_vit_input)",
    r"il\.(after_image\d+_eoi_logits|text\d+\.(tokens_fed|logits|next_tokens)|text\d+_prefill_(ids|logits))",
)


def numbers(pattern: str) -> list[int]:
    """Return the distinct numbers that a group of recorded names carries, so that each becomes a test of its own."""
    return sorted({int(match[1]) for name in NAMES if (match := re.fullmatch(pattern, name))})


def kinds(pattern: str) -> list[str]:
    """Return the kinds of generation run that have a recorded tensor of this name."""
    return sorted({match[1] for name in NAMES if (match := re.fullmatch(rf"({KINDS})\.{pattern}", name))})


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def golden() -> GoldenSet:
    return GoldenSet(DIRECTORY)


@pytest.fixture(scope="module")
def scene(golden: GoldenSet) -> Scene:
    return Scene(golden)


@pytest.fixture(scope="module")
def chain(scene: Scene) -> dict[int, ChainStage]:
    with torch.inference_mode():
        return interleaved_chain(scene)


@pytest.mark.parametrize("pattern", TESTED_NAMES)
def test_every_tested_group_has_recorded_tensors(pattern: str) -> None:
    assert any(re.fullmatch(pattern, name) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_tensor_belongs_to_a_tested_group(name: str) -> None:
    assert any(re.fullmatch(pattern, name) for pattern in TESTED_NAMES), f"no test looks at {name}"


def test_the_special_tokens_have_their_recorded_ids(golden: GoldenSet) -> None:
    recorded = golden.cases.child("new_token_ids")
    tokenizer = golden.tokenizer
    assert (tokenizer.bos_id, tokenizer.eos_id) == (recorded.number("bos_token_id"), recorded.number("eos_token_id"))
    assert (tokenizer.boi_id, tokenizer.eoi_id) == (recorded.number("start_of_image"), recorded.number("end_of_image"))


@pytest.mark.parametrize("case", read_list(CASES, "tokenizer"), ids=lambda case: ascii(case.fields["text"]))
def test_text_has_the_recorded_ids(golden: GoldenSet, case: JsonObject) -> None:
    assert golden.tokenizer.encode(case.string("text"), allow_special=True) == case.fields["ids"]


@pytest.mark.parametrize("case", read_list(CASES, "tokenizer"), ids=lambda case: ascii(case.fields["text"]))
def test_text_has_the_recorded_ids_with_the_slow_tokenizer_files(golden: GoldenSet, slow_tokenizer: Tokenizer, case: JsonObject) -> None:
    assert slow_tokenizer.encode(case.string("text"), allow_special=True) == case.fields["ids"]


@pytest.fixture(scope="module")
def slow_tokenizer(golden: GoldenSet, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("slow")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(golden.path / name, directory)
    return Tokenizer.from_directory(directory, FamilyProfile.from_directory(golden.path, golden.config))


@pytest.mark.parametrize("case", read_list(CASES.child("resize_table_real_transforms"), "rows"), ids=lambda case: str(case.fields["in_wh"]))
def test_a_picture_is_resized_to_the_recorded_sizes(case: JsonObject) -> None:
    table = CASES.child("resize_table_real_transforms")
    vae, vit = (ImageTransform(*table.positives(name)) for name in ("vae", "vit"))
    width, height = case.positives("in_wh")
    vae_size = resize_size(width, height, vae)
    assert vae_size == case.positives("vae_wh")
    assert resize_size(width, height, vit) == case.positives("vit_wh")
    assert resize_size(*vae_size, vit) == case.positives("vit_after_vae_wh")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("timesteps.")])
def test_the_schedule_is_the_recorded_one(golden: GoldenSet, name: str) -> None:
    match = re.fullmatch(r"timesteps\.n(\d+)_s([\d.]+)", name)
    assert match is not None
    times, steps = schedule(int(match[1]), float(match[2]))
    golden.expect(name, torch.from_numpy(times))
    golden.expect(name.replace("timesteps", "dts"), torch.from_numpy(steps))


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("time_embed.")])
def test_the_time_embedding_is_the_recorded_one(golden: GoldenSet, name: str) -> None:
    times = [float(part) for part in name.removeprefix("time_embed.t").split("_")]
    golden.expect(name, golden.model.embed_timesteps(torch.tensor(times)))


@pytest.fixture(scope="module")
def text(scene: Scene) -> TextScene:
    with torch.inference_mode():
        ids = scene.encode(scene.golden.cases.child("text").string("prompt"))
        context = DenseContext.empty(scene.model)
        return TextScene(ids, context, scene.append_text(context, ids))


def test_text_prefill_gives_the_recorded_hidden_states_cache_and_logits(golden: GoldenSet, text: TextScene) -> None:
    golden.expect("text.prompt_ids", torch.tensor(text.ids))
    golden.expect_all(r"text\.prefill_hidden\.layer\d+", _by_layer("text.prefill_hidden", text.context.layer_hidden))
    golden.expect_all(r"text\.prefill_k\.layer\d+", _by_layer("text.prefill_k", text.context.keys))
    golden.expect_all(r"text\.prefill_v\.layer\d+", _by_layer("text.prefill_v", text.context.values))
    golden.expect("text.prefill_logits", text.logits)


def test_text_prefill_advances_the_counters(golden: GoldenSet, text: TextScene) -> None:
    expect_counters(text.context, golden.cases.child("text").child("after_prefill"))


def test_text_is_decoded_greedily_as_recorded(scene: Scene, text: TextScene) -> None:
    scene.expect_greedy("text.decode", text.context)


def test_packed_pictures_are_cut_into_the_recorded_patches(golden: GoldenSet) -> None:
    patches, position_ids, cu_seqlens = _packed_pictures(golden)
    golden.expect("vit.patches", patches)
    golden.expect("vit.position_ids", position_ids)
    golden.expect("vit.cu_seqlens", cu_seqlens)


def test_the_vit_and_its_connector_give_the_recorded_features(golden: GoldenSet) -> None:
    packed = _packed_pictures(golden)
    hidden = golden.model.vit(*packed)
    golden.expect("vit.hidden", hidden)
    golden.expect("vit.connector", golden.model.connector(hidden))
    golden.expect("vit.embeds", golden.model.embed_vit(*packed))


def test_a_seen_picture_is_resized_as_recorded(scene: Scene) -> None:
    vae_rgb, vit_rgb = scene.resized(scene.golden.picture("und.image_u8"))
    scene.golden.expect("und.image_resized_u8", vae_rgb)
    scene.golden.expect("und.vit_input", pixels_from_u8(vit_rgb)[0])


def test_a_question_about_a_picture_is_answered_as_recorded(scene: Scene) -> None:
    golden, case = scene.golden, scene.golden.cases.child("und")
    context = DenseContext.empty(scene.model)
    scene.append_seen(context, golden.picture("und.image_u8"))
    golden.expect_all(r"und\.k\.layer\d+", _by_layer("und.k", context.keys))
    expect_counters(context, case.child("after_image"))
    ids = scene.encode(case.string("question"))
    golden.expect("und.prompt_ids", torch.tensor(ids))
    golden.expect("und.prefill_logits", scene.append_text(context, ids))
    expect_counters(context, case.child("after_text"))
    scene.expect_greedy("und.decode", context)


def test_the_vae_encodes_to_the_recorded_moments_and_latents(golden: GoldenSet) -> None:
    vae, pixels = golden.model.vae, pixels_from_u8(golden.tensors["vae.image_u8"])
    golden.expect("vae.moments", vae.encode_moments(pixels))
    golden.expect("vae.latent_mean_scaled", vae.encode(pixels))
    golden.expect("vae.latent_sample_scaled", vae.sample(pixels, golden.tensors["vae.sample_eps"]))
    golden.expect("vae.latent_tokens", patchify(vae.encode(pixels)[0], golden.config.latent_patch_size))


def test_the_vae_decodes_to_the_recorded_picture(golden: GoldenSet) -> None:
    golden.expect("vae.decoded", golden.model.vae.decode(golden.tensors["vae.z"]))


@pytest.mark.parametrize("kind", kinds(r"latent_position_ids"))
def test_latent_tokens_have_the_recorded_position_ids(golden: GoldenSet, kind: str) -> None:
    height, width = _size_of_run(golden, kind)
    stride = golden.config.latent_stride
    ids = grid_position_ids(height // stride, width // stride, golden.config.latent_table_side)
    golden.expect(f"{kind}.latent_position_ids", ids)


@pytest.mark.parametrize("kind", kinds(r"step0_hidden\.layer\d+"))
def test_the_first_denoise_step_gives_the_recorded_hidden_states(scene: Scene, kind: str) -> None:
    golden = scene.golden
    context = _branches_of(scene, kind).full
    scene.velocity(context, golden.tensors[f"{kind}.noise"], 1.0, _size_of_run(golden, kind))
    golden.expect_all(rf"{kind}\.step0_hidden\.layer\d+", _by_layer(f"{kind}.step0_hidden", context.layer_hidden))


@pytest.mark.parametrize("kind", kinds(r"image_u8"))
def test_an_edited_picture_is_resized_as_recorded(scene: Scene, kind: str) -> None:
    golden = scene.golden
    vae_rgb, vit_rgb = scene.resized(golden.picture(f"{kind}.image_u8"))
    golden.expect(f"{kind}.image_resized_u8", vae_rgb)
    golden.expect(f"{kind}.vae_input", pixels_from_u8(vae_rgb)[0])
    golden.expect(f"{kind}.vit_input", pixels_from_u8(vit_rgb)[0])


@pytest.mark.parametrize("kind", kinds(r"image_u8"))
def test_an_edited_picture_enters_the_context_as_recorded(scene: Scene, kind: str) -> None:
    golden, context = scene.golden, DenseContext.empty(scene.model)
    scene.append_picture(context, golden.picture(f"{kind}.image_u8"))
    by_name = _by_layer(f"{kind}.ctx_image.k", context.keys) | _by_layer(f"{kind}.ctx_image.v", context.values)
    golden.expect_all(rf"{kind}\.ctx_image\.[kv]\.layer\d+", by_name)
    expect_counters(context, golden.cases.child(kind).child("after_image"))


@pytest.mark.parametrize("run", sorted(CASES.child("gen").fields))
def test_a_generation_run_follows_the_recorded_steps(scene: Scene, run: str) -> None:
    kind = run.partition(".")[0]
    case = scene.golden.cases.child("gen").child(run)
    branches = _branches_of(scene, kind)
    for name, context in branches.by_case_name().items():
        assert context.kv_len == case.child("kv_len").number(name)
        assert context.next_rope == case.child("rope").number(name)
    scene.expect_run(run, branches, scene.golden.tensors[f"{kind}.noise"], case)


@pytest.fixture(scope="module")
def three_branches(scene: Scene) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        golden = scene.golden
        branches, nothing = _branches_of(scene, "edit"), DenseContext.empty(scene.model)
        contexts = {"full": branches.full, "img_only": branches.no_text, "none": nothing}
        noise, size = golden.tensors["edit.noise"], _size_of_run(golden, "edit")
        return {f"threeway.v_{name}": scene.velocity(context, noise, 1.0, size) for name, context in contexts.items()}


def test_three_way_guidance_evaluates_the_recorded_branches(golden: GoldenSet, three_branches: dict[str, torch.Tensor]) -> None:
    golden.expect_all(r"threeway\.v_(full|img_only|none)", three_branches)


@pytest.mark.parametrize("name", [name for name in NAMES if re.fullmatch(r"threeway\.v_t.*", name)])
def test_three_way_guidance_combines_as_recorded(golden: GoldenSet, three_branches: dict[str, torch.Tensor], name: str) -> None:
    match = re.fullmatch(r"threeway\.v_t([\d.]+)_i([\d.]+)", name)
    assert match is not None
    v_full, v_img, v_none = (three_branches[f"threeway.v_{branch}"] for branch in ("full", "img_only", "none"))
    golden.expect(name, three_way(v_full, v_img, v_none, float(match[1]), float(match[2])))


def test_the_chain_encodes_its_texts_to_the_recorded_ids(scene: Scene) -> None:
    case = scene.golden.cases.child("il")
    for name in ("system", "prompt"):
        assert scene.golden.tokenizer.encode(case.string(name)) == case.fields[f"{name}_ids"]


@pytest.mark.parametrize("number", numbers(r"il\.image(\d+)\.x"))
def test_a_picture_of_the_chain_follows_the_recorded_steps(scene: Scene, chain: dict[int, ChainStage], number: int) -> None:
    case = scene.golden.cases.child("il")
    branches = chain[number].before_image
    for name, context in branches.by_case_name().items():
        expect_counters(context, case.child(f"ctx{number}").child(name))
    scene.expect_run(f"il.image{number}", branches, scene.golden.tensors[f"il.noise{number}"], case.child("sampler"))


@pytest.mark.parametrize("number", numbers(r"il\.after_image(\d+)_eoi_logits"))
def test_a_picture_fed_back_gives_the_recorded_logits(golden: GoldenSet, chain: dict[int, ChainStage], number: int) -> None:
    golden.expect(f"il.after_image{number}_eoi_logits", chain[number].eoi_logits)
    expect_counters(chain[number].after_image, golden.cases.child("il").child(f"after_image{number}"))


@pytest.mark.parametrize("number", numbers(r"il\.image(\d+)_vit_input"))
def test_a_picture_fed_back_is_resized_for_the_vit_as_recorded(scene: Scene, number: int) -> None:
    _, vit_rgb = scene.resized(scene.golden.picture(f"il.image{number}_fed_u8"))
    scene.golden.expect(f"il.image{number}_vit_input", pixels_from_u8(vit_rgb)[0])


@pytest.mark.parametrize("number", numbers(r"il\.text(\d+)\.logits"))
def test_a_text_of_the_chain_is_decoded_greedily_as_recorded(scene: Scene, chain: dict[int, ChainStage], number: int) -> None:
    scene.expect_greedy(f"il.text{number}", chain[number].after_image)


@pytest.mark.parametrize("number", numbers(r"il\.text(\d+)_prefill_logits"))
def test_a_text_appended_to_the_chain_gives_the_recorded_logits(golden: GoldenSet, chain: dict[int, ChainStage], number: int) -> None:
    logits = chain[number].text_logits
    assert logits is not None
    golden.expect(f"il.text{number}_prefill_logits", logits)


def _by_layer(prefix: str, layers: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.layer{index}": values for index, values in enumerate(layers)}


def _packed_pictures(golden: GoldenSet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the patches, position ids and bounds of all recorded ViT pictures in one call."""
    vit = golden.config.vit
    pictures = [golden.tensors[name] for name in golden.names(r"vit\.image\d+_u8")]
    patches = [vit_patches(rgb, vit.patch_size) for rgb in pictures]
    grids = [(rgb.shape[0] // vit.patch_size, rgb.shape[1] // vit.patch_size) for rgb in pictures]
    bounds = torch.tensor([0, *map(len, patches)]).cumsum(0).to(torch.int32)
    return torch.cat(patches), torch.cat([grid_position_ids(*grid, vit.table_side) for grid in grids]), bounds


def _size_of_run(golden: GoldenSet, kind: str) -> tuple[int, int]:
    """Return the (height, width) all generation runs of one kind draw."""
    height, width, _ = golden.tensors[golden.names(rf"{kind}\..+\.image_u8")[0]].shape
    return height, width


def _branches_of(scene: Scene, kind: str) -> Branches:
    """Build the contexts of a generation run: the picture if it edits one, then the prompt (spec 6.3)."""
    golden, branches = scene.golden, scene.branches()
    is_edit = f"{kind}.image_u8" in golden.tensors
    if is_edit:
        branches = branches.append_picture(scene, golden.picture(f"{kind}.image_u8"))
    prompt = golden.settings.string("edit_prompt" if is_edit else "prompt")
    return branches.append_text(scene, scene.encode(prompt))
