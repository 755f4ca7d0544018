"""From a trace's turn to the engine's request, as the HTTP front would make it: history first, then the new message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from loadtests.traces.sessions import Drawing, Session
from model.config import BagelConfig
from model.transforms import resize_size
from server.messages import ImageParams, ImageSegment, OutputMode, Picture, Request, SamplingParams, Segment, TextSegment

OPERATOR_SEED = 0
NUM_ORDINARY_IDS = 256
"""Token ids from 0: the 256 bytes, which no tokenizer of this layout uses for anything else."""


@dataclass(slots=True)
class Conversation:
    """A session under way: which turn is next, and the ``answers`` so far, words and pictures as a client would send them again."""

    session: Session
    answers: list[list[Segment]] = field(default_factory=list)

    @property
    def turn_index(self) -> int:
        return len(self.answers)

    @property
    def is_over(self) -> bool:
        return self.turn_index == len(self.session.turns)

    def request_id(self) -> str:
        return f"{self.session.session_id}.{self.turn_index}"


Paint = Callable[[int, np.random.Generator], Picture]
"""(side, random stream) -> a square picture."""


def noise(side: int, rng: np.random.Generator) -> Picture:
    """Return a picture of noise."""
    return Picture(side, side, rng.integers(0, 256, 3 * side * side, dtype=np.uint8).tobytes())


def build_request(conversation: Conversation, config: BagelConfig, paint: Paint = noise) -> Request:
    """Make the request of the conversation's next turn, with its whole history.

    Args:
        conversation: what has been said so far.
        config: the model, whose grids fix how large pictures reach it.
        paint: makes the pictures of prompts.
    """
    session, turn = conversation.session, conversation.session.turns[conversation.turn_index]
    segments = _operators_words(session)
    for index in session.history(conversation.turn_index):
        segments += _message(session, session.first_asked(index), config, paint)
        segments += conversation.answers[index]
    first_asked = session.first_asked(conversation.turn_index)
    segments += _message(session, first_asked, config, paint)
    seed = session.seed + conversation.turn_index - first_asked
    sampling = SamplingParams(max_tokens=max(1, turn.answer_tokens), ignore_eos=True, seed=seed)
    return Request(
        request_id=conversation.request_id(),
        segments=segments,
        mode=_mode(turn.drawing, turn.answer_tokens),
        sampling=sampling,
        image=_image_params(turn.drawing, config, seed),
        tenant=session.tenant,
    )


def _mode(drawing: Drawing | None, answer_tokens: int) -> OutputMode:
    if drawing is None:
        return OutputMode.TEXT
    return OutputMode.ALTERNATE if answer_tokens else OutputMode.IMAGE


def _image_params(drawing: Drawing | None, config: BagelConfig, seed: int) -> ImageParams:
    if drawing is None:
        return ImageParams(config.latent_stride, config.latent_stride)
    return ImageParams(
        drawing.height,
        drawing.width,
        num_timesteps=drawing.num_timesteps,
        text_scale=drawing.text_scale,
        image_scale=drawing.image_scale,
        interval=drawing.interval,
        seed=seed,
        max_images=drawing.num_images,
    )


def _operators_words(session: Session) -> list[Segment]:
    """Make what the operator has every session begin with."""
    words = np.random.default_rng(OPERATOR_SEED).integers(NUM_ORDINARY_IDS, size=session.operator_tokens)
    return [TextSegment([int(word) for word in words])] if session.operator_tokens else []


def _message(session: Session, index: int, config: BagelConfig, paint: Paint) -> list[Segment]:
    """Make the user's message of turn ``index``: its pictures after the front's resizes, then its words.

    The VAE's copy of a picture goes along only where one will be drawn.
    """
    turn = session.turns[index]
    rng = np.random.default_rng([session.seed, index])
    will_draw = any(other.drawing is not None for other in session.turns)
    segments: list[Segment] = []
    for side in turn.picture_sides:
        vae_side, _ = resize_size(side, side, config.vae_transform)
        vit_side, _ = resize_size(vae_side, vae_side, config.vit_transform)
        segments.append(ImageSegment(vit=paint(vit_side, rng), vae=paint(vae_side, rng) if will_draw else None))
    words = rng.integers(NUM_ORDINARY_IDS, size=turn.prompt_tokens)
    return [*segments, TextSegment([int(word) for word in words])]
