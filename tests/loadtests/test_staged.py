"""The peers' policy: first in, first out; unlike pictures never share a step; every branch is computed; the device is shared evenly."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from loadtests.replays.clock import VirtualClock
from loadtests.replays.peer_branches import with_every_branch
from loadtests.replays.picture_queue import PictureQueue, compatibility_key
from loadtests.replays.staged import Staged
from server.engine.batch import DenoiseRow, DenoiseStep
from server.engine.guidance import Branch
from server.engine.image_steps import EulerStep
from server.messages import (
    FinishedOutput,
    FinishReason,
    ImageOutput,
    ImageParams,
    ImageSegment,
    OutputMode,
    Picture,
    Request,
    SamplingParams,
    StepReport,
    StepStats,
    TextSegment,
    TokenOutput,
    Usage,
)

PROMPT = TextSegment([1, 2, 3])


def request(name: str, mode: OutputMode, side: int = 64, num_images: int = 1, max_tokens: int = 4) -> Request:
    return Request(name, [PROMPT], mode, SamplingParams(max_tokens=max_tokens), ImageParams(side, side, max_images=num_images))


def ids(requests: list[Request]) -> list[str]:
    return [one.request_id for one in requests]


@dataclass(slots=True)
class ScriptedEngine:
    """Finishes one request a step, in order, in a step of fixed length, and keeps every request it was given."""

    clock: VirtualClock
    step_s: float
    seen: list[Request] = field(default_factory=list)
    waiting: list[Request] = field(default_factory=list)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting)

    def submit(self, request: Request) -> None:
        self.seen.append(request)
        self.waiting.append(request)

    def note_idle(self, seconds: float) -> None:
        """Idleness means nothing to it."""

    def go_on(self) -> None:
        pass

    def stand_still(self) -> None:
        pass

    def step(self) -> list[StepReport]:
        self.clock.advance(self.step_s)
        done = self.waiting.pop(0)
        end = FinishedOutput(done.request_id, FinishReason.STOP, Usage())
        if done.mode is OutputMode.IMAGE:
            image = ImageOutput(done.request_id, 0, Picture(done.image.height, done.image.width, b""))
            return [StepReport([], [], [], [image], [end], StepStats())]
        tokens = [TokenOutput(done.request_id, 7) for _ in range(done.sampling.max_tokens)]
        return [StepReport(tokens, [], [], [], [end], StepStats())]


def staged(text_s: float = 1.0, pictures_s: float = 1.0, max_pictures: int = 1) -> tuple[Staged, ScriptedEngine, ScriptedEngine]:
    clock = VirtualClock()
    text, pictures = ScriptedEngine(clock, text_s), ScriptedEngine(clock, pictures_s)
    policy = Staged(text, pictures, PictureQueue(max_pictures), lambda picture: ImageSegment(picture, picture), clock)
    return policy, text, pictures


def finished(policy: Staged) -> list[str]:
    """Step until nothing is left; return the requests in the order of their ends."""
    order = []
    while policy.has_work:
        order += [end.request_id for report in policy.step() for end in report.finished]
    return order


def test_pictures_of_another_size_wait_and_hold_up_those_behind() -> None:
    queue = PictureQueue(4)
    for name, side in (("a", 64), ("b", 64), ("c", 32), ("d", 64)):
        queue.put(request(name, OutputMode.IMAGE, side))
    assert ids(queue.take()) == ["a", "b"]
    queue.finish("a")
    assert ids(queue.take()) == []
    queue.finish("b")
    assert ids(queue.take()) == ["c"]


def test_an_equal_picture_joins_between_two_steps_while_there_is_room() -> None:
    queue = PictureQueue(2)
    queue.put(request("a", OutputMode.IMAGE))
    assert ids(queue.take()) == ["a"]
    for name in "bc":
        queue.put(request(name, OutputMode.IMAGE))
    assert ids(queue.take()) == ["b"]


@given(st.lists(st.sampled_from((16, 32, 48)), max_size=30), st.integers(1, 4))
def test_unlike_pictures_never_share_the_engine_and_order_is_kept(sides: list[int], max_pictures: int) -> None:
    queue = PictureQueue(max_pictures)
    requests = {str(index): request(str(index), OutputMode.IMAGE, side) for index, side in enumerate(sides)}
    for one in requests.values():
        queue.put(one)
    taken: list[str] = []
    while queue.waiting or queue.running:
        taken += ids(queue.take())
        assert len({compatibility_key(requests[name].image) for name in queue.running}) == 1
        assert len(queue.running) <= max_pictures
        queue.finish(min(queue.running))
    assert taken == list(requests)


def test_seeds_do_not_keep_pictures_apart_but_guidance_does() -> None:
    assert compatibility_key(ImageParams(64, 64, seed=1)) == compatibility_key(ImageParams(64, 64, seed=2))
    assert compatibility_key(ImageParams(64, 64)) != compatibility_key(ImageParams(64, 64, text_scale=5.0))
    assert compatibility_key(ImageParams(64, 64)) != compatibility_key(ImageParams(64, 64, num_timesteps=20))


def test_a_branch_whose_context_equals_anothers_is_computed_all_the_same() -> None:
    full, no_text = DenoiseRow(1, 0, [0], 4, 4), DenoiseRow(1, 1, [], 0, 0)
    euler = EulerStep(0, 0.5, 0.1, {Branch.FULL: 0, Branch.NO_TEXT: 1, Branch.NO_IMAGE: 0}, (0, 1))
    step = with_every_branch(DenoiseStep(1, [full, no_text], [euler], ImageParams(64, 64), is_last=False, num_row_tokens=18))
    assert step.rows == [full, no_text, replace(full, context=2)]
    assert len({id(row) for row in step.rows}) == 3
    assert step.eulers[0].context_of == {Branch.FULL: 0, Branch.NO_TEXT: 1, Branch.NO_IMAGE: 2}


def test_outside_the_interval_one_row_stays_one_row() -> None:
    euler = EulerStep(0, 0.1, 0.1, {Branch.FULL: 0}, (0,))
    step = DenoiseStep(1, [DenoiseRow(1, 0, [0], 4, 4)], [euler], ImageParams(64, 64), is_last=False, num_row_tokens=18)
    assert with_every_branch(step) == step


def test_words_go_to_the_text_engine_and_pictures_to_the_image_engine() -> None:
    policy, text, pictures = staged()
    policy.submit(request("chat", OutputMode.TEXT))
    policy.submit(request("picture", OutputMode.IMAGE))
    finished(policy)
    assert (ids(text.seen), ids(pictures.seen)) == (["chat"], ["picture"])


def test_each_queue_is_first_in_first_out() -> None:
    policy, text, pictures = staged()
    for name, side in (("p1", 64), ("p2", 32), ("p3", 64)):
        policy.submit(request(name, OutputMode.IMAGE, side))
    assert finished(policy) == ["p1", "p2", "p3"]
    assert ids(pictures.seen) == ["p1", "p2", "p3"]
    assert not text.seen


def test_a_story_goes_to_and_fro_and_takes_its_whole_history_along() -> None:
    policy, text, pictures = staged()
    policy.submit(request("story", OutputMode.ALTERNATE, num_images=2, max_tokens=6))
    assert finished(policy) == ["story"]
    picture = ImageSegment(Picture(64, 64, b""), Picture(64, 64, b""))
    words = TextSegment([7, 7])
    second = [PROMPT, words, picture]
    assert [one.segments for one in text.seen] == [[PROMPT], second, second, [*second, words, picture]]
    assert [one.segments for one in pictures.seen] == [[PROMPT, words], [PROMPT, words, picture, words]]


def test_a_picture_from_pictures_has_its_prompt_read_without_the_last_words_first() -> None:
    policy, text, pictures = staged()
    picture = ImageSegment(Picture(64, 64, b""), Picture(64, 64, b""))
    edit = replace(request("edit", OutputMode.IMAGE), segments=[picture, PROMPT])
    policy.submit(replace(edit, image=replace(edit.image, text_scale=4.0)))
    first = policy.step()
    assert [one.segments for one in text.seen] == [[picture]]
    assert not any(report.tokens or report.finished for report in first)
    assert finished(policy) == ["edit"]
    assert [one.segments for one in pictures.seen] == [[picture, PROMPT]]


def test_several_pictures_of_one_request_queue_one_after_the_other() -> None:
    policy, _, pictures = staged()
    policy.submit(request("two", OutputMode.IMAGE, num_images=2))
    policy.submit(request("one", OutputMode.IMAGE))
    assert finished(policy) == ["one", "two"]
    assert ids(pictures.seen) == ["two", "one", "two"]
    assert len({one.image.seed for one in pictures.seen if one.request_id == "two"}) == 2


def test_busy_engines_get_equal_time_not_equal_steps() -> None:
    policy, text, pictures = staged(text_s=1.0, pictures_s=5.0)
    for index in range(20):
        policy.submit(request(f"chat{index}", OutputMode.TEXT))
        policy.submit(request(f"picture{index}", OutputMode.IMAGE))
    for _ in range(12):
        policy.step()
    assert (20 - len(text.waiting), len(pictures.seen) - len(pictures.waiting)) == (10, 2)


def test_an_engine_that_was_idle_has_saved_nothing_up() -> None:
    policy, text, _ = staged(text_s=1.0, pictures_s=1.0)
    for index in range(10):
        policy.submit(request(f"chat{index}", OutputMode.TEXT))
    for _ in range(6):
        policy.step()
    for index in range(10):
        policy.submit(request(f"picture{index}", OutputMode.IMAGE))
    for _ in range(4):
        policy.step()
    assert len(text.waiting) == 2
