"""How the peers serve words and pictures: a text engine and an image engine apart, each with its own queue, on one device.

Modelled after vLLM-Omni 0.30, the public server that runs BAGEL, in its default two-stage form (``deploy/bagel.yaml``: both stages on
device 0). Each choice, and where it comes from:

- **Two engines with a page pool each**; nothing one has computed is seen by the other, and neither keeps a prefix for the next request
  (``enable_prefix_caching: false`` in both stages).
- **Text engine**: first in, first out, continuous batching with chunked prefill, decode rows first, as vLLM's. vLLM-Omni deploys it with
  three requests at once; here it may hold as many as Plait.
- **Image engine**: see `picture_queue` (only equal pictures share a step) and `peer_branches` (every branch is computed).
- **A picture from pictures** (an edit, a story's later picture) has its prompt read twice: once whole, and once without its last words,
  for the branch without them (``model_executor/stage_input_processors/bagel.py``, ``expand_cfg_prompts``: a request of its own through the
  text engine, one token long, pictures and all). Both must be in before drawing begins.
- **A story** goes to and fro: text engine, image engine, and the finished picture comes back as an input picture, encoded again, with the
  whole history prefilled again. vLLM-Omni has no such requests; a client would do this through its API, and pay the network as well.

The device is shared by whole steps and equal time: whichever engine has used less of it goes next; an engine that was idle saves nothing
up. The branches of a step run in one pass, as they do there (``Bagel.forward``). In the peers' favour: that pass's caches are not copied
together at every step (``NaiveCache.merge``); switching costs nothing; weights are in memory once; handing over keys and values is free.
Against them: two processes on one GPU take turns within a step too (about every 2 ms), so that words there crawl at half speed while a
picture is drawn instead of standing still for one of its steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from loadtests.replays.clock import Clock
from loadtests.replays.picture_queue import PictureQueue
from loadtests.replays.policy import Policy
from server.messages import (
    FinishedOutput,
    FinishReason,
    ImageSegment,
    OutputMode,
    Picture,
    Request,
    Segment,
    StepReport,
    TextSegment,
    Usage,
)


@dataclass(slots=True)
class Journey:
    """A request on its way through the two engines.

    Attributes:
        request: as the client sent it.
        segments: the prompt and what has been answered so far.
        token_ids: the text being written.
        tokens_left, images_left: what the answer still owes.
    """

    request: Request
    segments: list[Segment]
    tokens_left: int
    images_left: int
    token_ids: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, request: Request) -> Journey:
        words = 0 if request.mode is OutputMode.IMAGE else request.sampling.max_tokens
        pictures = 0 if request.mode is OutputMode.TEXT else request.image.max_images
        return cls(request, list(request.segments), words, pictures)

    @property
    def num_drawn(self) -> int:
        return self.request.image.max_images - self.images_left

    def text_request(self) -> Request:
        """Make the request of the next text: its even share of the words left, as Plait divides them."""
        num_texts = self.images_left + 1
        sampling = replace(self.request.sampling, max_tokens=-(-self.tokens_left // num_texts))
        return replace(self.request, segments=list(self.segments), mode=OutputMode.TEXT, sampling=sampling)

    def picture_request(self) -> Request:
        """Make the request of the next picture."""
        image = replace(self.request.image, max_images=1, seed=self.request.image.seed + self.num_drawn)
        return replace(self.request, segments=list(self.segments), mode=OutputMode.IMAGE, image=image)


COMPANION = "/without-last-words"
"""What marks the second reading of a prompt."""


def needs_companion(request: Request) -> bool:
    """Tell whether a picture's prompt is read a second time for the branch without its last words."""
    has_pictures = any(isinstance(segment, ImageSegment) for segment in request.segments)
    return has_pictures and request.image.text_scale > 1.0


def companion_of(request: Request) -> Request:
    """Make the request that reads a picture's prompt without its last words."""
    segments = list(request.segments)
    while isinstance(segments[-1], TextSegment):
        segments.pop()
    sampling = replace(request.sampling, max_tokens=1, ignore_eos=True)
    return replace(request, request_id=request.request_id + COMPANION, segments=segments, mode=OutputMode.TEXT, sampling=sampling)


class Staged:
    """Two engines over one model, a queue before the second, and the way between them."""

    def __init__(
        self, text: Policy, pictures: Policy, queue: PictureQueue, refeed: Callable[[Picture], ImageSegment], clock: Clock
    ) -> None:
        self._text = text
        self._pictures = pictures
        self._queue = queue
        self._refeed = refeed
        self._clock = clock
        self._journeys: dict[str, Journey] = {}
        self._companions: dict[str, Request] = {}
        self._text_s = 0.0
        self._pictures_s = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self._journeys)

    def submit(self, request: Request) -> None:
        journey = Journey.begin(request)
        self._journeys[request.request_id] = journey
        if request.mode is OutputMode.IMAGE:
            self._send_to_pictures(journey)
        else:
            self._send_to_text(journey.text_request())

    def note_idle(self, seconds: float) -> None:
        """Forget it: engines without a goal for words have no use for idleness."""

    def stand_still(self) -> None:
        """Nothing goes on between two steps: no pass is beside others."""

    def go_on(self) -> None:
        """Nothing stood still."""

    def step(self) -> list[StepReport]:
        """Give the device to the engine that has had less of it."""
        for request in self._queue.take():
            self._pictures.submit(request)
        started = self._clock.now()
        if self._text.has_work and (not self._pictures.has_work or self._text_s <= self._pictures_s):
            reports = [self._after_text(report) for report in self._text.step()]
            self._text_s += self._clock.now() - started
        else:
            reports = [self._after_pictures(report) for report in self._pictures.step()]
            self._pictures_s += self._clock.now() - started
        return reports

    def _send_to_text(self, request: Request) -> None:
        if not self._text.has_work:
            self._text_s = max(self._text_s, self._pictures_s)
        self._text.submit(request)

    def _send_to_pictures(self, journey: Journey) -> None:
        request = journey.picture_request()
        if needs_companion(request):
            companion = companion_of(request)
            self._companions[companion.request_id] = request
            self._send_to_text(companion)
        else:
            self._put_in_queue(request)

    def _put_in_queue(self, request: Request) -> None:
        if not (self._queue.waiting or self._pictures.has_work):
            self._pictures_s = max(self._pictures_s, self._text_s)
        self._queue.put(request)

    def _after_text(self, report: StepReport) -> StepReport:
        """Send finished texts on to the image engine, or out; of a companion the client sees nothing."""
        tokens = [token for token in report.tokens if token.request_id in self._journeys]
        closed = [one for one in report.closed if one.request_id in self._journeys]
        for token in tokens:
            self._journeys[token.request_id].token_ids.append(token.token_id)
        finished: list[FinishedOutput] = []
        for end in report.finished:
            if end.request_id in self._companions:
                self._put_in_queue(self._companions.pop(end.request_id))
                continue
            journey = self._journeys[end.request_id]
            journey.tokens_left -= len(journey.token_ids)
            if end.reason is FinishReason.ERROR or not journey.images_left:
                finished.append(self._finish(end))
                continue
            journey.segments.append(TextSegment(journey.token_ids))
            journey.token_ids = []
            self._send_to_pictures(journey)
        silent = [one for one in report.silent if one.request_id in self._journeys]
        return replace(report, tokens=tokens, closed=closed, silent=silent, finished=finished)

    def _after_pictures(self, report: StepReport) -> StepReport:
        """Send finished pictures back to the text engine, to the end of the queue, or out."""
        images = [replace(image, index=self._journeys[image.request_id].num_drawn) for image in report.images]
        for image in images:
            self._journeys[image.request_id].segments.append(self._refeed(image.picture))
        finished: list[FinishedOutput] = []
        for end in report.finished:
            self._queue.finish(end.request_id)
            journey = self._journeys[end.request_id]
            journey.images_left -= 1
            if end.reason is FinishReason.ERROR or not (journey.images_left or journey.tokens_left):
                finished.append(self._finish(end))
            elif journey.request.mode is OutputMode.IMAGE:
                self._send_to_pictures(journey)
            else:
                self._send_to_text(journey.text_request())
        return replace(report, images=images, finished=finished)

    def _finish(self, end: FinishedOutput) -> FinishedOutput:
        del self._journeys[end.request_id]
        return replace(end, usage=Usage())
