"""How fast is attention on this device, beside the predicted bound and beside what PyTorch and others bring?

    python -m loadtests.gpu.attention --out DIR [--device cpu --tiny]

A peer that cannot take a shape has no number and a reason; see `loadtests.gpu.peers`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch

from kernels.attention_launch import attend_with_triton
from loadtests.gpu.part import Line, Options, has_fp8, read_options, write
from loadtests.gpu.peers import CannotTake, Site, peers
from loadtests.gpu.tensors import Call, random_call
from loadtests.kernels.shapes import SHAPES, TINY_SHAPES, Segment, Shape
from loadtests.kernels.static import FP8_ITEMSIZE, H200, ITEMSIZE, predict

REPEATS = 30


def main(arguments: list[str] | None = None) -> int:
    options = read_options("attention", arguments)
    with torch.inference_mode():
        lines = [line for shape in (TINY_SHAPES if options.is_tiny else SHAPES) for line in measure(shape, options)]
    write(options, "attention", lines)
    return 0


def measure(shape: Shape, options: Options) -> Iterator[Line]:
    """Yield one line for us, one over 8-bit pages where there are pages, and one for each peer."""
    dtype = torch.float32 if options.is_tiny else torch.bfloat16
    call = random_call(shape, dtype, options.device)
    yield ours("plait", shape, call, options)
    if has_fp8(options.device) and any(row.past_len for row in shape.rows):
        yield ours("plait, 8-bit pages", shape, call.in_fp8_pages(), options)
    for name, peer in peers().items():
        line: Line = {"shape": shape.name, "kernel": name}
        try:
            attend = peer(shape, Site(dtype, options.device))
            attend()
            peer_us = 1e6 * seconds(attend, options.device)
            line |= {"us": peer_us, "TFLOP/s": flops(shape) / peer_us / 1e6}
        except (CannotTake, RuntimeError, NotImplementedError, ImportError) as error:
            line["not measured"] = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        yield line


def ours(name: str, shape: Shape, call: Call, options: Options) -> Line:
    """Time the kernel, beside the bound of a call over such pages."""
    attend_with_triton(*call.arguments)
    us = 1e6 * seconds(lambda: attend_with_triton(*call.arguments), options.device)
    predicted = predict(shape, H200, FP8_ITEMSIZE if call.pages.is_fp8 else ITEMSIZE)
    predicted_us = sum(prediction.predicted_us for prediction in predicted)
    return {"shape": shape.name, "kernel": name, "us": us, "TFLOP/s": flops(shape) / us / 1e6, "predicted us": predicted_us}


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


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the median time of ``work``, on a GPU by events."""
    if device.type != "cuda":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    times: list[float] = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        times.append(start.elapsed_time(end) / 1e3)
    return median(times[REPEATS // 3 :])


if __name__ == "__main__":
    sys.exit(main())
