"""What a model needs of memory: weights, cache bytes a row, and how many contexts of a length a device of a given size holds.

    python -m loadtests.memory_plan --model bagel-7b --gib 24 40 80 141

Reads a model directory's configuration or takes a named size; loads no weights, needs no such device. The arithmetic is the engine's own
(`server.engine.memory_plan`), which ``plait doctor`` shows for the device that is there.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.config import BagelConfig
from model.weight_table import main_table, vae_table
from server.engine.memory_plan import page_bytes, pages_that_fit, picture_rows, weight_bytes

GIB = 1 << 30
PAGE_SIZE = 16
"""Rows of a page, as `plait serve` has them by default."""
ELEMENT_BYTES = {"bfloat16": 2, "float32": 4}
CONTEXTS = (4096, 16_384, 32_768)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a model takes on a GPU, in bytes."""

    weights: int
    page: int

    @classmethod
    def of_model(cls, config: BagelConfig, element_bytes: int) -> MemoryPlan:
        main, vae = (sum(math.prod(line.shape) for line in table) for table in (main_table(config), vae_table(config.vae)))
        return cls(weight_bytes(main, vae, element_bytes), page_bytes(config.llm, PAGE_SIZE, element_bytes))

    def num_pages(self, device_bytes: int) -> int:
        """Return the pages of a device on which nothing else is; 0 where the weights do not fit."""
        left = device_bytes - self.weights
        return pages_that_fit(left, self.page, is_gpu=True) if left > self.page else 0

    def row(self, gib: float) -> str:
        """Return the line of the table for a device."""
        rows = PAGE_SIZE * self.num_pages(int(gib * GIB))
        if rows == 0:
            return f"| {gib:g} GiB | the weights do not fit |" + " |" * len(CONTEXTS)
        return f"| {gib:g} GiB | {rows:,} |" + "".join(f" {rows // context:,} |" for context in CONTEXTS)


def table(plan: MemoryPlan, devices_gib: Sequence[float]) -> list[str]:
    """Return a Markdown table, one line a device."""
    head = "| device memory | cache rows |" + "".join(f" contexts of {context:,} |" for context in CONTEXTS)
    return [head, "|" + "---:|" * (2 + len(CONTEXTS)), *(plan.row(gib) for gib in devices_gib)]


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.memory_plan", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="bagel-7b", help="a model directory, or tiny, mid, bagel-7b")
    parser.add_argument("--dtype", choices=ELEMENT_BYTES, default="bfloat16")
    parser.add_argument("--gib", type=float, nargs="+", default=[24, 40, 48, 80, 141], help="memory of the device")
    options = parser.parse_args()
    path = Path(options.model)
    config = BagelConfig.from_directory(path) if path.is_dir() else BagelConfig.named(options.model)
    plan = MemoryPlan.of_model(config, ELEMENT_BYTES[options.dtype])
    print(f"{options.model}, {options.dtype}: weights {plan.weights / GIB:.2f} GiB, {plan.page // PAGE_SIZE:,} bytes a cache row")
    largest = config.vae_transform.max_size
    for side in (largest // 2, largest):
        print(f"a picture of {side} x {side} in the context: {picture_rows(config, config.vit_transform, side, side):,} rows")
    print(*table(plan, options.gib), sep="\n")


if __name__ == "__main__":
    main()
