"""What sessions ask for: shares of each kind and ranges of their sizes, for a model of a given size.

The shares are kept exactly, not on average, and each kind has a random stream of its own: a short trace is as mixed as a long one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from loadtests.traces.arrivals import Arrivals, arrival_times
from loadtests.traces.sessions import Drawing, Kind, Session, Trace, Turn

ItemT = TypeVar("ItemT")

TENANTS = ("amber", "birch", "cedar")
TENANT_SHARES = (0.6, 0.3, 0.1)


@dataclass(frozen=True, slots=True)
class Range:
    """Whole numbers from ``low`` to ``high``, their logarithm even."""

    low: int
    high: int

    def draw(self, rng: np.random.Generator) -> int:
        return min(self.high, round(math.exp(rng.uniform(math.log(self.low), math.log(self.high + 1)))))


ONCE = Range(1, 1)


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares and sizes of a traffic mix.

    Attributes:
        shares: how many sessions of a hundred are of each kind.
        prompt_tokens, answer_tokens: words of a message and of an answer.
        turns: requests of a chat.
        pictures: pictures a picture chat opens with; one more may come with each turn.
        sides: (height, width) of drawn pictures, each as likely, in pixels.
        picture_side: side of pictures in prompts, in pixels.
        timesteps: T of each drawn picture, each as likely.
        edits: requests of an editing session, each about the picture that the one before brought.
        story_images: pictures of a story.
        pause_s: mean pause between the turns of a session.
        operator_tokens: words of the operator's that every session with words in its answers begins with.
        asks: how often a picture or an edit is asked for before the user goes on with the last one.
    """

    shares: dict[Kind, int]
    prompt_tokens: Range
    answer_tokens: Range
    turns: Range
    pictures: Range
    sides: tuple[tuple[int, int], ...]
    picture_side: int
    timesteps: tuple[int, ...]
    edits: Range
    story_images: Range
    pause_s: float
    operator_tokens: int = 0
    asks: Range = ONCE

    @classmethod
    def named(cls, name: str) -> Mix:
        """Return the mix for a model of the size called ``tiny``, ``mid`` or ``bagel-7b``.

        Raises:
            ValueError: no such mix.
        """
        if name not in MIXES:
            raise ValueError(f"no traffic mix is called {name!r}; known are {', '.join(MIXES)}")
        return MIXES[name]

    @classmethod
    def names_for(cls, size: str) -> list[str]:
        """Return the names of the mixes for a model of the size called ``size``."""
        return [name for name in MIXES if name == size or name.startswith(f"{size}-")]


SHARES = {Kind.CHAT: 45, Kind.PICTURE_CHAT: 15, Kind.TEXT_TO_IMAGE: 20, Kind.EDIT: 10, Kind.STORY: 10}
"""Mostly words, with enough pictures that they are most of the work, as on a server for both."""

MIXES = {
    "tiny": Mix(
        SHARES,
        Range(4, 12),
        Range(3, 8),
        Range(1, 3),
        Range(1, 2),
        ((32, 32), (32, 48)),
        64,
        (4, 5),
        Range(1, 2),
        Range(1, 2),
        0.01,
    ),
    "mid": Mix(
        SHARES,
        Range(16, 160),
        Range(24, 96),
        Range(2, 4),
        Range(1, 2),
        ((128, 128), (192, 192), (256, 256), (192, 256)),
        256,
        (13, 17),
        Range(1, 4),
        Range(2, 4),
        0.5,
    ),
    "bagel-7b": Mix(
        SHARES,
        Range(32, 2000),
        Range(64, 800),
        Range(2, 6),
        Range(1, 4),
        ((512, 512), (768, 768), (1024, 1024), (768, 1024)),
        512,
        (25, 50),
        Range(1, 4),
        Range(2, 4),
        15.0,
    ),
}
"""Sizes in proportion to the model: a picture of the mid mix is to its decode step what one of the last is to BAGEL-7B's."""

MIXES |= {
    "mid-assistant": replace(
        MIXES["mid"],
        shares={Kind.CHAT: 60, Kind.PICTURE_CHAT: 25, Kind.TEXT_TO_IMAGE: 10, Kind.EDIT: 5},
        operator_tokens=128,
        turns=Range(2, 8),
        asks=Range(1, 3),
    ),
    "mid-looking": replace(
        MIXES["mid"],
        shares={Kind.CHAT: 25, Kind.PICTURE_CHAT: 60, Kind.TEXT_TO_IMAGE: 10, Kind.EDIT: 5},
        operator_tokens=128,
        turns=Range(2, 8),
        pictures=Range(1, 4),
    ),
    "mid-studio": replace(
        MIXES["mid"],
        shares={Kind.CHAT: 10, Kind.TEXT_TO_IMAGE: 45, Kind.EDIT: 35, Kind.STORY: 10},
        operator_tokens=128,
        edits=Range(2, 6),
        asks=Range(1, 4),
    ),
}
"""Other traffic for the mid-size model, each an assumption about who comes: people who talk, who show pictures and ask about them, and who
draw. Where the sizes come from is said in `loadtests/results/simulate/README.md`; none was chosen by what it makes of a comparison."""

TEXT_TO_IMAGE = Drawing(0, 0, 0, text_scale=4.0, image_scale=1.5, interval=(0.4, 1.0))
"""Guidance of pictures from words: the defaults of BAGEL's demo application and of vLLM-Omni."""
EDIT = replace(TEXT_TO_IMAGE, image_scale=2.0, interval=(0.0, 1.0))
"""Guidance of edits: the demo application's (spec 6.4)."""


def make_trace(mix: Mix, arrivals: Arrivals, num_sessions: int, horizon_s: float, seed: int) -> Trace:
    """Draw a trace; equal arguments give equal traces."""
    rng = np.random.default_rng([seed, 0])
    kinds = _shuffled(_apportion(list(mix.shares), list(mix.shares.values()), num_sessions), rng)
    tenants = _shuffled(_apportion(TENANTS, TENANT_SHARES, num_sessions), rng)
    times = arrival_times(arrivals, num_sessions, horizon_s, rng)
    streams = {kind: np.random.default_rng([seed, 1 + index]) for index, kind in enumerate(Kind)}
    sessions = [
        Session(index, kind, tenant, time, seed * 1_000_003 + index, _turns(kind, mix, streams[kind]), _operator_tokens(kind, mix))
        for index, (kind, tenant, time) in enumerate(zip(kinds, tenants, times, strict=True))
    ]
    return Trace(seed, horizon_s, tuple(sessions))


def _apportion(items: Sequence[ItemT], shares: Sequence[float], num: int) -> list[ItemT]:
    """Repeat each item in proportion to its share, ``num`` in all; what does not divide goes to the largest remainders."""
    exact = [num * share / sum(shares) for share in shares]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(items)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: num - sum(counts)]:
        counts[index] += 1
    return [item for item, count in zip(items, counts, strict=True) for _ in range(count)]


def _shuffled(items: list[ItemT], rng: np.random.Generator) -> list[ItemT]:
    return [items[index] for index in rng.permutation(len(items))]


def _operator_tokens(kind: Kind, mix: Mix) -> int:
    """Return the operator's words before a session: none where a picture is all that is asked for."""
    return 0 if kind in (Kind.TEXT_TO_IMAGE, Kind.EDIT) else mix.operator_tokens


def _turns(kind: Kind, mix: Mix, rng: np.random.Generator) -> tuple[Turn, ...]:
    match kind:
        case Kind.CHAT | Kind.PICTURE_CHAT:
            return tuple(_chat_turn(kind, mix, rng, is_first=index == 0) for index in range(mix.turns.draw(rng)))
        case Kind.TEXT_TO_IMAGE:
            return _asked(Turn(mix.prompt_tokens.draw(rng), (), 0, _drawing(TEXT_TO_IMAGE, mix, rng), 0.0), mix, rng)
        case Kind.EDIT:
            drawing = replace(_drawing(EDIT, mix, rng), height=mix.picture_side, width=mix.picture_side)
            edits = [_edit_turn(drawing, mix, rng, is_first=index == 0) for index in range(mix.edits.draw(rng))]
            return tuple(turn for edit in edits for turn in _asked(edit, mix, rng))
        case Kind.STORY:
            drawing = replace(_drawing(TEXT_TO_IMAGE, mix, rng), num_images=mix.story_images.draw(rng))
            answer_tokens = mix.answer_tokens.draw(rng) * (drawing.num_images + 1)
            return (Turn(mix.prompt_tokens.draw(rng), (), answer_tokens, drawing, 0.0),)


def _chat_turn(kind: Kind, mix: Mix, rng: np.random.Generator, *, is_first: bool) -> Turn:
    num_pictures = 0
    if kind is Kind.PICTURE_CHAT:
        num_pictures = mix.pictures.draw(rng) if is_first else int(rng.integers(2))
    sides = (mix.picture_side,) * num_pictures
    return Turn(mix.prompt_tokens.draw(rng), sides, mix.answer_tokens.draw(rng), None, _pause(mix, rng, is_first=is_first))


def _edit_turn(drawing: Drawing, mix: Mix, rng: np.random.Generator, *, is_first: bool) -> Turn:
    sides = (mix.picture_side,) if is_first else ()
    return Turn(mix.prompt_tokens.draw(rng), sides, 0, drawing, _pause(mix, rng, is_first=is_first))


def _asked(turn: Turn, mix: Mix, rng: np.random.Generator) -> tuple[Turn, ...]:
    """Return the turns of somebody who asks for a picture until it pleases."""
    times = 1 if mix.asks == ONCE else mix.asks.draw(rng)
    return (turn, *(replace(turn, again=True, pause_s=_pause(mix, rng, is_first=False)) for _ in range(times - 1)))


def _pause(mix: Mix, rng: np.random.Generator, *, is_first: bool) -> float:
    return 0.0 if is_first else float(rng.exponential(mix.pause_s))


def _drawing(guidance: Drawing, mix: Mix, rng: np.random.Generator) -> Drawing:
    height, width = mix.sides[rng.integers(len(mix.sides))]
    return replace(guidance, height=height, width=width, num_timesteps=mix.timesteps[rng.integers(len(mix.timesteps))])
