"""What a session asks of a machine, in seconds, for the coarse model: its turns as stages of words and pictures, by the fitted costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from loadtests.traces.sessions import Drawing, Session, Turn
from loadtests.virtual.costs import Costs
from model.config import BagelConfig
from model.flow import schedule
from model.transforms import resize_size
from server.engine.cost_model import NO_LOAD, Load
from server.engine.segments import NUM_MARKERS

NUM_TEXT_MARKERS = 2
"""Begin and end of a text."""
TIMESTEP_SHIFT = 3.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A text or a picture of an answer.

    Attributes:
        is_picture: whether it is a picture.
        cold_s, warm_s: seconds to prefill what it needs, without and with the history in the prefix cache.
        num_steps: words, or Euler steps.
        step_s: seconds that each adds to a step of the engine.
        tail_s: seconds at its end: the VAE's decoder.
    """

    is_picture: bool
    cold_s: float
    warm_s: float
    num_steps: int
    step_s: float
    tail_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Demand:
    """One request: its stages, the rows its context holds at the end, and the user's pause before it."""

    stages: tuple[Stage, ...]
    num_rows: int
    pause_s: float

    @property
    def seconds(self) -> float:
        """What it costs in all on a machine that knows nothing of it, steps' fixed cost apart."""
        return sum(stage.cold_s + stage.num_steps * stage.step_s + stage.tail_s for stage in self.stages)


class DemandReader:
    """Reads sessions for a model and its costs on a machine."""

    def __init__(self, config: BagelConfig, costs: Costs) -> None:
        self._config = config
        self._costs = costs

    @property
    def fixed_s(self) -> float:
        """Seconds of a step of words but for its rows."""
        return self._costs.seconds.steps + self._costs.overhead_s

    @property
    def mixed_s(self) -> float:
        """Seconds that a step with anything else takes besides."""
        return self._costs.seconds.mixed + self._costs.seconds.gen_steps

    def demands(self, session: Session) -> tuple[Demand, ...]:
        """Return the demand of each turn."""
        demands = []
        kv_len, num_pictures, drawn_s = (session.operator_tokens + NUM_TEXT_MARKERS if session.operator_tokens else 0), 0, 0.0
        before = kv_len, num_pictures, drawn_s
        will_draw = any(turn.drawing is not None for turn in session.turns)
        for turn in session.turns:
            if turn.again:
                kv_len, num_pictures, drawn_s = before
            before = kv_len, num_pictures, drawn_s
            message = self._message(turn, kv_len, will_draw=will_draw)
            history_s = self._seconds(_text(kv_len, 0)) if kv_len else 0.0
            num_pictures += len(turn.picture_sides)
            walk = _Walk(kv_len + _rows(message), num_pictures, self._seconds(message) + drawn_s)
            stages = self._stages(turn, walk, history_s)
            kv_len, num_pictures = walk.kv_len, walk.num_pictures
            drawn_s = walk.prefill_s if stages[-1].is_picture else 0.0
            demands.append(Demand(tuple(stages), kv_len, turn.pause_s))
        return tuple(demands)

    def _stages(self, turn: Turn, walk: _Walk, history_s: float) -> list[Stage]:
        drawing = turn.drawing
        num_images = 0 if drawing is None else drawing.num_images
        has_words = turn.answer_tokens > 0
        num_texts = num_images + 1 if has_words else 0
        stages: list[Stage] = []
        for index in range(max(num_texts, num_images)):
            if has_words:
                stages.append(self._words(-(-turn.answer_tokens // num_texts), walk, history_s))
                history_s = 0.0
            if drawing is not None and index < num_images:
                stages.append(self._picture(drawing, walk, history_s))
                history_s = 0.0
        return stages

    def _words(self, num_tokens: int, walk: _Walk, history_s: float) -> Stage:
        per_token = Load(0, und_tokens=1, rows=1, pairs=walk.kv_len + num_tokens / 2, keys=walk.kv_len + num_tokens / 2)
        stage = Stage(False, walk.prefill_s + history_s, walk.prefill_s, num_tokens, self._seconds([per_token]))
        walk.kv_len += num_tokens + NUM_TEXT_MARKERS
        walk.prefill_s = self._seconds(_text(1, walk.kv_len))
        return stage

    def _picture(self, drawing: Drawing, walk: _Walk, history_s: float) -> Stage:
        """Make the stage of a picture and leave what its way back into the context costs to the next."""
        times, _ = schedule(drawing.num_timesteps, TIMESTEP_SHIFT)
        num_rows = sum(_num_rows(drawing, float(time), has_pictures=walk.num_pictures > 0) for time in times) / len(times)
        stride = self._config.latent_stride
        num_latents = (drawing.height // stride) * (drawing.width // stride)
        num = num_latents + NUM_MARKERS
        row = Load(0, und_tokens=NUM_MARKERS, gen_tokens=num_latents, rows=1, pairs=num * (walk.kv_len + num))
        tail_s = self._seconds([Load(0, decoded_pixels=drawing.height * drawing.width)])
        stage = Stage(True, walk.prefill_s + history_s, walk.prefill_s, len(times), num_rows * self._seconds([row]), tail_s)
        encoded = self._encoded(drawing.height, drawing.width, walk.kv_len, will_draw=True)
        walk.kv_len += _rows(encoded)
        walk.num_pictures += 1
        walk.prefill_s = self._seconds(encoded)
        return stage

    def _message(self, turn: Turn, kv_len: int, *, will_draw: bool) -> list[Load]:
        parts: list[Load] = []
        for side in turn.picture_sides:
            parts += self._encoded(side, side, kv_len + _rows(parts), will_draw=will_draw)
        return parts + _text(turn.prompt_tokens + NUM_TEXT_MARKERS, kv_len + _rows(parts))

    def _encoded(self, height: int, width: int, kv_len: int, *, will_draw: bool) -> list[Load]:
        """Return the work of taking in a picture: the VAE's segment where one will be drawn, then the ViT's."""
        config = self._config
        vae = resize_size(width, height, config.vae_transform)
        vit = resize_size(*vae, config.vit_transform)
        parts: list[Load] = []
        if will_draw:
            num = (vae[0] // config.latent_stride) * (vae[1] // config.latent_stride) + NUM_MARKERS
            gen = num - NUM_MARKERS
            parts.append(Load(0, und_tokens=NUM_MARKERS, gen_tokens=gen, pairs=num * (kv_len + num), encoded_pixels=vae[0] * vae[1]))
            kv_len += num
        num = (vit[0] // config.vit.patch_size) * (vit[1] // config.vit.patch_size) + NUM_MARKERS
        return [*parts, Load(0, und_tokens=num, pairs=num * (kv_len + num), encoded_pixels=vit[0] * vit[1])]

    def _seconds(self, parts: list[Load]) -> float:
        return self._costs.of(reduce(Load.joined, parts, NO_LOAD))


@dataclass(slots=True)
class _Walk:
    """Where a turn's stages have come to: rows and pictures in the context, and what the next stage has to prefill."""

    kv_len: int
    num_pictures: int
    prefill_s: float


def _text(num_tokens: int, kv_len: int) -> list[Load]:
    return [Load(0, und_tokens=num_tokens, rows=1, pairs=num_tokens * kv_len + num_tokens * (num_tokens + 1) / 2)]


def _rows(parts: list[Load]) -> int:
    """Count the rows that parts of a prompt add to the cache."""
    return int(sum(part.und_tokens + part.gen_tokens for part in parts))


def _num_rows(drawing: Drawing, time: float, *, has_pictures: bool) -> int:
    """Count the rows of an Euler step: without pictures in the context, dropping them changes nothing and costs nothing."""
    low, high = drawing.interval
    if drawing.text_scale <= 1.0 or not low < time <= high:
        return 1
    return 2 + (drawing.image_scale > 1.0 and has_pictures)
