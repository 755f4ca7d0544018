"""Every series the server exports, and the only place that names one. Label values come from closed sets."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from server.messages import FinishReason, StepReport, StepStats, Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""OpenTelemetry's for time to first token, in seconds."""
INTER_TOKEN_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
LONG_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Whole answers and pictures, in seconds."""


class Metrics:
    """One registry with its series; made once and handed to whoever counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.http_requests = self._counter("http_requests", "HTTP requests answered.", ["route", "status"])
        self.finished = self._counter("requests_finished", "Answers completed, by reason.", ["reason"])
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of completed answers.", ["kind"])
        self.generated_tokens = self._counter("generated_tokens", "Generated tokens of completed answers.", ["kind"])
        self.pictures = self._counter("pictures", "Pictures of completed answers.", [])
        self.first_token_seconds = self._histogram("time_to_first_token_seconds", "From arrival to the first words.", LATENCY_BUCKETS)
        self.inter_token_seconds = self._histogram("inter_token_seconds", "Between two pieces of text.", INTER_TOKEN_BUCKETS)
        self.picture_seconds = self._histogram("time_to_picture_seconds", "From arrival to each finished picture.", LONG_BUCKETS)
        self.e2e_seconds = self._histogram("e2e_request_seconds", "From arrival to the end of the answer.", LONG_BUCKETS)
        self._define_engine_series()

    def _define_engine_series(self) -> None:
        self.engine_steps = self._counter("engine_steps", "Engine steps.", [])
        self.step_seconds = self._histogram("engine_step_seconds", "One engine step.", LATENCY_BUCKETS)
        self.forward_seconds = self._histogram("engine_forward_seconds", "The forward pass of one engine step.", LATENCY_BUCKETS)
        self.rows = self._counter("engine_rows", "Rows run, by kind; a prefill row counts its tokens.", ["kind"])
        self.branches_elided = self._counter("guidance_branches_elided", "Guidance branches that needed no computing.", [])
        self.running = self._gauge("requests_running", "Requests being worked on, by lane.", ["lane"])
        self.waiting = self._gauge("requests_waiting", "Requests waiting for pages.", [])
        self.pages_used = self._gauge("pages_used", "Cache pages in use.", [])
        self.pages_total = self._gauge("pages_total", "Cache pages there are.", [])
        self.preemptions = self._gauge("preemptions", "Requests put back for want of pages, since the engine started.", [])
        self.engine_starts = self._counter("engine_starts", "Engines that became ready.", [])

    def observe_step(self, report: StepReport) -> None:
        """Take in one engine step."""
        stats: StepStats = report.stats
        self.engine_steps.inc()
        self.step_seconds.observe(stats.step_s)
        self.forward_seconds.observe(stats.forward_s)
        self.rows.labels("decode").inc(stats.num_decode_rows)
        self.rows.labels("prefill").inc(stats.num_prefill_tokens)
        self.rows.labels("denoise").inc(stats.num_denoise_rows)
        self.branches_elided.inc(stats.num_branches_elided)
        self.running.labels("text").set(stats.running_text)
        self.running.labels("image").set(stats.running_image)
        self.waiting.set(stats.waiting)
        self.pages_used.set(stats.pages_used)
        self.pages_total.set(stats.pages_total)
        self.preemptions.set(stats.num_preemptions)

    def observe_finished(self, reason: FinishReason, usage: Usage, seconds: float) -> None:
        """Take in one completed answer."""
        self.finished.labels(reason.value).inc()
        self.prompt_tokens.labels("text").inc(usage.prompt_text_tokens)
        self.prompt_tokens.labels("image").inc(usage.prompt_image_tokens)
        self.generated_tokens.labels("text").inc(usage.completion_text_tokens)
        self.generated_tokens.labels("image").inc(usage.completion_image_tokens)
        self.pictures.inc(usage.num_images)
        self.e2e_seconds.observe(seconds)

    def exposition(self) -> bytes:
        """Return all series in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, meaning: str, labels: list[str]) -> Counter:
        return Counter(name, meaning, labels, namespace="plait", registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: list[str]) -> Gauge:
        return Gauge(name, meaning, labels, namespace="plait", registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, meaning, namespace="plait", registry=self.registry, buckets=buckets)
