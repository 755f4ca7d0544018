from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.picture_attention import picture_attention

# Online softmax in float32 against float64: a few units in the last place of results of size 1.
ATOL = 3e-6

pictures = st.lists(st.integers(1, 70), min_size=1, max_size=4)


def random_heads(num_patches: int, num_heads: int, head_dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views of one packed tensor, as the ViT has them."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(num_patches, 3, num_heads, head_dim, generator=generator).unbind(1)
    return q, k, v


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    return (torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1) @ v).transpose(0, 1)


@given(lengths=pictures, num_heads=st.integers(1, 3), head_dim=st.sampled_from([8, 18, 72, 512]), seed=st.integers(0, 99))
def test_every_patch_sees_its_own_picture_and_no_other(lengths: list[int], num_heads: int, head_dim: int, seed: int) -> None:
    q, k, v = random_heads(sum(lengths), num_heads, head_dim, seed)
    expected = torch.cat([exact(*heads) for heads in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)])
    with torch.inference_mode():
        torch.testing.assert_close(picture_attention(q, k, v, lengths).double(), expected, rtol=1e-5, atol=ATOL)
    torch.testing.assert_close(picture_attention(q, k, v, lengths).double(), expected, rtol=1e-5, atol=ATOL)  # with gradients: in torch


@given(lengths=pictures, head_dim=st.sampled_from([8, 72]), seed=st.integers(0, 99))
def test_a_picture_has_the_same_bits_in_any_company(lengths: list[int], head_dim: int, seed: int) -> None:
    q, k, v = random_heads(sum(lengths), 2, head_dim, seed)
    with torch.inference_mode():
        together = picture_attention(q, k, v, lengths)
        alone = [
            picture_attention(*heads, [len(heads[0])]) for heads in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
        ]
        assert torch.equal(together, torch.cat(alone))
