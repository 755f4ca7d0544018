"""Traces: equal seeds give equal traffic, shares and loads are exact, and a chat's history is sent again with every turn."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtests.traces.arrivals import Arrivals, arrival_times
from loadtests.traces.mix import SHARES, Mix, Range, make_trace
from loadtests.traces.requests import Conversation, build_request, noise
from loadtests.traces.sessions import Kind, Session, Trace, read_trace, write_trace
from model.config import BagelConfig
from server.messages import ImageSegment, OutputMode, TextSegment

TINY, CONFIG = Mix.named("tiny"), BagelConfig.named("tiny")


def trace(arrivals: Arrivals = Arrivals.POISSON, num_sessions: int = 40, seed: int = 7) -> Trace:
    return make_trace(TINY, arrivals, num_sessions, horizon_s=20.0, seed=seed)


def first_of(kind: Kind, min_turns: int = 1) -> Session:
    return next(session for session in trace(num_sessions=100).sessions if session.kind is kind and len(session.turns) >= min_turns)


@pytest.mark.parametrize("arrivals", Arrivals)
def test_equal_seeds_give_equal_traces(arrivals: Arrivals) -> None:
    assert trace(arrivals) == trace(arrivals)
    assert trace(arrivals) != trace(arrivals, seed=8)


def test_a_trace_survives_its_file(tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.jsonl", trace())
    assert read_trace(tmp_path / "trace.jsonl") == trace()


def test_every_kind_has_exactly_its_share() -> None:
    assert Counter(session.kind for session in trace(num_sessions=100).sessions) == SHARES


@pytest.mark.parametrize("arrivals", Arrivals)
def test_arrivals_are_in_order_and_within_the_horizon(arrivals: Arrivals) -> None:
    times = arrival_times(arrivals, 500, 30.0, np.random.default_rng(1))
    assert len(times) == 500
    assert times == sorted(times)
    assert times[0] >= 0 and times[-1] < 30.0


def test_bursty_gaps_vary_more_than_poisson_gaps() -> None:
    def variation(arrivals: Arrivals) -> float:
        gaps = np.diff(arrival_times(arrivals, 5000, 100.0, np.random.default_rng(1)))
        return float(gaps.std() / gaps.mean())

    assert variation(Arrivals.POISSON) == pytest.approx(1.0, abs=0.1)
    assert variation(Arrivals.BURSTY) > 2.0


def test_a_day_is_busier_at_noon_than_at_night() -> None:
    times = np.array(arrival_times(Arrivals.DIURNAL, 20_000, 1.0, np.random.default_rng(1)))
    noon, night = np.mean((times > 0.4) & (times < 0.6)), np.mean((times < 0.1) | (times > 0.9))
    assert noon > 2 * night


def test_a_later_turn_sends_the_history_again() -> None:
    conversation = Conversation(first_of(Kind.CHAT, min_turns=2))
    opening = build_request(conversation, CONFIG)
    conversation.answers.append([TextSegment([5, 6, 7])])
    second = build_request(conversation, CONFIG)
    assert second.segments[: len(opening.segments)] == opening.segments
    assert second.segments[len(opening.segments)] == TextSegment([5, 6, 7])
    assert opening.request_id != second.request_id


def test_a_later_edit_sends_the_pictures_before_it_again() -> None:
    conversation = Conversation(first_of(Kind.EDIT, min_turns=2))
    opening = build_request(conversation, CONFIG)
    drawn = ImageSegment(vit=noise(28, np.random.default_rng(1)), vae=noise(32, np.random.default_rng(2)))
    conversation.answers.append([drawn])
    second = build_request(conversation, CONFIG)
    assert second.segments[:-1] == [*opening.segments, drawn]
    assert isinstance(second.segments[-1], TextSegment)


def test_a_picture_is_encoded_for_drawing_only_where_one_is_drawn() -> None:
    pictures = {
        kind: [s for s in build_request(Conversation(first_of(kind)), CONFIG).segments if isinstance(s, ImageSegment)]
        for kind in (Kind.PICTURE_CHAT, Kind.EDIT)
    }
    assert pictures[Kind.PICTURE_CHAT] and all(picture.vae is None for picture in pictures[Kind.PICTURE_CHAT])
    assert [picture.vae is not None for picture in pictures[Kind.EDIT]] == [True]


MODES = {
    Kind.CHAT: OutputMode.TEXT,
    Kind.PICTURE_CHAT: OutputMode.TEXT,
    Kind.TEXT_TO_IMAGE: OutputMode.IMAGE,
    Kind.EDIT: OutputMode.IMAGE,
    Kind.STORY: OutputMode.ALTERNATE,
}


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_session_asks_in_its_mode(kind: Kind) -> None:
    assert build_request(Conversation(first_of(kind)), CONFIG).mode is MODES[kind]


PATIENT = replace(TINY, operator_tokens=9, asks=Range(2, 3))


def patient_session(kind: Kind) -> Session:
    """Return a session of somebody who asks for each picture two or three times, on a server with words of its own."""
    sessions = make_trace(PATIENT, Arrivals.POISSON, 100, 20.0, 7).sessions
    return next(session for session in sessions if session.kind is kind and len(session.turns) > 3)


def test_what_is_asked_again_is_the_same_request_with_another_seed() -> None:
    conversation = Conversation(patient_session(Kind.EDIT))
    opening = build_request(conversation, CONFIG)
    conversation.answers.append([ImageSegment(vit=noise(28, np.random.default_rng(1)), vae=None)])
    again = build_request(conversation, CONFIG)
    assert again.segments == opening.segments
    assert again.image.seed != opening.image.seed


def test_of_what_was_asked_several_times_the_last_answer_is_history() -> None:
    session = patient_session(Kind.EDIT)
    conversation = Conversation(session)
    opening = build_request(conversation, CONFIG)
    new_index = next(index for index, turn in enumerate(session.turns) if index and not turn.again)
    drawn = [ImageSegment(vit=noise(28, np.random.default_rng(number)), vae=None) for number in range(new_index)]
    conversation.answers += [[picture] for picture in drawn]
    assert build_request(conversation, CONFIG).segments[:-1] == [*opening.segments, drawn[-1]]


def test_sessions_with_words_begin_with_the_same_words_of_the_operator() -> None:
    sessions = make_trace(PATIENT, Arrivals.POISSON, 100, 20.0, 7).sessions
    first = {kind: [build_request(Conversation(s), CONFIG).segments[0] for s in sessions if s.kind is kind] for kind in Kind}
    chats = first[Kind.CHAT] + first[Kind.STORY]
    assert isinstance(chats[0], TextSegment) and len(chats[0].token_ids) == 9
    assert all(segment == chats[0] for segment in chats)
    assert all(segment != chats[0] for segment in first[Kind.TEXT_TO_IMAGE])


def test_an_unknown_mix_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'huge'"):
        Mix.named("huge")
