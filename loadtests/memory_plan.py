"""What a model needs of memory: weights, cache bytes a token, and how much context a device of a given size holds.

    python -m loadtests.memory_plan --model bagel-7b --gib 24 40 80 141

Reads a model directory's configuration or takes a named size; loads no weights. Shares are those the server itself uses.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from model.config import BagelConfig
from model.weight_table import main_table, vae_table

GIB = 1 << 30
GPU_POOL_SHARE = 0.8
"""What the server gives the page pool of the memory that is left once the model is loaded; the rest is for activations and the VAE."""
BYTES = {"bfloat16": 2, "float32": 4}


def weight_bytes(config: BagelConfig, itemsize: int) -> int:
    """Return the size of everything that is loaded."""
    lines = (*main_table(config), *vae_table(config.vae))
    return itemsize * sum(math.prod(line.shape) for line in lines)


def token_bytes(config: BagelConfig, itemsize: int) -> int:
    """Return what one cache row takes: keys and values of every layer."""
    llm = config.llm
    return 2 * llm.num_layers * llm.num_kv_heads * llm.head_dim * itemsize


def cache_rows(config: BagelConfig, gib: float, itemsize: int) -> int:
    """Return how many rows a device of ``gib`` GiB has room for; 0 when not even the weights fit."""
    free = gib * GIB - weight_bytes(config, itemsize)
    return max(0, int(GPU_POOL_SHARE * free)) // token_bytes(config, itemsize)


def picture_rows(config: BagelConfig, side: int) -> int:
    """Return the rows a finished square picture keeps in the context: the VAE's and the ViT's, each with two markers."""
    vit = config.vit_transform
    vit_side = min(vit.max_size, max(vit.min_size, side // vit.stride * vit.stride))
    return (side // config.latent_stride) ** 2 + 2 + (vit_side // config.vit.patch_size) ** 2 + 2


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="bagel-7b", help="a model directory, or tiny, mid, bagel-7b")
    parser.add_argument("--dtype", choices=BYTES, default="bfloat16")
    parser.add_argument("--gib", type=float, nargs="+", default=[24, 40, 48, 80, 141], help="memory of the device")
    options = parser.parse_args()
    path = Path(options.model)
    config = BagelConfig.from_directory(path) if path.is_dir() else BagelConfig.named(options.model)
    itemsize = BYTES[options.dtype]
    weights = weight_bytes(config, itemsize) / GIB
    print(f"{options.model}, {options.dtype}: weights {weights:.2f} GiB, {token_bytes(config, itemsize):,} bytes a cache row")
    largest = config.vae_transform.max_size
    for side in (largest // 2, largest):
        print(f"a picture of {side} x {side} in the context: {picture_rows(config, side):,} rows")
    print(f"{'GiB':>6} {'cache rows':>12} {'contexts of 4,096':>18} {'of 32,768':>10}")
    for gib in options.gib:
        rows = cache_rows(config, gib, itemsize)
        print(f"{gib:6g} {rows:12,} {rows // 4096:18,} {rows // 32768:10,}")


if __name__ == "__main__":
    main()
