"""What crosses between the HTTP front and the engine process: requests in, one report per step out.

Plain frozen dataclasses, so that the engine needs no serialisation library; `server.wire` puts them on the socket. The front has
already tokenised the text, decoded and resized the pictures and checked every bound.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import Enum

from model.guidance_rules import GuidanceMode, Renorm
from model.step_cache_rules import StepCache


class OutputMode(Enum):
    """Who decides when a picture is drawn."""

    TEXT = "text"
    """No pictures: begin-of-image is suppressed."""
    IMAGE = "image"
    """Pictures only, ``max_images`` of them, straight after the prompt."""
    ALTERNATE = "alternate"
    """A rule outside the model: text, picture, text, picture … up to ``max_images``, then a last text."""
    INTERLEAVED = "interleaved"
    """The model decides, by emitting begin-of-image."""


class FinishReason(Enum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class TextSegment:
    """A closed text: ``token_ids`` without BOS and EOS, which the engine adds."""

    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Picture:
    """8-bit RGB pixels, row-major ``[height, width, 3]``."""

    height: int
    width: int
    rgb: bytes

    def digest(self) -> bytes:
        """Return the SHA-256 of shape and pixels: several milliseconds' work for a large picture."""
        shape = self.height.to_bytes(4, "little") + self.width.to_bytes(4, "little")
        return hashlib.sha256(shape + self.rgb).digest()


@dataclass(frozen=True, slots=True)
class ImageSegment:
    """An input picture after the resizes of spec 3.3; ``vae`` is None where no picture will be drawn (ViT segment only).

    The digests are those of the pictures, empty where nobody has worked them out yet.
    """

    vit: Picture
    vae: Picture | None
    vit_digest: bytes = b""
    vae_digest: bytes = b""

    def with_digests(self) -> ImageSegment:
        """Return the segment with its digests worked out; at once where they are."""
        if self.vit_digest:
            return self
        return replace(self, vit_digest=self.vit.digest(), vae_digest=b"" if self.vae is None else self.vae.digest())


Segment = TextSegment | ImageSegment


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How text tokens are drawn. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 are off; ``logprobs`` None is off.

    ``grammar``, in the grammar library's own notation, is what the answer's text must be; None is off.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int = 0
    max_tokens: int = 1024
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    grammar: str | None = None

    @property
    def has_penalty(self) -> bool:
        """Whether what has been written already is less, or more, likely to be written again."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0)


@dataclass(frozen=True, slots=True)
class ImageParams:
    """How pictures are drawn. Sizes in pixels, multiples of the latent stride; ``num_timesteps`` T means T-1 Euler steps.

    An answer that wants more than ``max_images`` goes on without another picture, or ``ends_at_last_image``, as too long.
    ``num_previews`` rough pictures are shown on the way to each finished one, spread over its steps. ``step_cache`` None computes every
    velocity.
    """

    height: int
    width: int
    num_timesteps: int = 50
    timestep_shift: float = 3.0
    guidance: GuidanceMode = GuidanceMode.BAGEL
    text_scale: float = 4.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.4, 1.0)
    renorm: Renorm = Renorm.GLOBAL
    renorm_min: float = 0.0
    seed: int = 0
    max_images: int = 1
    ends_at_last_image: bool = False
    negative_token_ids: list[int] | None = None
    num_previews: int = 0
    step_cache: StepCache | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One accepted request.

    Attributes:
        generated_text_is_thought: generated text enters the full context only, not the guidance branches.
        tenant: on whose account it runs; tenants share the machine by weight and never share cached pages.
        user: which of the tenant's users it is for, named by a hash; nor do they share cached pages.
        weight: the tenant's share against others' (2 is served twice as much as 1).
        priority: higher goes first; equal by default.
        canon: what another engine has made of the request already: every token drawn, in the answer or not, and every picture, in order.
        deadline_s: seconds from its arrival in the engine after which it is ended with the error ``deadline_exceeded``, whatever it is
            doing.
    """

    request_id: str
    segments: list[Segment]
    mode: OutputMode
    sampling: SamplingParams
    image: ImageParams
    generated_text_is_thought: bool = False
    wants_progress: bool = False
    tenant: str = ""
    user: str = ""
    weight: float = 1.0
    priority: int = 0
    deadline_s: float | None = None
    canon: list[int | Picture] = field(default_factory=list)

    @property
    def cache_scope(self) -> str:
        """What requests have in common that may share cached pages."""
        return f"{self.tenant}\0{self.user}"


@dataclass(frozen=True, slots=True)
class Abort:
    request_id: str


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token_id: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """One sampled text token that belongs to the answer (never BOS, EOS or begin-of-image)."""

    request_id: str
    token_id: int
    logprob: TokenLogprob | None = None


@dataclass(frozen=True, slots=True)
class SilentDraw:
    """A drawn token that is no part of the answer: the end of a text, begin-of-image, what follows a turn. Canon like the others."""

    request_id: str
    token_id: int


@dataclass(frozen=True, slots=True)
class TextClosed:
    """A text turn ended; the next token of this request, if any, starts a new text."""

    request_id: str


@dataclass(frozen=True, slots=True)
class ProgressOutput:
    """Denoise step ``step`` of ``num_steps`` (counted from 1) of picture ``index`` is done."""

    request_id: str
    index: int
    step: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class PreviewOutput:
    """Rough picture ``preview`` (counted from 0) of what picture ``index`` is becoming after ``step`` of ``num_steps``; small."""

    request_id: str
    index: int
    preview: int
    step: int
    num_steps: int
    picture: Picture


@dataclass(frozen=True, slots=True)
class ImageOutput:
    request_id: str
    index: int
    picture: Picture


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost, in cache rows. The cached ones are the part of the prompt that was found in the prefix cache."""

    prompt_text_tokens: int = 0
    prompt_image_tokens: int = 0
    completion_text_tokens: int = 0
    completion_image_tokens: int = 0
    num_images: int = 0
    cached_text_tokens: int = 0
    cached_image_tokens: int = 0


@dataclass(frozen=True, slots=True)
class FinishedOutput:
    """Terminal, exactly once per request. ``error_code`` and ``error_message`` are set when ``reason`` is ERROR."""

    request_id: str
    reason: FinishReason
    usage: Usage
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one step did and how full the engine is. Times in seconds.

    Attributes:
        forward_s: time in the transformer; on a GPU the host's, which launches it and does not wait for it.
        num_und_tokens, num_gen_tokens, num_pairs, num_rows: the step's load: tokens of each expert, attended pairs of query and key, rows.
        predicted_s: what the cost model foresaw for this step; 0 while it foresees nothing.
        cost_error: the model's median relative error over the latest steps.
        num_prefix_queries, num_prefix_hits: prompt rows looked up in the prefix cache in this step, and found there.
        num_pictures_encoded: pictures that went through the VAE or ViT encoder in this step, each encoder counted for itself.
        pages_used: pages that running requests hold; pages_cached: further ones kept for prompts to come, given up when needed.
        num_preemptions, num_expired, num_refused: since the start: sequences that lost their pages, requests ended by their deadline,
            requests turned away because the queue was full.
        waiting_text, waiting_image: how many of those waiting will draw no picture, and how many will.
        vae_s: time this step spent turning finished latents into pixels, or it took beside the steps until this one for what it brings.
        text_drain_per_s, image_drain_per_s: requests of each lane finished per second lately while others waited; 0 before the first.
    """

    step: int = 0
    step_s: float = 0.0
    forward_s: float = 0.0
    num_decode_rows: int = 0
    num_prefill_tokens: int = 0
    num_denoise_rows: int = 0
    num_branches_elided: int = 0
    num_branches_foreseen: int = 0
    num_gen_tokens: int = 0
    running_text: int = 0
    running_image: int = 0
    waiting: int = 0
    pages_used: int = 0
    pages_total: int = 0
    num_preemptions: int = 0
    num_und_tokens: int = 0
    num_pairs: int = 0
    num_rows: int = 0
    predicted_s: float = 0.0
    cost_error: float = 0.0
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0
    num_pictures_encoded: int = 0
    pages_cached: int = 0
    num_expired: int = 0
    num_refused: int = 0
    waiting_text: int = 0
    waiting_image: int = 0
    text_drain_per_s: float = 0.0
    image_drain_per_s: float = 0.0
    vae_s: float = 0.0


class RequestPhase(Enum):
    """What a request is doing, for measurements."""

    QUEUE = "queue"
    PREFILL = "prefill"
    DECODE = "decode"
    DENOISE = "denoise"
    VAE = "vae"


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """A stretch of a request's life. Times are ages: seconds before the report that carries them was sent."""

    phase: RequestPhase
    start_age_s: float
    end_age_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """How a finished request spent its time, in order; of a very long one the latest spans."""

    request_id: str
    spans: list[PhaseSpan]


@dataclass(frozen=True, slots=True)
class StepReport:
    """Everything one step produced. A request's are in this order: silent, tokens, closed, progress, previews, images, finished."""

    tokens: list[TokenOutput]
    closed: list[TextClosed]
    progress: list[ProgressOutput]
    images: list[ImageOutput]
    finished: list[FinishedOutput]
    stats: StepStats
    timelines: list[Timeline] = field(default_factory=list)
    previews: list[PreviewOutput] = field(default_factory=list)
    silent: list[SilentDraw] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EngineReady:
    """Sent once when the model is loaded: the limits the front must check against."""

    max_context_rows: int
    max_positions: int
    page_size: int
    num_pages: int
    dtype: str
    device: str
    max_waiting: int = 1024
    attention: str = "torch"
    """Which kernels attend: ``triton``, ``native`` (C) or plain ``torch``."""
    kv_dtype: str = "float32"
    """Number format of the cache."""


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How much of the checkpoint is on the device; ``tensor`` is the one just loaded. Then, how many decode steps are captured."""

    bytes_done: int
    bytes_total: int
    tensor: str
    graphs_done: int = 0
    graphs_total: int = 0


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Tells the engine to stop after the step it is in."""


@dataclass(frozen=True, slots=True)
class EngineFailed:
    """The engine could not start; ``message`` is for the operator."""

    message: str
