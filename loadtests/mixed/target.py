"""Is the inter-token target kept? Chats decode without end while pictures saturate the machine, once for each target.

Targets are multiples of a decode step of as many chats alone, over contexts as long as those of the run in its middle: a fast machine
writes a thousand words in its course, and reading their keys takes time. What pictures lose is counted in Euler steps per second, and read
in two ways, since a target has more words written than there would be without one:

    loss               against the same load without a target, where a word comes with every pass of all pictures: next to none. Beside it
                       stands what the words written take by themselves, words a second x a decode step alone; what overlaps takes less
    for the same words against a server that writes as many words in the same time with no picture under way, and draws in the time that is
                       left; less than nothing where words and pictures beside each other take less time than one after the other

A machine drifts: the chats alone and the crowd without a target are measured before and after each target, which is a multiple of the
decode step just before. Each word more than 1.2 targets after the one before is put down to the work that took longer than usual in
between.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import mean, median

from loadtests.comparison.engines import Bench
from loadtests.mixed.late import Gap, causes
from loadtests.percentile import percentile
from loadtests.replays.metered import Spell
from loadtests.replays.policy import MeteredPlait, Plait
from server.front import LEAST_TARGET_DECODES
from server.messages import ImageParams, OutputMode, Request, SamplingParams, StepReport, TextSegment

PROMPT_TOKENS = 32
ENDLESS_TOKENS = 20_000
NUM_DECODE_STEPS = 150
FREE_SHARE = 0.5
"""How long the crowd without a target is watched, as a share of how long one with a target is."""
WARM_SHARE = 0.25
"""Share of each run that is not counted: the cost model is learning."""
LATE = 1.2
"""A word is late so many targets after the one before."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many chats decode and how many pictures of which side are drawn at any time, and for how long."""

    num_chats: int
    num_pictures: int
    side: int
    num_timesteps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Untargeted:
    """The machine without a target, at one time: chats without pictures, and the crowd.

    Attributes:
        decode_s: a decode step in the engine, chats alone.
        gap_mean_s, gap_p99_s: from one word to the next, chats alone: a decode step and what the engine does around it.
        euler_steps_per_s, crowd_gap_p50_s: of the crowd.
    """

    decode_s: float
    gap_mean_s: float
    gap_p99_s: float
    euler_steps_per_s: float
    crowd_gap_p50_s: float


@dataclass(frozen=True, slots=True)
class Kept:
    """One target. ``multiple`` is in decode steps.

    Attributes:
        euler_steps_per_s: of all pictures; words_per_s: of each chat.
        late_by_cause: decode steps whose words were late, by what made them so; num_steps: all of them.
        before, after: the machine without a target.
    """

    multiple: float
    target_s: float
    gap_p50_s: float
    gap_p95_s: float
    gap_p99_s: float
    euler_steps_per_s: float
    words_per_s: float
    late_by_cause: dict[str, int]
    num_steps: int
    before: Untargeted
    after: Untargeted

    @property
    def p99_over_target(self) -> float:
        return self.gap_p99_s / self.target_s

    @property
    def free_steps_per_s(self) -> float:
        """The pictures' pace without a target."""
        return (self.before.euler_steps_per_s + self.after.euler_steps_per_s) / 2

    @property
    def loss(self) -> float:
        """The share of the pictures' pace that the target costs, its words included."""
        return 1.0 - self.euler_steps_per_s / self.free_steps_per_s

    @property
    def words_share(self) -> float:
        """What the words take of the machine by themselves: their decode steps, none longer than alone."""
        return self.words_per_s * (self.before.decode_s + self.after.decode_s) / 2

    @property
    def loss_for_the_same_words(self) -> float:
        """The share lost of the pace that is left to pictures when as many words are written with none under way."""
        words_share = self.words_per_s * (self.before.gap_mean_s + self.after.gap_mean_s) / 2
        return 1.0 - self.euler_steps_per_s / (self.free_steps_per_s * (1.0 - words_share))


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


@dataclass(slots=True)
class Watch:
    """What came out of an engine while it was watched."""

    gaps: list[Gap] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    last_s: dict[str, float] = field(default_factory=dict)

    def take(self, report: StepReport, now_s: float, *, is_counted: bool) -> None:
        """Take in a report that came at ``now_s``."""
        for token in report.tokens:
            if is_counted and token.request_id in self.last_s:
                self.gaps.append(Gap(self.last_s[token.request_id], now_s))
            self.last_s[token.request_id] = now_s
        if is_counted:
            self.pace.note(len(report.progress), now_s)

    def percentile_s(self, percent: float) -> float:
        return percentile([gap.seconds for gap in self.gaps], percent)

    @property
    def gap_mean_s(self) -> float:
        return mean(gap.seconds for gap in self.gaps)


def sweep_targets(bench: Bench, crowd: Crowd, multiples: tuple[float, ...], num_rounds: int, say: Callable[[str], None]) -> list[Kept]:
    """Run the crowd under each target in a few rounds, and without one before and after.

    A machine that changes its pace between the measuring of a decode step and the run makes a target too long or too short: of the
    rounds of each target the one in the middle by its p99 is returned.
    """
    rounds = [_sweep(bench, crowd, multiples, say) for _ in range(num_rounds)]
    by_target = [sorted(kept, key=lambda one: one.p99_over_target) for kept in zip(*rounds, strict=True)]
    return [kept[len(kept) // 2] for kept in by_target]


def _sweep(bench: Bench, crowd: Crowd, multiples: tuple[float, ...], say: Callable[[str], None]) -> list[Kept]:
    kept: list[Kept] = []
    decode_s, _ = _chats_alone(_engine(bench, None).policy, crowd, PROMPT_TOKENS)
    for multiple in multiples:
        num_tokens = PROMPT_TOKENS + int(crowd.seconds / (multiple * decode_s)) // 2
        before = _untargeted(bench, crowd, num_tokens, say)
        say(f"a target of {multiple:g} decode steps")
        target_s = multiple * before.decode_s
        metered = _engine(bench, target_s)
        watch = _serve(metered.policy, crowd)
        after = _untargeted(bench, crowd, num_tokens, say)
        kept.append(_kept(multiple, target_s, watch, metered.runner.spells, (before, after)))
    return kept


def _engine(bench: Bench, target_s: float | None) -> MeteredPlait:
    return bench.plait(replace(bench.options, inter_token_target_s=target_s, min_target_decodes=LEAST_TARGET_DECODES))


def _untargeted(bench: Bench, crowd: Crowd, num_tokens: int, say: Callable[[str], None]) -> Untargeted:
    """Measure the machine without a target, the chats alone over contexts of about ``num_tokens``."""
    say("no target")
    decode_s, alone = _chats_alone(_engine(bench, None).policy, crowd, num_tokens)
    free = _serve(_engine(bench, None).policy, replace(crowd, seconds=FREE_SHARE * crowd.seconds))
    return Untargeted(decode_s, alone.gap_mean_s, alone.percentile_s(99), free.pace.per_second, free.percentile_s(50))


def _chats_alone(policy: Plait, crowd: Crowd, num_tokens: int) -> tuple[float, Watch]:
    """Let the chats write without pictures; return the seconds of a decode step, and what came out."""
    watch = Watch()
    for number in range(crowd.num_chats):
        policy.submit(_chat(number, max(PROMPT_TOKENS, num_tokens - NUM_DECODE_STEPS // 2)))
    seconds: list[float] = []
    for _ in range(NUM_DECODE_STEPS):
        for report in policy.step():
            are_all = report.stats.num_decode_rows == crowd.num_chats
            watch.take(report, time.perf_counter(), is_counted=are_all)
            seconds += [report.stats.step_s] * are_all
    return median(seconds), watch


def _kept(multiple: float, target_s: float, watch: Watch, spells: list[Spell], around: tuple[Untargeted, Untargeted]) -> Kept:
    return Kept(
        multiple,
        target_s,
        watch.percentile_s(50),
        watch.percentile_s(95),
        watch.percentile_s(99),
        watch.pace.per_second,
        1.0 / watch.gap_mean_s,
        dict(causes(watch.gaps, spells, LATE * target_s)),
        len({gap.end_s for gap in watch.gaps}),
        *around,
    )


def _serve(policy: Plait, crowd: Crowd) -> Watch:
    """Keep the crowd busy, and close the engine; return what came out once it was warm."""
    for number in range(crowd.num_chats):
        policy.submit(_chat(number))
    for number in range(crowd.num_pictures):
        policy.submit(_picture(number, crowd))
    num_submitted = crowd.num_pictures
    watch, start_s = Watch(), time.perf_counter()
    while time.perf_counter() - start_s < crowd.seconds:
        for report in policy.step():
            now_s = time.perf_counter()
            watch.take(report, now_s, is_counted=now_s - start_s >= crowd.seconds * WARM_SHARE)
            for _ in report.finished:
                policy.submit(_picture(num_submitted, crowd))
                num_submitted += 1
    policy.close()
    return watch


def _chat(number: int, num_tokens: int = PROMPT_TOKENS) -> Request:
    sampling = SamplingParams(max_tokens=ENDLESS_TOKENS, ignore_eos=True, seed=number)
    prompt = TextSegment([(number + index) % 256 for index in range(num_tokens)])
    return Request(f"chat-{number}", [prompt], OutputMode.TEXT, sampling, ImageParams(16, 16))


def _picture(number: int, crowd: Crowd) -> Request:
    image = ImageParams(crowd.side, crowd.side, num_timesteps=crowd.num_timesteps, interval=(0.0, 1.0), seed=number)
    prompt = TextSegment([(7 * number + index) % 256 for index in range(PROMPT_TOKENS)])
    return Request(f"picture-{number}", [prompt], OutputMode.IMAGE, SamplingParams(), image, wants_progress=True)
