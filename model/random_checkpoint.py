"""A complete model directory of any size with random weights: for tests, measurements, and a server without a model.

Its texts and pictures mean nothing, but every file, name, shape and special token is where a released checkpoint has it. Weights are
scaled so that activations keep their size through the layers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint_files import MAIN_NAMES, VAE_NAME
from model.config import BagelConfig
from model.config_writer import write_config
from model.latents import sincos_table
from model.safetensors_writer import TensorSource, write_safetensors
from model.tokenizer import MERGES, TOKENIZER_CONFIG, VOCAB, byte_characters
from model.weight_table import Role, TableLine, main_table, vae_table

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Qwen2.5's special tokens, in the order of their ids."""

ADDED_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
"""Qwen2.5's added tokens that count as text; their ids follow the special ones."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"

SPREAD = 0.05
"""Standard deviation of biases and of norm weights around 1: enough that a wrong one shows."""


def write_random_checkpoint(path: str | Path, config: BagelConfig, seed: int = 0) -> None:
    """Write a model directory of size ``config`` to ``path``; equal seeds give equal bytes. bfloat16, the VAE float32.

    Raises:
        ValueError: the vocabulary has no room for the 256 bytes and the special tokens.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    write_tokenizer(directory, config.llm.vocab_size)
    write_config(directory, config)
    generator = torch.Generator().manual_seed(seed)
    for name, lines, dtype in (
        (MAIN_NAMES[0], main_table(config), torch.bfloat16),
        (VAE_NAME, vae_table(config.vae), torch.float32),
    ):
        sources = (TensorSource(line.name, dtype, line.shape, partial(_random_values, line, generator)) for line in lines)
        write_safetensors(directory / name, sources)


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Write a byte-level BPE of exactly ``vocab_size`` tokens: bytes, strings of small letters, Qwen2.5's special and added tokens.

    Raises:
        ValueError: ``vocab_size`` is too small for the bytes and the special tokens.
    """
    num_merges = vocab_size - 256 - len(SPECIAL_TOKENS) - len(ADDED_TOKENS)
    if num_merges < 0:
        raise ValueError(f"a vocabulary of {vocab_size} has no room for 256 bytes and {len(SPECIAL_TOKENS + ADDED_TOKENS)} special tokens")
    merges = list(islice(_letter_merges(), num_merges))
    words = [*byte_characters().values(), *(first + second for first, second in merges)]
    _write_json(directory / VOCAB, {word: token_id for token_id, word in enumerate(words)})
    (directory / MERGES).write_text("".join(f"{first} {second}\n" for first, second in merges), encoding="utf-8")
    added = {
        str(len(words) + index): {"content": name, "normalized": False, "special": name in SPECIAL_TOKENS}
        for index, name in enumerate(SPECIAL_TOKENS + ADDED_TOKENS)
    }
    _write_json(directory / TOKENIZER_CONFIG, {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added})


def _letter_merges() -> Iterator[tuple[str, str]]:
    """Yield merges that build every string of small letters, shorter ones first."""
    words = list(LETTERS)
    for word in words:  # grows while it is walked
        for letter in LETTERS:
            yield word, letter
            words.append(word + letter)


def _random_values(line: TableLine, generator: torch.Generator) -> Tensor:
    if line.role is Role.TABLE:
        return sincos_table(math.isqrt(line.shape[0]), line.shape[1])
    values = torch.randn(line.shape, generator=generator)
    if line.role is Role.NORM:
        return 1 + SPREAD * values
    if line.role is Role.BIAS:
        return SPREAD * values
    return values / math.sqrt(math.prod(line.shape[1:]))


def _write_json(path: Path, fields: Mapping[str, object]) -> None:
    path.write_text(json.dumps(fields, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
