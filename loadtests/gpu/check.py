"""Are the kernels right on this device? Attention against torch in float32, and the model against recorded results.

python -m loadtests.gpu.check --out DIR [--device cpu --tiny]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from kernels.attention_launch import attend_with_triton
from kernels.attention_torch import attend_with_torch
from kernels.plan import AttentionPlan, RowLayout, build_attention_plan
from loadtests.gpu.part import Line, Options, read_options, write
from loadtests.gpu.tensors import random_call
from loadtests.kernels.shapes import SHAPES, TINY_SHAPES
from model.bagel import Bagel, PackedTokens
from model.weights import load_bagel
from server.engine.runner import PagedKeysValues

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "tiny_a"
PAGE_SIZE = 16
BOUND = {torch.float32: 1e-3, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Of |found - expected| / |expected|: the weights and the result are rounded to the dtype."""


def main(arguments: list[str] | None = None) -> int:
    options = read_options("check", arguments)
    with torch.inference_mode():
        lines = [*attention_lines(options), *golden_lines(options)]
    write(options, "check", lines)
    return 0 if all(line["verdict"] == "ok" for line in lines) else 1


def attention_lines(options: Options) -> list[Line]:
    """Compare every shape in every dtype with one float32 `scaled_dot_product_attention` a row."""
    dtypes = (torch.float32,) if options.is_tiny else (torch.bfloat16, torch.float16)
    lines = []
    for shape in TINY_SHAPES if options.is_tiny else SHAPES:
        for dtype in dtypes:
            call = random_call(shape, dtype, options.device)
            expected = attend_with_torch(*call.to(torch.float32).arguments)
            lines.append(_line(f"attention, {shape.name}", dtype, attend_with_triton(*call.arguments).float(), expected, BOUND[dtype]))
    return lines


def golden_lines(options: Options) -> list[Line]:
    """Prefill the recorded prompt in float32 and in bfloat16, layer by layer as serving does, and compare the recorded logits."""
    cases = load_file(GOLDEN / "cases.safetensors")
    lines = []
    for dtype, bound in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
        model = load_bagel(GOLDEN, options.device, dtype)
        found = prefill_logits(model, cases["text.prompt_ids"].to(options.device))
        lines.append(_line("prefill logits of the golden model", dtype, found.float().cpu(), cases["text.prefill_logits"], bound))
    return lines


def prefill_logits(model: Bagel, token_ids: torch.Tensor) -> torch.Tensor:
    """Run one causal prompt through pages and the layers, and return the logits of every token."""
    num, llm = len(token_ids), model.config.llm
    plan = causal_plan(num, model.device)
    shape = (llm.num_layers, 2, -(-num // PAGE_SIZE) + 1, PAGE_SIZE, llm.num_kv_heads, llm.head_dim)
    attend = PagedKeysValues(torch.zeros(shape, dtype=model.dtype, device=model.device)).attend(plan)
    hidden: torch.Tensor = model(PackedTokens(model.embed_text(token_ids), torch.arange(num, device=model.device), num), attend)
    return model.logits(hidden)


def causal_plan(num: int, device: torch.device) -> AttentionPlan:
    """Plan one row of text that is kept, from the first page on."""
    tokens = torch.arange(num, dtype=torch.int32).numpy()
    wide = torch.arange(num).numpy()
    starts = torch.tensor([0, num], dtype=torch.int32).numpy()
    none = starts[:1]
    layout = RowLayout(starts, tokens, tokens + 1, none, starts * 0, starts[:0], wide, wide, int(num == 1), PAGE_SIZE)
    return build_attention_plan(layout, device)


def _line(name: str, dtype: torch.dtype, found: torch.Tensor, expected: torch.Tensor, bound: float) -> Line:
    error = float((found - expected).norm() / expected.norm())
    return {"what": name, "dtype": str(dtype), "error": error, "bound": bound, "verdict": "ok" if error <= bound else "WRONG"}


if __name__ == "__main__":
    sys.exit(main())
