"""What a model needs of memory: weights, cache bytes a row, and how many contexts of a length a device of a given size holds.

    python -m loadtests.memory_plan --model bagel-7b --gib 24 40 80 141

Reads a model directory's configuration or takes a named size; loads no weights, needs no such device. The arithmetic is the engine's own
(`server.engine.memory_plan`), which ``plait doctor`` shows for the device that is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.config import BagelConfig
from model.weight_table import count_weights
from server.engine.memory_plan import graph_bytes, page_bytes, pages_on_gpu, picture_rows, working_bytes

GIB = 1 << 30
PAGE_SIZE = 16
MAX_BATCH_TOKENS = 4096
"""Rows of a page, and tokens of a step, as `plait serve` has them by default."""
CONTEXTS = (4096, 16_384, 32_768)


@dataclass(frozen=True, slots=True)
class Format:
    """How numbers are kept: bytes of one, and whether the experts' matrices and the cache are 8-bit floats."""

    element_bytes: int
    has_fp8_experts: bool = False
    has_fp8_pages: bool = False


FORMATS = {
    "bfloat16": Format(2),
    "fp8": Format(2, has_fp8_experts=True),
    "fp8-kv": Format(2, has_fp8_pages=True),
    "float32": Format(4),
}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a model takes on a GPU, in bytes: its weights, a page, and what steps work with, captured ones included."""

    weights: int
    page: int
    working: int

    @classmethod
    def of_model(cls, config: BagelConfig, kept_as: Format, max_batch_tokens: int = MAX_BATCH_TOKENS) -> MemoryPlan:
        width = kept_as.element_bytes
        weights = count_weights(config).num_bytes(width, has_fp8_experts=kept_as.has_fp8_experts)
        page = page_bytes(config.llm, PAGE_SIZE, 1 if kept_as.has_fp8_pages else width)
        return cls(weights, page, working_bytes(config, max_batch_tokens, width) + graph_bytes(config.llm, width))

    def num_pages(self, device_bytes: int) -> int:
        """Return the pages of a device on which nothing else is; 0 where weights and work do not fit."""
        left = device_bytes - self.weights
        return pages_on_gpu(left, self.page, self.working) if left >= self.working + self.page else 0

    def row(self, gib: float) -> str:
        """Return the line of the table for a device."""
        rows = PAGE_SIZE * self.num_pages(int(gib * GIB))
        if rows == 0:
            return f"| {gib:g} GiB | the model does not fit |" + " |" * len(CONTEXTS)
        return f"| {gib:g} GiB | {rows:,} |" + "".join(f" {rows // context:,} |" for context in CONTEXTS)


def table(plan: MemoryPlan, devices_gib: Sequence[float]) -> list[str]:
    """Return a Markdown table, one line a device."""
    head = "| device memory | cache rows |" + "".join(f" contexts of {context:,} |" for context in CONTEXTS)
    return [head, "|" + "---:|" * (2 + len(CONTEXTS)), *(plan.row(gib) for gib in devices_gib)]


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.memory_plan", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="bagel-7b", help="a model directory, or tiny, mid, bagel-7b")
    parser.add_argument(
        "--format", choices=FORMATS, default="bfloat16", help="fp8: the experts in 8-bit floats; fp8-kv: the cache; the rest bfloat16"
    )
    parser.add_argument("--gib", type=float, nargs="+", default=[24, 40, 48, 80, 141], help="memory of the device")
    options = parser.parse_args()
    path = Path(options.model)
    config = BagelConfig.from_directory(path) if path.is_dir() else BagelConfig.named(options.model)
    plan = MemoryPlan.of_model(config, FORMATS[options.format])
    sizes = f"weights {plan.weights / GIB:.2f} GiB, steps {plan.working / GIB:.2f} GiB, {plan.page // PAGE_SIZE:,} bytes a cache row"
    print(f"{options.model}, {options.format}: {sizes}")
    largest = config.vae_transform.max_size
    for side in (largest // 2, largest):
        print(f"a picture of {side} x {side} in the context: {picture_rows(config, config.vit_transform, side, side):,} rows")
    print(*table(plan, options.gib), sep="\n")


if __name__ == "__main__":
    main()
