"""When pictures stand aside for words.

Words are short and somebody reads them as they come; a picture is long and of use when it is done. So words go first, at their full
pace, as long as that costs pictures less than an even share of the machine would: a picture stands aside for at most 0.7 times as long as
it still has work of its own to do. (With an even share, where people show pictures and few draw, a first picture came after 0.78 of the
time that separate engines take; so it comes after 0.73.) Where pictures queue the machine may be short of time, and they stand aside for
less: two for half as long, three or more not at all. Then words come as seldom as the inter-token target allows. But a machine that has
been idle is not short of time: what it was idle for lately it may give to words, whoever queues, as long as no picture takes more than
twice as long as alone. Out of the same time words are let through after every bit of a prompt's long pass: a prompt waits for as many
decode steps as it has bits, at most.
"""

from __future__ import annotations

from collections import Counter

from server.engine.cost_model import NO_LOAD, CostModel
from server.engine.fairness import is_overdue, picture_tokens
from server.engine.image_steps import EulerStep
from server.engine.loads import denoise_load
from server.engine.sequence import Sequence

SHARE_OF_REST = {1: 0.7, 2: 0.35}
"""How much of its remaining work a picture may stand aside for, by the number of pictures there are."""
MAX_IDLE_S = 5.0
"""So much idleness is remembered."""


class WordsFirst:
    """Decides it from the pictures under way and the time each has stood aside so far."""

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._idle_s = 0.0

    def note_idle(self, seconds: float) -> None:
        """Take in that the machine has had nothing to do."""
        self._idle_s = min(MAX_IDLE_S, self._idle_s + seconds)

    @property
    def has_time(self) -> bool:
        """Whether the machine was idle lately, for longer than words have taken since."""
        return self._idle_s > 0.0

    def holds(self, pictures: list[Sequence], num_waiting: int, step: int) -> bool:
        """Tell whether all of ``pictures`` stand aside in step ``step``, while ``num_waiting`` others have not even begun."""
        if any(is_overdue(one, step) for one in pictures):
            return False
        if self.has_time:
            return all(one.stood_aside_s < self._whole_s(one) for one in pictures)
        share = SHARE_OF_REST.get(len(pictures) + num_waiting, 0.0)
        return all(one.stood_aside_s < share * self._rest_s(one) for one in pictures)

    def note(self, pictures: list[Sequence], seconds: float) -> None:
        """Take in that ``pictures``, or prompts, have stood aside for a step."""
        for one in pictures:
            one.stood_aside_s += seconds
        self._idle_s = max(0.0, self._idle_s - seconds)

    def _whole_s(self, picture: Sequence) -> float:
        """Estimate the seconds of work that a picture is, what it has had included."""
        image = picture.image
        return self._rest_s(picture) if image is None else self._steps_s(picture, image.steps)

    def _rest_s(self, picture: Sequence) -> float:
        """Estimate the seconds of work that a picture still needs, with a machine to itself."""
        image = picture.image
        if image is not None:
            return self._steps_s(picture, image.steps[image.step :])
        return (picture.request.image.num_timesteps - 1) * self._step_s(picture, 1)

    def _steps_s(self, picture: Sequence, steps: list[EulerStep]) -> float:
        by_num_rows = Counter(len(step.computed) for step in steps)
        return sum(num_steps * self._step_s(picture, num_rows) for num_rows, num_steps in by_num_rows.items())

    def _step_s(self, picture: Sequence, num_rows: int) -> float:
        """Estimate the seconds of an Euler step of ``num_rows`` rows.

        By what the cost model foresees of such a step: what it holds a token for says little, since tokens and pairs come together.
        """
        row = denoise_load(picture_tokens(picture), picture.full.kv_len)
        load = NO_LOAD
        for _ in range(num_rows):
            load = load.joined(row)
        return self._cost.predict(load)
