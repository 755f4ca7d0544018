"""Are the kernels right on this device? Each against its reference, and the model against recorded results.

python -m loadtests.gpu.check --out DIR [--device cpu --tiny]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from kernels.attention_launch import attend_with_triton
from kernels.attention_torch import attend_with_torch
from kernels.fp8 import FP8
from kernels.guidance import take_euler_steps_one_by_one
from kernels.guidance_triton import take_euler_steps_with_triton
from kernels.head_norms import ExpertHeads, HeadNorms
from kernels.heads import rotate_and_keep_in_parts
from kernels.heads_triton import rotate_and_keep_with_triton
from kernels.kv_pages import KvPages, KvScales, widened
from kernels.mix import GuidedStep, Mix, RenormOver
from kernels.norm_to_fp8 import add_rms_norm_to_fp8, rms_norm_to_fp8
from kernels.norm_to_fp8_triton import add_rms_norm_to_fp8_with_triton, rms_norm_to_fp8_with_triton
from kernels.plan import AttentionPlan, RowLayout, build_attention_plan
from kernels.quantize import quantize_rows
from kernels.sampling import SamplingRow, draw_by_sorting, sample_tokens, settings_table
from kernels.sampling_triton import draw_with_triton
from kernels.silu_mul_to_fp8 import silu_mul_to_fp8
from kernels.silu_mul_to_fp8_triton import silu_mul_to_fp8_with_triton
from kernels.token_counts import counts_of
from loadtests.gpu.ahead import ahead_lines
from loadtests.gpu.fp8_checks import product_lines
from loadtests.gpu.matrices import matrices_of
from loadtests.gpu.part import Line, Options, Report, has_fp8, read_options
from loadtests.gpu.tensors import Call, random_call
from loadtests.gpu.waits import counting_waits
from loadtests.kernels.shapes import BAGEL, SHAPES, TINY_SHAPES, Shape
from model.bagel import Bagel, PackedTokens
from model.config import BagelConfig
from model.latents import pixels_from_u8
from model.weights import load_bagel
from server.engine.batch import Batch, DecodeRow, Draw
from server.engine.decode_graphs import Capture, CudaCapture, DecodeGraphs
from server.engine.packer import Markers, pack
from server.engine.paged_attention import PagedKeysValues
from server.engine.precision import choose_precision
from server.messages import SamplingParams

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "tiny_a"
PAGE_SIZE = 16
BOUND = {torch.float32: 1e-3, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Of |found - expected| / |expected|: the weights and the result are rounded to the dtype."""

INTERPRETED_ROUNDING = 0.2
"""The interpreter makes 64 of 127.9 when it rounds to 8-bit floats."""

Cases = dict[str, torch.Tensor]
GOLDEN_BOUNDS = {
    torch.float32: dict.fromkeys(("prefill logits", "ViT embeddings", "VAE moments", "VAE pixels"), 1e-4),
    torch.bfloat16: {"prefill logits": 5e-2, "ViT embeddings": 2e-2, "VAE moments": 5e-3, "VAE pixels": 5e-3},
}
"""By the model's dtype. Float32 is within 1e-5 of float64, and the reference in bfloat16 at 6e-3 to 1.2e-2 (tests/golden: tolerances);
TF32, in which a bfloat16 model's VAE may compute, would be at an eighth of that, and is too coarse for the bound of a float32 model."""


def main(arguments: list[str] | None = None) -> int:
    options = read_options("check", arguments)
    report = Report(options, "check")
    with torch.inference_mode():
        for name, group in groups(options).items():
            report.add(name, group)
    return 0 if all(line.get("verdict") == "ok" for line in report.lines) else 1


def groups(options: Options) -> dict[str, Callable[[], Iterable[Line]]]:
    """Return what is checked, in order: first what every answer is made of, last what few or none ask for."""
    shapes = TINY_SHAPES if options.is_tiny else SHAPES
    size = BagelConfig.named("tiny" if options.is_tiny else "bagel-7b")
    matrices = [matrix for matrix in matrices_of(size) if matrix.is_of_expert] if has_fp8(options.device) else []
    return {
        "golden": lambda: golden_lines(options),
        **{shape.name: partial(attention_lines, shape, options) for shape in shapes},
        "replay": lambda: (line(options) for line in (replay_line, dropped_line)),
        "ahead": lambda: ahead_lines(GOLDEN, options),
        "sampling": lambda: sampling_lines(options),
        "euler": lambda: euler_lines(options),
        **{f"{matrix.name} in 8-bit floats": partial(product_lines, matrix, options) for matrix in matrices},
        "fp8": lambda: fp8_lines(options),
        **{f"{shape.name}, float16": partial(float16_lines, shape, options) for shape in shapes},
    }


def attention_lines(shape: Shape, options: Options) -> Iterator[Line]:
    """Compare a shape, over pages in the model's format and in 8-bit floats, with one float32 `scaled_dot_product_attention` a row."""
    dtype = torch.float32 if options.is_tiny else torch.bfloat16
    call = random_call(shape, dtype, options.device)
    yield attention_line(f"attention, {shape.name}", call)
    if has_fp8(options.device):
        yield attention_line(f"attention over 8-bit pages, {shape.name}", call.in_fp8_pages())


def float16_lines(shape: Shape, options: Options) -> Iterator[Line]:
    """Compare a shape in the other format of 16 bits, which no model here is in; the interpreter has had it in float32."""
    if not options.is_tiny:
        yield attention_line(f"attention, {shape.name}", random_call(shape, torch.float16, options.device))


def attention_line(name: str, call: Call) -> Line:
    """Compare a call."""
    found, expected = attend_with_triton(*call.arguments).float(), attend_with_torch(*call.to(torch.float32).arguments)
    return _line(name, call.qkv.dtype, found, expected, BOUND[call.qkv.dtype])


def euler_lines(options: Options) -> list[Line]:
    """Take the Euler steps of pictures under every renorm at once, and compare float64."""
    mixes = [Mix((4.0, -3.0), (2.0, -1.0), renorm) for renorm in RenormOver]
    num_tokens = 40 if options.is_tiny else 4096
    starts = [3 * num_tokens * k for k in range(len(mixes))]
    steps = [
        GuidedStep(mix, num_tokens, start, start + num_tokens, start + 2 * num_tokens, dt=0.02)
        for mix, start in zip(mixes, starts, strict=True)
    ]
    generator = torch.Generator(options.device).manual_seed(0)
    x_t, velocity = (torch.randn(num_tokens * len(mixes) * n, 64, device=options.device, generator=generator) for n in (1, 3))
    expected = take_euler_steps_one_by_one(x_t.double(), velocity.double(), steps)
    return [_line("guidance, renorm and Euler step", torch.float32, take_euler_steps_with_triton(x_t, velocity, steps), expected, 1e-5)]


def fp8_lines(options: Options) -> list[Line]:
    """Compare what rounds to 8-bit floats on the device with doing it on the CPU."""
    if not has_fp8(options.device):
        return []
    size = (8, 64) if options.is_tiny else (1026, 3584)
    x = torch.randn(size, generator=torch.Generator().manual_seed(1)).bfloat16()
    return [*rounding_lines(x, options), *keeping_lines(options)]


def rounding_lines(x: torch.Tensor, options: Options) -> list[Line]:
    """Round rows to 8-bit floats on the device, some straight from a norm or a gate, and compare doing one after the other on the CPU."""
    bound = BOUND[torch.bfloat16] if options.device.type == "cuda" else INTERPRETED_ROUNDING
    there, weight = x.to(options.device), torch.ones(x.shape[1], dtype=x.dtype, device=options.device)
    pairs = {
        "rows to 8-bit floats": (quantize_rows(there), quantize_rows(x)),
        "norm to 8-bit floats": (rms_norm_to_fp8_with_triton(there, weight, 1e-6), rms_norm_to_fp8(x, weight.cpu(), 1e-6)),
        "sum and norm to 8-bit floats": (
            add_rms_norm_to_fp8_with_triton(there.clone(), there, weight, 1e-6)[1],
            add_rms_norm_to_fp8(x.clone(), x, weight.cpu(), 1e-6)[1],
        ),
        "gate to 8-bit floats": (silu_mul_to_fp8_with_triton(there), silu_mul_to_fp8(x)),
    }
    return [_line(name, x.dtype, found.wide().cpu(), expected.wide(), bound) for name, (found, expected) in pairs.items()]


def keeping_lines(options: Options) -> Iterator[Line]:
    """Norm and rotate heads into 8-bit pages on the device, and compare doing it in parts on the CPU."""
    # A last bit of a head decides between two neighbours among the 8-bit floats.
    bound = 2 * BOUND[torch.bfloat16] if options.device.type == "cuda" else INTERPRETED_ROUNDING
    found = kept(options.device, rotate_and_keep_with_triton, is_tiny=options.is_tiny)
    expected = kept(torch.device("cpu"), rotate_and_keep_in_parts, is_tiny=options.is_tiny)
    for name, one, other in zip(("keys", "values", "heads"), found, expected, strict=True):
        yield _line(f"{name} kept in 8-bit pages", torch.bfloat16, one, other, bound)


def kept(device: torch.device, rotate: Callable[..., None], *, is_tiny: bool) -> list[torch.Tensor]:
    """Return the keys and values that pages hold after a prompt, and what its heads have become."""
    num, num_kv_heads, dim = (20, 2, 64) if is_tiny else (500, BAGEL.num_kv_heads, BAGEL.head_dim)
    generator = torch.Generator().manual_seed(5)
    qkv = torch.randn(num, 4 * num_kv_heads, dim, generator=generator).to(device, torch.bfloat16)
    norm = (1.0 + 0.2 * torch.randn(dim, generator=generator)).to(device, torch.bfloat16)
    angle = 100.0 * torch.randn(num, dim, generator=generator)
    angles = tuple(x.to(device, torch.bfloat16) for x in (angle.cos(), angle.sin()))
    experts = ExpertHeads(HeadNorms(norm, norm, False), HeadNorms(norm, norm, True), num // 2, 1e-6)
    k, v = torch.zeros((2, -(-num // PAGE_SIZE), PAGE_SIZE, num_kv_heads, dim), device=device).to(FP8)
    scales = KvScales(2.0**-5, 2.0**-6)
    rotate(qkv, experts, angles, KvPages(k, v, scales), causal_plan(num, device))
    return [widened(k, scales.k, torch.float32).cpu(), widened(v, scales.v, torch.float32).cpu(), qkv.float().cpu()]


def sampling_lines(options: Options) -> list[Line]:
    """Draw with every setting on the device and on the CPU: the same tokens, and the host waits once."""
    vocab, num_rows = (300, 12) if options.is_tiny else (152_064, 64)
    logits = 3.0 * torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(3))
    plain = SamplingRow(temperature=0.8)
    penalised = plain._replace(presence_penalty=0.5, frequency_penalty=0.2, repetition_penalty=1.3, written=counts_of(range(0, 40, 3)))
    kinds = [plain._replace(min_p=0.05), plain._replace(top_k=20), plain._replace(top_p=0.9), penalised._replace(bias={5: 2.0})]
    kinds += [SamplingRow(num_logprobs=3), plain, plain._replace(suppressed=(7,))]
    rows = [kinds[k % len(kinds)]._replace(seed=k, index=k) for k in range(num_rows)]
    expected, on_device = sample_tokens(logits.clone(), rows), logits.to(options.device)
    found, num_waits = counting_waits(lambda: sample_tokens(on_device, rows), options.device)
    differing = sum(one.token_id != other.token_id for one, other in zip(found, expected, strict=True)) / num_rows
    verdict = "ok" if differing == 0.0 and num_waits <= 1 else "WRONG"
    name = f"draws that differ from a CPU's; the host waits {num_waits} times"
    lines: list[Line] = [{"what": name, "dtype": str(torch.float32), "error": differing, "bound": 0.0, "verdict": verdict}]
    return [*lines, draw_line(logits[: len(kinds)], rows[: len(kinds)], options)]


def draw_line(logits: torch.Tensor, rows: list[SamplingRow], options: Options) -> Line:
    """Draw without sorting, on a CPU too, and compare the sorted way."""
    found = draw_with_triton(logits.to(options.device), settings_table(rows).to(options.device)).cpu()
    differing = float((found != draw_by_sorting(logits, rows)).double().mean())
    verdict = "ok" if differing == 0.0 else "WRONG"
    return {"what": "draws without sorting", "dtype": str(torch.float32), "error": differing, "bound": 0.0, "verdict": verdict}


def golden_lines(options: Options) -> Iterator[Line]:
    """Compare parts of the model, in float32 and in bfloat16, with what is recorded of them."""
    cases = {name: tensor.to(options.device) for name, tensor in load_file(GOLDEN / "cases.safetensors").items()}
    for dtype, bounds in GOLDEN_BOUNDS.items():
        choose_precision(dtype)
        model = load_bagel(GOLDEN, options.device, dtype)
        for name, (recorded, part) in GOLDEN_PARTS.items():
            yield _line(f"{name} of the golden model", dtype, part(model, cases).float(), cases[recorded], bounds[name])


def replay_line(options: Options) -> Line:
    """Capture decode steps of the golden model, replay them over rows it was not captured with, and compare running them."""
    model = load_bagel(GOLDEN, options.device, torch.float32)
    llm = model.config.llm
    shape = (llm.num_layers, 2, 64, PAGE_SIZE, llm.num_kv_heads, llm.head_dim)
    cache = PagedKeysValues(torch.randn(shape, generator=torch.Generator().manual_seed(4)).to(options.device))

    def forward(token_ids: torch.Tensor, positions: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        tokens = PackedTokens(model.embed_text(token_ids), positions, len(token_ids))
        return model.logits(model(tokens, cache.attend(plan)))

    graphs = DecodeGraphs(forward, _capture(options.device), PAGE_SIZE, options.device)
    for kv_len in (20, 20, 20, 150):
        draw = Draw(SamplingParams(), 0, ())
        rows = [DecodeRow(k, [10 * k + page for page in range(10)], kv_len + k, kv_len + k, 20 + k, draw) for k in range(3)]
        packed = pack(Batch(decodes=rows), PAGE_SIZE, Markers(0, 0, 16), options.device)
        found = graphs.logits(packed)
    assert found is not None and len(graphs.sizes) == 1
    expected = forward(packed.und_token_ids, packed.positions, build_attention_plan(packed.layout, options.device))
    return _line("replayed decode steps", torch.float32, found.cpu(), expected.cpu(), 1e-4)


def dropped_line(options: Options) -> Line:
    """Drop one of two captured products, let others have the memory that this leaves free, and compare the other one's replay.

    PyTorch since 2.12, with a graph, frees what cuBLAS works with on the stream where its capture began.
    """
    generator, capture = torch.Generator().manual_seed(2), _capture(options.device)
    num_out, num_in, num_held = (8, 16, 64) if options.is_tiny else (3584, 18944, 1 << 26)
    rows, columns = (torch.randn(size, generator=generator).to(options.device, torch.bfloat16) for size in ((8, num_in), (num_in, num_out)))
    dropped, kept = (capture(lambda: rows @ columns) for _ in range(2))
    expected = kept().clone()
    del dropped
    if options.device.type == "cuda":
        torch.cuda.empty_cache()
    held = torch.full((num_held,), torch.nan, device=options.device)
    found = kept().float()
    is_untouched = held.isnan().all()
    return _line("replay beside a dropped graph", torch.bfloat16, torch.where(is_untouched, found, torch.nan), expected.float(), 0.0)


def _capture(device: torch.device) -> Capture:
    return CudaCapture() if device.type == "cuda" else lambda work: work


def embedded_pictures(model: Bagel, cases: Cases) -> torch.Tensor:
    """Embed the recorded patches of two pictures by the ViT; where each begins is read on the host."""
    return model.embed_vit(cases["vit.patches"], cases["vit.position_ids"], cases["vit.cu_seqlens"].cpu())


def prefill_logits(model: Bagel, token_ids: torch.Tensor) -> torch.Tensor:
    """Run one causal prompt through pages and the layers, and return the logits of every token."""
    num, llm = len(token_ids), model.config.llm
    plan = causal_plan(num, model.device)
    shape = (llm.num_layers, 2, -(-num // PAGE_SIZE) + 1, PAGE_SIZE, llm.num_kv_heads, llm.head_dim)
    attend = PagedKeysValues(torch.zeros(shape, dtype=model.dtype, device=model.device)).attend(plan)
    hidden: torch.Tensor = model(PackedTokens(model.embed_text(token_ids), torch.arange(num, device=model.device), num), attend)
    return model.logits(hidden)


GOLDEN_PARTS: dict[str, tuple[str, Callable[[Bagel, Cases], torch.Tensor]]] = {
    "prefill logits": ("text.prefill_logits", lambda model, cases: prefill_logits(model, cases["text.prompt_ids"])),
    "ViT embeddings": ("vit.embeds", embedded_pictures),
    "VAE moments": ("vae.moments", lambda model, cases: model.vae.encode_moments(pixels_from_u8(cases["vae.image_u8"]))),
    "VAE pixels": ("vae.decoded", lambda model, cases: model.vae.decode(cases["vae.z"])),
}
"""What is compared: the name of the recorded tensor, and how it is computed."""


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
