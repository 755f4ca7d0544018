"""What the scheduler hands the runner: the rows of one step, and what the runner hands back.

No tensors: page tables are numbers, pictures are bytes. `packer` turns a batch into tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from kernels.token_counts import NO_TOKENS, TokenCounts
from server.engine.context import PageCopy
from server.engine.cost_model import NO_LOAD, Load
from server.engine.grammar import Grammar
from server.engine.image_steps import EulerStep
from server.engine.pages import Pages
from server.engine.prefix_cache import Claim
from server.engine.segments import DroppedImage, PictureSegment
from server.messages import ImageParams, Picture, SamplingParams, TokenLogprob


class Draw(NamedTuple):
    """How to draw the token that follows a row. A tuple, because every row of every step has one (`DecodeRow` too).

    Attributes:
        params: the request's sampling parameters.
        index: which draw of the request this is; with the seed it fixes the random number.
        suppressed: token ids that may not be drawn.
        written: the tokens of the answer so far, for penalties; none when the request has no penalties.
        wants_logprob: whether the request asked for log-probabilities.
        grammar: says, once the model has run, which tokens may be drawn; None allows all.
        is_ahead: whether the row feeds a token that was under way when this was made: ``written`` is without it, and the grammar takes it
            in when the step that draws it is committed.
    """

    params: SamplingParams
    index: int  # type: ignore[assignment]  # tuples have a method of that name
    suppressed: tuple[int, ...]
    written: TokenCounts = NO_TOKENS
    wants_logprob: bool = False
    grammar: Grammar | None = None
    is_ahead: bool = False

    @property
    def counts_fed(self) -> bool:
        """Whether penalties must count the token that the row feeds beside ``written``."""
        return self.is_ahead and self.params.has_penalty

    @property
    def waits_for_commit(self) -> bool:
        """Whether the grammar cannot say what may be drawn before the step under way has been committed."""
        return self.is_ahead and self.grammar is not None


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text tokens of a prefill row, causal among themselves."""

    token_ids: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        return len(self.token_ids)

    @property
    def num_positions(self) -> int:
        return len(self.token_ids)


Piece = TextPiece | PictureSegment | DroppedImage
"""A part of a prefill row; image segments are atomic and stand for themselves; a dropped one only moves the position."""


class DecodeRow(NamedTuple):
    """One text token of one context; ``token_id`` is None where the step under way is only just drawing it."""

    sequence_id: int
    pages: Pages
    kv_len: int
    rope_pos: int
    token_id: int | None
    draw: Draw


@dataclass(frozen=True, slots=True)
class PrefillRow:
    """A chunk of one context: pieces in order from ``kv_len`` and ``rope_pos``. ``draw`` is set when its last row decides something."""

    sequence_id: int
    pages: Pages
    kv_len: int
    rope_pos: int
    pieces: list[Piece]
    draw: Draw | None


@dataclass(frozen=True, slots=True)
class DenoiseRow:
    """The latents of one image under one context, by its number: BOI, latents, EOI, all at ``rope_pos``. Reads pages, writes none."""

    sequence_id: int
    context: int
    pages: Pages
    kv_len: int
    rope_pos: int


@dataclass(frozen=True, slots=True)
class DenoiseStep:
    """The rows of one Euler step of one image, and the steps that can be taken once their velocities are there.

    Attributes:
        sequence_id: whose image; one image at a time per sequence.
        rows: one for each context whose velocity is computed, or those of them that this pass computes.
        eulers: the Euler step the rows are for; with step caching, further ones for which nothing is computed.
        params: guidance settings and size.
        is_last: whether the image is finished by these steps and must be decoded.
        num_row_tokens: query tokens of each row, markers included.
        first_row: how many of the step's rows were computed in earlier passes.
        completes: whether these rows are the last ones, so that the Euler steps can be taken.
    """

    sequence_id: int
    rows: list[DenoiseRow]
    eulers: list[EulerStep]
    params: ImageParams
    is_last: bool
    num_row_tokens: int
    first_row: int = 0
    completes: bool = True


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image whose noise must be drawn before its first step."""

    sequence_id: int
    image_index: int
    params: ImageParams


@dataclass(slots=True)
class Batch:
    """Everything the runner does in one step, in the order of the fields.

    ``load`` is what the step costs in the cost model's terms; ``is_divisible`` says that the step is long, and that decode steps of
    others shall be let through between its bits, or made beside it; ``bits_per_layer`` says into how many each layer is cut, 1 where
    nobody decodes; ``is_beside`` says that it is one of those made beside a long pass.
    ``copies`` are those still to be made: the runner takes each out of the list once it has.
    ``claims`` are what each sequence's rows will have added to the prefix cache: the scheduler's to settle, nothing to the runner.
    """

    copies: list[PageCopy] = field(default_factory=list)
    new_images: list[NewImage] = field(default_factory=list)
    decodes: list[DecodeRow] = field(default_factory=list)
    denoises: list[DenoiseStep] = field(default_factory=list)
    prefills: list[PrefillRow] = field(default_factory=list)
    load: Load = NO_LOAD
    is_divisible: bool = False
    bits_per_layer: int = 1
    is_beside: bool = False
    claims: dict[int, list[Claim]] = field(default_factory=dict)

    def claim(self, sequence_id: int, claims: list[Claim]) -> None:
        """Add to the claims of a sequence."""
        if claims:
            self.claims.setdefault(sequence_id, []).extend(claims)

    @property
    def is_empty(self) -> bool:
        return not (self.decodes or self.denoises or self.prefills)

    @property
    def waits_for_commit(self) -> bool:
        """Whether it cannot be said of all its draws what may be drawn before the step under way has been committed."""
        return any(row.draw.waits_for_commit for row in self.decodes)

    def sequence_ids(self) -> list[int]:
        """List the sequences with work in this batch, each once, in order."""
        ids = [row.sequence_id for row in self.decodes]
        ids += [step.sequence_id for step in self.denoises]
        ids += [row.sequence_id for row in self.prefills]
        return list(dict.fromkeys(ids))

    def query_tokens(self) -> dict[int, int]:
        """Count the query tokens of each sequence, the two markers of an image included."""
        counts = {row.sequence_id: 1 for row in self.decodes}
        for step in self.denoises:
            counts[step.sequence_id] = len(step.rows) * step.num_row_tokens
        for row in self.prefills:
            counts[row.sequence_id] = counts.get(row.sequence_id, 0) + sum(piece.num_rows for piece in row.pieces)
        return counts

    def restricted_to(self, sequence_ids: set[int]) -> Batch:
        """Return the part of this batch that belongs to ``sequence_ids``, to be run again after the whole failed.

        Page copies that the first attempt has made are no longer there: making them twice would undo what was written since. Others are
        in the same list for all parts: whichever is run first makes them.
        """
        return Batch(
            copies=self.copies,
            new_images=[new for new in self.new_images if new.sequence_id in sequence_ids],
            decodes=[row for row in self.decodes if row.sequence_id in sequence_ids],
            denoises=[step for step in self.denoises if step.sequence_id in sequence_ids],
            prefills=[row for row in self.prefills if row.sequence_id in sequence_ids],
        )


class DrawnToken(NamedTuple):
    token_id: int
    logprob: TokenLogprob | None = None


@dataclass(frozen=True, slots=True)
class PaintedPreview:
    """Rough picture ``preview`` of the image that ``sequence_id`` is drawing."""

    sequence_id: int
    preview: int
    picture: Picture


class LatePicture(Protocol):
    """A picture whose latents are done, decoded beside the steps once that has been begun."""

    def begin(self) -> None:
        """Begin to decode it; may be asked again where that has failed.

        Raises:
            RuntimeError: what the device raises.
        """
        ...

    def take(self) -> Picture | None:
        """Return it, None while it is not there; waits for nothing.

        Raises:
            RuntimeError: what the device raises.
        """
        ...


@dataclass(slots=True)
class BatchResult:
    """What a step brought, by sequence: drawn tokens and finished pictures; those in ``late`` are still to be decoded.

    ``broken`` are the sequences whose numbers are not finite, ``stopped`` those whose grammar cannot be followed any further, with what to
    say of it: nothing of theirs is among the rest.
    ``forward_s`` is the time in the transformer itself, on a GPU that of launching it, which nobody waits for; ``vae_s`` that of turning
    latents into pixels and ``execute_s`` that of the whole step on the device, in seconds; of a pass beside others what it would have been
    on the whole device, of which it had a part for ``beside_s``. ``previews`` may be of other steps, never of an earlier image.
    """

    tokens: dict[int, DrawnToken] = field(default_factory=dict)
    pictures: dict[int, Picture] = field(default_factory=dict)
    late: dict[int, LatePicture] = field(default_factory=dict)
    previews: list[PaintedPreview] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)
    stopped: dict[int, str] = field(default_factory=dict)
    num_und_tokens: int = 0
    num_gen_tokens: int = 0
    num_pictures_encoded: int = 0
    forward_s: float = 0.0
    vae_s: float = 0.0
    execute_s: float = 0.0
    beside_s: float = 0.0

    def take_in(self, part: BatchResult) -> None:
        """Add what another part of the same step brought."""
        self.tokens.update(part.tokens)
        self.pictures.update(part.pictures)
        self.late.update(part.late)
        self.previews += part.previews
        self.broken += part.broken
        self.stopped.update(part.stopped)
        self.num_und_tokens += part.num_und_tokens
        self.num_gen_tokens += part.num_gen_tokens
        self.num_pictures_encoded += part.num_pictures_encoded
        self.forward_s += part.forward_s
        self.vae_s += part.vae_s
        self.execute_s += part.execute_s
        self.beside_s += part.beside_s
