"""The series themselves: what a step and an answer add up to, and what endpoint pickers read from it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from server.errors import GenerationFailed, InvalidImage, error_codes
from server.messages import FinishReason, PhaseSpan, RequestPhase, StepReport, StepStats, Timeline, Usage
from server.metrics import FrontState, Metrics

READY = FrontState("tiny", in_flight=0, is_ready=True, num_engine_starts=1, page_size=16, num_pages=256)


def report(stats: StepStats, timelines: list[Timeline] | None = None) -> StepReport:
    return StepReport([], [], [], [], [], stats, timelines or [])


def samples(metrics: Metrics, state: FrontState = READY) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return every sample by its name and its label values in the order of the labels' names, as a scraper parses them."""
    families = text_string_to_metric_families(metrics.exposition(state).decode())
    read = [sample for family in families for sample in family.samples]
    return {(sample.name, tuple(sample.labels[label] for label in sorted(sample.labels))): sample.value for sample in read}


def picked(metrics: Metrics, state: FrontState) -> dict[str, float]:
    """Return what an endpoint picker keeps of a scrape: for each name of its specification the last sample's value."""
    names = {"vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"}
    return {name: value for (name, _), value in samples(metrics, state).items() if name in names}


def test_an_endpoint_picker_sees_text_and_picture_work_alike() -> None:
    metrics = Metrics()
    metrics.observe_step(report(StepStats(running_text=2, running_image=3, waiting=4, pages_used=64, pages_total=256)))
    state = FrontState("tiny", in_flight=9, is_ready=True, num_engine_starts=1, page_size=16, num_pages=256)
    assert picked(metrics, state) == {
        "vllm:num_requests_running": 5.0,
        "vllm:num_requests_waiting": 4.0,
        "vllm:kv_cache_usage_perc": 0.25,
    }


def test_a_request_counts_as_waiting_before_the_engine_has_reported_it() -> None:
    state = FrontState("tiny", in_flight=3, is_ready=True, num_engine_starts=1, page_size=16, num_pages=256)
    assert picked(Metrics(), state)["vllm:num_requests_waiting"] == 3.0


def test_the_cache_configuration_is_in_the_labels() -> None:
    assert samples(Metrics())[("vllm:cache_config_info", ("16", "tiny", "256"))] == 1.0


def test_a_dead_engine_runs_and_holds_nothing() -> None:
    metrics = Metrics()
    metrics.observe_step(report(StepStats(running_image=3, pages_used=64, pages_total=256)))
    down = FrontState("tiny", in_flight=0, is_ready=False, num_engine_starts=1, page_size=0, num_pages=0)
    read = samples(metrics, down)
    assert read[("plait_requests_running", ("image",))] == 0.0
    assert read[("vllm:kv_cache_usage_perc", ("tiny",))] == 0.0
    assert not any(name == "vllm:cache_config_info" for name, _ in read)


def test_totals_of_the_engine_go_on_when_it_is_started_again() -> None:
    metrics = Metrics()
    for step, num_preemptions in ((1, 2), (2, 5), (1, 1)):
        metrics.observe_step(report(StepStats(step=step, num_preemptions=num_preemptions)))
    assert samples(metrics)[("plait_preemptions_total", ())] == 6.0


def test_a_finished_request_s_time_is_counted_by_phase() -> None:
    spans = [
        PhaseSpan(RequestPhase.QUEUE, 4.0, 3.5),
        PhaseSpan(RequestPhase.DENOISE, 3.5, 2.0),
        PhaseSpan(RequestPhase.DENOISE, 1.5, 0.5),
    ]
    metrics = Metrics()
    metrics.observe_step(report(StepStats(), [Timeline("r", spans)]))
    read = samples(metrics)
    assert read[("plait_request_phase_seconds_sum", ("queue",))] == 0.5
    assert read[("plait_request_phase_seconds_sum", ("denoise",))] == 2.5
    assert read[("plait_request_phase_seconds_count", ("denoise",))] == 1.0
    assert read[("plait_request_phase_seconds_count", ("decode",))] == 0.0


def test_pictures_of_five_minutes_still_have_a_bucket() -> None:
    metrics = Metrics()
    metrics.observe_finished(FinishReason.STOP, Usage(num_images=1), 299.0)
    assert samples(metrics)[("plait_e2e_request_seconds_bucket", ("300.0",))] == 1.0


def test_every_reason_to_refuse_is_there_from_the_start() -> None:
    read = samples(Metrics())
    assert {labels[0] for name, labels in read if name == "plait_rejections_total"} == set(error_codes())


def test_an_error_code_nobody_knows_makes_no_new_series() -> None:
    metrics = Metrics()
    metrics.observe_rejection(InvalidImage("broken"))
    metrics.observe_rejection(GenerationFailed("no", "word-of-a-client"))
    read = samples(metrics)
    assert read[("plait_rejections_total", ("invalid_image",))] == 1.0
    assert read[("plait_rejections_total", ("server_error",))] == 1.0
    assert not any("word-of-a-client" in labels for _, labels in read)
