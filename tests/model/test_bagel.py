"""The model's pass: experts, packing, embeddings, gradients. Its numbers are the golden tests' affair."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.bagel import Bagel, PackedTokens
from model.config import BagelConfig
from model.latents import grid_position_ids, patchify, pixels_from_u8, u8_from_pixels, unpatchify, vit_patches
from model.random_checkpoint import write_random_checkpoint
from model.weights import load_bagel
from tests.model.dense_context import masked_attention

NUM_TOKENS = 7


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Bagel:
    directory = tmp_path_factory.mktemp("random")
    write_random_checkpoint(directory, BagelConfig.named("tiny"), seed=3)
    return load_bagel(directory)


def attend_to_all(layer_index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked_attention(q, k, v, torch.ones(len(q), len(k), dtype=torch.bool))


def packed(model: Bagel, num_und: int, num_tokens: int = NUM_TOKENS) -> PackedTokens:
    hidden = torch.randn(num_tokens, model.config.llm.hidden_size, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    return PackedTokens(hidden, torch.arange(num_tokens), num_und)


@pytest.mark.parametrize("num_und", [0, 1, 3, NUM_TOKENS])
def test_fast_and_differentiable_passes_agree(model: Bagel, num_und: int) -> None:
    """Without gradients an op may take a native path; the numbers stay."""
    with torch.inference_mode():
        fast = model.forward(packed(model, num_und), attend_to_all)
    torch.testing.assert_close(fast, model.forward(packed(model, num_und), attend_to_all).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("num_und", "idle"), [(0, "und"), (NUM_TOKENS, "gen")])
def test_an_expert_without_tokens_has_no_gradient(model: Bagel, num_und: int, idle: str) -> None:
    model.zero_grad()
    model.forward(packed(model, num_und), attend_to_all).sum().backward()
    touched = {name for name, values in model.named_parameters() if values.grad is not None and values.grad.any()}
    layers = {name.split(".")[2] for name in touched if name.startswith("layers.")}
    assert layers == {"und", "gen"} - {idle}
    assert f"{idle}_norm" not in touched


def test_every_trained_parameter_gets_a_gradient(model: Bagel) -> None:
    """Text loss through the logits, picture loss through the velocity; position tables are fixed."""
    model.zero_grad()
    config = model.config
    text = model.embed_text(torch.arange(4))
    patches = model.embed_vit(torch.randn(2, config.vit.patch_dim), torch.arange(2), torch.tensor([0, 2], dtype=torch.int32))
    latents = model.embed_latents(torch.randn(3, config.latent_dim), torch.full((3,), 0.5), torch.arange(3))
    hidden = model.forward(PackedTokens(torch.cat([text, patches, latents]), torch.arange(9), 6), attend_to_all)
    decoded = model.vae.decode(model.vae.encode(torch.randn(1, 3, 16, 16)))
    (model.logits(hidden[:6]).logsumexp(-1).sum() + model.velocity(hidden[6:]).square().sum() + decoded.square().sum()).backward()
    without = {name for name, values in model.named_parameters() if values.grad is None}
    assert without == {"latent_positions", "vit_positions"}


def test_attention_sees_each_layer_once_in_order(model: Bagel) -> None:
    seen: list[int] = []

    def attend(layer_index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(layer_index)
        return torch.zeros_like(q)

    model.forward(packed(model, 3), attend)
    assert seen == list(range(model.config.num_layers))


@pytest.mark.parametrize("num_und", [0, 3, NUM_TOKENS])
def test_attention_gets_heads_in_packed_order(model: Bagel, num_und: int) -> None:
    llm = model.config.llm

    def attend(layer_index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert q.shape == (NUM_TOKENS, llm.num_heads, llm.head_dim)
        assert k.shape == v.shape == (NUM_TOKENS, llm.num_kv_heads, llm.head_dim)
        return q

    model.forward(packed(model, num_und), attend)


def test_a_bfloat16_pass_hands_attention_bfloat16(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, BagelConfig.named("tiny"), seed=3)
    model = load_bagel(tmp_path, dtype=torch.bfloat16)

    def attend(layer_index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert q.dtype == k.dtype == v.dtype == torch.bfloat16
        return q

    with torch.inference_mode():
        hidden = model.forward(packed(model, 3), attend)
        assert hidden.dtype == model.logits(hidden).dtype == model.velocity(hidden).dtype == torch.bfloat16


def test_a_tokens_time_embedding_depends_on_its_own_time_alone(model: Bagel) -> None:
    times = torch.tensor([0.3, 0.3, 0.9, 0.3, 0.0, 0.0])
    with torch.inference_mode():
        together = model.embed_timesteps(times)
        alone = torch.cat([model.embed_timesteps(times[index : index + 1]) for index in range(len(times))])
    assert torch.equal(together, alone)


def test_pictures_packed_for_the_vit_do_not_see_each_other(model: Bagel) -> None:
    patches, ids = torch.randn(5, model.config.vit.patch_dim), torch.tensor([0, 1, 10, 11, 12])
    with torch.inference_mode():
        together = model.embed_vit(patches, ids, torch.tensor([0, 2, 5], dtype=torch.int32))
        first = model.embed_vit(patches[:2], ids[:2], torch.tensor([0, 2], dtype=torch.int32))
    torch.testing.assert_close(together[:2], first, rtol=1e-5, atol=1e-5)


def test_unpatchify_undoes_patchify() -> None:
    latent = torch.randn(16, 6, 10)
    tokens = patchify(latent, 2)
    assert tokens.shape == (15, 64)
    assert torch.equal(unpatchify(tokens, 3, 5, 2), latent)


def test_a_latent_token_holds_patch_row_patch_column_channel() -> None:
    latent = torch.arange(3 * 4 * 4).reshape(3, 4, 4)
    token = patchify(latent, 2)[1]
    assert token.tolist() == [latent[c, row, 2 + column].item() for row in range(2) for column in range(2) for c in range(3)]


def test_a_vit_patch_holds_row_column_channel() -> None:
    rgb = torch.randint(0, 256, (28, 42, 3), dtype=torch.uint8)
    patch = vit_patches(rgb)[4]
    assert torch.equal(patch, ((rgb[14:28, 14:28].float() / 255 - 0.5) / 0.5).flatten())


def test_position_ids_stride_over_the_table_not_the_picture() -> None:
    assert grid_position_ids(2, 3, 64).tolist() == [0, 1, 2, 64, 65, 66]


def test_a_grid_larger_than_its_table_is_refused() -> None:
    with pytest.raises(ValueError, match="9 x 2 does not fit a position table of side 8"):
        grid_position_ids(9, 2, 8)


def test_eight_bit_pixels_survive_the_round_trip_but_for_truncation() -> None:
    """x/255 in float32 may fall just below its integer, and truncation then takes the one before."""
    rgb = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1).expand(16, 16, 3)
    difference = rgb.int() - u8_from_pixels(pixels_from_u8(rgb)).int()
    assert difference.min() >= 0 and difference.max() <= 1


def test_pixels_outside_the_range_are_clamped() -> None:
    pixels = torch.tensor([-3.0, 3.0, 0.0]).reshape(1, 3, 1, 1)
    assert u8_from_pixels(pixels).flatten().tolist() == [0, 255, 127]
