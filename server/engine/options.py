"""What the engine process is started with."""

from __future__ import annotations

from dataclasses import dataclass

from model.profile import FamilyProfile

LEAST_FP8_CAPABILITY = (8, 9)
"""The first compute capability with products of 8-bit floats: Ada."""


class NoSuchDevice(Exception):
    """The device asked for is not there.

    Attributes:
        says: what is there. remedy: the option that helps, or what is to be installed.
    """

    def __init__(self, says: str) -> None:
        self.says = says
        self.remedy = "--device cpu, or install the driver and PyTorch's CUDA build (make install TORCH=cuda)"
        super().__init__(f"{self.says}; {self.remedy}")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Start-up choices. ``None`` or "auto" means: decide from the machine and the model.

    Attributes:
        model_path: a BAGEL-layout directory.
        family: overrides the model family the directory states.
        device: "cpu", "cuda" or "auto".
        dtype: "float32", "bfloat16" or "auto" (bfloat16 on a GPU, float32 on a CPU).
        page_size: KV rows in a page.
        num_pages: pages in the pool; None sizes it from free memory.
        max_batch_tokens: query tokens one step aims not to exceed (a single image may).
        max_running: sequences that may hold pages at once.
        cache_dir: where what is computed once for a model is kept; None keeps nothing.
        num_threads: CPU threads of the forward pass; None leaves PyTorch's choice.
        has_prefix_cache: whether pages of earlier prompts are found again.
        max_waiting: requests that may wait for a place; more are turned away.
        inter_token_target_s: seconds between two tokens of an answer that steps aim to stay below; None fills every step to
            ``max_batch_tokens`` instead.
        fault_dir: for tests, which break the engine through it; see `fault_points`.
        min_target_decodes: a target shorter than so many decode steps counts as that many.
        kv_dtype: "fp8" keeps keys and values in pages as 8-bit floats; "auto" in the dtype.
        quantization: "fp8" keeps the experts' matrices, and rounds what they multiply, to 8-bit floats; "none" does not.
    """

    model_path: str
    family: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    page_size: int = 16
    num_pages: int | None = None
    max_batch_tokens: int = 4096
    max_running: int = 128
    num_threads: int | None = None
    cache_dir: str | None = None
    has_prefix_cache: bool = True
    max_waiting: int = 1024
    inter_token_target_s: float | None = None
    min_target_decodes: float = 2.0
    fault_dir: str | None = None
    quantization: str = "none"
    kv_dtype: str = "auto"

    @property
    def limits(self) -> SchedulerLimits:
        """What of it the scheduler keeps to."""
        return SchedulerLimits(
            self.max_batch_tokens,
            self.max_running,
            self.max_waiting,
            self.inter_token_target_s,
            self.has_prefix_cache,
            self.min_target_decodes,
        )


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """The numbers the scheduler keeps to; see `EngineOptions`."""

    max_batch_tokens: int
    max_running: int
    max_waiting: int = 1024
    inter_token_target_s: float | None = None
    has_prefix_cache: bool = True
    min_target_decodes: float = 2.0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the scheduler must know of the model: token ids, strides, the family's rules.

    Attributes:
        end_ids: tokens that end the answer.
        latent_stride: pixels per latent token side; vit_stride: pixels per patch side.
        num_layers: of the transformer. most_bits: into how many bits of about equal length each may be divided in a long pass.
        share_of_steps: what share of the processors steps have beside a long pass; 0 where they are let through between its bits.
        runs_ahead: whether a step that is not divided is begun before the one before it has ended, so that the device never waits for it.
        model_id: what tells the pages of this model from another's.
    """

    bos_id: int
    eos_id: int
    boi_id: int
    eoi_id: int
    end_ids: tuple[int, ...]
    latent_stride: int
    vit_stride: int
    max_positions: int
    profile: FamilyProfile
    num_layers: int = 1
    most_bits: int = 1
    share_of_steps: float = 0.0
    runs_ahead: bool = False
    model_id: str = ""
