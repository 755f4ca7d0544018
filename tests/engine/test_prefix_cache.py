"""The prefix cache: what was computed once is found again, by whoever sends the same content, and never by another tenant or user."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.engine.batch import BatchResult
from server.engine.options import SchedulerLimits
from server.messages import FinishReason, ImageParams, OutputMode, Picture, Request, SamplingParams, Segment, TextSegment, Usage
from server.messages import ImageSegment as Image
from tests.engine.fakes import FREE, House, make_house, make_request

LIMITS = SchedulerLimits(max_batch_tokens=400, max_running=8)
EDIT = ImageParams(32, 32, num_timesteps=4, image_scale=2.0, interval=(0.0, 1.0))
NUM_MARKERS = 2


def house(*, has_cache: bool = True, num_pages: int = 400, page_size: int = 4) -> House:
    limits = replace(LIMITS, has_prefix_cache=has_cache)
    return make_house(lambda _, index: 50 + index, num_pages=num_pages, page_size=page_size, limits=limits)


def photo(shade: int, side: int = 32) -> Image:
    picture = Picture(side, side, bytes([shade]) * (side * side * 3))
    return Image(vit=picture, vae=picture)


def ask(target: House, request: Request) -> Usage:
    """Run a request to its end and return what it cost."""
    target.scheduler.submit(request)
    (end,) = target.run().finished
    assert end.reason in (FinishReason.STOP, FinishReason.LENGTH)
    return end.usage


def prefilled(target: House) -> int:
    """Count the prompt rows computed since the last call."""
    rows = sum(piece.num_rows for batch in target.runner.batches for row in batch.prefills for piece in row.pieces)
    target.runner.batches.clear()
    return rows


def first_turn(num_pictures: int = 4) -> list[Segment]:
    segments: list[Segment] = [TextSegment([7] * 9)]
    for number in range(num_pictures):
        segments += [photo(number), TextSegment([20 + number] * 5)]
    return segments


def test_the_second_turn_of_a_chat_with_four_pictures_prefills_only_what_is_new() -> None:
    target = house()
    ask(target, make_request("one", first_turn(), sampling=SamplingParams(max_tokens=6)))
    prefilled(target)
    answer, question = TextSegment([50 + k for k in range(6)]), TextSegment([33] * 7)

    usage = ask(target, make_request("two", [*first_turn(), answer, question]))

    last_drawn_and_end = 2
    assert prefilled(target) == last_drawn_and_end + len(question.token_ids) + NUM_MARKERS
    assert usage.cached_image_tokens == usage.prompt_image_tokens
    assert usage.cached_text_tokens >= 9 + 2 + 4 * (5 + 2)


def test_a_chat_that_departs_from_the_answer_goes_on_after_the_last_token_they_share() -> None:
    target = house(page_size=16)
    ask(target, make_request("one", sampling=SamplingParams(max_tokens=8)))
    prefilled(target)
    edited = TextSegment([50, 51, 52, 99, 98])

    ask(target, make_request("two", [TextSegment([11, 12, 13]), edited]))

    assert prefilled(target) == 2 + 1


def test_an_answer_that_goes_on_elsewhere_does_not_overwrite_the_tail() -> None:
    """Both continuations start in the page the first answer ended in; each gets a copy of it."""
    target = house(page_size=16)
    ask(target, make_request("one", sampling=SamplingParams(max_tokens=8)))
    for name, token in (("two", 70), ("three", 80)):
        prefilled(target)
        ask(target, make_request(name, [TextSegment([11, 12, 13]), TextSegment([50, 51, 52, token])]))
        assert prefilled(target) == 2


def test_a_repeated_prompt_is_not_computed_at_all() -> None:
    target = house()
    ask(target, make_request("one", first_turn()))
    prefilled(target)

    usage = ask(target, make_request("two", first_turn()))

    assert prefilled(target) == 0
    assert (usage.cached_text_tokens, usage.cached_image_tokens) == (usage.prompt_text_tokens, usage.prompt_image_tokens)


def test_equal_prompts_that_arrive_together_are_computed_once() -> None:
    target = house()
    for name in ("a", "b", "c"):
        target.scheduler.submit(make_request(name, first_turn()))

    ends = target.run().finished

    usage = ends[0].usage
    assert prefilled(target) == usage.prompt_text_tokens + usage.prompt_image_tokens
    assert sorted(end.usage.cached_image_tokens for end in ends) == [0, usage.prompt_image_tokens, usage.prompt_image_tokens]


def test_a_long_prompt_cut_into_chunks_is_shared_chunk_by_chunk() -> None:
    target = make_house(lambda _, __: 50, limits=SchedulerLimits(max_batch_tokens=16, max_running=8))
    for name in ("a", "b"):
        target.scheduler.submit(make_request(name, [TextSegment(list(range(10, 110)))]))

    target.run()

    assert prefilled(target) <= 102 + 16


def test_a_repeated_edit_shares_the_picture_and_the_branches_of_the_first() -> None:
    target = house()
    segments: list[Segment] = [photo(1), TextSegment([7])]
    ask(target, make_request("a", segments, OutputMode.IMAGE, image=EDIT))
    assert prefilled(target) == (6 + 6 + 3) + 3, "the full context, and the instruction alone for the image-dropped branch"

    ask(target, make_request("b", segments, OutputMode.IMAGE, image=EDIT))

    assert prefilled(target) == 0


def test_another_edit_of_the_same_picture_prefills_its_instruction_alone() -> None:
    target = house()
    ask(target, make_request("a", [photo(1), TextSegment([7])], OutputMode.IMAGE, image=EDIT))
    prefilled(target)

    usage = ask(target, make_request("b", [photo(1), TextSegment([8, 9])], OutputMode.IMAGE, image=EDIT))

    assert prefilled(target) == 2 * 4, "once with the picture before it, once without"
    assert (usage.cached_image_tokens, usage.cached_text_tokens) == (12, 0)


def test_a_generated_picture_is_found_again_in_the_next_turn() -> None:
    """The fake runner paints grey; a client sends that picture back."""
    target = house()
    drawing = ImageParams(32, 32, num_timesteps=3, text_scale=1.0)
    ask(target, make_request("a", mode=OutputMode.ALTERNATE, image=drawing, sampling=SamplingParams(max_tokens=4)))
    prefilled(target)
    grey = Picture(32, 32, bytes(32 * 32 * 3))
    first_text, second_text = TextSegment([50, 51]), TextSegment([52, 53])

    again: list[Segment] = [TextSegment([11, 12, 13]), first_text, Image(grey, grey), second_text]
    usage = ask(target, make_request("b", [*again, TextSegment([60])]))

    assert usage.cached_image_tokens == usage.prompt_image_tokens
    assert prefilled(target) <= 4 + 3


def test_a_picture_that_differs_in_one_value_is_another_picture() -> None:
    target = house()
    ask(target, make_request("a", [photo(1), TextSegment([7])]))
    other = photo(1)
    changed = Picture(32, 32, other.vit.rgb[:-1] + b"\x02")

    usage = ask(target, make_request("b", [Image(vit=other.vit, vae=changed), TextSegment([7])]))

    assert usage.cached_image_tokens == 0


def test_a_picture_is_known_by_the_digests_that_come_with_it() -> None:
    """Its pixels, of which to go through takes longer than a step, are not looked at for that."""
    target, first = house(), photo(1).with_digests()
    ask(target, make_request("one", [first]))
    usage = ask(target, make_request("two", [replace(first, vit=photo(2).vit, vae=photo(2).vae)]))
    assert usage.cached_image_tokens == usage.prompt_image_tokens > 0


def test_the_same_bytes_in_another_shape_are_another_picture() -> None:
    target = house()
    tall, wide = Picture(64, 32, bytes(64 * 32 * 3)), Picture(32, 64, bytes(64 * 32 * 3))
    ask(target, make_request("a", [Image(tall, tall)]))

    assert ask(target, make_request("b", [Image(wide, wide)])).cached_image_tokens == 0


@pytest.mark.parametrize(("counts_dropped", "num_rows"), [(True, (6 + 6 + 11) + 11), (False, 6 + 6 + 11)])
def test_a_text_is_found_again_only_at_its_position(counts_dropped: bool, num_rows: int) -> None:
    """An edit's image-dropped branch holds its instruction alone: where the first prompt had it, unless dropped pictures count."""
    profile = replace(FREE, dropped_image_advances_position=counts_dropped)
    target = make_house(lambda _, __: 50, page_size=4, limits=LIMITS, profile=profile)
    ask(target, make_request("a", [TextSegment([7] * 9)]))
    prefilled(target)

    ask(target, make_request("b", [photo(1), TextSegment([7] * 9)], OutputMode.IMAGE, image=EDIT))

    assert prefilled(target) == num_rows


def test_tenants_and_their_users_do_not_see_each_other_s_prompts() -> None:
    target = house()
    ask(target, replace(make_request("a", first_turn()), tenant="one", user="ann"))

    for tenant, user in (("two", "ann"), ("one", "ben"), ("one", "")):
        assert ask(target, replace(make_request(f"{tenant} {user}", first_turn()), tenant=tenant, user=user)).cached_image_tokens == 0
    assert ask(target, replace(make_request("b", first_turn()), tenant="one", user="ann")).cached_image_tokens > 0


def test_idle_pages_count_as_free_and_give_way() -> None:
    target = house(num_pages=20)
    ask(target, make_request("a", [TextSegment([7] * 40)]))
    assert (target.pool.num_used, target.pool.num_free) == (0, 20)
    assert target.pool.num_idle >= 10

    ask(target, make_request("b", [TextSegment([8] * 74)]))

    assert ask(target, make_request("c", [TextSegment([7] * 40)])).cached_text_tokens == 0


def test_what_was_used_last_is_given_up_last() -> None:
    target = house(num_pages=40)
    for name, token in (("a", 7), ("b", 8)):
        ask(target, make_request(name, [TextSegment([token] * 50)]))
    ask(target, make_request("a again", [TextSegment([7] * 50)]))

    ask(target, make_request("c", [TextSegment([9] * 60)]))

    assert ask(target, make_request("a at last", [TextSegment([7] * 50)])).cached_text_tokens > 0
    assert ask(target, make_request("b at last", [TextSegment([8] * 50)])).cached_text_tokens < 50


def test_switched_off_nothing_is_found() -> None:
    target = house(has_cache=False)
    ask(target, make_request("a", first_turn()))

    usage = ask(target, make_request("b", first_turn()))

    assert (usage.cached_text_tokens, usage.cached_image_tokens, target.pool.num_idle) == (0, 0, 0)


@pytest.mark.parametrize("page_size", [1, 3, 4, 16])
def test_a_step_that_failed_leaves_nothing_to_be_found(page_size: int) -> None:
    target = house(page_size=page_size)
    target.scheduler.submit(make_request("a", first_turn()))
    batch = target.scheduler.schedule()
    target.scheduler.fail(batch.sequence_ids(), "server_error", "the model failed")
    target.scheduler.commit(batch, target.runner.execute(batch))
    target.scheduler.take_outputs()

    assert ask(target, make_request("b", first_turn())).cached_image_tokens == 0
    assert target.pool.num_used == 0


def test_what_was_begun_ahead_of_a_step_that_failed_is_not_to_be_found_either() -> None:
    """Its rows were computed over rows that never came to be; they went into the cache as if all had gone well."""
    target = make_house(lambda _, index: 50 + index, limits=replace(LIMITS, max_batch_tokens=16))
    target.scheduler.submit(make_request("first", [TextSegment([7] * 40)]))
    under_way = target.scheduler.schedule()
    ahead = target.scheduler.schedule_ahead(under_way)
    assert ahead.prefills

    target.scheduler.fail(under_way.sequence_ids(), "server_error", "the model failed on this request")
    target.scheduler.commit(under_way, BatchResult())
    target.scheduler.commit(ahead, target.runner.execute(ahead))

    assert len(target.scheduler.cache) == 0
