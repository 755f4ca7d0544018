"""OpenTelemetry spans over OTLP: HTTP request, generation, and its phases from queue to VAE. Needs the ``telemetry`` extra.

The one place that knows the names of OpenTelemetry's semantic conventions: those of GenAI are still in development.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.messages import FinishedOutput, FinishReason, StepReport, Timeline
from server.tracing import Tracing, Visit

SERVICE = "plait"
OPERATION = "chat"
TRACES_PATH = "/v1/traces"
NS = 1_000_000_000


def otlp_processor(endpoint: str) -> SpanProcessor:
    """Return what sends spans to a collector, in the background; a collector that does not answer costs a log line and no request."""
    return BatchSpanProcessor(OTLPSpanExporter(endpoint.rstrip("/") + TRACES_PATH))


class OtlpTracing(Tracing):
    """Traces through ``processor``. Belongs to one event loop."""

    def __init__(self, processor: SpanProcessor, version: str) -> None:
        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE, "service.version": version}))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(SERVICE, version)
        self._propagator = TraceContextTextMapPropagator()
        self._open: dict[str, Span] = {}

    @contextmanager
    def visit(self, method: str, traceparent: str | None) -> Iterator[Visit]:
        """Trace what happens in the block as one HTTP request, a child of the client's span if it named one."""
        span = self._tracer.start_span(method, self._context(traceparent), SpanKind.SERVER, {"http.request.method": method})
        token = context.attach(trace.set_span_in_context(span))
        try:
            yield _OtlpVisit(span, method)
        finally:
            context.detach(token)
            span.end()

    def traceparent(self) -> str | None:
        """Return the context that what happens now belongs to, to be stored with a request."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent")

    def begin(self, request_ids: Sequence[str], model: str, traceparent: str | None = None) -> None:
        """Begin a generation for each request, in the given context or the present one; the engine's reports end it."""
        where = None if traceparent is None else self._context(traceparent)
        attributes = {"gen_ai.operation.name": OPERATION, "gen_ai.provider.name": SERVICE, "gen_ai.request.model": model}
        for request_id in request_ids:
            own = {**attributes, "gen_ai.response.id": request_id}
            self._open[request_id] = self._tracer.start_span(f"{OPERATION} {model}", where, SpanKind.INTERNAL, own)

    def observe_step(self, report: StepReport) -> None:
        """Take in one engine step: end the generations of finished requests, with a span for each of their phases."""
        now = time.time_ns()
        timelines = {timeline.request_id: timeline for timeline in report.timelines}
        for end in report.finished:
            span = self._open.pop(end.request_id, None)
            if span is not None:
                self._end(span, end, timelines.get(end.request_id), now)

    def _end(self, span: Span, end: FinishedOutput, timeline: Timeline | None, now: int) -> None:
        parent = trace.set_span_in_context(span)
        for phase in timeline.spans if timeline is not None else ():
            child = self._tracer.start_span(phase.phase.value, parent, start_time=now - int(phase.start_age_s * NS))
            child.end(now - int(phase.end_age_s * NS))
        usage = end.usage
        span.set_attributes(
            {
                "gen_ai.usage.input_tokens": usage.prompt_text_tokens + usage.prompt_image_tokens,
                "gen_ai.usage.output_tokens": usage.completion_text_tokens + usage.completion_image_tokens,
                "gen_ai.response.finish_reasons": [end.reason.value],
                "plait.pictures": usage.num_images,
            }
        )
        if end.reason is FinishReason.ERROR:
            span.set_attribute("error.type", end.error_code or "server_error")
            span.set_status(Status(StatusCode.ERROR))
        span.end(now)

    def close(self) -> None:
        """Send what has not been sent."""
        for span in self._open.values():
            span.end()
        self._open.clear()
        self._provider.shutdown()

    def _context(self, traceparent: str | None) -> context.Context:
        """Return the context of a header's value; one that makes no sense begins a trace of its own."""
        return self._propagator.extract({} if traceparent is None else {"traceparent": traceparent}, context.Context())


class _OtlpVisit(Visit):
    def __init__(self, span: Span, method: str) -> None:
        self._span = span
        self._method = method

    def answered(self, route: str, status: int, request_id: str) -> None:
        self._span.update_name(f"{self._method} {route}")
        self._span.set_attributes({"http.route": route, "http.response.status_code": status, "plait.request_id": request_id})
        if status >= 500 or status == 0:
            self._span.set_status(Status(StatusCode.ERROR))
