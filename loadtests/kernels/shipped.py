"""Every Triton kernel in the configurations it ships in, as `compile_spec` takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import triton

from kernels.attention_triton import attention_kernel, merge_kernel
from kernels.fp8_triton import BLOCK as QUANTIZE_BLOCK
from kernels.fp8_triton import QUANTIZE_WARPS, quantize_rows_kernel
from kernels.guidance_triton import BLOCK_TOKENS, GUIDE_WARPS, SQUARES_AT_A_TIME, guide_kernel, renorm_kernel
from kernels.heads_triton import HEADS_OF_PROGRAM, ROTATE_WARPS, rotate_and_keep_kernel
from kernels.norm_to_fp8_triton import add_rms_norm_to_fp8_kernel, rms_norm_to_fp8_kernel
from kernels.pages_triton import write_pages_kernel
from kernels.qk_norm_rope_triton import qk_norm_rope_kernel
from kernels.rms_norm_triton import add_rms_norm_kernel, rms_norm_kernel
from kernels.sampling_triton import BLOCK as SAMPLING_BLOCK
from kernels.sampling_triton import (
    BLOCK_WARPS,
    CHANGE_WARPS,
    CHANGES_OF_PROGRAM,
    CHOOSE_WARPS,
    CHUNK,
    FED_BLOCK,
    adjust_kernel,
    choose_kernel,
    count_fed_kernel,
    gather_kernel,
    mass_kernel,
    max_kernel,
)
from kernels.silu_mul_to_fp8_triton import silu_mul_to_fp8_kernel
from kernels.silu_mul_triton import BLOCK, silu_mul_kernel
from kernels.tiles import BULK_DECODE, BULK_LONG, DECODE, PIECE, Generation, Kind, TileShape, tile_shape
from loadtests.kernels.compiled import KernelSpec
from loadtests.kernels.static import FP8_PAGES

PAGE = 16
MIN_WARPGROUP_ROWS = 64
"""A warpgroup's product takes 64 rows at least; smaller tiles use the warps' own."""

HEADS = {128: (7, 4), 64: (7, 2), 72: (1, 16)}
"""Query heads to a key head, and key heads, of BAGEL-7B, of a small model and of the ViT, by the width of their heads."""

LONG_MATRIX = {Generation.AMPERE: "HMMA", Generation.HOPPER: "HGMMA", Generation.BLACKWELL: "UTCHMMA"}

VOCAB = 152_064
HIDDEN = 3584
"""Width of BAGEL-7B's residual stream."""
LATENT_CHANNELS = 64
"""Channels of a latent token."""

POINTERS = ("q_ptr", "k_ptr", "v_ptr", "out_ptr")
PAGES = ("k_pages_ptr", "v_pages_ptr")
OWN_TILES, PAGE_TILES = ("k_tiles", "v_tiles"), ("k_page_tiles", "v_page_tiles")
SCALES = ("scale", "k_scale", "v_scale")
FP8 = "fp8e4nv"
INTEGERS = ("token_index", "kv_end_ptr", "kv_indices", "items", "num_items", "merges", "num_merges")


@dataclass(frozen=True, slots=True)
class PageFormat:
    """Pages as a kernel is compiled for them: of the batch's own format if not of another ``dtype``."""

    dtype: str | None = None
    size: int = PAGE

    @property
    def name(self) -> str:
        """What marks a kernel that is not over the usual pages."""
        return ("" if self.dtype is None else FP8_PAGES) + ("" if self.size == PAGE else f", pages of {self.size}")


LARGE_PAGES = PageFormat(size=64)


def shipped(generation: Generation) -> Iterator[KernelSpec]:
    """Yield every kernel as it is launched on ``generation``, in bfloat16; attention of BAGEL's heads in float16 too, on Hopper, and as
    `loadtests.gpu.candidates` times it beside."""
    for head_dim in HEADS:
        for kind in Kind:
            yield attention_spec(generation, tile_shape(generation, kind, head_dim), kind, head_dim, "bf16")
    if generation is Generation.HOPPER:
        yield attention_spec(generation, tile_shape(generation, Kind.LONG, 128), Kind.LONG, 128, "fp16")
    if generation is not Generation.AMPERE:  # which has no bulk copies
        yield from bulk_specs(generation)
    yield merge_spec(DECODE, 128)
    yield from token_specs()
    yield from guidance_specs()
    yield from sampling_specs()
    if generation is not Generation.AMPERE:  # which has no 8-bit floats
        yield from fp8_specs()
        yield from fp8_page_specs(generation)


def bulk_specs(generation: Generation) -> Iterator[KernelSpec]:
    """Describe attention that loads in bulk what stands together: own tokens, and pages that hold whole tiles."""
    yield attention_spec(generation, BULK_LONG, Kind.LONG, 128, "bf16")
    for shape, kind in ((BULK_DECODE, Kind.DECODE), (BULK_LONG, Kind.LONG)):
        yield attention_spec(generation, shape, kind, 128, "bf16", LARGE_PAGES)


def attention_spec(
    generation: Generation, shape: TileShape, kind: Kind, head_dim: int, dtype: str, pages: PageFormat = PageFormat()
) -> KernelSpec:
    """Describe attention with the heads of the model that has heads of this width."""
    group, num_kv_heads = HEADS[head_dim]
    width = triton.next_power_of_2(head_dim)
    constants: dict[str, object] = {"NUM_KV_HEADS": num_kv_heads, "PAGE": pages.size, "GROUP": group, "HEAD_DIM": head_dim}
    constants |= {"BLOCK_M": shape.rows, "BLOCK_N": shape.keys, "BLOCK_L": shape.part_keys, "BLOCK_P": PIECE, "BLOCK_D": width}
    pages_in_bulk = shape.pages_in_bulk and pages.dtype is None and pages.size % shape.part_keys == 0
    constants |= {"UPCAST": False} | dict.fromkeys((*(() if shape.own_in_bulk else OWN_TILES), *(() if pages_in_bulk else PAGE_TILES)))
    types = _types(attention_kernel, dtype, constants, pages.dtype)
    for names, keys in ((OWN_TILES, shape.keys), (PAGE_TILES, shape.part_keys)):
        types |= {name: f"tensordesc<{dtype}[1, {keys}, {width}]>" for name in names if name not in constants}
    in_bulk = shape.own_in_bulk or pages_in_bulk
    matrix = LONG_MATRIX[generation] if shape.rows >= MIN_WARPGROUP_ROWS else "HMMA"
    return KernelSpec(
        name=f"attention {kind.value} {head_dim}{', in bulk' if in_bulk else ''}{pages.name} {dtype}",
        kernel=attention_kernel,
        types=types,
        constants=constants,
        divisible=frozenset({"stride_q", "stride_k", "stride_v", "stride_out", "stride_page"}),
        num_warps=shape.num_warps,
        num_stages=shape.num_stages,
        matrix=(matrix,),
        copies_in_bulk=in_bulk,
    )


def merge_spec(shape: TileShape, head_dim: int) -> KernelSpec:
    """Describe the merge of split decode rows."""
    group, num_kv_heads = HEADS[head_dim]
    constants = {"NUM_KV_HEADS": num_kv_heads, "GROUP": group, "HEAD_DIM": head_dim, "BLOCK_M": shape.rows}
    constants |= {"BLOCK_D": triton.next_power_of_2(head_dim)}
    types = _types(merge_kernel, "bf16", constants)
    return KernelSpec(f"merge {head_dim} bf16", merge_kernel, types, constants, frozenset({"stride_out"}), num_warps=4, num_stages=3)


def token_specs() -> Iterator[KernelSpec]:
    """Describe the kernels that take a token at a time, in the sizes of BAGEL-7B."""
    block = {"BLOCK": triton.next_power_of_2(HIDDEN)}
    yield _token_spec("rms_norm", rms_norm_kernel, {"x_ptr", "weight_ptr", "out_ptr"}, block, {"dim"})
    yield _token_spec("add_rms_norm", add_rms_norm_kernel, {"branch_ptr", "residual_ptr", "weight_ptr", "normed_ptr"}, block, {"dim"})
    yield _token_spec("silu_mul", silu_mul_kernel, {"gate_up_ptr", "out_ptr"}, {"BLOCK": BLOCK}, {"width", "stride"})
    group, num_kv_heads = HEADS[128]
    heads = {"NUM_HEADS": (group + 2) * num_kv_heads, "NUM_KV_HEADS": num_kv_heads, "PAGE": PAGE, "HALF": 64, "BLOCK": 64}
    heads |= {"HEADS": HEADS_OF_PROGRAM, "UND_WIDE": False, "GEN_WIDE": True}
    pointers = {"qkv_ptr", "und_q", "und_k", "gen_q", "gen_k", "cos_ptr", "sin_ptr", "k_pages_ptr", "v_pages_ptr"}
    rotate = _token_spec("rotate_and_keep", rotate_and_keep_kernel, pointers, heads, {"stride_angle", "stride_page"})
    yield replace(rotate, num_warps=ROTATE_WARPS)
    qk_pointers = {"q_ptr", "k_ptr", "q_weight", "k_weight", "cos_ptr", "sin_ptr", "q_out", "k_out"}
    strides = {name for name in qk_norm_rope_kernel.arg_names if name.startswith("stride_")}
    yield replace(_token_spec("qk_norm_rope", qk_norm_rope_kernel, qk_pointers, {"HALF": 64, "BLOCK": 64}, strides), num_warps=1)
    width = num_kv_heads * 128
    pages = {"PAGE": PAGE, "HEAD_DIM": 128, "WIDTH": width, "BLOCK": width}
    page_pointers = {"k_ptr", "v_ptr", "k_pages_ptr", "v_pages_ptr"}
    strides = {name for name in write_pages_kernel.arg_names if name.startswith("stride_")}
    yield _token_spec("write_pages", write_pages_kernel, page_pointers, pages, strides)


def guidance_specs() -> Iterator[KernelSpec]:
    """Describe guidance, renorm and Euler step on the latents of BAGEL-7B."""
    types = {"x_ptr": "*fp32", "velocity_ptr": "*bf16", "out_ptr": "*fp32", "squares_ptr": "*fp32", "table": "*i32"}
    constants = {"BLOCK_T": BLOCK_TOKENS, "BLOCK_C": LATENT_CHANNELS}
    for name, kernel, more in (("guide", guide_kernel, {}), ("renorm", renorm_kernel, {"BLOCK_B": SQUARES_AT_A_TIME})):
        known = constants | more
        run_time = {argument: types.get(argument, "i32") for argument in kernel.arg_names if argument not in known}
        yield KernelSpec(f"{name} bf16", kernel, run_time, known, frozenset({"channels"}), num_warps=GUIDE_WARPS, num_stages=3)


def sampling_specs() -> Iterator[KernelSpec]:
    """Describe the drawing of tokens from BAGEL-7B's vocabulary."""
    types = {"logits_ptr": "*bf16", "maxima_ptr": "*fp32", "masses_ptr": "*fp64", "settings": "*fp64", "ids_ptr": "*i32"}
    types |= {"spans": "*i64", "drawn_ptr": "*i64"}
    blocks = {"BLOCK": SAMPLING_BLOCK, "CHUNK": CHUNK, "BLOCKS": triton.next_power_of_2(triton.cdiv(VOCAB, SAMPLING_BLOCK))}
    for name, kernel in (("max", max_kernel), ("mass", mass_kernel), ("gather", gather_kernel), ("choose", choose_kernel)):
        constants = {argument: value for argument, value in blocks.items() if argument in kernel.arg_names}
        run_time = {argument: types.get(argument, "i32") for argument in kernel.arg_names if argument not in constants}
        warps = CHOOSE_WARPS if name == "choose" else BLOCK_WARPS
        divisible = frozenset({"vocab", "stride"})
        yield KernelSpec(f"draw: {name} bf16", kernel, run_time, constants, divisible, num_warps=warps, num_stages=3)
    run_time = {"logits_ptr": "*bf16", "changes": "*i32", "num": "i32", "stride": "i32"}
    constants = {"BLOCK": CHANGES_OF_PROGRAM}
    stride = frozenset({"stride"})
    yield KernelSpec("draw: adjust bf16", adjust_kernel, run_time, constants, stride, num_warps=CHANGE_WARPS, num_stages=3)
    run_time, constants = {"changes": "*i32", "spans": "*i32", "fed_ptr": "*i64"}, {"BLOCK": FED_BLOCK}
    yield KernelSpec("draw: count fed bf16", count_fed_kernel, run_time, constants, frozenset(), num_warps=CHANGE_WARPS, num_stages=3)


def fp8_specs() -> Iterator[KernelSpec]:
    """Describe what makes rows of 8-bit floats."""
    rows = {"x_ptr": "*bf16", "branch_ptr": "*bf16", "residual_ptr": "*bf16", "weight_ptr": "*bf16", "gate_up_ptr": "*bf16"}
    types = rows | {"values_ptr": "*fp8e4nv", "scales_ptr": "*fp32", "eps": "fp32"}
    for name, kernel, block, warps in (
        ("quantize_rows", quantize_rows_kernel, QUANTIZE_BLOCK, QUANTIZE_WARPS),
        ("silu_mul_to_fp8", silu_mul_to_fp8_kernel, QUANTIZE_BLOCK, QUANTIZE_WARPS),
        ("rms_norm_to_fp8", rms_norm_to_fp8_kernel, triton.next_power_of_2(HIDDEN), 4),
        ("add_rms_norm_to_fp8", add_rms_norm_to_fp8_kernel, triton.next_power_of_2(HIDDEN), 4),
    ):
        run_time = {argument: types.get(argument, "i32") for argument in kernel.arg_names if argument != "BLOCK"}
        divisible = frozenset({"width", "stride", "dim"} & run_time.keys())
        yield KernelSpec(f"{name} bf16", kernel, run_time, {"BLOCK": block}, divisible, num_warps=warps, num_stages=3)


def fp8_page_specs(generation: Generation) -> Iterator[KernelSpec]:
    """Describe what reads and writes pages of 8-bit floats; a ViT has no pages."""
    for head_dim in (128, 64):
        for kind in Kind:
            yield attention_spec(
                generation, tile_shape(generation, kind, head_dim, has_fp8_pages=True), kind, head_dim, "bf16", PageFormat(FP8)
            )
    for spec in token_specs():
        if PAGES[0] in spec.types:
            yield replace(
                spec, name=f"{spec.name.removesuffix(' bf16')}{FP8_PAGES} bf16", types={**spec.types, **dict.fromkeys(PAGES, f"*{FP8}")}
            )


def _token_spec(name: str, kernel: triton.JITFunction, pointers: set[str], constants: Mapping[str, int], divisible: set[str]) -> KernelSpec:
    """Describe a kernel without products: bfloat16 behind its pointers, 64-bit slots, the norms' epsilon in float32."""
    types = dict.fromkeys(pointers, "*bf16") | dict.fromkeys(("token_slots", "write_tokens", "write_slots"), "*i64")
    types |= dict.fromkeys(("eps", "k_scale", "v_scale"), "fp32")
    run_time = {argument: types.get(argument, "i32") for argument in kernel.arg_names if argument not in constants}
    return KernelSpec(f"{name} bf16", kernel, run_time, constants, frozenset(divisible), num_warps=4, num_stages=3)


def _types(kernel: triton.JITFunction, dtype: str, constants: Mapping[str, object], page_dtype: str | None = None) -> dict[str, str]:
    """Give the run-time arguments of the attention kernels their types by name."""
    types = {"partial_ptr": "*fp32", "lse_ptr": "*fp32"} | dict.fromkeys(SCALES, "fp32")
    types |= dict.fromkeys(POINTERS, f"*{dtype}") | dict.fromkeys(PAGES, f"*{page_dtype or dtype}") | dict.fromkeys(INTEGERS, "*i32")
    return {name: types.get(name, "i32") for name in kernel.arg_names if name not in constants}
