"""When pictures stand aside for words.

Words are short and somebody reads them as they come; a picture is long and of use when it is done. A machine that has been idle is not
short of time: what it was idle for, some seconds of it, it gives to words, one step after the other, as long as no picture takes more than
twice as long as alone; where steps are made beside a long pass, that goes on meanwhile with the processors they leave it. Out of the same
time words are let through after every bit of a prompt's long pass: a prompt waits for as many decode steps as it has bits, at most. Once
that is spent nothing stands aside, and words come as seldom as the inter-token target allows: what pictures would wait for words on a busy
machine, they would wait for each other too (`loadtests/results/mixed`).
"""

from __future__ import annotations

from collections import Counter

from server.engine.cost_model import NO_LOAD, CostModel
from server.engine.fairness import is_overdue, picture_tokens
from server.engine.loads import denoise_load
from server.engine.sequence import Sequence

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
        """Whether the machine has been idle for longer than words have taken since."""
        return self._idle_s > 0.0

    def holds(self, pictures: list[Sequence], step: int) -> bool:
        """Tell whether all of ``pictures`` stand aside in step ``step``."""
        return self.has_time and all(not is_overdue(one, step) and one.stood_aside_s < self._whole_s(one) for one in pictures)

    def note(self, pictures: list[Sequence], seconds: float) -> None:
        """Take in that ``pictures``, or prompts, have stood aside for a step."""
        for one in pictures:
            one.stood_aside_s += seconds
        self._idle_s = max(0.0, self._idle_s - seconds)

    def _whole_s(self, picture: Sequence) -> float:
        """Estimate the seconds of work that a picture is, what it has had included."""
        if picture.image is None:
            return (picture.request.image.num_timesteps - 1) * self._step_s(picture, 1)
        by_num_rows = Counter(len(step.computed) for step in picture.image.steps)
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
