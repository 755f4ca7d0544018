"""A sequence: one request inside the engine, with everything that must survive a preemption (its canon) and everything that need not.

Canon is what was accepted: the prompt's segments, generated texts and pictures, the open text, the image under way. Contexts and their
pages are only a cache of it: they can be dropped and prefilled again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from kernels.token_counts import CountedText
from server.engine.context import Context
from server.engine.grammar import Grammar
from server.engine.guidance import BranchPlan
from server.engine.image_steps import EulerStep
from server.engine.pages import PagePool
from server.engine.segments import ContextSegment, TextTokens, VaeImage, VitImage, scoped_digest
from server.messages import ImageSegment, OutputMode, Request, Usage


class Phase(Enum):
    WAITING = auto()
    PREFILL = auto()
    DECODE = auto()
    DENOISE = auto()
    VAE = auto()
    """Its picture is in the decoder, beside the steps; it has rows in none."""
    FINISHED = auto()


class Lane(Enum):
    """The two kinds of work that share the machine."""

    TEXT = auto()
    PICTURE = auto()


class AfterFill(Enum):
    """What a sequence does once its contexts hold what they should."""

    BEGIN_TEXT = auto()
    BEGIN_IMAGE = auto()
    DECIDE = auto()
    """Draw a token from the last row and see whether text, a picture or the end follows."""
    RESUME_TEXT = auto()
    REBUILD_BRANCHES = auto()
    DENOISE = auto()


@dataclass(slots=True)
class Fill:
    """A context and what it should come to hold: closed segments, then the first tokens of an open text."""

    context: Context
    segments: list[ContextSegment]
    open_ids: tuple[int, ...] = ()

    @property
    def is_done(self) -> bool:
        return len(self.context.marks) == len(self.segments) and self.context.open_rows >= len(self.open_ids)


@dataclass(slots=True)
class ImageTask:
    """The image being drawn, or about to be.

    ``step`` counts finished Euler steps, ``num_under_way`` those after them that passes under way will finish, ``rows_done`` the rows of
    the next one that passes have been given, ``num_previews`` the previews that have been shown; latents and velocities live in the
    runner under the sequence's id.
    """

    index: int
    steps: list[EulerStep]
    plan: BranchPlan
    step: int = 0
    num_under_way: int = 0
    rows_done: int = 0
    has_noise: bool = False
    num_previews: int = 0

    @property
    def has_steps_left(self) -> bool:
        """Whether there are Euler steps that passes have not been given."""
        return self.step + self.num_under_way < len(self.steps)

    @property
    def num_rows_left(self) -> int:
        """How many rows belong to steps that are not taken yet."""
        return sum(len(step.computed) for step in self.steps[self.step :])


@dataclass(slots=True)
class Sequence:
    """One request under way.

    Attributes:
        sequence_id: the engine's own number, in order of arrival.
        history: closed segments of the full context, prompt and answer.
        open_ids: BOS and the tokens drawn since, while a text is being written; the last one is not in the cache yet.
        turn_limit: how many answer tokens there may be when the present text turn ends.
        text_ids: every text token of the answer, for limits; counted: the same for penalties, where the request has any.
        full: the full context; branches: the further contexts of the image under way, or of the last one, by plan index - 1.
        fills: what PREFILL still has to take in, in order; after_fill: what comes then.
        expires_s: when its deadline passes, on the scheduler's clock.
        last_result_s: when it was let in or a pass last brought it something, on the same clock.
        last_served_step: when the scheduler last gave it work, for fairness.
        unpaid_s: seconds of the machine it has had that are not on its tenant's account yet.
        stood_aside_s: seconds for which its picture has stood aside for words.
        times_short: how often in a row it was its turn and there were no pages for its rows, nor anybody who had to give some up.
        pages_wanted: how many new ones that would have taken.
        times_overtaken: how often one that came later was let in before it.
        num_in_flight: passes that have begun and not ended and hold rows of it, and so its pages: one, or two where a step runs ahead;
            or the decoder, while its picture is there.
        grammar: what the answer's text must be; canon like `text_ids`, whose function it is.
    """

    sequence_id: int
    request: Request
    history: list[ContextSegment] = field(default_factory=list)
    phase: Phase = Phase.WAITING
    open_ids: list[int] = field(default_factory=list)
    turn_limit: int = 0
    text_ids: list[int] = field(default_factory=list)
    counted: CountedText = field(default_factory=CountedText)
    num_draws: int = 0
    num_images: int = 0
    image: ImageTask | None = None
    full: Context = field(default_factory=Context)
    branches: list[Context] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    after_fill: AfterFill = AfterFill.BEGIN_TEXT
    expires_s: float = math.inf
    last_result_s: float = 0.0
    last_served_step: int = -1
    unpaid_s: float = 0.0
    stood_aside_s: float = 0.0
    times_short: int = 0
    pages_wanted: int = 0
    times_overtaken: int = 0
    num_preemptions: int = 0
    num_in_flight: int = 0
    usage: Usage = field(default_factory=Usage)
    grammar: Grammar | None = None
    next_uid: int = 1

    @property
    def is_in_flight(self) -> bool:
        return self.num_in_flight > 0

    @property
    def tokens_left(self) -> int:
        return self.request.sampling.max_tokens - len(self.text_ids)

    @property
    def images_left(self) -> int:
        return self.request.image.max_images - self.num_images

    def take_uid(self) -> int:
        """Return a segment number not used in this sequence before."""
        self.next_uid += 1
        return self.next_uid - 1

    def append_text(self, token_ids: tuple[int, ...], *, is_thought: bool = False) -> None:
        """Add a closed text (BOS and EOS included) to the canon."""
        self.history.append(TextTokens(self.take_uid(), token_ids, is_thought))

    def append_picture(self, picture: ImageSegment, latent_stride: int, vit_stride: int) -> None:
        """Add a picture to the canon: the VAE segment, if it has one, then the ViT segment (spec 5.2)."""
        picture = picture.with_digests()
        vae, vit = picture.vae, picture.vit
        scope = self.request.cache_scope
        if vae is not None:
            grid = (vae.height // latent_stride, vae.width // latent_stride)
            self.history.append(VaeImage(self.take_uid(), vae, *grid, scoped_digest(scope, picture.vae_digest)))
        grid = (vit.height // vit_stride, vit.width // vit_stride)
        self.history.append(VitImage(self.take_uid(), vit, *grid, scoped_digest(scope, picture.vit_digest)))

    def fill_history(self, after_fill: AfterFill) -> None:
        """Go to PREFILL until the full context holds the whole history."""
        self.fills = [Fill(self.full, self.history)]
        self.after_fill = after_fill
        self.phase = Phase.PREFILL

    @property
    def lane(self) -> Lane:
        """The lane whose time this sequence takes now."""
        is_picture = self.image is not None or self.request.mode is OutputMode.IMAGE
        return Lane.PICTURE if is_picture else Lane.TEXT

    @property
    def asked_for(self) -> Lane:
        """The lane of the whole request: that of what its client waits for."""
        is_text_thought = self.request.mode is OutputMode.ALTERNATE and self.request.generated_text_is_thought
        return Lane.PICTURE if is_text_thought or self.request.mode is OutputMode.IMAGE else Lane.TEXT

    @property
    def pages(self) -> set[int]:
        """The pages of all its contexts."""
        return {page for context in (self.full, *self.branches) for page in context.pages}

    @property
    def is_at_prompt_text(self) -> bool:
        """Whether words of its prompt come next, for an answer in words."""
        is_prefill = self.phase is Phase.PREFILL and self.lane is Lane.TEXT
        return is_prefill and isinstance(self.next_segment()[0], TextTokens | None)

    @property
    def holds_pages(self) -> bool:
        return bool(self.full.pages or self.branches)

    @property
    def can_be_served(self) -> bool:
        """Whether a prompt chunk or a denoise step of it could go into the next pass."""
        return self.phase in (Phase.PREFILL, Phase.DENOISE) and not self.is_in_flight

    @property
    def can_draw_token(self) -> bool:
        """Whether it can be said which tokens may come next: not while its grammar is being compiled, for which nobody else waits."""
        return self.grammar is None or self.grammar.is_compiled

    @property
    def has_steps_left(self) -> bool:
        """Whether its picture has Euler steps that passes have not been given."""
        return self.phase is Phase.DENOISE and self.image is not None and self.image.has_steps_left

    @property
    def has_prompt_left(self) -> bool:
        """Whether there is more to take in than passes have been given."""
        return self.phase is Phase.PREFILL and not all(fill.is_done for fill in self.fills)

    @property
    def awaits_token(self) -> bool:
        """Whether the token that the next row of its text feeds is only just being drawn."""
        return self.full.open_rows == len(self.open_ids)

    def next_segment(self) -> tuple[ContextSegment | None, int]:
        """Return the segment a sequence in PREFILL takes in next, None for an open text, and how many rows stand before it."""
        fill = next(fill for fill in self.fills if not fill.is_done)
        index = len(fill.context.marks)
        return (fill.segments[index] if index < len(fill.segments) else None), fill.context.kv_len

    def count_cached(self, start: int, end: int) -> None:
        """Count the rows ``start .. end-1`` of the prompt as found in the prefix cache."""
        text = image = place = 0
        for segment in self.history:
            found = max(0, min(end, place + segment.num_rows) - max(start, place))
            if isinstance(segment, TextTokens):
                text += found
            else:
                image += found
            place += segment.num_rows
        cached_text, cached_image = self.usage.cached_text_tokens + text, self.usage.cached_image_tokens + image
        self.usage = replace(self.usage, cached_text_tokens=cached_text, cached_image_tokens=cached_image)

    def context(self, index: int) -> Context:
        """Return a context of the image under way by its number in the plan."""
        return self.full if index == 0 else self.branches[index - 1]

    def release_branches(self, pool: PagePool) -> None:
        """Give back the pages of every context but the full one."""
        for context in self.branches:
            context.release(pool)
        self.branches = []

    def release(self, pool: PagePool) -> None:
        """Give back every page."""
        self.release_branches(pool)
        self.full.release(pool)
        self.fills = []

    def preempt(self, pool: PagePool) -> None:
        """Give back every page but keep the canon; `fill_canon` takes it in again."""
        self.release(pool)
        self.phase = Phase.WAITING
        self.times_short = 0
        self.num_preemptions += 1
        if self.image is not None:
            self.image.rows_done = 0

    def fill_canon(self) -> None:
        """Go from WAITING to PREFILL: take in the canon, then go on where the sequence was."""
        self.phase = Phase.PREFILL
        self.fills = [Fill(self.full, self.history, tuple(self.open_ids[:-1]))]
        if self.image is not None:
            self.after_fill = AfterFill.REBUILD_BRANCHES
        elif self.open_ids:
            self.after_fill = AfterFill.RESUME_TEXT
