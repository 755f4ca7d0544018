"""Who is let in next when there is one place: by priority, then the shorter, and nobody is overtaken for ever."""

from __future__ import annotations

from dataclasses import replace

from server.engine.fairness import remaining_tokens
from server.engine.options import SchedulerLimits
from server.engine.waiting import MAX_OVERTAKEN
from server.messages import ImageParams, OutputMode, Request, TextSegment
from tests.engine.fakes import House, make_house, make_request

ONE_PLACE = SchedulerLimits(max_batch_tokens=64, max_running=1)


def one_place() -> House:
    return make_house(lambda _, index: 50, limits=ONE_PLACE)


def order_of(house: House, *requests: Request) -> list[str]:
    """Submit requests behind one that holds the only place; return in which order they finished."""
    house.scheduler.submit(make_request("first"))
    house.step()
    for request in requests:
        house.scheduler.submit(request)
    names = [finished.request_id for finished in house.run().finished]
    assert names[0] == "first"
    return names[1:]


def test_whoever_fits_is_let_in_once_the_large_one_before_it_has_gone() -> None:
    """Nothing else changes meanwhile: a picture is drawn, whose steps take no pages."""
    house = make_house(lambda _, __: 50, num_pages=40)
    slow = make_request("slow", mode=OutputMode.IMAGE, image=ImageParams(64, 64, num_timesteps=40))
    house.scheduler.submit(slow)
    for _ in range(3):
        house.step()
    house.scheduler.submit(replace(make_request("large", [TextSegment([7] * 150)]), priority=1))
    house.scheduler.submit(make_request("small"))
    house.step()
    assert house.scheduler.num_waiting == 2

    house.scheduler.abort("large")

    house.step()
    assert house.scheduler.num_waiting == 0


def test_a_higher_priority_is_let_in_before_a_lower_one() -> None:
    low, usual, high = (replace(make_request(str(priority)), priority=priority) for priority in (-1, 0, 1))
    assert order_of(one_place(), low, usual, high) == ["1", "0", "-1"]


def test_among_equals_the_shorter_prompt_is_let_in_first() -> None:
    long = make_request("long", segments=[TextSegment(list(range(20, 60)))])
    assert order_of(one_place(), long, make_request("short")) == ["short", "long"]


def test_a_short_picture_does_not_wait_behind_a_large_one() -> None:
    large = make_request("large", mode=OutputMode.IMAGE, image=ImageParams(128, 128, num_timesteps=4))
    small = make_request("small", mode=OutputMode.IMAGE, image=ImageParams(32, 32, num_timesteps=4))
    assert order_of(one_place(), large, small) == ["small", "large"]


def test_a_picture_that_needs_one_branch_does_not_wait_behind_one_that_needs_two() -> None:
    guided, plain = (ImageParams(64, 64, num_timesteps=8, text_scale=scale, interval=(0.0, 1.0)) for scale in (4.0, 1.0))
    requests = [make_request(name, mode=OutputMode.IMAGE, image=image) for name, image in (("guided", guided), ("plain", plain))]
    assert order_of(one_place(), *requests) == ["plain", "guided"]


def test_a_picture_under_way_is_nearer_its_end_than_one_of_its_kind_that_waits() -> None:
    house = make_house(lambda _, __: 50)
    image = ImageParams(64, 64, num_timesteps=30, text_scale=4.0, interval=(0.0, 1.0))
    house.scheduler.submit(make_request("early", mode=OutputMode.IMAGE, image=image))
    for _ in range(8):
        house.step()
    house.scheduler.submit(make_request("late", mode=OutputMode.IMAGE, image=image))
    late, early = house.scheduler.sequences
    assert remaining_tokens(early) < remaining_tokens(late)


def test_nobody_is_overtaken_more_often_than_the_bound() -> None:
    """With higher priorities arriving without end, the low one still gets its turn."""
    house = one_place()
    house.scheduler.submit(make_request("first"))
    house.step()
    house.scheduler.submit(replace(make_request("patient"), priority=-1))
    urgent = [replace(make_request(f"urgent {number}"), priority=1) for number in range(MAX_OVERTAKEN + 10)]
    for request in urgent:
        house.scheduler.submit(request)
    names = [finished.request_id for finished in house.run(max_steps=20_000).finished]
    assert names.index("patient") == 1 + MAX_OVERTAKEN
