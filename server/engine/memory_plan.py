"""How memory is divided: what weights take, what a page takes, how many pages fit, how many pictures can be drawn at once.

Plain arithmetic, so that the engine, the start-up display and ``plait doctor`` say the same. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.tiles import DECODE
from model.config import BagelConfig
from model.profile import FamilyProfile
from model.sizes import VAE_ELEMENT_BYTES, ImageTransform, LlmConfig
from model.transforms import resize_size
from server.engine.graph_sizes import CONTEXT_ROWS, MAX_GRAPHS, ROWS

CPU_POOL_FRACTION = 0.25
"""Share of free host memory the page pool may take; pages are committed only when first written."""
CPU_POOL_MAX_BYTES = 4 << 30
GPU_POOL_FRACTION = 0.8
"""Share of the memory left after loading, at most: the rest is for what a step works with, and for what libraries take."""
VAE_COPIES = 3.75
"""Of the widest activation at full size; 3.5 are counted (tests/engine/test_memory_plan.py)."""
PARTIAL_BYTES = 4
LAUNCHES_BYTES = 8 << 20
"""Set aside for the few hundred launches of one captured step; not measured."""

NUM_MARKERS = 2
"""Begin and end of a picture are rows of its context."""

TYPICAL_PROMPT_ROWS = 64
"""Rows of words beside a picture, for saying how many pictures fit."""


class TooManyPages(Exception):
    """There is no memory for so many pages, of ``bytes_per_page`` each, in the ``free_bytes`` that the weights leave.

    Attributes:
        says: what is wrong, with its numbers. remedy: the option, and how much of it fits.
    """

    def __init__(self, num_pages: int, bytes_per_page: int, free_bytes: int) -> None:
        taken, left = gigabytes(num_pages * bytes_per_page), gigabytes(free_bytes)
        self.says = f"{num_pages:,} pages take {taken}, and {left} are left beside the weights: too little memory"
        self.remedy = f"--num-pages {free_bytes // bytes_per_page // 2} or less, or leave it out"
        super().__init__(f"{self.says}; {self.remedy}")


def gigabytes(num_bytes: int) -> str:
    """Return a number of bytes as a person reads it."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 10_000_000 else f"{num_bytes / 1e6:,.2f} MB"


def page_bytes(llm: LlmConfig, page_size: int, element_bytes: int) -> int:
    """Return what one page takes: keys and values of ``page_size`` rows in every layer."""
    return llm.num_layers * 2 * page_size * llm.num_kv_heads * llm.head_dim * element_bytes


def working_bytes(config: BagelConfig, max_batch_tokens: int, element_bytes: int) -> int:
    """Return what a step needs beside weights and pages: a layer over its tokens, and the VAE at the end of the largest picture.

    Of a token a layer holds the residual stream, its norm, attention's heads and result, the gate and what it gates, and their product.
    At full size a resblock of the VAE holds its input, that normed, and that activated, in as many channels as the size before had, and
    what that size left. Pictures go through the VAE one after the other, and beside the steps where a device does both: so both are
    counted.
    """
    side = config.vae_transform.max_size
    num_tokens = max_batch_tokens + (side // config.latent_stride) ** 2 + NUM_MARKERS
    channels = config.vae.ch * config.vae.ch_mult[min(1, len(config.vae.ch_mult) - 1)]
    return num_tokens * _layer_bytes(config.llm, element_bytes) + int(VAE_COPIES * channels * side * side) * VAE_ELEMENT_BYTES


def graph_bytes(llm: LlmConfig, element_bytes: int) -> int:
    """Return what captured decode steps take: what the largest works with, which all share, and the launches of each.

    A step of words works with a layer over its rows, with their logits, and with the partial results of rows split over many keys.
    """
    rows, head = ROWS[-1], 1 << (llm.head_dim - 1).bit_length()
    num_partials = 2 * rows + rows * CONTEXT_ROWS // (DECODE.keys * DECODE.split_tiles)
    partials = num_partials * llm.num_kv_heads * DECODE.rows * head * PARTIAL_BYTES
    return rows * (_layer_bytes(llm, element_bytes) + llm.vocab_size * element_bytes) + partials + MAX_GRAPHS * LAUNCHES_BYTES


def _layer_bytes(llm: LlmConfig, element_bytes: int) -> int:
    """Return what a layer works with for one token."""
    return (4 * llm.hidden_size + llm.qkv_rows + 3 * llm.intermediate_size) * element_bytes


def pages_on_cpu(free_bytes: int, bytes_per_page: int) -> int:
    """Return how many pages the pool gets when ``free_bytes`` of host memory are left after loading."""
    return max(1, min(int(free_bytes * CPU_POOL_FRACTION), CPU_POOL_MAX_BYTES) // bytes_per_page)


def pages_on_gpu(free_bytes: int, bytes_per_page: int, working: int) -> int:
    """Return how many pages the pool gets when ``free_bytes`` of a GPU are left after loading and steps take ``working`` of them."""
    return max(1, int(min(free_bytes * GPU_POOL_FRACTION, free_bytes - working)) // bytes_per_page)


def picture_rows(config: BagelConfig, seen_through: ImageTransform, width: int, height: int) -> int:
    """Return the rows of a picture in the context: its latents, its patches as the ViT sees them, and the markers of both."""
    latents = (height // config.latent_stride) * (width // config.latent_stride)
    seen_width, seen_height = resize_size(width, height, seen_through)
    patches = (seen_width // config.vit.patch_size) * (seen_height // config.vit.patch_size)
    return latents + patches + 2 * NUM_MARKERS


@dataclass(frozen=True, slots=True)
class PictureRoom:
    """What one picture of the default size takes of the page pool, once it is part of the context.

    Attributes:
        size: ``WIDTHxHEIGHT`` in pixels.
        rows: its own rows and those of a typical prompt.
    """

    size: str
    rows: int

    @classmethod
    def of_model(cls, config: BagelConfig, profile: FamilyProfile) -> PictureRoom:
        height, width = profile.defaults.image_size
        return cls(f"{width}x{height}", picture_rows(config, profile.vit_transform, width, height) + TYPICAL_PROMPT_ROWS)

    def how_many(self, num_pages: int, page_size: int, max_running: int) -> int:
        """Return how many requests can each draw such a picture at once."""
        pages_each = -(-self.rows // page_size)
        return min(max_running, num_pages // pages_each)
