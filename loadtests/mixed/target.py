"""Is the inter-token target kept? Chats decode without end while pictures saturate the machine, once for each target.

Targets are multiples of a decode step of the same chats alone. What pictures lose is counted in Euler steps per second, against the same
load without a target. The runs without a target come first and last, since a machine drifts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean, median

from loadtests.mixed.clock import WorkingClock
from loadtests.mixed.engines import Bench
from loadtests.mixed.measures import percentile
from loadtests.mixed.policy import Plait
from server.front import LEAST_TARGET_DECODES
from server.messages import ImageParams, OutputMode, Request, SamplingParams, StepReport, TextSegment

PROMPT_TOKENS = 32
ENDLESS_TOKENS = 20_000
NUM_DECODE_STEPS = 60
WARM_SHARE = 0.25
"""Share of each run that is not counted: the cost model is learning."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many chats decode and how many pictures of which side are drawn at any time, and for how long."""

    num_chats: int
    num_pictures: int
    side: int
    num_timesteps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Kept:
    """One target. ``multiple`` is in decode steps; None is no target. Euler steps of all pictures per second."""

    multiple: float | None
    target_s: float
    gap_p50_s: float
    gap_p99_s: float
    euler_steps_per_s: float

    @property
    def p99_over_target(self) -> float:
        return self.gap_p99_s / self.target_s


@dataclass(frozen=True, slots=True)
class Sweep:
    """All targets; ``decode_s`` is a decode step of the chats alone, ``free_steps_per_s`` the pictures' pace without a target."""

    decode_s: float
    free_steps_per_s: float
    kept: list[Kept]

    def loss(self, kept: Kept) -> float:
        """Return the share of the pictures' pace that a target costs."""
        return 1.0 - kept.euler_steps_per_s / self.free_steps_per_s

    def loss_beyond_decoding(self, kept: Kept) -> float:
        """Return the share lost of the pace that is left when one decode step every target's time has had its part of the machine."""
        assert kept.multiple is not None, "without a target there is nothing to lose"
        return 1.0 - kept.euler_steps_per_s / (self.free_steps_per_s * (1.0 - 1.0 / kept.multiple))


@dataclass(slots=True)
class Pace:
    """How fast something is done that is done in lumps: counted from one lump to another, as the time before the first is nobody's."""

    began_s: float | None = None
    last_s: float = 0.0
    num_done: int = 0

    def note(self, number: int, now_s: float) -> None:
        """Take in that ``number`` are done at ``now_s``."""
        if not number:
            return
        if self.began_s is None:
            self.began_s = now_s
        else:
            self.num_done += number
        self.last_s = now_s

    @property
    def per_second(self) -> float:
        if self.began_s is None or self.last_s <= self.began_s:
            return 0.0
        return self.num_done / (self.last_s - self.began_s)


def sweep_targets(bench: Bench, crowd: Crowd, multiples: tuple[float, ...], say: Callable[[str], None]) -> Sweep:
    """Measure a decode step, then run the crowd under each target."""
    say("decode steps alone")
    decode_s = _decode_seconds(bench, crowd)
    free = [_run(bench, crowd, None, decode_s, say)]
    kept = [_run(bench, crowd, multiple, decode_s, say) for multiple in multiples]
    free.append(_run(bench, crowd, None, decode_s, say))
    return Sweep(decode_s, mean(one.euler_steps_per_s for one in free), [free[0], *kept])


def _decode_seconds(bench: Bench, crowd: Crowd) -> float:
    policy = bench.plait(bench.options).policy
    for number in range(crowd.num_chats):
        policy.submit(_chat(number))
    steps = [report.stats for _ in range(NUM_DECODE_STEPS) for report in policy.step()]
    return median(step.step_s for step in steps if step.num_decode_rows == crowd.num_chats)


def _run(bench: Bench, crowd: Crowd, multiple: float | None, decode_s: float, say: Callable[[str], None]) -> Kept:
    say("no target" if multiple is None else f"a target of {multiple:g} decode steps")
    target_s = decode_s * (multiple or 1.0)
    goal_s = None if multiple is None else target_s
    options = replace(bench.options, inter_token_target_s=goal_s, min_target_decodes=LEAST_TARGET_DECODES)
    gaps, pace = _serve(bench.plait(options).policy, crowd)
    return Kept(multiple, target_s, percentile(gaps, 50), percentile(gaps, 99), pace.per_second)


def _serve(policy: Plait, crowd: Crowd) -> tuple[list[float], Pace]:
    """Keep the crowd busy; return the gaps between words and the pace of the pictures, both once it is warm."""
    clock = WorkingClock()
    for number in range(crowd.num_chats):
        policy.submit(_chat(number))
    for number in range(crowd.num_pictures):
        policy.submit(_picture(number, crowd))
    num_submitted = crowd.num_pictures
    last: dict[str, float] = {}
    gaps: list[float] = []
    pace = Pace()
    warm_s = crowd.seconds * WARM_SHARE
    while clock.now() < crowd.seconds:
        for report in policy.step():
            now = clock.now()
            is_counted = now >= warm_s
            gaps += _gaps(report, last, now) if is_counted else _gaps(report, last, now)[:0]
            if is_counted:
                pace.note(len(report.progress), now)
            for _ in report.finished:
                policy.submit(_picture(num_submitted, crowd))
                num_submitted += 1
    return gaps, pace


def _gaps(report: StepReport, last: dict[str, float], now: float) -> list[float]:
    """Note each chat's new word at ``now`` and return the time since its word before."""
    gaps = [now - last[token.request_id] for token in report.tokens if token.request_id in last]
    last.update((token.request_id, now) for token in report.tokens)
    return gaps


def _chat(number: int) -> Request:
    sampling = SamplingParams(max_tokens=ENDLESS_TOKENS, ignore_eos=True, seed=number)
    prompt = TextSegment([(number + index) % 256 for index in range(PROMPT_TOKENS)])
    return Request(f"chat-{number}", [prompt], OutputMode.TEXT, sampling, ImageParams(16, 16))


def _picture(number: int, crowd: Crowd) -> Request:
    image = ImageParams(crowd.side, crowd.side, num_timesteps=crowd.num_timesteps, interval=(0.0, 1.0), seed=number)
    prompt = TextSegment([(7 * number + index) % 256 for index in range(PROMPT_TOKENS)])
    return Request(f"picture-{number}", [prompt], OutputMode.IMAGE, SamplingParams(), image, wants_progress=True)
