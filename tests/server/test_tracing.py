"""Spans from the HTTP request to the denoise steps, as one trace, told to a real OTLP receiver over HTTP."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from server.messages import FinishedOutput, FinishReason, PhaseSpan, RequestPhase, StepReport, StepStats, Timeline, Usage
from server.otlp_tracing import OtlpTracing, otlp_processor
from server.settings import Settings
from tests.server.api.chats import hello, user
from tests.server.running_front import running_front
from tests.server.scripted_engine import ScriptedEngine

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


@dataclass
class Collector:
    """An OTLP receiver: keeps every span it is sent."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)

    def named(self, name: str) -> Span:
        return next(span for span in self.spans if span.name == name)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                collector.spans += [span for scope in resource.scope_spans for span in scope.spans]
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        collector.url = "http://127.0.0.1:{1}".format(*server.server_address)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield collector
        server.shutdown()


def attributes(span: Span) -> dict[str, object]:
    return {entry.key: entry.value.string_value or entry.value.int_value for entry in span.attributes}


def finished_report(request_id: str, reason: FinishReason = FinishReason.STOP) -> StepReport:
    spans = [PhaseSpan(RequestPhase.QUEUE, 3.0, 2.5), PhaseSpan(RequestPhase.DENOISE, 2.5, 0.5), PhaseSpan(RequestPhase.VAE, 0.5, 0.0)]
    code = "out_of_luck" if reason is FinishReason.ERROR else None
    end = FinishedOutput(request_id, reason, Usage(prompt_text_tokens=7, num_images=1), code)
    return StepReport([], [], [], [], [end], StepStats(), [Timeline(request_id, spans)])


def test_a_request_is_one_trace_from_the_client_s_span_to_the_engine() -> None:
    with collecting() as collector:
        with running_front(ScriptedEngine(hello), Settings(otlp_endpoint=collector.url)) as front, front.http() as http_client:
            body = {"model": "tiny_a", "messages": [user("hi")]}
            answer = http_client.post("/v1/chat/completions", json=body, headers={"traceparent": TRACEPARENT})
        visit, generation = collector.named("POST /v1/chat/completions"), collector.named("chat tiny_a")
    assert {visit.trace_id.hex(), generation.trace_id.hex()} == {TRACE_ID}
    assert visit.parent_span_id.hex() == PARENT_ID
    assert generation.parent_span_id == visit.span_id
    assert attributes(visit)["plait.request_id"] == answer.headers["x-request-id"]
    assert attributes(generation)["gen_ai.request.model"] == "tiny_a"


def test_phases_of_the_engine_are_spans_of_their_true_length() -> None:
    with collecting() as collector:
        tracing = OtlpTracing(otlp_processor(collector.url), "1")
        tracing.begin(["r"], "m")
        tracing.observe_step(finished_report("r"))
        tracing.close()
    generation, denoise = collector.named("chat m"), collector.named("denoise")
    assert [span.name for span in collector.spans] == ["queue", "denoise", "vae", "chat m"]
    assert denoise.parent_span_id == generation.span_id
    assert (denoise.end_time_unix_nano - denoise.start_time_unix_nano) / 1e9 == pytest.approx(2.0, abs=1e-3)
    assert attributes(generation)["gen_ai.usage.input_tokens"] == 7


def test_a_request_that_another_server_continues_stays_one_trace() -> None:
    """The stored context is all that the second server has of the first."""
    with collecting() as collector:
        first, second = (OtlpTracing(otlp_processor(collector.url), "1") for _ in range(2))
        with first.visit("POST", TRACEPARENT) as visit:
            stored = first.traceparent()
            first.begin(["r"], "m")
            visit.answered("/v1/chat/completions", 200, "req-1")
        first.close()
        second.begin(["r"], "m", stored)
        second.observe_step(finished_report("r"))
        second.close()
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE_ID}
    assert sum(span.name == "chat m" for span in collector.spans) == 2


def test_a_failed_generation_is_marked() -> None:
    with collecting() as collector:
        tracing = OtlpTracing(otlp_processor(collector.url), "1")
        tracing.begin(["r"], "m")
        tracing.observe_step(finished_report("r", FinishReason.ERROR))
        tracing.close()
    assert attributes(collector.named("chat m"))["error.type"] == "out_of_luck"
    assert collector.named("chat m").status.code == collector.named("chat m").status.STATUS_CODE_ERROR


def test_a_context_that_makes_no_sense_begins_a_new_trace() -> None:
    with collecting() as collector:
        tracing = OtlpTracing(otlp_processor(collector.url), "1")
        with tracing.visit("GET", "00-nonsense") as visit:
            visit.answered("other", 404, "req-1")
        tracing.close()
    (span,) = collector.spans
    assert span.parent_span_id == b"" and span.trace_id.hex() != TRACE_ID


def test_a_collector_that_is_away_costs_no_request() -> None:
    with running_front(ScriptedEngine(hello), Settings(otlp_endpoint="http://127.0.0.1:9")) as front, front.http() as http_client:
        assert http_client.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user("hi")]}).status_code == 200
