"""How fast is attention on this device, beside the predicted bound and beside what PyTorch and others bring?

    python -m loadtests.gpu.attention --out DIR [--device cpu --tiny]

Ours come first, since after a call that cannot be captured none is (`loadtests.gpu.timing`), and peers that are compiled for each shape
last. A peer that cannot take a shape has no number and a reason; see `loadtests.gpu.peers`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import torch

from kernels.attention_launch import attend_with_triton
from loadtests.gpu.part import Line, Options, Report, has_fp8, is_lost, read_options
from loadtests.gpu.peers import COMPILED_PEERS, Peer, Site, peers
from loadtests.gpu.tensors import Call, random_call
from loadtests.gpu.timing import timing
from loadtests.kernels.shapes import SHAPES, TINY_SHAPES, Segment, Shape
from loadtests.kernels.static import FP8_ITEMSIZE, H200, ITEMSIZE, predict


def main(arguments: list[str] | None = None) -> int:
    options = read_options("attention", arguments)
    report = Report(options, "attention")
    shapes = TINY_SHAPES if options.is_tiny else SHAPES
    fast = {name: peer for name, peer in peers().items() if name not in COMPILED_PEERS}
    slow = {name: peer for name, peer in peers().items() if name in COMPILED_PEERS}
    with torch.inference_mode():
        for shape in shapes:
            report.add(f"plait, {shape.name}", partial(measure, shape, options))
        for shape in shapes:
            report.add(f"peers, {shape.name}", partial(measure_peers, shape, fast, options))
        for shape in shapes:
            report.add(f"peers, {shape.name}", partial(measure_peers, shape, slow, options))
    return int(report.has_failed)


def measure(shape: Shape, options: Options) -> Iterator[Line]:
    """Yield one line for us, and one over 8-bit pages where there are pages."""
    call = random_call(shape, _dtype(options), options.device)
    yield ours("plait", shape, call, options)
    if has_fp8(options.device) and any(row.past_len for row in shape.rows):
        yield ours("plait, 8-bit pages", shape, call.in_fp8_pages(), options)


def measure_peers(shape: Shape, peers: dict[str, Peer], options: Options) -> Iterator[Line]:
    """Yield one line for each peer; one that fails hides no other, unless the device is lost with it."""
    for name, peer in peers.items():
        line: Line = {"shape": shape.name, "kernel": name}
        try:
            attend = peer(shape, Site(_dtype(options), options.device))
            attend()
            timed = timing(attend, options.device)
            line |= timed.columns | rate_columns(shape, ITEMSIZE, timed.seconds)
        except Exception as error:  # whatever a peer raises is its reason
            yield line | {"not measured": str(error).splitlines()[0][:80] if str(error) else type(error).__name__}
            if is_lost(error, options.device):
                raise
            continue
        yield line


def _dtype(options: Options) -> torch.dtype:
    return torch.float32 if options.is_tiny else torch.bfloat16


def ours(name: str, shape: Shape, call: Call, options: Options) -> Line:
    """Time the kernel, beside the bound of a call over such pages."""
    attend_with_triton(*call.arguments)
    timed = timing(lambda: attend_with_triton(*call.arguments), options.device)
    page_itemsize = FP8_ITEMSIZE if call.pages.is_fp8 else ITEMSIZE
    predicted = predict(shape, H200, page_itemsize)
    predicted_us = sum(prediction.predicted_us for prediction in predicted)
    line: Line = {"shape": shape.name, "kernel": name, **timed.columns}
    return line | rate_columns(shape, page_itemsize, timed.seconds) | {"predicted us": predicted_us}


def rate_columns(shape: Shape, page_itemsize: int, seconds: float) -> Line:
    """Return what a table says of how fast a call was, and for the roofline how much it computes with each byte."""
    return {"TFLOP/s": flops(shape) / seconds / 1e12, "FLOP/B": flops(shape) / num_bytes(shape, page_itemsize)}


def num_bytes(shape: Shape, page_itemsize: int) -> float:
    """Count the bytes that are moved once each: queries, results, the batch's own keys and values, and those in pages."""
    heads = shape.heads
    own = shape.num_tokens * 2 * (heads.num_heads + heads.num_kv_heads) * ITEMSIZE
    past = sum(row.past_len for row in shape.rows) * 2 * heads.num_kv_heads * page_itemsize
    return float(heads.head_dim * (own + past))


def flops(shape: Shape) -> float:
    """Count the operations that the mask asks for."""
    pairs: int = 0
    for row in shape.rows:
        start = row.past_len
        for kind, length in row.segments:
            causal = length * start + length * (length + 1) // 2
            pairs += causal if kind is Segment.TEXT else length * (start + length)
            start += length
    return 4.0 * pairs * shape.heads.num_heads * shape.heads.head_dim


if __name__ == "__main__":
    sys.exit(main())
