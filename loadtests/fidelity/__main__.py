"""What 8-bit floats and step caching cost in precision, and what they save, in one process, beside the same model without them.

    python -m loadtests.fidelity --model storybook --out fidelity.json
    python -m loadtests.fidelity --model mid --side 256 --timesteps 50 --dtype bfloat16 --out fidelity-mid.json

Layer by layer: the relative error of what a layer adds when it is given the plain model's states, and of the states when every layer
before was rounded too. Picture by picture: the relative error of the mean velocity between the steps that were computed, of the latents at
the end, the PSNR of the pixels, and the seconds of a picture alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import torch

from kernels.plan import build_attention_plan
from loadtests.fidelity.drawing import PAGE_SIZE, Drawn, Figures, attend, draw, prompt_of, relative
from loadtests.kernels.shapes import Heads, Row, Segment, Shape, layout_of
from loadtests.named_models import model_directory
from loadtests.psnr import psnr_db
from model.bagel import Bagel
from model.latents import grid_position_ids
from model.step_cache_rules import StepCache
from model.transformer import Rotation, Streams
from server.engine.link import LocalLink
from server.engine.options import EngineOptions
from server.engine.process import LoadedEngine, load_engine
from server.messages import ImageParams, TextSegment

NUM_TEXT = 30
SEEDS = (1, 2, 3)
PLAIN, FP8 = "none", "fp8"
CACHES = (None, StepCache(2), StepCache(3), StepCache(3, order=2), StepCache(5), StepCache(8))


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        path = model_directory(options.model, Path(scratch))
        common = EngineOptions(str(path), dtype=options.dtype, num_threads=options.threads, num_pages=512, has_prefix_cache=False)
        prompt = prompt_of(path, options.words)
        engines = {name: load_engine(replace(common, quantization=name), LocalLink()) for name in (PLAIN, FP8)}
    image = ImageParams(options.side, options.side, num_timesteps=options.timesteps, text_scale=options.text_scale, interval=(0.0, 1.0))
    with torch.inference_mode():
        layers = list(layer_errors(engines[PLAIN].model, engines[FP8].model))
    figures: Figures = {"options": {name: str(value) for name, value in vars(options).items()}, "layers": layers}
    figures["pictures"] = list(compare_pictures(engines, prompt, image))
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="storybook", help="a model directory, storybook, or a random one: tiny, mid (default: %(default)s)"
    )
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", type=int, default=64, help="pixels of a picture's side")
    parser.add_argument("--timesteps", type=int, default=21)
    parser.add_argument("--text-scale", type=float, default=2.0)
    parser.add_argument("--words", default="a red circle left of a blue square", help="what is drawn, by seeds of its own each time")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


def layer_errors(plain: Bagel, rounded: Bagel) -> Iterator[Figures]:
    """Send a prompt and the noise of a picture through both models at once."""
    config, side = plain.config, min(8, plain.config.latent_table_side)
    llm = config.llm
    heads = Heads(llm.num_heads, llm.num_kv_heads, llm.head_dim)
    shape = Shape("prompt and picture", (Row(0, ((Segment.TEXT, NUM_TEXT), (Segment.LATENTS, side * side + 2))),), heads)
    plan = build_attention_plan(layout_of(shape, PAGE_SIZE), plain.device)
    states, num_und = embedded(plain, side)
    rotation = Rotation.at(torch.arange(len(states), device=plain.device).clamp(max=NUM_TEXT), llm, states.dtype).split(num_und)
    streams = drifted = Streams.split(states, num_und)
    layers = list(zip(plain.mot_layers, rounded.mot_layers, strict=True))
    for index, (layer, rounded_layer) in enumerate(layers):
        before = streams.packed().float()
        alone = rounded_layer(index, streams, rotation, attend(plain, plan)).packed().float()
        streams = layer(index, streams, rotation, attend(plain, plan))
        drifted = rounded_layer(index, drifted, rotation, attend(plain, plan))
        after = streams.packed().float()
        added, states_error = relative(alone - before, after - before), relative(drifted.packed().float(), after)
        yield {"layer": index, "added": added, "states": states_error}


def embedded(model: Bagel, side: int) -> tuple[torch.Tensor, int]:
    """Return a prompt of any tokens, two markers and a square of noise, in packed order, and how many are the understanding expert's."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, min(250, model.config.llm.vocab_size), (NUM_TEXT + 2,), generator=generator)
    noise = torch.randn(side * side, model.config.latent_dim, generator=generator)
    positions = grid_position_ids(side, side, model.config.latent_table_side)
    device = model.device
    latents = model.embed_latents(noise.to(device), torch.full((side * side,), 0.8, device=device), positions.to(device))
    return torch.cat([model.embed_text(ids.to(device)), latents.to(model.dtype)]), len(ids)


def compare_pictures(engines: dict[str, LoadedEngine], prompt: TextSegment, image: ImageParams) -> Iterator[Figures]:
    """Draw the same pictures in every way."""
    whole = [draw(engines[PLAIN], prompt, replace(image, seed=seed)) for seed in SEEDS]
    for name, loaded in engines.items():
        for cache in CACHES:
            drawn = [draw(loaded, prompt, replace(image, seed=seed, step_cache=cache)) for seed in SEEDS]
            figures = summed_up(drawn, whole)
            yield {"quantization": name, "step_cache": None if cache is None else [cache.interval, cache.order], **figures}
            print(name, cache, {key: value for key, value in figures.items() if key != "velocity_errors"}, flush=True)


def summed_up(drawn: list[Drawn], whole: list[Drawn]) -> Figures:
    pairs = list(zip(drawn, whole, strict=True))
    last = max(whole[0].latents)
    return {
        "rows": drawn[0].num_rows,
        "seconds": round(median(one.seconds for one in drawn), 5),
        "speedup": round(median(other.seconds for other in whole) / median(one.seconds for one in drawn), 3),
        "latents_error": mean(relative(one.latents[last], other.latents[last]) for one, other in pairs),
        "psnr_db": round(mean(psnr_db(one.pixels, other.pixels) for one, other in pairs), 2),
        "velocity_errors": [round(error, 5) for error in velocity_errors(pairs)],
    }


def velocity_errors(pairs: list[tuple[Drawn, Drawn]]) -> list[float]:
    """Compare how far the latents moved between the steps where both are known."""
    errors = []
    for before, after in pairwise(sorted(pairs[0][0].latents)):
        moved = [[one.latents[after] - one.latents[before] for one in pair] for pair in pairs]
        errors.append(mean(relative(found, expected) for found, expected in moved))
    return errors


if __name__ == "__main__":
    sys.exit(main())
