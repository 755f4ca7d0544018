"""What 8-bit pages cost in precision: keys, values and attention of each layer of storybook, and its pictures, beside exact pages.

    python -m loadtests.fidelity.pages --out kv.json

The states are those of a prompt and the picture that storybook draws for it, as they stand in the context afterwards. Scales from the
weights are set beside finer ones, a scale for each token and head from its largest number, and beside rounding to bfloat16. A last line is
of random keys and values, of which a few channels are fifty times larger than the others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from kernels import reference
from kernels.fp8 import FP8
from kernels.kv_pages import KvPages, KvScales, rounded_to, scale_up_to, widened
from kernels.plan import build_attention_plan
from kernels.quantize import quantize_rows
from loadtests.fidelity.drawing import PAGE_SIZE, Drawn, Figures, attend, draw, prompt_of, relative
from loadtests.kernels.__main__ import table
from loadtests.kernels.shapes import Heads, Row, Segment, Shape, layout_of
from loadtests.psnr import psnr_db
from model.bagel import Bagel, PackedTokens
from model.kv_scales import kv_scales, largest_key, largest_value
from model.latents import grid_position_ids
from model.shipped import STORYBOOK
from server.engine.link import LocalLink
from server.engine.options import EngineOptions
from server.engine.process import load_engine
from server.messages import ImageParams

SIDE = 64
SEEDS = (1, 2, 3)
WORDS = "a red circle left of a blue square"
OUTLIERS, TIMES_LARGER = 3, 50.0
Layer = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries ``[T, Hq, d]``, keys and values ``[T, Hk, d]`` of one layer."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    common = EngineOptions(str(STORYBOOK), device="cpu", dtype="float32", num_threads=1, num_pages=512, has_prefix_cache=False)
    exact, rounded = (load_engine(replace(common, kv_dtype=name), LocalLink()) for name in ("auto", "fp8"))
    prompt = prompt_of(STORYBOOK, WORDS)
    image = ImageParams(SIDE, SIDE, num_timesteps=21, text_scale=2.0, interval=(0.0, 1.0))
    with torch.inference_mode():
        pairs = [tuple(draw(loaded, prompt, replace(image, seed=seed)) for loaded in (rounded, exact)) for seed in SEEDS]
        figures = [*of_layers(exact.model, prompt.token_ids, pairs[0][1]), of_outliers()]
    pictures: Figures = {"psnr_db": round(mean(psnr_db(found.pixels, expected.pixels) for found, expected in pairs), 2)}
    last = max(pairs[0][0].latents)
    pictures["latents_error"] = mean(relative(found.latents[last], expected.latents[last]) for found, expected in pairs)
    options.out.write_text(json.dumps({"layers": figures, "pictures": pictures}, indent=1) + "\n")
    rows = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in line.values()] for line in figures]
    print(*table(list(figures[0]), rows), pictures, sep="\n")
    return 0


def of_layers(model: Bagel, token_ids: list[int], drawn: Drawn) -> Iterator[Figures]:
    """Send the prompt and the finished picture through the model, and round what each layer keeps of it."""
    scales = kv_scales(model.mot_layers)
    for number, (layer, (q, k, v)) in enumerate(zip(model.mot_layers, layers_of(model, token_ids, drawn), strict=True)):
        bounds = [max(largest(expert) for expert in (layer.und, layer.gen)) for largest in (largest_key, largest_value)]
        headroom = {"k bound/largest": bounds[0] / float(k.abs().max()), "v bound/largest": bounds[1] / float(v.abs().max())}
        yield {"layer": number, **headroom, **errors((q, k, v), scales[number])}


def layers_of(model: Bagel, token_ids: list[int], drawn: Drawn) -> list[Layer]:
    """Return what attention is given in every layer."""
    grid = SIDE // model.config.latent_stride
    heads = Heads(model.config.llm.num_heads, model.config.llm.num_kv_heads, model.config.llm.head_dim)
    row = Row(0, ((Segment.TEXT, len(token_ids)), (Segment.LATENTS, grid * grid + 2)))
    plan = build_attention_plan(layout_of(Shape("prompt and picture", (row,), heads), PAGE_SIZE), model.device)
    inner, seen = attend(model, plan), []

    def recording(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append((q, k, v))
        return inner(layer, q, k, v)

    latents = drawn.latents[max(drawn.latents)]
    positions = grid_position_ids(grid, grid, model.config.latent_table_side)
    words = model.embed_text(torch.tensor([*token_ids, 0, 0]))
    embedded = torch.cat([words, model.embed_latents(latents, torch.zeros(len(latents)), positions).to(words.dtype)])
    rope = torch.arange(len(embedded)).clamp(max=len(token_ids))
    model(PackedTokens(embedded, rope, len(words)), recording)
    return seen


def of_outliers() -> Figures:
    """Round random keys and values, some channels of which are far larger, by scales that hold their largest."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(300, heads, 128, generator=generator) for heads in (28, 4, 4))
    for x in (k, v):
        x[..., torch.randperm(128, generator=generator)[:OUTLIERS]] *= TIMES_LARGER
    scales = KvScales(*(scale_up_to(60.0 * float(x.square().mean().sqrt())) for x in (k, v)))
    return {
        "layer": "outliers",
        "k bound/largest": 448 * scales.k / float(k.abs().max()),
        "v bound/largest": 448 * scales.v / float(v.abs().max()),
        **errors((q, k, v), scales),
    }


Rounding = Callable[[torch.Tensor, float], torch.Tensor]
WAYS: dict[str, Rounding] = {
    "from weights": lambda x, scale: widened(rounded_to(FP8, x, scale), scale, torch.float32),
    "a token and head": lambda x, _: quantize_rows(x.flatten(0, 1)).wide().view_as(x),
    "bfloat16": lambda x, _: x.bfloat16().float(),
}


def errors(layer: Layer, scales: KvScales) -> Figures:
    """Return the relative errors of keys, values and attention's result under every way of rounding."""
    q, k, v = layer
    expected = attended(q, k, v)
    figures: Figures = {}
    for name, rounded in WAYS.items():
        found_k, found_v = rounded(k, scales.k), rounded(v, scales.v)
        figures |= {f"k {name}": relative(found_k, k), f"v {name}": relative(found_v, v)}
        figures[f"attention {name}"] = relative(attended(q, found_k, found_v), expected)
    return figures


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Let every query see every key, in float64."""
    row = Row(0, ((Segment.VIT, len(q)),))
    layout = layout_of(Shape("one picture", (row,), Heads(q.shape[1], k.shape[1], q.shape[2])), PAGE_SIZE)
    nothing = torch.empty(1, PAGE_SIZE, *k.shape[1:], dtype=torch.float64)
    plan = build_attention_plan(replace(layout, kv_indices=np.zeros(0, np.int32)), torch.device("cpu"))
    return reference.interleaved_attention(q.double(), k.double(), v.double(), KvPages(nothing, nothing), plan)


if __name__ == "__main__":
    sys.exit(main())
