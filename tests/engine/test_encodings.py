"""Pictures of prompts that are encoded beside the steps: nobody waits for an encoder but who sent the picture, and answers are the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from server.engine import encodings
from server.engine.chunks import take_chunk
from server.engine.context import Context
from server.engine.encodings import Encodings
from server.engine.segments import ContextSegment, PictureSegment, TextTokens, VitImage
from server.engine.sequence import Fill, Phase, Sequence
from server.messages import Abort, FinishReason, ImageSegment, OutputMode, Request, SamplingParams, StepReport, TextSegment
from tests.engine.fakes import FakeEncoder, grey, make_request
from tests.engine.test_late_pictures import LateHouse, answer_in_place, drawing, pictures_of
from tests.engine.test_run_ahead import chat, ends_of, tokens_by_request

WORDS = TextSegment([20, 21, 22])


def looking(name: str) -> Request:
    """A question about a picture."""
    picture = ImageSegment(vit=grey(28, 42), vae=grey(32, 48))
    return make_request(name, [WORDS, picture, WORDS], sampling=SamplingParams(max_tokens=6, ignore_eos=True))


def num_encoded(reports: list[StepReport]) -> int:
    return sum(report.stats.num_pictures_encoded for report in reports)


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_words_come_while_anothers_picture_is_being_encoded(runs_ahead: bool) -> None:
    house = LateHouse(runs_ahead=runs_ahead)
    requests = [chat("a", 60), looking("p")]
    house.submit(*requests)
    house.step_until_held(2)
    num_before = len(tokens_by_request(list(house.link.reports)).get("a", []))
    for _ in range(20):
        house.engine.step()
    found = tokens_by_request(list(house.link.reports))
    assert len(found["a"]) >= num_before + 20 and "p" not in found
    reports, expected = house.run(), answer_in_place(*requests)
    assert tokens_by_request(reports) == tokens_by_request(expected)
    assert num_encoded(reports) == num_encoded(expected) == 2


def test_the_words_before_a_picture_are_taken_in_while_it_is_being_encoded() -> None:
    house = LateHouse()
    house.submit(looking("p"))
    house.step_until_held(2)
    for _ in range(3):
        house.engine.step()
    (sequence,) = house.loaded.scheduler.running
    assert sequence.full.kv_len == len(WORDS.token_ids) + 2
    house.run()


def test_a_picture_that_two_requests_hold_is_encoded_once() -> None:
    house = LateHouse()
    house.submit(looking("p"), looking("q"))
    reports = house.run()
    assert num_encoded(reports) == 2, "once by the VAE, once by the ViT"
    assert tokens_by_request(reports) == tokens_by_request(answer_in_place(looking("p"), looking("q")))


def test_a_story_has_its_drawn_picture_encoded_beside_too() -> None:
    house = LateHouse()
    story = drawing("s", mode=OutputMode.ALTERNATE)
    house.submit(story, chat("a", 40))
    reports, expected = house.run(), answer_in_place(story, chat("a", 40))
    assert house.side.num_begun == 1 + num_encoded(expected)
    assert tokens_by_request(reports) == tokens_by_request(expected) and pictures_of(reports) == pictures_of(expected)


def test_a_picture_that_cannot_be_encoded_beside_is_encoded_in_its_step() -> None:
    house = LateHouse()
    house.submit(looking("p"), chat("a", 12))
    house.side.num_failures = 2
    reports, expected = house.run(), answer_in_place(looking("p"), chat("a", 12))
    assert house.side.num_begun == 0
    assert tokens_by_request(reports) == tokens_by_request(expected) and num_encoded(reports) == 2


def test_an_abort_while_its_picture_is_being_encoded_leaves_nothing_behind() -> None:
    house = LateHouse()
    house.submit(looking("p"))
    house.step_until_held(2)
    house.engine.submit(Abort("p"))
    house.engine.step()
    assert ends_of(house.run()) == {"p": FinishReason.ABORT}
    house.submit(looking("q"))
    assert tokens_by_request(house.run())["q"] == [
        token.__class__("q", token.token_id, token.logprob) for token in tokens_by_request(answer_in_place(looking("p")))["p"]
    ]


def image(number: int) -> VitImage:
    return VitImage(number, grey(16, 16), 1, 1, bytes([number // 256, number % 256]))


def sequence_with(*segments: ContextSegment) -> Sequence:
    return Sequence(0, looking("p"), history=list(segments), phase=Phase.PREFILL, fills=[Fill(Context(), list(segments))])


def test_a_chunk_ends_before_a_picture_that_is_not_ready() -> None:
    fill = Fill(Context(), [TextTokens(1, (7, 8)), image(2), TextTokens(3, (9,))])
    chunk = take_chunk(fill, 100, may_exceed=True, is_ready=lambda _: False)
    assert (chunk.num_rows, chunk.num_segments, chunk.completes) == (2, 1, False)
    assert take_chunk(fill, 100, may_exceed=True, is_ready=lambda _: True).completes


def test_a_few_pictures_of_a_sequence_are_asked_for_at_a_time() -> None:
    asked, encoder = Encodings(), FakeEncoder()
    asked.encoder = encoder
    sequence = sequence_with(*map(image, range(1, 6)))
    asked.ask(sequence)
    asked.ask(sequence)
    assert list(encoder.under_way) == [image(k).key for k in range(1, 1 + encodings.NUM_AHEAD)]
    assert asked.is_awaited(sequence)
    encoder.finish(image(1).key)
    asked.look()
    assert not asked.is_awaited(sequence) and asked.is_ready(image(1)) and not asked.is_ready(image(2))


class AtOnceEncoder:
    """Has encoded every picture as soon as it is asked for; counts how often that is."""

    num_asked = 0

    def begin_encoding(self, image: PictureSegment) -> Callable[[], bool]:
        self.num_asked += 1
        return lambda: True


def test_what_was_encoded_long_ago_is_forgotten_and_asked_for_again() -> None:
    asked, encoder = Encodings(), AtOnceEncoder()
    asked.encoder = encoder
    for number in range(encodings.MAX_READY + 1):
        asked.ask(sequence_with(image(number)))
    assert not asked.is_ready(image(0)) and asked.is_ready(image(1))
    asked.ask(sequence_with(image(0)))
    assert asked.is_ready(image(0)) and encoder.num_asked == encodings.MAX_READY + 2


def test_without_an_encoder_beside_every_picture_is_ready() -> None:
    asked = Encodings()
    asked.ask(sequence_with(image(1)))
    assert asked.is_ready(image(1)) and not asked.is_awaited(sequence_with(image(1)))
