"""Replays a trace against a policy: requests go in when they are due, steps are made while there is work, outputs are timed.

A session's next turn is due a pause after the answer before, with that answer in its history, words and pictures: users of a slow server
ask later.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from loadtests.replays.clock import Clock
from loadtests.replays.policy import Policy
from loadtests.replays.timeline import Record, Replayed
from loadtests.traces.requests import Conversation, Paint, build_request, noise
from loadtests.traces.sessions import Session, Trace
from model.config import BagelConfig
from model.stepwise import Steps, run_through
from server.messages import FinishedOutput, ImageSegment, Picture, Segment, StepReport, StepStats, TextSegment

Watch = Callable[[float, int, int], None]
"""(seconds so far, requests finished, requests in all) after every step."""

Refeed = Callable[[Picture], ImageSegment]
"""Makes an answer's picture one of a prompt, as the front does when a client sends it again."""


def watch_nothing(now_s: float, num_finished: int, num_requests: int) -> None:
    """Report no progress."""


def at_once(trace: Trace) -> Trace:
    """Return the trace with every session there from the start and no pauses: what a machine can do at most."""

    def hurried(session: Session) -> Session:
        return replace(session, arrival_s=0.0, turns=tuple(replace(turn, pause_s=0.0) for turn in session.turns))

    return replace(trace, sessions=tuple(hurried(session) for session in trace.sessions))


@dataclass(order=True, slots=True)
class Due:
    """The next turn of a conversation and when it comes."""

    time_s: float
    session_id: int
    conversation: Conversation = field(compare=False)


@dataclass(slots=True)
class Answer:
    """An answer as it comes in, as the segments that a later prompt holds it in."""

    segments: list[Segment] = field(default_factory=list)

    def write(self, token_id: int) -> None:
        """Add a word to the text that is open, or open one."""
        last = self.segments[-1] if self.segments else None
        if isinstance(last, TextSegment):
            last.token_ids.append(token_id)
        else:
            self.segments.append(TextSegment([token_id]))

    def draw(self, picture: ImageSegment) -> None:
        self.segments.append(picture)


class Replay:
    """One trace on its way through one policy."""

    def __init__(self, trace: Trace, policy: Policy, config: BagelConfig, clock: Clock, refeed: Refeed, paint: Paint = noise) -> None:
        self._policy = policy
        self._config = config
        self._refeed = refeed
        self._paint = paint
        self._clock = clock
        self._num_requests = trace.num_requests
        self._due = [Due(session.arrival_s, session.session_id, Conversation(session)) for session in trace.sessions]
        heapq.heapify(self._due)
        self._open: dict[str, Conversation] = {}
        self._answers: dict[str, Answer] = {}
        self._records: dict[str, Record] = {}
        self._steps: list[StepStats] = []
        self._arrivals_s = 0.0

    def run(self, watch: Watch = watch_nothing) -> Replayed:
        """Replay the whole trace and return what happened."""
        return run_through(self.steps(watch))

    def steps(self, watch: Watch = watch_nothing) -> Steps[Replayed]:
        """Do the same; interruptible between two steps while there is work, so that no pause is taken for idleness."""
        start_s = self._clock.now()
        idle_s = 0.0
        while self._due or self._policy.has_work:
            self._submit_due(start_s)
            if self._policy.has_work:
                reports = self._policy.step()
                self._take_in(reports, self._clock.now() - start_s)
                watch(self._clock.now() - start_s, self._num_finished, self._num_requests)
                if self._policy.has_work:
                    yield
            else:
                due_s = start_s + self._due[0].time_s
                idle_s += max(0.0, due_s - self._clock.now()) if self._records else 0.0
                self._policy.note_idle(self._clock.wait_until(due_s))
        return Replayed(sorted(self._records.values(), key=lambda record: record.arrival_s), self._steps, idle_s, self._arrivals_s, start_s)

    def stand_still(self) -> None:
        """Let the policy do nothing between two steps: others have the machine."""
        self._policy.stand_still()

    def go_on(self) -> None:
        """Let it have the machine again."""
        self._policy.go_on()

    @property
    def share_finished(self) -> float:
        """The share of the trace's requests that have been answered."""
        return self._num_finished / self._num_requests

    @property
    def _num_finished(self) -> int:
        return len(self._records) - len(self._open)

    def _submit_due(self, start_s: float) -> None:
        now_s = self._clock.now()
        while self._due and start_s + self._due[0].time_s <= now_s:
            due = heapq.heappop(self._due)
            conversation, session = due.conversation, due.conversation.session
            request = build_request(conversation, self._config, self._paint)
            self._open[request.request_id] = conversation
            self._answers[request.request_id] = Answer()
            self._records[request.request_id] = Record(request.request_id, session.kind, session.tenant, due.time_s)
            self._policy.submit(request)
        self._arrivals_s += self._clock.now() - now_s

    def _take_in(self, reports: Iterable[StepReport], now_s: float) -> None:
        for report in reports:
            self._steps.append(report.stats)
            for token in report.tokens:
                record = self._records[token.request_id]
                record.texts[-1].append(now_s)
                self._answers[token.request_id].write(token.token_id)
            for closed in report.closed:
                self._records[closed.request_id].texts.append([])
            for image in report.images:
                record = self._records[image.request_id]
                record.picture_times.append(now_s)
                self._answers[image.request_id].draw(self._refeed(image.picture))
                record.picture_tokens += (image.picture.height * image.picture.width) // self._config.latent_stride**2
            for end in report.finished:
                self._finish(end, now_s)

    def _finish(self, end: FinishedOutput, now_s: float) -> None:
        record, conversation = self._records[end.request_id], self._open.pop(end.request_id)
        record.finish_s, record.reason, record.usage = now_s, end.reason, end.usage
        conversation.answers.append(self._answers.pop(end.request_id).segments)
        if not conversation.is_over:
            pause_s = conversation.session.turns[conversation.turn_index].pause_s
            heapq.heappush(self._due, Due(now_s + pause_s, conversation.session.session_id, conversation))
