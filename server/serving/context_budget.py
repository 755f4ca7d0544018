"""Whether prompt and answer fit the model's context, counted before the engine sees the request (spec 5.2).

Two things run out: cache rows (every token of every segment) and rotary positions (a picture takes one a segment). What the client left
open shrinks to what is left; what the client asked for is refused when it does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.config import BagelConfig
from model.transforms import resize_size
from server.errors import ContextLengthExceeded
from server.messages import EngineReady, ImageSegment, OutputMode, Request, Segment, TextSegment
from server.serving.asks import Ask, ParamNames

NUM_MARKERS = 2
"""Rows round a segment: BOS and EOS of a text, BOI and EOI of a picture."""


@dataclass(frozen=True, slots=True)
class Need:
    """What some content takes of the context."""

    rows: int = 0
    positions: int = 0

    def __add__(self, other: Need) -> Need:
        return Need(self.rows + other.rows, self.positions + other.positions)

    def times(self, count: int) -> Need:
        """Return the need of ``count`` of these."""
        return Need(self.rows * count, self.positions * count)


def prompt_need(segments: Sequence[Segment], config: BagelConfig) -> Need:
    """Return what a prompt takes."""
    return sum((_segment(segment, config) for segment in segments), Need())


def _segment(segment: Segment, config: BagelConfig) -> Need:
    match segment:
        case TextSegment():
            return Need(len(segment.token_ids) + NUM_MARKERS, len(segment.token_ids) + NUM_MARKERS)
        case ImageSegment():
            vae = Need() if segment.vae is None else _grid(segment.vae.width, segment.vae.height, config.latent_stride)
            return vae + _grid(segment.vit.width, segment.vit.height, config.vit.patch_size)


WORDS_FIRST = 1024
"""Tokens of text that an answer has room for before its pictures, where the client left open how many of either."""


class ContextBudget:
    """Counts against one engine's limits."""

    def __init__(self, config: BagelConfig, ready: EngineReady) -> None:
        self._config = config
        self._limits = Need(ready.max_context_rows, ready.max_positions)

    def fit(self, request: Request, ask: Ask) -> Request:
        """Return ``request`` with the open choices of ``ask`` reduced to what the context holds.

        Raises:
            ContextLengthExceeded: it does not fit, even so.
        """
        while True:
            before = self._before_tokens(request)
            left = min(self._limits.rows - before.rows, self._limits.positions - before.positions)
            may_have_fewer = _leaves_pictures_open(ask) and request.image.max_images > 1 and request.mode is not OutputMode.TEXT
            min_tokens = _min_tokens(request, ask, may_have_fewer=may_have_fewer)
            if left >= min_tokens:
                sampling = request.sampling
                return replace(request, sampling=replace(sampling, max_tokens=min(sampling.max_tokens, max(left, 1))))
            if not may_have_fewer:
                raise self._exceeded(request, before, min_tokens, ask.names)
            request = replace(request, image=replace(request.image, max_images=request.image.max_images - 1))

    def _before_tokens(self, request: Request) -> Need:
        """Return what everything but the answer's text tokens takes."""
        num_images = 0 if request.mode is OutputMode.TEXT else request.image.max_images
        ends_with_picture = request.mode is OutputMode.IMAGE or request.generated_text_is_thought
        num_fed_back = max(0, num_images - 1) if ends_with_picture else num_images
        num_texts = 0 if request.mode is OutputMode.IMAGE else 1 if request.generated_text_is_thought else num_images + 1
        text_markers = Need(NUM_MARKERS, NUM_MARKERS).times(num_texts)
        return prompt_need(request.segments, self._config) + self._drawn_picture(request).times(num_fed_back) + text_markers

    def _drawn_picture(self, request: Request) -> Need:
        """Return what a picture of the answer takes once it is fed back, after the resizes of spec 3.3."""
        vae_size = resize_size(request.image.width, request.image.height, self._config.vae_transform)
        vit_size = resize_size(*vae_size, self._config.vit_transform)
        return _grid(*vae_size, self._config.latent_stride) + _grid(*vit_size, self._config.vit.patch_size)

    def _exceeded(self, request: Request, before: Need, min_tokens: int, names: ParamNames) -> ContextLengthExceeded:
        prompt = prompt_need(request.segments, self._config)
        total = Need(before.rows + min_tokens, before.positions + min_tokens)
        if total.positions > self._limits.positions:
            unit, needed, limit, of_prompt = "positions", total.positions, self._limits.positions, prompt.positions
        else:
            unit, needed, limit, of_prompt = "cache rows", total.rows, self._limits.rows, prompt.rows
        message = (
            f"{names.messages}: prompt and answer need {needed} {unit}, the context holds {limit}: the prompt takes {of_prompt}, "
            f"pictures and markers of the answer {needed - of_prompt - min_tokens}, its text {min_tokens}. Shorten the prompt, lower "
            f"{names.max_tokens}, or ask for fewer or smaller pictures."
        )
        return ContextLengthExceeded(message, names.messages)


def _grid(width: int, height: int, stride: int) -> Need:
    """Return what a picture takes of which each square of ``stride`` pixels is a token."""
    return Need((width // stride) * (height // stride) + NUM_MARKERS, 1)


def _leaves_pictures_open(ask: Ask) -> bool:
    return ask.pictures is None or ask.pictures.max_images is None


def _min_tokens(request: Request, ask: Ask, *, may_have_fewer: bool) -> int:
    """Return for how many tokens of text there must be room: pictures that may be left out give way to more of them."""
    if request.mode is OutputMode.IMAGE:
        return 0
    if ask.text.max_tokens is not None:
        return request.sampling.max_tokens
    return min(WORDS_FIRST, request.sampling.max_tokens) if may_have_fewer else 1
