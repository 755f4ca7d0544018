"""The scheduler and the interleaving loop, with a runner that computes nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from model.profile import AfterImage, BeginOfImage
from server.engine.batch import Batch
from server.engine.fairness import PATIENCE_STEPS
from server.engine.options import SchedulerLimits
from server.messages import FinishReason, ImageParams, OutputMode, Request, SamplingParams, Segment, TextSegment
from tests.engine.fakes import BOI, BOS, END, EOI, EOS, FREE, House, make_house, make_request, picture_segment, tokens_of

TEN = SamplingParams(max_tokens=10)


def scripted(*tokens: int) -> House:
    """A house whose every sequence draws ``tokens``, then 50 for ever."""
    return make_house(lambda _, index: tokens[index] if index < len(tokens) else 50)


def kinds(house: House) -> list[str]:
    """What each step of a house with one sequence did: d(ecode), n(oise step), p(refill)."""
    return ["".join("d" * bool(b.decodes) + "n" * bool(b.denoises) + "p" * bool(b.prefills)) for b in house.runner.batches]


def finish(house: House, request: Request) -> tuple[FinishReason, int]:
    house.scheduler.submit(request)
    outputs = house.run()
    assert len(outputs.finished) == 1
    assert house.pool.num_used == 0
    return outputs.finished[0].reason, len(outputs.images)


def test_text_stops_at_the_end_token() -> None:
    house = scripted(40, 41, EOS)
    house.scheduler.submit(make_request("a", sampling=TEN))

    outputs = house.run()

    assert tokens_of(outputs, "a") == [40, 41]
    assert outputs.finished[0].reason is FinishReason.STOP


def test_text_stops_at_max_tokens() -> None:
    house = scripted()
    house.scheduler.submit(make_request("a", sampling=SamplingParams(max_tokens=3)))

    outputs = house.run()

    assert tokens_of(outputs, "a") == [50, 50, 50]
    assert outputs.finished[0].reason is FinishReason.LENGTH
    assert outputs.finished[0].usage.completion_text_tokens == 3


def test_begin_of_image_is_suppressed_in_text_mode() -> None:
    house = scripted()
    finish(house, make_request("a"))

    draws = [row.draw for batch in house.runner.batches for row in batch.decodes]
    assert all(BOI in draw.suppressed for draw in draws)


def test_a_free_answer_draws_a_picture_when_the_model_begins_one_after_a_text() -> None:
    house = scripted(40, EOS, BOI, BOS, 41, EOS, END)

    request = make_request("a", mode=OutputMode.INTERLEAVED, sampling=TEN, image=ImageParams(32, 32, num_timesteps=4, max_images=2))

    assert finish(house, request) == (FinishReason.STOP, 1)


def test_a_picture_may_begin_in_the_middle_of_a_text() -> None:
    house = scripted(40, BOI, END)
    request = make_request("a", mode=OutputMode.INTERLEAVED, sampling=TEN)
    house.scheduler.submit(request)

    outputs = house.run()

    assert (tokens_of(outputs, "a"), len(outputs.images)) == ([40], 1)


def test_begin_of_image_is_suppressed_after_the_last_picture() -> None:
    house = scripted(40, EOS, BOI, BOS, 41, EOS, END)
    finish(house, make_request("a", mode=OutputMode.INTERLEAVED, sampling=TEN))

    draws = [row.draw for batch in house.runner.batches for row in batch.decodes]
    draws += [row.draw for batch in house.runner.batches for row in batch.prefills if row.draw is not None]
    assert [BOI in draw.suppressed for draw in sorted(draws, key=lambda draw: draw.index)] == [False] * 3 + [True] * 4


@pytest.mark.parametrize(("script", "words"), [((40, EOS, BOI, BOS, 41, EOS, BOI), [40, 41]), ((40, BOI, BOS, 41, BOI), [40, 41])])
def test_where_nobody_asked_for_fewer_an_answer_that_wants_a_picture_too_many_ends_as_too_long(
    script: tuple[int, ...], words: list[int]
) -> None:
    """After a text or in its middle: one that went on without its pictures would look whole."""
    house = scripted(*script)
    image = ImageParams(32, 32, num_timesteps=4, ends_at_last_image=True)
    house.scheduler.submit(make_request("a", mode=OutputMode.INTERLEAVED, sampling=TEN, image=image))

    outputs = house.run()

    assert (tokens_of(outputs, "a"), len(outputs.images)) == (words, 1)
    assert [finished.reason for finished in outputs.finished] == [FinishReason.LENGTH]


@pytest.mark.parametrize("max_positions", [30, 31, 32])
def test_no_text_is_begun_where_no_position_is_left(max_positions: int) -> None:
    """Texts of one token each, three positions, until the last is taken: nothing is fed beyond it."""
    house = make_house(lambda _, index: (40, EOS, BOS)[index % 3], max_positions=max_positions)
    sampling = SamplingParams(max_tokens=1000)

    reason, _ = finish(house, make_request("a", mode=OutputMode.INTERLEAVED, sampling=sampling))

    fed = [row.rope_pos for batch in house.runner.batches for row in batch.decodes]
    assert reason is FinishReason.LENGTH
    assert max_positions - 3 <= max(fed) < max_positions


def test_what_follows_a_picture_is_the_familys_choice() -> None:
    profile = replace(FREE, begin_of_image=BeginOfImage.AFTER_TEXT_END, after_image=AfterImage.FINISH)
    house = make_house(lambda _, index: (40, EOS, BOI)[index], profile=profile)

    assert finish(house, make_request("a", mode=OutputMode.INTERLEAVED, sampling=TEN)) == (FinishReason.STOP, 1)


def test_a_model_that_writes_nothing_twice_is_stopped() -> None:
    house = make_house(lambda _, index: (EOS, BOS)[index % 2])

    assert finish(house, make_request("a", mode=OutputMode.INTERLEAVED, sampling=TEN)) == (FinishReason.STOP, 0)


def test_forced_pictures_come_one_after_the_other_and_end_the_answer() -> None:
    house = scripted()

    reason, num_images = finish(house, make_request("a", mode=OutputMode.IMAGE, image=ImageParams(32, 32, num_timesteps=3, max_images=2)))

    assert (reason, num_images) == (FinishReason.STOP, 2)
    assert "d" not in "".join(kinds(house))


def test_alternating_texts_share_the_tokens() -> None:
    house = scripted()
    house.scheduler.submit(
        make_request("a", mode=OutputMode.ALTERNATE, sampling=TEN, image=ImageParams(32, 32, num_timesteps=3, max_images=2))
    )

    outputs = house.run()

    assert len(outputs.images) == 2
    assert len(outputs.closed) == 3
    assert len(tokens_of(outputs, "a")) == 10
    assert outputs.finished[0].reason is FinishReason.LENGTH


def test_a_thought_is_followed_by_its_picture_and_nothing_else() -> None:
    house = scripted(40, 41, EOS)
    request = make_request("a", mode=OutputMode.ALTERNATE, sampling=TEN, is_thought=True)
    house.scheduler.submit(request)

    outputs = house.run()

    assert (tokens_of(outputs, "a"), len(outputs.images), len(outputs.closed)) == ([40, 41], 1, 1)


def test_text_to_image_runs_two_rows_in_the_interval_and_one_outside() -> None:
    house = scripted()
    finish(house, make_request("a", mode=OutputMode.IMAGE, image=ImageParams(32, 32, num_timesteps=8, image_scale=1.5)))

    rows = [len(step.rows) for batch in house.runner.batches for step in batch.denoises]
    inside = [step.eulers[0].timestep > 0.4 for batch in house.runner.batches for step in batch.denoises]
    assert rows == [2 if within else 1 for within in inside]
    assert {1, 2} == set(rows)


def test_an_edit_prefills_its_picture_once() -> None:
    house = scripted()
    params = ImageParams(32, 32, num_timesteps=4, image_scale=2.0, interval=(0.0, 1.0))
    finish(house, make_request("a", [picture_segment(), TextSegment([7])], OutputMode.IMAGE, image=params))

    rows = sum(piece.num_rows for batch in house.runner.batches for row in batch.prefills for piece in row.pieces)
    assert rows == (6 + 6 + 3) + 3, "the full context, and the instruction alone for the image-dropped branch"
    assert all(len(step.rows) == 3 for batch in house.runner.batches for step in batch.denoises)


def test_decode_prefill_and_denoise_share_a_step() -> None:
    house = make_house(lambda _, __: 50)
    house.scheduler.submit(make_request("text", sampling=SamplingParams(max_tokens=30)))
    house.scheduler.submit(make_request("image", mode=OutputMode.IMAGE, image=ImageParams(32, 32, num_timesteps=20)))
    for _ in range(3):
        house.step()
    house.scheduler.submit(make_request("late", [TextSegment([21, 22])], sampling=SamplingParams(max_tokens=3)))
    house.step()

    assert kinds(house)[-1] == "dnp"


def test_no_sequence_waits_for_ever_behind_pictures() -> None:
    """With a budget of one image a step, a prompt gets its turn within as many steps as there are images."""
    house = make_house(lambda _, __: 50, limits=SchedulerLimits(max_batch_tokens=12, max_running=8))
    for k in range(4):
        house.scheduler.submit(make_request(f"image{k}", mode=OutputMode.IMAGE, image=ImageParams(32, 32, num_timesteps=50)))
    for _ in range(20):
        house.step()
    house.scheduler.submit(make_request("text", sampling=SamplingParams(max_tokens=2)))

    steps = next(k for k in range(1, 20) if house.step().tokens)

    assert steps <= 6


def test_a_prompt_that_can_never_fit_is_refused_at_once() -> None:
    house = make_house(lambda _, __: 50, num_pages=4, page_size=4)
    house.scheduler.submit(make_request("a", [TextSegment(list(range(20)))]))

    outputs = house.scheduler.take_outputs()

    assert outputs.finished[0].error_code == "context_length_exceeded"
    assert "22" in str(outputs.finished[0].error_message) or "23" in str(outputs.finished[0].error_message)


@pytest.mark.parametrize(("image_scale", "num_pages", "is_refused"), [(2.0, 22, True), (2.0, 23, False), (1.0, 17, False), (1.0, 16, True)])
def test_an_edit_whose_guidance_can_never_fit_is_refused_at_once(image_scale: float, num_pages: int, is_refused: bool) -> None:
    """66 rows of the full context fill 17 pages; the 22 without the picture want 6 more, since they share none."""
    image = ImageParams(32, 32, num_timesteps=4, text_scale=4.0, image_scale=image_scale, interval=(0.0, 1.0))
    request = make_request("edit", [picture_segment(80, 64), TextSegment([7] * 20)], OutputMode.IMAGE, image=image)
    house = make_house(lambda _, __: 50, num_pages=num_pages)
    house.scheduler.submit(request)

    refusals = house.scheduler.take_outputs().finished

    assert [end.error_code for end in refusals] == ["context_length_exceeded"] * is_refused
    assert is_refused or house.run().finished[0].reason is FinishReason.STOP


def test_the_youngest_is_preempted_and_goes_on_with_its_canon() -> None:
    house = make_house(lambda sid, index: 100 * (sid + 1) + index, num_pages=10, page_size=2)
    for name in ("old", "young"):
        house.scheduler.submit(make_request(name, sampling=SamplingParams(max_tokens=8)))

    outputs = house.run()

    assert house.scheduler.num_preemptions >= 1
    assert tokens_of(outputs, "old") == [100 + k for k in range(8)]
    assert tokens_of(outputs, "young") == [200 + k for k in range(8)]
    assert house.pool.num_used == 0


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_a_prompt_that_wants_many_pages_at_once_waits_no_longer_than_its_patience_for_younger_chats_to_give_them_up(
    runs_ahead: bool,
) -> None:
    """The chats would write on for hundreds of steps, and whatever pages one gives back the next would take."""
    house = make_house(lambda _, __: 50, num_pages=52, runs_ahead=runs_ahead)
    house.scheduler.submit(make_request("large", [TextSegment([7] * 58), picture_segment(144, 80)], sampling=SamplingParams(max_tokens=1)))
    house.step()
    for number in range(7):
        house.scheduler.submit(make_request(f"chat {number}", [TextSegment([20 + number] * 16)], sampling=SamplingParams(max_tokens=200)))
    for _ in range(2 * (PATIENCE_STEPS + 12)):
        ends = [end.request_id for end in house.step().finished]
        if "large" in ends:
            break

    assert "large" in ends
    house.run()
    assert house.pool.num_used == 0


def test_a_sequence_alone_that_outgrows_the_pool_ends_by_length() -> None:
    house = make_house(lambda _, __: 50, num_pages=4, page_size=2)

    assert finish(house, make_request("a", sampling=SamplingParams(max_tokens=100))) == (FinishReason.LENGTH, 0)


@pytest.mark.parametrize("num_steps", range(10))
def test_an_abort_at_any_step_frees_every_page(num_steps: int) -> None:
    house = scripted(40, EOS, BOI, BOS, 41, EOS, END)
    house.scheduler.submit(make_request("a", [picture_segment(), TextSegment([7])], OutputMode.INTERLEAVED, TEN))
    for _ in range(num_steps):
        house.step()

    house.scheduler.abort("a")

    assert [output.reason for output in house.scheduler.take_outputs().finished] == [FinishReason.ABORT]
    assert house.pool.num_used == 0
    assert not house.scheduler.has_work


def assert_no_page_is_owned_wrongly(house: House, batch: Batch) -> None:
    """Every page a row of this batch writes to belongs to that context alone."""
    written: dict[int, int] = {}
    writers = [(row.pages, row.kv_len, 1) for row in batch.decodes]
    writers += [(row.pages, row.kv_len, sum(piece.num_rows for piece in row.pieces)) for row in batch.prefills]
    for number, (pages, start, num_rows) in enumerate(writers):
        for page in pages[start // house.pool.page_size : house.pool.pages_for(start + num_rows)]:
            assert not house.pool.is_shared(page), f"page {page} is written while shared"
            assert written.setdefault(page, number) == number, f"page {page} is written by two rows"


def random_request(rng: random.Random, name: str) -> Request:
    segments: list[Segment] = []
    for _ in range(rng.randint(1, 4)):
        is_picture = rng.random() < 0.5
        segments.append(picture_segment(16 * rng.randint(1, 3), 32) if is_picture else TextSegment([7] * rng.randint(0, 9)))
    image = ImageParams(
        16 * rng.randint(1, 3),
        16 * rng.randint(1, 3),
        num_timesteps=rng.randint(2, 6),
        text_scale=rng.choice([1.0, 4.0]),
        image_scale=rng.choice([1.0, 2.0]),
        interval=rng.choice([(0.0, 1.0), (0.4, 1.0)]),
        max_images=rng.randint(1, 3),
    )
    sampling = SamplingParams(max_tokens=rng.randint(1, 12))
    return make_request(name, segments, rng.choice(list(OutputMode)), sampling, image, is_thought=rng.random() < 0.2)


@pytest.mark.parametrize("seed", range(40))
def test_random_histories_end_with_every_page_free_and_every_request_finished_once(seed: int) -> None:
    rng = random.Random(seed)
    choices = [EOS, EOS, BOI, BOS, END, EOI, 50, 51, 52, 53]
    house = make_house(
        lambda sid, index: random.Random(seed * 7919 + sid * 104729 + index).choice(choices),
        num_pages=rng.choice([30, 60, 400]),
        page_size=rng.choice([1, 3, 4, 16]),
        limits=SchedulerLimits(max_batch_tokens=rng.choice([8, 40, 200]), max_running=rng.choice([2, 8])),
    )
    names: list[str] = []
    finished: list[str] = []
    for step in range(3000):
        if step < 60 and rng.random() < 0.4:
            names.append(f"r{len(names)}")
            house.scheduler.submit(random_request(rng, names[-1]))
        if names and rng.random() < 0.03:
            house.scheduler.abort(rng.choice(names))
        batch = house.scheduler.schedule()
        assert_no_page_is_owned_wrongly(house, batch)
        if not batch.is_empty:
            house.scheduler.commit(batch, house.runner.execute(batch))
        finished += [output.request_id for output in house.scheduler.take_outputs().finished]
        if step >= 60 and not house.scheduler.has_work:
            break

    assert sorted(finished) == sorted(names)
    assert house.pool.num_used == 0


def test_budget_is_kept_unless_one_image_exceeds_it() -> None:
    house = make_house(lambda _, __: 50, limits=SchedulerLimits(max_batch_tokens=20, max_running=8))
    for k in range(6):
        house.scheduler.submit(make_request(f"r{k}", [TextSegment([7] * 30)], sampling=SamplingParams(max_tokens=5)))
    house.run()

    sizes = [len(b.decodes) + sum(piece.num_rows for row in b.prefills for piece in row.pieces) for b in house.runner.batches]
    assert max(sizes) <= 20
