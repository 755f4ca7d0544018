"""Who goes first: weighted least attained service over tenants and lanes, then the shortest remaining work.

Every tenant has an account of the seconds its sequences have had, divided by its weight, and below it one for each lane (text, picture), of
plain seconds. Accounts are compared in coarse steps: within one step two tenants, or two lanes, count as equals, and the sequence with
least left to do goes first, so that a short job does not wait behind a long one. A tenant that comes back starts level with the one that
has had least, so that nobody saves up for a monopoly; and once nobody was there all start level, since what is taken while nobody else
wants it is no debt.

Lanes weigh the same. Three to one for pictures, measured where people show pictures and ask about them, made pictures come no sooner than
separate engines make them, and first words as late as there: prompts waited until their patience was at an end.

The bound on starvation: a sequence passed over ``PATIENCE_STEPS`` times goes before all that have been served since, whatever their
priority. Every step serves the first in order, so among R running sequences each one that can be served gets work at least once in
``PATIENCE_STEPS + R`` steps.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from server.engine.segments import total_rows
from server.engine.sequence import Lane, Phase, Sequence

PATIENCE_STEPS = 32
"""With 64 the slowest first words of a crowded machine come later in most traffic (`loadtests/results/mixed`)."""
TENANT_QUANTUM_STEPS = 32.0
LANE_QUANTUM_STEPS = 128.0
"""Within so many typical steps' time, tenants, or the lanes of one, count as equal. With 8 for both, first words of a crowded machine come
later by a half (`loadtests/results/mixed`); the more for tenants, the longer one that asks for a lot of little can hold up another."""
MAX_LANE_CREDIT_STEPS = 8.0
"""So many typical steps beyond its quantum a lane without work can fall behind the other: it hardly saves up either."""
MAX_IDLE_ACCOUNTS = 1024
TYPICAL_STEP_MEMORY = 0.95


@dataclass(slots=True)
class Account:
    """Service had, in seconds over weight, each lane's in seconds, and how many live sequences draw on it."""

    service: float = 0.0
    num_live: int = 0
    lanes: dict[Lane, float] = field(default_factory=lambda: dict.fromkeys(Lane, 0.0))


class Shares:
    """The accounts of all tenants."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._step_s = 0.0
        self._num_live_tenants = 0
        self._level = 0.0

    def forget(self) -> None:
        """Begin anew; for when nobody is there."""
        assert not self._num_live_tenants, "accounts are in use"
        self._accounts.clear()
        self._step_s = self._level = 0.0

    def arrive(self, sequence: Sequence) -> None:
        """Open or wake the account of a sequence's tenant."""
        tenant = sequence.request.tenant
        account = self._accounts.setdefault(tenant, Account())
        self._accounts.move_to_end(tenant)
        if account.num_live == 0:
            account.service = max(account.service, self._least_service())
            self._num_live_tenants += 1
        account.num_live += 1

    def leave(self, sequence: Sequence) -> None:
        """Let an account rest with its last sequence; the longest idle ones are closed."""
        self._charge(sequence)
        account = self._accounts[sequence.request.tenant]
        account.num_live -= 1
        if account.num_live:
            return
        self._num_live_tenants -= 1
        if not self._num_live_tenants:
            self._level = max(other.service for other in self._accounts.values())
        idle = [tenant for tenant, other in self._accounts.items() if not other.num_live] if self._is_crowded() else []
        for tenant in idle[: len(self._accounts) - self._num_live_tenants - MAX_IDLE_ACCOUNTS]:
            del self._accounts[tenant]

    def _is_crowded(self) -> bool:
        return len(self._accounts) - self._num_live_tenants > MAX_IDLE_ACCOUNTS

    def settle(self, sequences: Iterable[Sequence]) -> None:
        """Put what the sequences have had since the last time on the accounts of their tenants and lanes."""
        for sequence in sequences:
            if sequence.unpaid_s:
                self._charge(sequence)

    def _charge(self, sequence: Sequence) -> None:
        account = self._accounts[sequence.request.tenant]
        seconds, sequence.unpaid_s = sequence.unpaid_s, 0.0
        account.service += seconds / sequence.request.weight
        account.lanes[sequence.lane] += seconds
        floor = account.lanes[sequence.lane] - (LANE_QUANTUM_STEPS + MAX_LANE_CREDIT_STEPS) * self._step_s
        for lane, service in account.lanes.items():
            account.lanes[lane] = max(service, floor)

    def note_step(self, seconds: float) -> None:
        """Take in how long a step of more than decode rows is, which sets how fine accounts are compared."""
        self._step_s = seconds if not self._step_s else TYPICAL_STEP_MEMORY * self._step_s + (1 - TYPICAL_STEP_MEMORY) * seconds

    def order(self, sequences: list[Sequence], step: int) -> list[Sequence]:
        """Sort sequences that could be served in step ``step``, the one to serve first in front."""
        if len(sequences) < 2:
            return sequences
        least = self._least_service()

        def key(sequence: Sequence) -> tuple[float, int, int, int, int, int]:
            account = self._accounts[sequence.request.tenant]
            return (
                sequence.last_served_step if is_overdue(sequence, step) else math.inf,
                -sequence.request.priority,
                self._lag(account.service - least, TENANT_QUANTUM_STEPS),
                self._lag(account.lanes[sequence.lane] - min(account.lanes.values()), LANE_QUANTUM_STEPS),
                remaining_tokens(sequence),
                sequence.sequence_id,
            )

        return sorted(sequences, key=key)

    def _lag(self, seconds: float, quantum_steps: float) -> int:
        return int(seconds / (quantum_steps * self._step_s)) if self._step_s else 0

    def _least_service(self) -> float:
        return min((account.service for account in self._accounts.values() if account.num_live), default=self._level)


def is_overdue(sequence: Sequence, step: int) -> bool:
    """Tell whether a sequence has been passed over so often that it goes first, whoever else there is."""
    return step - sequence.last_served_step > PATIENCE_STEPS


def remaining_tokens(sequence: Sequence) -> int:
    """Estimate the query tokens a sequence still needs before its text begins or its picture is done, Euler steps in every branch."""
    missing = sum(total_rows(fill.segments) + len(fill.open_ids) - fill.context.kv_len for fill in sequence.fills)
    if sequence.phase is Phase.WAITING:
        missing = total_rows(sequence.history)
    if sequence.image is not None:
        num_rows = sequence.image.num_rows_left
    else:
        num_rows = sequence.request.image.num_timesteps - 1 if sequence.lane is Lane.PICTURE else 0
    return missing + num_rows * picture_tokens(sequence)


def picture_tokens(sequence: Sequence) -> int:
    """Return the latent tokens of a sequence's picture, at the usual stride: estimates are made of them."""
    return sequence.request.image.height * sequence.request.image.width // 256
