"""How fast is the engine with a model of full size and random weights: pictures, words, and both at once?

    python -m loadtests.gpu.engine --out DIR [--device cpu --tiny]

Times are of whole pictures and of steady steps, beside the floors of DESIGN: what the branches needed multiply, at the
matrix rate, and what a token reads, at the bandwidth, both measured in this very run.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch

from loadtests.costs import decode_bytes, denoise_flops
from loadtests.gpu.ceilings import rate_lines
from loadtests.gpu.part import Line, Options, Report, read_options
from loadtests.gpu.random_engine import PROMPT_TOKENS, chat_request, drain, from_idle, next_report, picture_request, random_engine, step
from loadtests.gpu.side import side_stream
from loadtests.machine import Machine
from model.config import BagelConfig
from model.step_cache_rules import StepCache
from server.engine.graph_sizes import ROWS
from server.engine.graph_warming import warm_graphs
from server.engine.process import LoadedEngine
from server.messages import ImageSegment, Picture, Request, TextSegment

NUM_STEPS = 40
WARM_TIMESTEPS = 10
"""Of the picture before the one that counts: enough that every kind of its steps has come."""


def main(arguments: list[str] | None = None) -> int:
    options = read_options("engine", arguments)
    loaded = random_engine(options)
    rates = Machine(options.device, loaded.model.dtype).probe()
    report = Report(options, "engine")
    report.add("rates", partial(rate_lines, rates))
    report.add("graphs", partial(measure_graphs, loaded, options))
    for concurrency, context in ((1, 20), (3, 20)) if options.is_tiny else ((1, 30), (16, 2000), (64, 2000)):
        report.add("decode", from_idle(loaded, partial(measure_decode, loaded, concurrency, context, rates.read_gbps)))
    for side, num_timesteps in ((16, 3),) if options.is_tiny else ((512, 50), (1024, 50), (512, 20)):
        report.add("picture", from_idle(loaded, partial(measure_picture, loaded, side, num_timesteps, rates.matmul_gflops)))
    report.add("mixed", from_idle(loaded, partial(measure_mixed, loaded, options)))
    report.add("decoder", from_idle(loaded, partial(measure_decoder, loaded, options)))
    report.add("launches", from_idle(loaded, partial(measure_launches, loaded, options, rates.read_gbps)))
    return int(report.has_failed)


def measure_picture(loaded: LoadedEngine, side: int, num_timesteps: int, matmul_gflops: float, step_cache: StepCache | None = None) -> Line:
    """Time the second of two pictures, from the request to its pixels. The floor is that of the rows that were run."""
    for round_name, num in (("warm", min(WARM_TIMESTEPS, num_timesteps)), ("counts", num_timesteps)):
        loaded.engine.submit(picture_request(round_name, side, num, step_cache))
        steps = []
        started = time.perf_counter()
        while loaded.scheduler.has_work:
            steps.append(step(loaded))
        elapsed_s = time.perf_counter() - started
    denoise = [stats for stats in steps if stats.num_denoise_rows]
    num_latents = (side // loaded.model.config.latent_stride) ** 2
    contexts = [PROMPT_TOKENS] * sum(stats.num_denoise_rows for stats in denoise)
    floor_s = denoise_flops(loaded.model.config, num_latents, contexts) / matmul_gflops / 1e9
    name = f"text to image {side}, {num_timesteps} timesteps"
    return {"what": name, "value": elapsed_s, "unit": "s", "floor": floor_s, "of floor": elapsed_s / floor_s}


def measure_graphs(loaded: LoadedEngine, options: Options) -> Line:
    """Capture the usual decode steps as at the start of a server: how many, and the seconds and the memory of all."""
    num, is_gpu = 0, options.device.type == "cuda"

    def report(done: int, _: int) -> None:
        nonlocal num
        num = done

    free = free_bytes() if is_gpu else 0
    started = time.perf_counter()
    warm_graphs(loaded.runner, 3 if options.is_tiny else ROWS[-1], lambda: True, report)
    line: Line = {"what": "decode steps captured", "value": time.perf_counter() - started, "unit": "s", "graphs": num}
    return line | ({"GiB": (free - free_bytes()) / 2**30} if is_gpu else {})


def free_bytes() -> int:
    """Return the memory of the GPU that nothing holds: what PyTorch keeps for later counts as free."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def measure_decode(loaded: LoadedEngine, concurrency: int, num_context: int, read_gbps: float) -> Line:
    """Time steady steps of chats that only decode."""
    for number in range(concurrency):
        loaded.engine.submit(chat_request(f"chat {number}", num_context, 10_000))
    while step(loaded).num_decode_rows != concurrency:
        pass
    step_s = median(step(loaded).step_s for _ in range(NUM_STEPS))
    drain(loaded)
    itemsize = loaded.model.dtype.itemsize
    weights = decode_bytes(loaded.model.config, 0, itemsize)
    num_bytes = weights + concurrency * (decode_bytes(loaded.model.config, num_context, itemsize) - weights)
    floor_s = num_bytes / read_gbps / 1e9
    name = f"decode, batch {concurrency}, context {num_context}"
    line: Line = {"what": name, "value": 1e3 * step_s, "unit": "ms/step", "floor": 1e3 * floor_s, "of floor": step_s / floor_s}
    line["tokens/s"] = concurrency / step_s
    return line


def measure_launches(loaded: LoadedEngine, options: Options, read_gbps: float) -> Line:
    """Time decode steps that are not replayed: what their launches cost."""
    graphs, loaded.runner.decode_graphs = loaded.runner.decode_graphs, None
    try:
        line = measure_decode(loaded, 1, 20 if options.is_tiny else 30, read_gbps)
    finally:
        loaded.runner.decode_graphs = graphs
    return line | {"what": f"{line['what']}, launch by launch"}


def measure_mixed(loaded: LoadedEngine, options: Options) -> Line:
    """Pictures that denoise without pause beside chats: steps, tokens and denoise rows a second."""
    side, num_pictures, num_chats = (16, 1, 2) if options.is_tiny else (512, 4, 32)
    for number in range(num_chats):
        loaded.engine.submit(chat_request(f"chat {number}", 10 if options.is_tiny else 500, 10_000))
    for number in range(num_pictures):
        loaded.engine.submit(picture_request(f"picture {number}", side, 1000))
    while (stats := step(loaded)).num_denoise_rows == 0 or stats.num_decode_rows < num_chats:
        pass
    steps = [step(loaded) for _ in range(NUM_STEPS)]
    drain(loaded)
    total_s = sum(stats.step_s for stats in steps)
    times_ms = [1e3 * stats.step_s for stats in steps]
    line: Line = {"what": f"{num_pictures} pictures of {side} beside {num_chats} chats", "unit": "ms/step", "value": median(times_ms)}
    line["max"] = max(times_ms)
    line["tokens/s"] = sum(stats.num_decode_rows for stats in steps) / total_s
    line["denoise rows/s"] = sum(stats.num_denoise_rows for stats in steps) / total_s
    return line


def measure_decoder(loaded: LoadedEngine, options: Options) -> Iterator[Line]:
    """Time the tokens of chats while a picture is in the decoder or the encoders, beside them and within a step: then they wait for it."""
    side, num_chats = (16, 2) if options.is_tiny else (1024, 32)
    for number in range(num_chats):
        loaded.engine.submit(chat_request(f"chat {number}", 10 if options.is_tiny else 500, 10_000))
    while step(loaded).num_decode_rows < num_chats:
        pass
    for way, stream in (("beside", side_stream(options.device)), ("before", None)):
        loaded.runner.decode_beside(stream)
        loaded.scheduler.encodings.encoder = loaded.runner if stream is not None else None
        for round_number in range(2):
            drawn = until_it_is_there(loaded, picture_request(f"drawn {way}, {round_number}", side, 3))
            read = until_it_is_there(loaded, looking_request(f"read {way}, {round_number}", side, loaded.model.config))
        whose = f"{way} the next tokens of {num_chats} chats"
        yield {"what": f"a picture of {side} in the decoder {whose}", "unit": "ms/token", **drawn.columns, "decoder ms": drawn.decoder_ms}
        yield {"what": f"a picture of {side} in the encoders {whose}", "unit": "ms/token", **read.columns}
    loaded.runner.decode_beside(side_stream(options.device))
    loaded.scheduler.encodings.encoder = loaded.runner
    drain(loaded)


@dataclass(frozen=True, slots=True)
class Gaps:
    """Milliseconds between others' tokens until a picture was there, by what the step between them did.

    Attributes:
        decoding_ms: it only decoded, or it ended a picture: what the decoder and the encoders cost others where they work beside.
        taking_in_ms: it took in a prompt, or a picture that had been encoded; within it where nothing works beside.
        decoder_ms: how long the decoder took.
    """

    decoding_ms: list[float]
    taking_in_ms: list[float]
    decoder_ms: float

    @property
    def columns(self) -> Line:
        """What a table says of them; a kind of step that did not come has no number."""
        line: Line = {"value": median(self.decoding_ms), "max": max(self.decoding_ms)} if self.decoding_ms else {}
        return line | ({"step that takes it in, ms": max(self.taking_in_ms)} if self.taking_in_ms else {})


def looking_request(name: str, side: int, config: BagelConfig) -> Request:
    """Ask for a word about a picture, which both encoders read; no two names have the same."""
    vit_side = max(1, min(side, config.vit_transform.max_size) // config.vit.patch_size) * config.vit.patch_size
    rgb = zlib.crc32(name.encode()).to_bytes(4, "little")[:3]
    picture = ImageSegment(*(Picture(length, length, rgb * (length * length)) for length in (vit_side, side)))
    return replace(chat_request(name, PROMPT_TOKENS, 1), segments=[picture, TextSegment(list(range(PROMPT_TOKENS)))])


def until_it_is_there(loaded: LoadedEngine, request: Request) -> Gaps:
    """Answer a request, and watch others' tokens meanwhile; what came before and between its denoise steps is left out.

    Decoded within a step there is one gap: that step, its forward pass included.
    """
    loaded.engine.submit(request)
    decoding_ms: list[float] = []
    taking_in_ms: list[float] = []
    last_s = time.perf_counter()
    while True:
        report = next_report(loaded)
        now_s = time.perf_counter()
        if report.stats.num_denoise_rows and not report.images:
            decoding_ms.clear()
            taking_in_ms.clear()
        else:
            (taking_in_ms if report.stats.num_prefill_tokens else decoding_ms).append(1e3 * (now_s - last_s))
        last_s = now_s
        if any(end.request_id == request.request_id for end in report.finished):
            return Gaps(decoding_ms, taking_in_ms, 1e3 * report.stats.vae_s)


if __name__ == "__main__":
    sys.exit(main())
