"""How fast is attention on this device, beside the predicted bound and beside what PyTorch and FlashAttention bring?

    python -m loadtests.gpu.attention --out DIR [--device cpu --tiny]

Peers are given what they want: keys and values of equal rows gathered, dense and padded to nothing, which in serving would cost extra.
A peer that cannot take a shape, or is not installed, has no number and a reason.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from kernels.attention_launch import attend_with_triton
from loadtests.gpu.part import Line, Options, read_options, write
from loadtests.gpu.tensors import random_call
from loadtests.kernels.shapes import SHAPES, TINY_SHAPES, Segment, Shape
from loadtests.kernels.static import H200, predict

BACKENDS = {
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
    "sdpa cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa efficient": SDPBackend.EFFICIENT_ATTENTION,
}
REPEATS = 30

Dense = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Peer = Callable[[Dense], object]


def main(arguments: list[str] | None = None) -> int:
    options = read_options("attention", arguments)
    with torch.inference_mode():
        lines = [line for shape in (TINY_SHAPES if options.is_tiny else SHAPES) for line in measure(shape, options)]
    write(options, "attention", lines)
    return 0


def measure(shape: Shape, options: Options) -> Iterator[Line]:
    """Yield one line for us and one for each peer."""
    dtype = torch.float32 if options.is_tiny else torch.bfloat16
    call = random_call(shape, dtype, options.device)
    attend_with_triton(*call.arguments)
    predicted_us = sum(prediction.predicted_us for prediction in predict(shape, H200))
    ours_us = 1e6 * seconds(lambda: attend_with_triton(*call.arguments), options.device)
    yield {"shape": shape.name, "kernel": "plait", "us": ours_us, "TFLOP/s": flops(shape) / ours_us / 1e6, "predicted us": predicted_us}
    dense = dense_inputs(shape, dtype, options.device)
    for name, peer in peers().items():
        line: Line = {"shape": shape.name, "kernel": name}
        try:
            if dense is None:
                raise NotImplementedError("rows are not alike, or the mask is not full")
            given: Dense = dense
            peer(given)
            peer_us = 1e6 * seconds(lambda peer=peer, given=given: peer(given), options.device)  # type: ignore[misc]
            line |= {"us": peer_us, "TFLOP/s": flops(shape) / peer_us / 1e6}
        except (RuntimeError, NotImplementedError, ImportError) as error:
            line["not measured"] = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        yield line


def peers() -> dict[str, Peer]:
    """Return what there is to compare with, by name."""
    found: dict[str, Peer] = {name: _sdpa(backend) for name, backend in BACKENDS.items()}
    if importlib.util.find_spec("fa3_fwd_interface") is not None:
        found["flash-attention 3"] = _flash_attention_3
    return found


def _sdpa(backend: SDPBackend) -> Peer:
    def attend(dense: Dense) -> object:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(*dense, enable_gqa=dense[0].shape[1] != dense[1].shape[1])

    return attend


def _flash_attention_3(dense: Dense) -> object:
    from fa3_fwd_interface import flash_attn_func  # type: ignore[import-not-found]

    q, k, v = (x.transpose(1, 2) for x in dense)
    return flash_attn_func(q, k, v)


def dense_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Dense | None:
    """Return queries, keys and values ``[rows, heads, tokens, d]`` where every row is alike and sees everything, else None."""
    first = shape.rows[0]
    is_full = all(length == 1 or kind is not Segment.TEXT for kind, length in first.segments) and len(first.segments) == 1
    if not is_full or len(set(shape.rows)) > 1:
        return None
    heads, num_keys = shape.heads, first.past_len + first.num_tokens
    sizes = [(heads.num_heads, first.num_tokens), (heads.num_kv_heads, num_keys), (heads.num_kv_heads, num_keys)]
    q, k, v = (torch.randn(len(shape.rows), num, length, heads.head_dim, device=device).to(dtype) for num, length in sizes)
    return q, k, v


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
