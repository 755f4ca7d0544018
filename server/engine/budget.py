"""How much goes into a step: goals instead of constants.

While somebody decodes, a step should not take longer than what is left of the inter-token target since the last token; when nobody does,
or in a long pass, it should be just long enough that the fixed cost of a step does not matter, so that what is nearly done is done soon.
Without a target a step is filled to ``max_batch_tokens``.

A denoise step or a picture of the prompt cannot be cut along its tokens. When it does not fit the target there are two ways, and the cost
model chooses the one that gets more done:

    ride     rows of one Euler step in several passes, each within the target, decode rows riding along in every one
    divide   all rows in one long pass without decode rows; decode steps are let through as the target demands: between its bits, parts
             of a layer, or on some of the processors, beside it
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from server.engine.beside_cost import BesideCost, StepCosts
from server.engine.cost_model import NO_LOAD, NUM_STEPS_TRUSTED_BLINDLY, SHORTEST_S, CostModel, Load
from server.engine.decode_pace import DecodePace
from server.engine.loads import row_load, text_load
from server.engine.options import ModelFacts, SchedulerLimits

FIXED_COST_SHARE = 0.1
"""What share of a step its fixed cost may be before more rows are put in to outweigh it. Pictures that share their passes are all done when
the last is; one after the other they are done sooner on average, for at most so much of their pace."""
DIVIDING_GAIN = 1.05
"""How much faster dividing must be than riding to be chosen."""
LONE_TARGETS = 2.0
"""How many targets a pass may take undivided where steps run ahead and nobody decodes: divided, it would not, and the device would wait for
the host before each. Whoever comes meanwhile may wait for two."""
BIT_SHARE = 0.2
"""How much of the target one bit of the longest passes takes, cut as finely as can be: no pass is made longer than that."""
CUT_SHARE = 0.2
"""What a cut within a layer costs, of that layer's share of a step's fixed cost: weights are read again, if from nearer by. Blocks of 64,
128 and 256 tokens make a pass of 512 latents 12, 5 and 3 % longer, on two CPU cores."""
MIN_WAIT_SHARE = 0.1
"""Below this share of the target, the time since the last token is not worth a decode step of its own."""
PROMPT_PIECE = Load(1, 1, und_tokens=16, rows=1)
"""The least of a prompt that is worth a place in a step."""
PLANNED_SHARE, LATEST_SHARE = 1.05, 1.1
"""How long a gap between two tokens may be planned, as shares of the target: with a decode step as slow as few are, and with one as slow
as they hardly ever are. What comes up to it is early by half a bit on average; beside a pass nothing is, and the first is 1."""


@dataclass(slots=True)
class StepBudget:
    """What the step being made may still take on.

    Attributes:
        tokens: query tokens left; one atomic piece may exceed them in a step that holds nothing yet.
        seconds: when the step must be over; infinite without a target.
        fixed_share: the step is long enough where its fixed cost is no more than this share of it; 0 where it never is.
        is_shared: what is in it already is another's, so that a prompt that joins makes it no longer than it must be.
        load: what is in the step.
    """

    cost: CostModel | BesideCost
    tokens: int
    seconds: float
    fixed_share: float
    load: Load = NO_LOAD
    is_untouched: bool = True
    is_shared: bool = False

    @property
    def is_spent(self) -> bool:
        return self.tokens <= 0 or not (self.is_untouched or self.cost.predict(self.load) < self._enough_s)

    @property
    def _enough_s(self) -> float:
        """How long a step with as much fixed cost as this one should be, in seconds."""
        return self.cost.fixed_s(self.load) / self.fixed_share if self.fixed_share else math.inf

    def take(self, load: Load, num_tokens: int) -> None:
        """Count ``load`` into the step."""
        self.load = self.load.joined(load)
        self.tokens -= num_tokens
        self.is_untouched = False

    def fits(self, load: Load) -> bool:
        """Tell whether the step would still be over in time with ``load`` in it."""
        return self.cost.predict(self.load.joined(load)) <= self.seconds

    def take_rows(self, loads: list[Load]) -> int:
        """Count in the rows of one picture, all or none; into a step that holds nothing yet as many as fit its time, at least one."""
        whole = NO_LOAD
        for load in loads:
            whole = whole.joined(load)
        if _num_tokens(whole) <= self.tokens and self.fits(whole):
            self.take(whole, _num_tokens(whole))
            return len(loads)
        if not self.is_untouched:
            return 0
        count = 0
        while count < len(loads) and (not count or self.fits(loads[count])):
            self.take(loads[count], _num_tokens(loads[count]))
            count += 1
        return count

    def tokens_for_text(self, kv_len: int) -> int:
        """Return how many tokens of a prompt that stands at ``kv_len`` rows fit, by what is foreseen of a step with them in it."""
        seconds = min(self.seconds, self._enough_s) if self.is_shared else self.seconds
        if math.isinf(seconds):
            return self.tokens
        row, most = self.load.joined(row_load(kv_len)), max(self.tokens, 0)

        def step_s(num: int) -> float:
            return self.cost.predict(row.joined(text_load(num, kv_len)))

        # Most prompts fit whole or not at all: those two are asked first.
        if step_s(1) > seconds:
            return int(self.is_untouched)
        return most if step_s(most) <= seconds else bisect_right(range(1, most), seconds, key=step_s)


class Goals:
    """Sets the budget of each step from the target and the cost model."""

    def __init__(self, limits: SchedulerLimits, costs: StepCosts, pace: DecodePace, facts: ModelFacts) -> None:
        self._limits = limits
        self._costs = costs
        self._cost = costs.alone
        self._beside = costs.beside
        self._pace = pace
        self._num_layers = facts.num_layers
        self._most_bits = facts.most_bits
        self._lone_targets = LONE_TARGETS if facts.runs_ahead else 1.0

    @property
    def has_target(self) -> bool:
        return self._limits.inter_token_target_s is not None

    def target_s(self, decodes: Load) -> float:
        """Return the inter-token target that can be kept beside ``decodes``, in seconds."""
        wanted = self._limits.inter_token_target_s
        if wanted is None:
            return math.inf
        return max(wanted, self._limits.min_target_decodes * self._cost.predict(decodes))

    def due_s(self, decodes: Load, last_token_s: float) -> float:
        """Return when the next decode step must begin to be done within the target."""
        return last_token_s + self._between_s(decodes)

    def _between_s(self, decodes: Load) -> float:
        """Return how much of the time between two tokens may pass before the decode step of the second begins."""
        target_s = self.target_s(decodes)
        planned_share = 1.0 if self._costs.are_beside else PLANNED_SHARE
        return min(planned_share * target_s - self._pace.planned_s(decodes), LATEST_SHARE * target_s - self._pace.slowest_s(decodes))

    def prompt_budget(self, seconds: float) -> StepBudget:
        """Return the budget of a step of prompt chunks alone that is let through a long pass and over in ``seconds``."""
        return StepBudget(self._beside, self._limits.max_batch_tokens, seconds, 0.0)

    def has_room_for_prompt(self, seconds: float) -> bool:
        """Tell whether a piece of a prompt worth its step, let through a long pass, fits into ``seconds``."""
        return self._beside.predict(PROMPT_PIECE) <= seconds

    def bits_per_layer(self, load: Load, decodes: Load, num_decodes: int) -> int:
        """Return into how many bits each layer of a divided pass is cut, so that the least time is lost.

        A decode step that is let through before a bit comes half a bit early on average, and what it is early is lost to the pass; each
        cut costs something too. Of a time ``free`` between two decode steps, bits of ``bit`` lose ``bit / (2 free) + cut / bit``.
        """
        if not num_decodes or self._costs.are_beside:
            return 1
        cut_s = CUT_SHARE * self._cost.fixed_s(decodes) / self._num_layers
        free_s = max(SHORTEST_S, self.target_s(decodes) - self._cost.predict(decodes))
        return max(1, min(self._most_bits, math.ceil(self._layer_s(load) / math.sqrt(2.0 * cut_s * free_s))))

    def bit_s(self, load: Load, bits_per_layer: int) -> float:
        """Return how long one bit of a divided pass with ``load`` should take: no time where steps are made beside it."""
        return 0.0 if self._costs.are_beside else self._layer_s(load) / bits_per_layer

    def _layer_s(self, load: Load) -> float:
        """Return how long a layer of a pass with ``load`` should take; encoders and the decoder are no part of any."""
        return self._cost.predict(load._replace(encoded_pixels=0.0, decoded_pixels=0.0)) / self._num_layers

    def budget(self, decodes: Load, num_decodes: int, waited_s: float) -> StepBudget:
        """Return the budget of a step in which ``decodes`` ride, ``waited_s`` after the last token."""
        tokens = max(1, self._limits.max_batch_tokens - num_decodes)
        seconds = PLANNED_SHARE * (self.target_s(decodes) - waited_s) if num_decodes else math.inf
        return StepBudget(self._cost, tokens, seconds, self._fixed_share, decodes)

    def divided_budget(self, decodes: Load, num_decodes: int) -> StepBudget:
        """Return the budget of a long pass without decode rows, whose bits leave the target room for them."""
        most_bits = self._num_layers * self._most_bits
        seconds = most_bits * BIT_SHARE * self.target_s(decodes) if num_decodes else math.inf
        return StepBudget(self._cost, self._limits.max_batch_tokens, seconds, self._fixed_share)

    @property
    def _fixed_share(self) -> float:
        is_foreseen = self.has_target and self._cost.num_observed >= NUM_STEPS_TRUSTED_BLINDLY
        return FIXED_COST_SHARE if is_foreseen else 0.0

    def should_divide(self, first: list[Load], decodes: Load, num_decodes: int, waited_s: float) -> bool:
        """Tell whether the work that comes first, as atomic rows, had better go into a long pass of its own."""
        if not self.has_target or not first:
            return False
        predict = self._cost.predict
        whole = NO_LOAD
        for load in first:
            whole = whole.joined(load)
        target_s = self.target_s(decodes)
        if not num_decodes:
            return predict(whole) > self._lone_targets * target_s
        left_s = PLANNED_SHARE * (target_s - waited_s)
        if predict(decodes.joined(whole)) <= left_s:
            return False
        fresh_s = PLANNED_SHARE * target_s
        num_riding, riding = 0, decodes
        for load in first:
            if predict(riding.joined(load)) > fresh_s:
                break
            num_riding, riding = num_riding + 1, riding.joined(load)
        if not num_riding:
            return True
        riding_rate = num_riding / predict(riding)
        taken_share = min(1.0, self._beside.predict(decodes) / target_s) * (self._costs.share_of_steps or 1.0)
        dividing_rate = len(first) / predict(whole) * (1.0 - taken_share)
        return dividing_rate > DIVIDING_GAIN * riding_rate

    def must_wait(self, first: list[Load], decodes: Load, waited_s: float) -> bool:
        """Tell whether the work that comes first fits into a step right after a token, but not into what is left of this target."""
        target_s = self.target_s(decodes)
        if waited_s <= MIN_WAIT_SHARE * target_s:
            return False
        seconds = self._cost.predict(decodes.joined(first[0] if first else PROMPT_PIECE))
        return PLANNED_SHARE * (target_s - waited_s) < seconds <= PLANNED_SHARE * target_s


def _num_tokens(load: Load) -> int:
    return int(load.und_tokens + load.gen_tokens)
