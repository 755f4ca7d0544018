"""Every series the server exports, and the only place that names one.

Label values come from closed sets, and every combination is there from the start, at zero: a rate over it is then right from the first
event on, and a dashboard shows a zero instead of nothing. Counters of reliability are counted by whoever does the thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from server.errors import PlaitError, error_codes
from server.messages import FinishReason, RequestPhase, StepReport, StepStats, Timeline, Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)
"""OpenTelemetry's for time to first token, in seconds, and two more: a full queue is slower than they foresee."""
INTER_TOKEN_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
LONG_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Whole answers and pictures, in seconds."""
STORE_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Lane(Enum):
    """Whether a request may draw."""

    TEXT = "text"
    IMAGE = "image"


LANES = tuple(lane.value for lane in Lane)
KNOWN_CODES = frozenset(error_codes())


class Resume(Enum):
    """How a client's return to a stream ended."""

    REPLAYED = "replayed"
    FOLLOWED = "followed"
    """It had not finished: what was missed was replayed, what follows is sent live."""
    UNKNOWN = "unknown"


class Takeover(Enum):
    """What a dead owner's request was doing when another replica took it."""

    QUEUED = "queued"
    TEXT = "text"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class FrontState:
    """What only the front knows at the moment of a scrape. Pages are 0 while no engine is ready."""

    model_name: str
    in_flight: int
    is_ready: bool
    num_engine_starts: int
    page_size: int
    num_pages: int
    is_draining: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """What the documentation says of one name. ``kind`` is Prometheus' word; ``labels`` names with the values known beforehand."""

    name: str
    kind: str
    meaning: str
    labels: Mapping[str, Iterable[str]]


class Metrics:
    """One registry with its series; made once and handed to whoever counts. ``catalogue`` names them all."""

    def __init__(self) -> None:
        # When a series began is of no use to anybody, and a third of all lines.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.catalogue: list[Series] = []
        self._define_request_series()
        self._define_engine_series()
        self._define_scheduler_series()
        self._define_reliability_series()
        self._define_picker_series()
        self._last = StepStats()

    def _define_request_series(self) -> None:
        self.http_requests = self._counter("http_requests", "HTTP requests answered.", {"route": (), "status": ()})
        reasons = [reason.value for reason in FinishReason]
        self.finished = self._counter("requests_finished", "Answers completed, by reason.", {"reason": reasons})
        self.rejections = self._counter("rejections", "Requests refused before they ran, by error code.", {"reason": sorted(KNOWN_CODES)})
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of completed answers.", {"kind": LANES})
        self.cached_tokens = self._counter("prompt_tokens_cached", "Of these, tokens found in the prefix cache.", {"kind": LANES})
        self.generated_tokens = self._counter("generated_tokens", "Generated tokens of completed answers.", {"kind": LANES})
        self.pictures = self._counter("pictures", "Pictures of completed answers.", {})
        self.first_token_seconds = self._histogram("time_to_first_token_seconds", "From arrival to the first words.", LATENCY_BUCKETS)
        self.inter_token_seconds = self._histogram("inter_token_seconds", "Between two tokens of one text.", INTER_TOKEN_BUCKETS)
        self.first_picture_seconds = self._histogram("time_to_first_picture_seconds", "From arrival to the first picture.", LONG_BUCKETS)
        self.picture_seconds = self._histogram("time_to_picture_seconds", "From arrival to each finished picture.", LONG_BUCKETS)
        self.first_preview_seconds = self._histogram("time_to_first_preview_seconds", "From arrival to the first preview.", LONG_BUCKETS)
        self.e2e_seconds = self._histogram("e2e_request_seconds", "From arrival to the end of the answer.", LONG_BUCKETS)
        self.phase_seconds = self._histogram(
            "request_phase_seconds",
            "Time a finished request spent queued, in prefill, decoding, denoising, and in the VAE.",
            LONG_BUCKETS,
            {"phase": [phase.value for phase in RequestPhase]},
        )
        self.in_flight = self._gauge("requests_in_flight", "Requests taken in and not answered yet.", {})

    def _define_engine_series(self) -> None:
        self.engine_ready = self._gauge("engine_ready", "1 while the engine takes requests.", {})
        self.engine_starts = self._gauge("engine_starts", "Engine processes started by this server; more than 1 means restarts.", {})
        self.engine_steps = self._counter("engine_steps", "Engine steps.", {})
        self.step_seconds = self._histogram("engine_step_seconds", "One engine step.", LATENCY_BUCKETS)
        self.forward_seconds = self._histogram(
            "engine_forward_seconds",
            "The forward pass of one engine step; on a GPU only the time it takes the host to launch it.",
            LATENCY_BUCKETS,
        )
        self.denoise_seconds = self._histogram("denoise_step_seconds", "One engine step that denoises pictures.", LATENCY_BUCKETS)
        self.vae_seconds = self._histogram("vae_decode_seconds", "Latents to pixels, all pictures of one engine step.", LATENCY_BUCKETS)
        self.rows = self._counter("engine_rows", "Rows run; a prefill row counts its tokens.", {"kind": ("decode", "prefill", "denoise")})
        self.branches = self._counter("guidance_branches", "Guidance branches of denoise steps.", {"fate": ("run", "saved", "foreseen")})
        self.encoded_pictures = self._counter("pictures_encoded", "Input pictures through an encoder, each encoder counted.", {})

    def _define_scheduler_series(self) -> None:
        self.running = self._gauge("requests_running", "Requests being worked on, by lane.", {"lane": LANES})
        self.waiting = self._gauge("requests_waiting", "Requests waiting for pages, by lane.", {"lane": LANES})
        self.drain = self._gauge("lane_drain_per_second", "Requests finished per second lately while others waited.", {"lane": LANES})
        self.pages_used = self._gauge("pages_used", "Cache pages that running requests hold.", {})
        self.pages_cached = self._gauge("pages_cached", "Further pages kept for future prompts, given up when needed.", {})
        self.pages_total = self._gauge("pages_total", "Cache pages in all.", {})
        self.prefix_queries = self._counter("prefix_cache_queries", "Prompt rows looked up in the prefix cache.", {})
        self.prefix_hits = self._counter("prefix_cache_hits", "Prompt rows found there.", {})
        self.preemptions = self._counter("preemptions", "Requests put back into the queue for want of pages.", {})
        self.deadlines = self._counter("deadlines_exceeded", "Requests ended by their deadline in the engine.", {})
        self.queue_refusals = self._counter("queue_refusals", "Requests the engine turned away because its queue was full.", {})
        self.cost_error = self._gauge("cost_model_error_ratio", "Median relative error of recent predictions of step times.", {})
        self.foreseen_seconds = self._histogram(
            "engine_step_foreseen_seconds", "How long the cost model expected a step to take.", LATENCY_BUCKETS
        )

    def _define_reliability_series(self) -> None:
        self.resumes = self._counter("stream_resumes", "Clients that came back to a stream.", {"result": [end.value for end in Resume]})
        phases = [phase.value for phase in Takeover]
        self.takeovers = self._counter("takeovers", "Requests of dead replicas continued here, by what they were doing.", {"phase": phases})
        self.fenced_writes = self._counter("fenced_writes", "Writes of this server that were refused because another owns the request.", {})
        self.quarantined = self._counter("quarantined", "Requests given up because they brought down engine after engine.", {})
        self.idempotency_hits = self._counter("idempotency_hits", "Repeated requests answered with the first one's answer.", {})
        self.store_absent = self._gauge("store_absent", "1 while the store does not answer, so that streams are live only.", {})
        self.store_absences = self._counter("store_absences", "Times that the store went away.", {})
        self.append_seconds = self._histogram("log_append_seconds", "Appending one step's events to the shared store.", STORE_BUCKETS)
        self.draining = self._gauge("draining", "1 while the server lets running answers finish before it stops.", {})

    def _define_picker_series(self) -> None:
        """Name what endpoint pickers of the Gateway API inference extension read; pictures count like any other request."""
        label = {"model_name": ()}
        self._picker_waiting = self._gauge("vllm:num_requests_waiting", "Requests waiting, text and pictures.", label, namespace="")
        self._picker_running = self._gauge("vllm:num_requests_running", "Requests running, text and pictures.", label, namespace="")
        self._picker_usage = self._gauge("vllm:kv_cache_usage_perc", "Share of cache pages in use, 0 to 1.", label, namespace="")
        self._picker_config = self._gauge(
            "vllm:cache_config_info",
            "Cache configuration, in the labels.",
            {"model_name": (), "block_size": (), "num_gpu_blocks": ()},
            namespace="",
        )

    def observe_step(self, report: StepReport) -> None:
        """Take in one engine step."""
        stats = report.stats
        self._observe_work(stats)
        self._observe_state(stats)
        self._observe_totals(stats)
        for timeline in report.timelines:
            self._observe_timeline(timeline)
        self._last = stats

    def _observe_work(self, stats: StepStats) -> None:
        self.engine_steps.inc()
        self.step_seconds.observe(stats.step_s)
        self.forward_seconds.observe(stats.forward_s)
        if stats.num_denoise_rows:
            self.denoise_seconds.observe(stats.step_s)
        if stats.vae_s:
            self.vae_seconds.observe(stats.vae_s)
        if stats.predicted_s:
            self.foreseen_seconds.observe(stats.predicted_s)
        self.rows.labels("decode").inc(stats.num_decode_rows)
        self.rows.labels("prefill").inc(stats.num_prefill_tokens)
        self.rows.labels("denoise").inc(stats.num_denoise_rows)
        self.branches.labels("run").inc(stats.num_denoise_rows)
        self.branches.labels("saved").inc(stats.num_branches_elided)
        self.branches.labels("foreseen").inc(stats.num_branches_foreseen)
        self.encoded_pictures.inc(stats.num_pictures_encoded)
        self.prefix_queries.inc(stats.num_prefix_queries)
        self.prefix_hits.inc(stats.num_prefix_hits)

    def _observe_state(self, stats: StepStats) -> None:
        self.running.labels("text").set(stats.running_text)
        self.running.labels("image").set(stats.running_image)
        self.waiting.labels("text").set(stats.waiting_text)
        self.waiting.labels("image").set(stats.waiting_image)
        self.drain.labels("text").set(stats.text_drain_per_s)
        self.drain.labels("image").set(stats.image_drain_per_s)
        self.pages_used.set(stats.pages_used)
        self.pages_cached.set(stats.pages_cached)
        self.pages_total.set(stats.pages_total)
        self.cost_error.set(stats.cost_error)

    def _observe_totals(self, stats: StepStats) -> None:
        """Add what the engine's own totals grew by; those of a new engine begin at zero again."""
        last = self._last if stats.step >= self._last.step else StepStats()
        self.preemptions.inc(max(0, stats.num_preemptions - last.num_preemptions))
        self.deadlines.inc(max(0, stats.num_expired - last.num_expired))
        self.queue_refusals.inc(max(0, stats.num_refused - last.num_refused))

    def _observe_timeline(self, timeline: Timeline) -> None:
        seconds = dict.fromkeys(RequestPhase, 0.0)
        for span in timeline.spans:
            seconds[span.phase] += span.start_age_s - span.end_age_s
        for phase, phase_s in seconds.items():
            if phase_s > 0.0:
                self.phase_seconds.labels(phase.value).observe(phase_s)

    def observe_store_absence(self, is_absent: bool) -> None:
        """Take note that the store went away or came back."""
        self.store_absent.set(is_absent)
        if is_absent:
            self.store_absences.inc()

    def observe_rejection(self, error: PlaitError) -> None:
        """Take in a request that was refused."""
        self.rejections.labels(error.code if error.code in KNOWN_CODES else PlaitError.code).inc()

    def observe_finished(self, reason: FinishReason, usage: Usage, seconds: float) -> None:
        """Take in one completed answer."""
        self.finished.labels(reason.value).inc()
        self.prompt_tokens.labels("text").inc(usage.prompt_text_tokens)
        self.prompt_tokens.labels("image").inc(usage.prompt_image_tokens)
        self.cached_tokens.labels("text").inc(usage.cached_text_tokens)
        self.cached_tokens.labels("image").inc(usage.cached_image_tokens)
        self.generated_tokens.labels("text").inc(usage.completion_text_tokens)
        self.generated_tokens.labels("image").inc(usage.completion_image_tokens)
        self.pictures.inc(usage.num_images)
        self.e2e_seconds.observe(seconds)

    def exposition(self, state: FrontState) -> bytes:
        """Return all series in Prometheus' text format."""
        self.in_flight.set(state.in_flight)
        self.engine_ready.set(state.is_ready)
        self.engine_starts.set(state.num_engine_starts)
        self.draining.set(state.is_draining)
        if not state.is_ready:
            self._forget_engine()
        self._show_to_pickers(state)
        return generate_latest(self.registry)

    def _forget_engine(self) -> None:
        """A dead engine runs nothing and holds nothing."""
        self._last = StepStats()
        self._observe_state(self._last)

    def _show_to_pickers(self, state: FrontState) -> None:
        """Count a request as waiting from the moment it is taken in: during a long step the engine does not know of it yet."""
        stats = self._last
        running = min(stats.running_text + stats.running_image, state.in_flight)
        self._picker_running.labels(state.model_name).set(running)
        self._picker_waiting.labels(state.model_name).set(state.in_flight - running)
        self._picker_usage.labels(state.model_name).set(stats.pages_used / stats.pages_total if stats.pages_total else 0.0)
        self._picker_config.clear()
        if state.num_pages:
            self._picker_config.labels(state.model_name, str(state.page_size), str(state.num_pages)).set(1)

    def _counter(self, name: str, meaning: str, labels: Labels) -> Counter:
        self.catalogue.append(Series(f"plait_{name}_total", "counter", meaning, labels))
        counter = Counter(name, meaning, list(labels), namespace="plait", registry=self.registry)
        for value in _known_values(labels):
            counter.labels(value)
        return counter

    def _gauge(self, name: str, meaning: str, labels: Labels, namespace: str = "plait") -> Gauge:
        self.catalogue.append(Series(f"{namespace}_{name}".removeprefix("_"), "gauge", meaning, labels))
        gauge = Gauge(name, meaning, list(labels), namespace=namespace, registry=self.registry)
        for value in _known_values(labels):
            gauge.labels(value)
        return gauge

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], labels: Labels | None = None) -> Histogram:
        self.catalogue.append(Series(f"plait_{name}", "histogram", meaning, labels or {}))
        histogram = Histogram(name, meaning, list(labels or {}), namespace="plait", registry=self.registry, buckets=buckets)
        for value in _known_values(labels or {}):
            histogram.labels(value)
        return histogram


Labels = Mapping[str, Iterable[str]]
"""Label names with the values each can have, where they are known beforehand."""


def _known_values(labels: Labels) -> Iterable[str]:
    """The values to start with: those of the only label; where there are several, or the values come from outside, none."""
    return next(iter(labels.values())) if len(labels) == 1 else ()
