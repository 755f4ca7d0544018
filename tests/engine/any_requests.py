"""Requests of every kind, small ones, and what a model that is not there draws for them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from model.step_cache_rules import StepCache
from server.messages import ImageParams, OutputMode, Request, SamplingParams, Segment, TextSegment
from tests.engine.fakes import BOI, BOS, END, EOI, EOS, make_request, picture_segment

TOKENS = (EOS, EOS, BOI, BOS, END, EOI, 50, 51, 52, 53)


def drawn(sequence_id: int, index: int) -> int:
    """A token that looks random and depends on nothing else, as the engine's own."""
    return TOKENS[(sequence_id * 7919 + index * 104_729 + (sequence_id * index) % 31) % len(TOKENS)]


texts = st.integers(0, 9).map(lambda length: TextSegment([7] * length))
pictures = st.integers(1, 3).map(lambda height: picture_segment(16 * height, 32))
images = st.builds(
    ImageParams,
    height=st.sampled_from([16, 32, 48]),
    width=st.sampled_from([16, 32, 48]),
    num_timesteps=st.integers(2, 5),
    text_scale=st.sampled_from([1.0, 4.0]),
    image_scale=st.sampled_from([1.0, 2.0]),
    interval=st.sampled_from([(0.0, 1.0), (0.4, 1.0)]),
    max_images=st.integers(1, 2),
    step_cache=st.sampled_from([None, StepCache(2, num_first=1)]),
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    segments: list[Segment] = draw(st.lists(st.one_of(texts, pictures), min_size=1, max_size=4))
    sampling = SamplingParams(
        max_tokens=draw(st.integers(1, 10)),
        frequency_penalty=draw(st.sampled_from([0.0, 0.5])),
        min_tokens=draw(st.integers(0, 3)),
        grammar=draw(st.sampled_from([None, "1000"])),
    )
    request = make_request("", segments, draw(st.sampled_from(OutputMode)), sampling, draw(images), is_thought=draw(st.booleans()))
    return replace(
        request,
        tenant=draw(st.sampled_from(["a", "b"])),
        weight=draw(st.sampled_from([0.5, 1.0, 4.0])),
        priority=draw(st.sampled_from([0, 0, 0, 1])),
        deadline_s=draw(st.sampled_from([None, None, None, 0.2, 5.0])),
    )


PLAIN = make_request("", mode=OutputMode.IMAGE, image=ImageParams(48, 48, num_timesteps=5))
FAVOURED = replace(make_request("", mode=OutputMode.IMAGE, image=ImageParams(16, 16, num_timesteps=2)), priority=1)
