"""What the prefix cache saves: the second turn of a chat whose first message holds four pictures, with the cache and without."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

from loadtests.comparison.engines import Bench
from loadtests.replays.clock import WorkingClock
from loadtests.replays.replay import Replay
from loadtests.replays.timeline import Record
from loadtests.traces.sessions import Kind, Session, Trace, Turn

NUM_PICTURES = 4
PROMPT_TOKENS, ANSWER_TOKENS = 32, 16


@dataclass(frozen=True, slots=True)
class SecondTurn:
    """Medians over a few chats: seconds to the first word of each turn, and query tokens the second turn's prompt took."""

    has_prefix_cache: bool
    first_turn_s: float
    second_turn_s: float
    second_turn_prefilled: float


def measure_second_turn(bench: Bench, side: int, num_chats: int, *, has_prefix_cache: bool) -> SecondTurn:
    """Replay ``num_chats`` chats with pictures of ``side`` pixels, one after the other, on one engine."""
    policy = bench.plait(replace(bench.options, has_prefix_cache=has_prefix_cache)).policy
    waits: list[tuple[float, float]] = []
    prefilled: list[int] = []
    for number in range(num_chats):
        replayed = Replay(Trace(0, 0.0, (_chat(number, side),)), policy, bench.config, WorkingClock(), bench.refeed).run()
        first, second = replayed.records
        waits.append((_first_token(first), _first_token(second)))
        prefilled.append(sum(step.num_prefill_tokens for step in replayed.steps) - _prompt_rows(first))
    return SecondTurn(has_prefix_cache, median(first for first, _ in waits), median(second for _, second in waits), median(prefilled))


def _first_token(record: Record) -> float:
    assert record.first_token_s is not None, "a chat answers in words"
    return record.first_token_s


def _prompt_rows(record: Record) -> int:
    return record.usage.prompt_text_tokens + record.usage.prompt_image_tokens


def _chat(number: int, side: int) -> Session:
    opening = Turn(PROMPT_TOKENS, (side,) * NUM_PICTURES, ANSWER_TOKENS, None, 0.0)
    return Session(number, Kind.PICTURE_CHAT, "amber", 0.0, 1 + number, (opening, replace(opening, picture_sides=())))
