"""The wire: whatever goes in comes out the same, and nothing else is believed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.messages import (
    Abort,
    EngineFailed,
    EngineReady,
    ImageParams,
    LoadProgress,
    OutputMode,
    Request,
    SamplingParams,
    Segment,
    Shutdown,
    StepReport,
)
from server.wire import FromEngine, ToEngine, WireError, decode_from_engine, decode_to_engine, encode_from_engine, encode_to_engine

st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(int, st.integers(-(2**63), 2**63 - 1))

REQUESTS = st.builds(
    Request,
    request_id=st.text(),
    segments=st.lists(st.from_type(Segment), max_size=4),  # type: ignore[arg-type]
    mode=st.sampled_from(OutputMode),
    sampling=st.builds(SamplingParams, seed=..., logit_bias=..., logprobs=..., ignore_eos=...),
    image=st.builds(ImageParams, interval=..., guidance=..., renorm=..., negative_token_ids=..., max_images=..., num_previews=...),
    generated_text_is_thought=st.booleans(),
    wants_progress=st.booleans(),
    tenant=...,
    user=...,
    weight=...,
    priority=...,
    deadline_s=...,
)
FOR_ENGINE = st.one_of(REQUESTS, st.from_type(Abort), st.from_type(Shutdown))
OF_ENGINE = st.one_of(*(st.from_type(kind) for kind in (EngineReady, LoadProgress, EngineFailed, StepReport)))


@given(message=FOR_ENGINE)
@settings(max_examples=60)
def test_a_message_for_the_engine_survives_the_wire(message: ToEngine) -> None:
    assert decode_to_engine(encode_to_engine(message)) == message


@given(message=OF_ENGINE)
@settings(max_examples=60)
def test_a_message_of_the_engine_survives_the_wire(message: FromEngine) -> None:
    assert decode_from_engine(encode_from_engine(message)) == message


@pytest.mark.parametrize("frames", [[], [b"abort"], [b"pickle", b"\x80"], [b"abort", b"\xc1"], [b"abort", b"\x80"], [b"a", b"b", b"c"]])
def test_what_is_no_message_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(WireError):
        decode_to_engine(frames)
    with pytest.raises(WireError):
        decode_from_engine(frames)


@given(payload=st.binary(max_size=64), kind=st.sampled_from([b"request", b"abort", b"report", b"ready"]))
@settings(max_examples=60)
def test_random_bytes_never_raise_anything_but_a_wire_error(payload: bytes, kind: bytes) -> None:
    for decode in (decode_to_engine, decode_from_engine):
        try:
            decode([kind, payload])
        except WireError:
            continue
