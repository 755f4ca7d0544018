"""Measures the engine in one process, without HTTP: seconds per denoise step, tokens per second, the share of the host.

    python -m loadtests.engine --model mid --json          a random model of a named size
    python -m loadtests.engine --model DIR --dtype bfloat16

Every figure stands beside the machine's own matmul rate and read bandwidth, sampled between the measurements of the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from loadtests.costs import decode_bytes, denoise_flops
from loadtests.machine import Machine, Rates
from loadtests.named_models import RANDOM_SIZES, model_directory
from model.config import BagelConfig
from server.engine.link import LocalLink
from server.engine.options import EngineOptions
from server.engine.process import LoadedEngine, load_engine
from server.messages import ImageParams, ImageSegment, OutputMode, Picture, Request, SamplingParams, Segment, StepStats, TextSegment

PROMPT_TOKENS = 30
CONCURRENCIES = (1, 4, 16)
NUM_ROUNDS = 7
"""Measurements are taken in rounds with machine probes between them."""

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Round:
    """A few steps and the machine's rates beside them: fractions are taken within a round, since a shared machine drifts."""

    steps: list[StepStats]
    rates: Rates

    @property
    def seconds(self) -> float:
        """Median time of a step."""
        return median(stats.step_s for stats in self.steps)

    @property
    def host_fraction(self) -> float:
        """Share of the steps' time outside the forward pass; says nothing of a GPU, where the host only launches it."""
        return 1.0 - sum(stats.forward_s for stats in self.steps) / sum(stats.step_s for stats in self.steps)


@dataclass(slots=True)
class Bench:
    """An engine fed by hand, and the probes of its machine."""

    loaded: LoadedEngine
    machine: Machine
    num_requests: int = 0

    @property
    def config(self) -> BagelConfig:
        return self.loaded.model.config

    def submit(self, request: Callable[[str], Request]) -> None:
        self.num_requests += 1
        self.loaded.engine.submit(request(f"r{self.num_requests}"))

    def step(self) -> StepStats:
        while (report := self.loaded.engine.step()) is None:
            assert self.loaded.scheduler.has_work, "the engine has nothing to do"
        return report.stats

    def round(self, num_steps: int) -> Round:
        """Probe the machine, then take a step that warms the caches again and ``num_steps`` that count."""
        rates = self.machine.probe()
        self.step()
        return Round([self.step() for _ in range(num_steps)], rates)

    def drain(self) -> None:
        """Abort whatever is running."""
        self.loaded.scheduler.abort_all()
        self.loaded.engine.step()


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        bench = _bench(options, Path(scratch))
    figures: Figures = {}
    for branches in (1, 2, 3):
        figures.update(measure_denoise(bench, branches))
        _say(figures, f"denoise.{branches}.seconds")
    for concurrency in CONCURRENCIES:
        figures.update(measure_decode(bench, concurrency))
        _say(figures, f"decode.{concurrency}.tokens_per_second")
    figures.update(measure_mixed(bench))
    figures["machine.matmul_gflops"] = bench.machine.rates.matmul_gflops
    figures["machine.read_gbps"] = bench.machine.rates.read_gbps
    if options.json:
        print(json.dumps(figures, indent=1))
    else:
        print("\n".join(f"{name:40} {value:12.4g}" for name, value in sorted(figures.items())))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.engine", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="mid", help=f"a model directory, or one of the random sizes {', '.join(RANDOM_SIZES)}")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of the forward pass (default: all cores)")
    parser.add_argument("--image", type=int, default=256, help="side of the pictures in pixels (default: %(default)s, 256 latent tokens)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def _bench(options: argparse.Namespace, scratch: Path) -> Bench:
    path = model_directory(options.model, scratch)
    engine_options = EngineOptions(str(path), device=options.device, dtype=options.dtype, num_threads=options.threads)
    _log(f"loading {path}")
    loaded = load_engine(engine_options, LocalLink())
    return Bench(loaded, Machine(loaded.model.device, loaded.model.dtype))


def _log(text: str) -> None:
    print(text, file=sys.stderr)


def _say(figures: Figures, name: str) -> None:
    _log(f"{name}: {figures[name]:.4g}")


def picture(side: int, seed: int) -> Picture:
    """Make a noise picture."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (side, side, 3), generator=generator, dtype=torch.uint8)
    return Picture(side, side, pixels.numpy().tobytes())


def image_request(name: str, config: BagelConfig, branches: int, num_timesteps: int) -> Request:
    """An edit whose guidance needs exactly ``branches`` branches at every step."""
    side = min(256, config.vae_transform.max_size)
    vit_side = min(side // config.vit.patch_size, config.vit.table_side) * config.vit.patch_size
    params = ImageParams(
        side,
        side,
        num_timesteps=num_timesteps,
        text_scale=4.0 if branches > 1 else 1.0,
        image_scale=2.0 if branches > 2 else 1.0,
        interval=(0.0, 1.0),
        seed=len(name),
    )
    segments: list[Segment] = [ImageSegment(vit=picture(vit_side, 1), vae=picture(side, 2)), TextSegment(list(range(PROMPT_TOKENS)))]
    return Request(name, segments, OutputMode.IMAGE, SamplingParams(), params)


def chat_request(name: str, num_tokens: int) -> Request:
    sampling = SamplingParams(max_tokens=num_tokens, ignore_eos=True)
    return Request(name, [TextSegment(list(range(PROMPT_TOKENS)))], OutputMode.TEXT, sampling, ImageParams(16, 16))


def measure_denoise(bench: Bench, branches: int) -> Figures:
    """Seconds of a step that holds one picture with ``branches`` branches, and its share of the machine's matmul rate."""
    bench.submit(lambda name: image_request(name, bench.config, branches, 1000))
    while bench.step().num_denoise_rows != branches:
        pass
    (sequence,) = bench.loaded.scheduler.running
    contexts = [sequence.full, *sequence.branches][:branches]
    side = sequence.request.image.height // bench.config.latent_stride
    flops = denoise_flops(bench.config, side * side, [context.kv_len for context in contexts])
    rounds = [bench.round(4) for _ in range(NUM_ROUNDS)]
    bench.drain()
    return {
        f"denoise.{branches}.seconds": median(one.seconds for one in rounds),
        f"denoise.{branches}.matmul_fraction": median(flops / one.seconds / 1e9 / one.rates.matmul_gflops for one in rounds),
        f"denoise.{branches}.host_fraction": median(one.host_fraction for one in rounds),
    }


def measure_decode(bench: Bench, concurrency: int) -> Figures:
    """Tokens per second of ``concurrency`` chats that only decode; for one alone, its share of the machine's read bandwidth."""
    for _ in range(concurrency):
        bench.submit(lambda name: chat_request(name, 10_000))
    while bench.step().num_decode_rows != concurrency:
        pass
    rounds = [bench.round(10) for _ in range(NUM_ROUNDS)]
    figures = {
        f"decode.{concurrency}.tokens_per_second": median(concurrency / one.seconds for one in rounds),
        f"decode.{concurrency}.host_fraction": median(one.host_fraction for one in rounds),
    }
    if concurrency == 1:
        (sequence,) = bench.loaded.scheduler.running
        num_bytes = decode_bytes(bench.config, sequence.full.kv_len, bench.loaded.model.dtype.itemsize)
        figures["decode.1.bandwidth_fraction"] = median(num_bytes / one.seconds / 1e9 / one.rates.read_gbps for one in rounds)
    bench.drain()
    return figures


def measure_mixed(bench: Bench) -> Figures:
    """Eight chats decode while two pictures denoise and prompts keep arriving: tokens and denoise steps per second together."""
    for _ in range(8):
        bench.submit(lambda name: chat_request(name, 10_000))
    bench.submit(lambda name: image_request(name, bench.config, 2, 1000))
    bench.submit(lambda name: image_request(name, bench.config, 3, 1000))
    while bench.step().num_denoise_rows == 0:
        pass
    rounds: list[Round] = []
    for _ in range(NUM_ROUNDS):
        bench.submit(lambda name: chat_request(name, 4))
        rounds.append(bench.round(4))
    bench.drain()
    steps = [stats for one in rounds for stats in one.steps]
    seconds = sum(stats.step_s for stats in steps)
    return {
        "mixed.tokens_per_second": sum(stats.num_decode_rows for stats in steps) / seconds,
        "mixed.denoise_rows_per_second": sum(stats.num_denoise_rows for stats in steps) / seconds,
        "mixed.step_seconds": median(stats.step_s for stats in steps),
        "host_fraction": median(one.host_fraction for one in rounds),
    }


if __name__ == "__main__":
    sys.exit(main())
