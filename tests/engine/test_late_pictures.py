"""Pictures that are decoded beside the steps: nobody waits for the decoder but whose picture it is, and answers are the same to the bit."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from server.engine.fault_points import FaultPoints
from server.engine.loop import STUCK_WAIT_S
from server.messages import Abort, FinishReason, ImageParams, OutputMode, Request, RequestPhase, SamplingParams, StepReport, TextSegment
from tests.engine.fakes import make_request
from tests.engine.held_side import HeldSide
from tests.engine.test_batch_invariance import random_request
from tests.engine.test_run_ahead import House, chat, chat_that_may_end, ends_of, tokens_by_request

DRAWING = ImageParams(32, 48, num_timesteps=4, seed=5)


class LateHouse(House):
    """An engine whose pictures are decoded on a side stream that the test holds."""

    def __init__(
        self, *, runs_ahead: bool = True, num_pages: int = 400, target_s: float | None = None, max_batch_tokens: int = 2048
    ) -> None:
        super().__init__(runs_ahead=runs_ahead, num_pages=num_pages, target_s=target_s, max_batch_tokens=max_batch_tokens)
        self.side = HeldSide()
        self.loaded.runner.decode_beside(self.side)
        self.loaded.scheduler.encodings.encoder = self.loaded.runner

    def step_until_held(self, num: int = 1) -> None:
        while len(self.side.held) < num:
            self.engine.step()

    def run(self) -> list[StepReport]:
        """Run until nothing is left to do; whatever is begun beside is done some steps later."""
        num_steps = 0
        while self.loaded.scheduler.has_work:
            self.engine.step()
            num_steps += 1
            if self.side.held and num_steps % 3 == 0:
                self.side.finish()
        return super().run()


def drawing(name: str, image: ImageParams = DRAWING, mode: OutputMode = OutputMode.IMAGE) -> Request:
    return make_request(name, mode=mode, image=image, sampling=SamplingParams(max_tokens=12, ignore_eos=True))


def pictures_of(reports: list[StepReport]) -> dict[tuple[str, int], bytes]:
    return {(image.request_id, image.index): image.picture.rgb for report in reports for image in report.images}


def answer_in_place(*requests: Request) -> list[StepReport]:
    house = House(runs_ahead=False)
    house.submit(*requests)
    return house.run()


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_words_come_while_a_picture_is_in_the_decoder(runs_ahead: bool) -> None:
    house = LateHouse(runs_ahead=runs_ahead)
    requests = [chat("a", 60), drawing("p")]
    house.submit(*requests)
    house.step_until_held()
    num_before = len(tokens_by_request(list(house.link.reports))["a"])
    for _ in range(20):
        house.engine.step()
    assert len(tokens_by_request(list(house.link.reports))["a"]) >= num_before + 20
    assert not pictures_of(list(house.link.reports))
    reports = house.run()
    expected = answer_in_place(*requests)
    assert pictures_of(reports) == pictures_of(expected) and len(pictures_of(reports)) == 1
    assert tokens_by_request(reports) == tokens_by_request(expected)


def test_steps_run_ahead_of_a_pictures_last_one_too() -> None:
    house = LateHouse()
    house.submit(chat("a", 60), drawing("p"))
    house.step_until_held()
    for _ in range(5):
        house.engine.step()
    num_launches = len(tokens_by_request(list(house.link.reports))["a"])
    assert house.launcher.num_ahead >= num_launches - 2, "all but the first of the chat and of its prompt"
    house.run()


@pytest.mark.parametrize("mode", [OutputMode.ALTERNATE, OutputMode.INTERLEAVED])
def test_a_story_goes_on_from_its_picture_as_if_it_had_come_at_once(mode: OutputMode) -> None:
    story = drawing("s", replace(DRAWING, max_images=2), mode)
    house = LateHouse()
    house.submit(story, chat("a", 40))
    reports, expected = house.run(), answer_in_place(story, chat("a", 40))
    assert tokens_by_request(reports) == tokens_by_request(expected)
    assert pictures_of(reports) == pictures_of(expected)
    order = [kind for report in reports for kind in ["t"] * len(report.tokens) + ["c"] * len(report.closed) + ["i"] * len(report.images)]
    assert order.count("i") == len(pictures_of(expected))


@pytest.mark.parametrize("seed", range(4))
def test_answers_are_the_same_in_whatever_order_pictures_come(seed: int) -> None:
    """Early, late, out of order, while others are aborted, pages run out and the decoder fails at first."""
    rng = random.Random(seed)
    requests = [random_request(rng, f"r{k}") for k in range(16)] + [chat_that_may_end(f"c{k}") for k in range(6)]
    requests += [drawing(f"p{k}", replace(DRAWING, seed=k, num_timesteps=rng.randint(2, 6))) for k in range(4)]
    victims = {one.request_id for one in rng.sample(requests, 4)}
    answers = answer_in_place(*requests)
    house = LateHouse(
        runs_ahead=rng.random() < 0.7,
        num_pages=rng.choice([120, 400]),
        max_batch_tokens=rng.choice([48, 500]),
        target_s=rng.choice([None, 1e-4]),
    )
    coming, may_fail = rng.sample(requests, len(requests)), False
    while coming or house.loaded.scheduler.has_work:
        if coming and rng.random() < 0.2:
            house.submit(coming.pop())
        if victims and rng.random() < 0.05:
            house.engine.submit(Abort(victims.pop()))
        if house.side.held and rng.random() < 0.2:
            house.side.finish(rng.randrange(len(house.side.held)))
        may_fail = not may_fail  # what failed once is tried again in the very next step
        house.side.num_failures = int(may_fail and rng.random() < 0.3)
        house.engine.step()

    reports = house.run()
    found, expected, ends = tokens_by_request(reports), tokens_by_request(answers), ends_of(answers)
    for name, reason in ends_of(reports).items():
        if reason is not FinishReason.ABORT:
            assert reason is ends[name] and found.get(name) == expected.get(name)
            assert {k: v for k, v in pictures_of(reports).items() if k[0] == name} == {
                k: v for k, v in pictures_of(answers).items() if k[0] == name
            }
    assert house.side.num_begun >= 6


def test_several_pictures_come_in_the_order_in_which_they_are_done() -> None:
    house = LateHouse()
    requests = [drawing(f"p{k}", replace(DRAWING, seed=k)) for k in range(3)]
    house.submit(*requests)
    house.step_until_held(3)
    for place in (2, 0, 0):
        house.side.finish(place)
        house.engine.step()
    names = [image.request_id for report in house.link.reports for image in report.images]
    assert names == ["p2", "p0", "p1"]
    assert pictures_of(house.run()) == pictures_of(answer_in_place(*requests))


def test_an_abort_while_its_picture_is_in_the_decoder_is_answered_at_once_and_its_pages_come_back_afterwards() -> None:
    house = LateHouse()
    house.submit(drawing("p"))
    house.step_until_held()
    house.engine.submit(Abort("p"))
    house.engine.step()
    assert ends_of(list(house.link.reports)) == {"p": FinishReason.ABORT}
    assert house.loaded.pool.num_used > 0 and house.loaded.scheduler.has_work
    house.side.finish()
    assert not pictures_of(house.run())
    assert not house.loaded.scheduler.has_work and house.loaded.pool.num_used == 0


def test_a_picture_that_was_given_up_before_its_decoding_began_is_not_decoded() -> None:
    house = LateHouse()
    house.submit(drawing("p"))
    while not house.loaded.scheduler.in_decoder.is_awaited(0):
        house.engine.step()
    house.engine.submit(Abort("p"))
    house.run()
    assert house.side.num_begun == 0


@pytest.mark.parametrize("num_failures", [1, 2])
def test_a_decoder_that_fails_is_tried_once_more_and_costs_no_other(num_failures: int) -> None:
    house = LateHouse()
    requests = [chat("a", 40), drawing("p")]
    house.submit(*requests)
    house.side.num_failures = num_failures
    reports, expected = house.run(), answer_in_place(*requests)
    assert tokens_by_request(reports) == tokens_by_request(expected)
    reason = FinishReason.STOP if num_failures == 1 else FinishReason.ERROR
    assert ends_of(reports) == {"a": FinishReason.LENGTH, "p": reason}
    assert pictures_of(reports) == (pictures_of(expected) if num_failures == 1 else {})


def test_a_decoder_that_finds_the_device_lost_ends_the_engine() -> None:
    house = LateHouse()
    house.submit(drawing("p"))
    house.side.num_failures, house.side.message = 1, "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="illegal memory access"):
        house.run()


def test_a_decoder_that_asked_a_library_too_much_costs_its_own_request_alone() -> None:
    """The words are those of a lost device, and an engine that ended for them would end again with the next such request."""
    house = LateHouse()
    requests = [chat("a", 40), drawing("p")]
    house.submit(*requests)
    house.side.num_failures, house.side.message = 2, "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul(...)`"
    assert ends_of(house.run()) == {"a": FinishReason.LENGTH, "p": FinishReason.ERROR}


def test_a_step_that_raises_leaves_the_picture_in_the_decoder_alone(tmp_path: Path) -> None:
    house = LateHouse()
    house.loaded.runner.faults = FaultPoints(tmp_path)
    requests = [chat("a", 60), drawing("p")]
    house.submit(*requests)
    house.step_until_held()
    (tmp_path / "decode.raise").touch()
    for _ in range(3):
        house.engine.step()
    assert not (tmp_path / "decode.raise").exists()
    reports, expected = house.run(), answer_in_place(*requests)
    assert tokens_by_request(reports) == tokens_by_request(expected)
    assert pictures_of(reports) == pictures_of(expected)


def test_an_engine_that_only_waits_for_a_picture_waits_in_short_naps() -> None:
    """For messages, so that an abort or another request is taken in at once; it neither spins nor sleeps as an idle one does."""
    house = LateHouse()
    house.submit(drawing("p"))
    house.step_until_held()
    for _ in range(3):
        assert house.engine.step() is None
    assert house.engine.patience_s == STUCK_WAIT_S
    house.submit(chat("a", 5))
    house.engine.step()
    assert house.engine.patience_s == 0.0
    house.run()


def test_the_time_in_the_decoder_is_told_apart() -> None:
    house = LateHouse()
    house.submit(drawing("p"), chat("a", 30))
    reports = house.run()
    (timeline,) = [one for report in reports for one in report.timelines if one.request_id == "p"]
    assert [span.phase for span in timeline.spans][-2:] == [RequestPhase.DENOISE, RequestPhase.VAE]
    told = [report.stats.vae_s for report in reports if report.images]
    assert len(told) == 1 and told[0] > 0.0
    assert not any(report.stats.vae_s for report in reports if not report.images)


def test_the_next_conversation_finds_the_pages_of_a_story_whose_picture_came_late() -> None:
    story = drawing("s", mode=OutputMode.ALTERNATE)
    again = make_request("n", [*story.segments, TextSegment([9])], sampling=SamplingParams(max_tokens=4, ignore_eos=True))
    house = LateHouse()
    house.submit(story)
    house.run()
    house.submit(again)
    assert tokens_by_request(house.run())["n"] == tokens_by_request(answer_in_place(story, again))["n"]
