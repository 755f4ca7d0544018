"""Where a request's time goes, from what the loop shows of it."""

from __future__ import annotations

from server.engine.phases import PhaseWatch
from server.engine.sequence import Phase, Sequence
from server.messages import (
    FinishedOutput,
    FinishReason,
    ImageOutput,
    ImageParams,
    OutputMode,
    Picture,
    Request,
    RequestPhase,
    SamplingParams,
    Timeline,
    Usage,
)
from tests.clock import Clock

REQUEST = Request("r", [], OutputMode.ALTERNATE, SamplingParams(), ImageParams(64, 64))


IMAGE = ImageOutput("r", 0, Picture(1, 1, bytes(3)))
END = FinishedOutput("r", FinishReason.STOP, Usage())


def sequence_in(phase: Phase) -> Sequence:
    sequence = Sequence(0, REQUEST, [])
    sequence.phase = phase
    return sequence


def seconds(timeline: Timeline) -> list[tuple[RequestPhase, float]]:
    return [(span.phase, span.start_age_s - span.end_age_s) for span in timeline.spans]


def test_a_drawing_request_s_time_goes_to_queue_prefill_denoise_and_vae() -> None:
    clock = Clock()
    watch = PhaseWatch(clock)
    watch.arrived("r")
    for phase, lasts_s in ((Phase.WAITING, 1.0), (Phase.PREFILL, 2.0), (Phase.DENOISE, 8.0)):
        watch.look([sequence_in(phase)])
        clock.now += lasts_s
    (timeline,) = watch.after_step([IMAGE], [END], [], vae_s=3.0)
    assert seconds(timeline) == [
        (RequestPhase.QUEUE, 1.0),
        (RequestPhase.PREFILL, 2.0),
        (RequestPhase.DENOISE, 5.0),
        (RequestPhase.VAE, 3.0),
    ]


def test_a_preempted_request_is_in_the_queue_again() -> None:
    clock = Clock()
    watch = PhaseWatch(clock)
    watch.arrived("r")
    watch.look([sequence_in(Phase.DECODE)])
    clock.now += 1.0
    watch.look([])
    clock.now += 2.0
    (timeline,) = watch.after_step([], [END], [], vae_s=0.0)
    assert seconds(timeline)[1:] == [(RequestPhase.DECODE, 1.0), (RequestPhase.QUEUE, 2.0)]


def test_a_finished_request_is_forgotten() -> None:
    watch = PhaseWatch(Clock())
    watch.arrived("r")
    watch.after_step([], [END], [], vae_s=0.0)
    assert watch.after_step([], [END], [], vae_s=0.0) == [Timeline("r", [])]
