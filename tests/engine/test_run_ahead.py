"""Steps that begin before the one under way has ended say what steps say that wait for it, to the bit, whatever happens meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from model.step_cache_rules import StepCache
from server.engine.batch import Batch, BatchResult
from server.engine.fault_points import FaultPoints
from server.engine.launched_step import LaunchedStep
from server.engine.link import LocalLink
from server.engine.loop import Engine
from server.engine.options import EngineOptions, SchedulerLimits
from server.engine.process import LoadedEngine, load_engine
from server.engine.runner import Runner
from server.messages import Abort, FinishReason, ImageParams, OutputMode, Request, SamplingParams, StepReport, TextSegment, TokenOutput
from tests.engine.fakes import make_house, make_request
from tests.engine.test_batch_invariance import TOKENIZER, random_request
from tests.engine.test_decode_graphs import Rerun

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
EOS = TOKENIZER.eos_id


class WatchedLauncher:
    """Launches on a runner, and counts the steps that were launched while another had not been collected."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._under_way = 0
        self.num_ahead = 0
        self.num_pictures_ahead = 0
        self.num_decode_rows = 0

    @property
    def decodes_beside(self) -> bool:
        return self._runner.decodes_beside

    def launch(self, batch: Batch) -> LaunchedStep:
        assert self._under_way <= 1
        self.num_ahead += self._under_way
        self.num_pictures_ahead += self._under_way and len(batch.denoises)
        self.num_decode_rows += len(batch.decodes)
        launched = self._runner.launch(batch)
        self._under_way += 1

        def collect() -> BatchResult:
            self._under_way -= 1
            return launched.collect()

        return LaunchedStep(launched.draw, collect)


class House:
    """An engine on the golden weights whose steps run ahead, or do not."""

    def __init__(
        self, *, runs_ahead: bool, num_pages: int = 400, page_size: int = 4, target_s: float | None = None, max_batch_tokens: int = 2048
    ) -> None:
        self.link = LocalLink()
        self.loaded: LoadedEngine = load_engine(
            EngineOptions(
                str(CHECKPOINT),
                num_pages=num_pages,
                page_size=page_size,
                num_threads=1,
                inter_token_target_s=target_s,
                max_batch_tokens=max_batch_tokens,
            ),
            self.link,
        )
        self.launcher = WatchedLauncher(self.loaded.runner)
        self.engine = Engine(self.loaded.scheduler, self.loaded.runner, self.loaded.pool, self.link, self.launcher if runs_ahead else None)

    def submit(self, *requests: Request) -> None:
        for request in requests:
            self.engine.submit(request)

    def run(self) -> list[StepReport]:
        """Run until nothing is left to do; every page comes back."""
        while self.loaded.scheduler.has_work:
            self.engine.step()
        assert self.loaded.pool.num_used == 0
        return list(self.link.reports)


def chat(name: str, num_tokens: int) -> Request:
    sampling = SamplingParams(max_tokens=num_tokens, temperature=1.0, seed=len(name) + num_tokens, logprobs=2, ignore_eos=True)
    return make_request(name, [TextSegment([20, 21, 22 + num_tokens])], sampling=sampling)


def chat_that_may_end(name: str) -> Request:
    sampling = SamplingParams(max_tokens=30, temperature=1.0, seed=int(name[1:]), logit_bias={EOS: 4.0})
    return make_request(name, [TextSegment([20, 21])], sampling=sampling)


def chat_in_words(name: str) -> Request:
    """Held to a grammar, under which it may end or be cut off, and with a penalty."""
    request = chat_that_may_end(name)
    grammar = "start: /[a-z ]{3,40}/"
    return replace(request, sampling=replace(request.sampling, grammar=grammar, frequency_penalty=0.3))


def tokens_by_request(reports: list[StepReport]) -> dict[str, list[TokenOutput]]:
    found: dict[str, list[TokenOutput]] = {}
    for report in reports:
        for token in report.tokens:
            found.setdefault(token.request_id, []).append(token)
    return found


def ends_of(reports: list[StepReport]) -> dict[str, FinishReason]:
    return {end.request_id: end.reason for report in reports for end in report.finished}


@pytest.mark.parametrize("is_captured", [False, True])
def test_chats_alone_run_ahead_in_all_steps_but_the_first_of_each_stretch(is_captured: bool) -> None:
    """Also as replays, which all write into the same memory."""
    requests = [chat(f"{k}", 12 + 5 * k) for k in range(4)]
    waiting, ahead = House(runs_ahead=False), House(runs_ahead=True)
    if is_captured:
        ahead.loaded.runner.capture_decodes(Rerun())
    for house in (waiting, ahead):
        house.submit(*requests)

    assert tokens_by_request(ahead.run()) == tokens_by_request(waiting.run())
    num_steps = 12 + 5 * 3
    assert ahead.launcher.num_ahead >= num_steps - 3
    assert waiting.launcher.num_ahead == 0


def test_a_step_is_reported_while_the_next_is_under_way() -> None:
    """Or nothing would be gained: the host's work on one step happens beside the next."""
    house = House(runs_ahead=True)
    house.submit(chat("a", 8))
    while not house.launcher.num_ahead:
        house.engine.step()
    num_launched = sum(len(report.tokens) for report in house.link.reports) + 1
    house.engine.step()
    assert sum(len(report.tokens) for report in house.link.reports) == num_launched
    house.run()


@pytest.mark.parametrize("seed", range(3))
def test_answers_are_the_same_whatever_comes_and_goes(seed: int) -> None:
    """Chats that end by their own token, pictures in between, aborts, pages that run out: what is answered stays the same."""
    rng = random.Random(seed)
    requests = [random_request(rng, f"r{k}") for k in range(16)]
    requests += [chat_that_may_end(f"c{k}") for k in range(12)]
    requests += [chat_in_words(f"w{k}") for k in range(4)]
    victims = {one.request_id for one in rng.sample(requests, 3)}
    waiting, ahead = (
        House(runs_ahead=False),
        House(runs_ahead=True, num_pages=rng.choice([120, 400]), max_batch_tokens=rng.choice([48, 500])),
    )
    waiting.submit(*requests)
    answers = waiting.run()

    coming = rng.sample(requests, len(requests))
    while coming or ahead.loaded.scheduler.has_work:
        if coming and rng.random() < 0.2:
            ahead.submit(coming.pop())
        if victims and rng.random() < 0.05:
            ahead.engine.submit(Abort(victims.pop()))
        ahead.engine.step()

    found, expected = tokens_by_request(ahead.run()), tokens_by_request(answers)
    for name, reason in ends_of(list(ahead.link.reports)).items():
        if reason is not FinishReason.ABORT:
            assert found.get(name) == expected.get(name) and reason is ends_of(answers)[name]
    pictures = [{(i.request_id, i.index): i.picture for r in reports for i in r.images} for reports in (ahead.link.reports, answers)]
    assert pictures[0].items() <= pictures[1].items()
    assert ahead.launcher.num_ahead > 30
    num_draws = sum(len(report.tokens) + len(report.silent) for report in ahead.link.reports)
    assert ahead.launcher.num_decode_rows > num_draws, "some rows were void"


@pytest.mark.parametrize("target_s", [None, 0.02])
def test_pictures_run_ahead_beside_chats_up_to_their_last_step(target_s: float | None) -> None:
    cache = StepCache(2, num_first=2)
    images = [ImageParams(48, 64, num_timesteps=12, seed=3, num_previews=2), ImageParams(64, 32, num_timesteps=9, step_cache=cache)]
    requests = [make_request(f"p{k}", mode=OutputMode.IMAGE, image=image) for k, image in enumerate(images)] + [chat("a", 40)]
    pictures, houses = [], [House(runs_ahead=runs_ahead, target_s=target_s) for runs_ahead in (False, True)]
    for house in houses:
        house.submit(*requests)
        reports = house.run()
        pictures.append({image.request_id: image.picture for report in reports for image in report.images})
        assert [p.step for report in reports for p in report.progress if p.request_id == "p0"] == list(range(1, 12))
        assert sum(len(report.previews) for report in reports) == 2
    assert pictures[0] == pictures[1] and len(pictures[0]) == 2
    assert houses[1].launcher.num_pictures_ahead >= 10


def test_a_long_prompt_runs_ahead_chunk_by_chunk_and_into_its_answer() -> None:
    prompt = make_request("a", [TextSegment([20 + k % 30 for k in range(300)])], sampling=SamplingParams(max_tokens=6, ignore_eos=True))
    answers = []
    for runs_ahead in (False, True):
        house = House(runs_ahead=runs_ahead, max_batch_tokens=32)
        house.submit(prompt)
        answers.append(tokens_by_request(house.run()))
    assert answers[0] == answers[1]
    assert house.launcher.num_ahead >= 300 // 32 + 5, "all but the first chunk"


def test_a_conversation_goes_on_from_pages_that_were_filled_ahead() -> None:
    """The pages of an answer are found again under the tokens that it really had."""
    answers = []
    for runs_ahead in (False, True):
        house = House(runs_ahead=runs_ahead)
        house.submit(chat("first", 30))
        first = tokens_by_request(house.run())["first"]
        text = [token.token_id for token in first]
        house.submit(
            make_request("second", [TextSegment([20, 21, 52]), TextSegment(text), TextSegment([3])], sampling=SamplingParams(max_tokens=9))
        )
        second = tokens_by_request(house.run())["second"]
        hits = sum(report.stats.num_prefix_hits for report in house.link.reports)
        answers.append((text, [token.token_id for token in second], hits))
    assert answers[0] == answers[1]
    assert answers[0][2] >= 28


def test_a_fault_in_a_step_that_ran_ahead_ends_one_request_and_no_other(tmp_path: Path) -> None:
    house = House(runs_ahead=True)
    house.loaded.runner.faults = FaultPoints(tmp_path)
    requests = [chat("a", 14), chat("bb", 20)]
    house.submit(*requests)
    while not house.launcher.num_ahead:
        house.engine.step()
    (tmp_path / "decode.raise").touch()
    reports = house.run()
    assert ends_of(reports) == dict.fromkeys(("a", "bb"), FinishReason.LENGTH), "it did not happen again: nobody was at fault"

    calm = House(runs_ahead=True)
    calm.submit(*requests)
    assert tokens_by_request(reports) == tokens_by_request(calm.run())


class FailingDecoder(WatchedLauncher):
    """Its pictures cannot be decoded at first: collecting their last step raises, when every token of it has been drawn."""

    def launch(self, batch: Batch) -> LaunchedStep:
        launched, is_first = super().launch(batch), any(step.is_last for step in batch.denoises)

        def collect() -> BatchResult:
            if is_first:
                self._under_way -= 1
                raise RuntimeError("out of memory")
            return launched.collect()

        return LaunchedStep(launched.draw, collect)


class FailingCopies(WatchedLauncher):
    """The first step that is to copy pages raises before it has."""

    has_failed = False

    def launch(self, batch: Batch) -> LaunchedStep:
        if batch.copies and not self.has_failed:
            self.has_failed = True
            raise RuntimeError("out of memory")
        return super().launch(batch)


def house_launching_by(launches: type[WatchedLauncher]) -> House:
    house = House(runs_ahead=True)
    house.launcher = launches(house.loaded.runner)
    house.engine = Engine(house.loaded.scheduler, house.loaded.runner, house.loaded.pool, house.link, house.launcher)
    return house


def test_pages_that_a_failed_step_has_not_copied_are_copied_when_it_is_run_again() -> None:
    """They were taken for copied, and two texts went on from whatever lay in the copy."""
    answers = []
    for launches in (WatchedLauncher, FailingCopies):
        house = house_launching_by(launches)
        requests = [replace(chat("a", 12), request_id=name) for name in ("a", "b", "c")]
        house.submit(*requests)
        answers.append(tokens_by_request(house.run()))
    assert isinstance(house.launcher, FailingCopies) and house.launcher.has_failed
    assert answers[0] == answers[1]


def test_a_text_goes_on_as_it_would_have_when_a_picture_beside_its_row_ahead_cannot_be_decoded_at_first() -> None:
    """Run again, that row was fed the token that it had drawn itself, where it goes on from the one before."""
    picture = make_request("p", mode=OutputMode.IMAGE, image=ImageParams(32, 32, num_timesteps=6))
    answers = []
    for launches in (WatchedLauncher, FailingDecoder):
        house = house_launching_by(launches)
        penalised = replace(chat("a", 22), request_id="penalised")
        penalised = replace(penalised, sampling=replace(penalised.sampling, frequency_penalty=0.5))
        house.submit(chat("a", 20), chat("bb", 24), penalised, picture)
        reports = house.run()
        answers.append((tokens_by_request(reports), [image.picture for report in reports for image in report.images]))
    assert answers[0] == answers[1]


def test_a_preview_comes_once_though_its_step_is_run_again() -> None:
    """The second picture, a step behind the first, is due one in the step that ends the first."""
    images = [ImageParams(32, 32, num_timesteps=7), ImageParams(32, 32, num_timesteps=11, num_previews=1)]
    house = house_launching_by(FailingDecoder)
    house.submit(*(make_request(f"{k}", mode=OutputMode.IMAGE, image=image) for k, image in enumerate(images)))
    assert len([preview for report in house.run() for preview in report.previews]) == 1


class UnsoundVoid(WatchedLauncher):
    """The numbers of rows that nobody wants any more are not finite."""

    num_unsound = 0
    without_void: Callable[[Batch], Batch]

    def launch(self, batch: Batch) -> LaunchedStep:
        launched = super().launch(batch)

        def collect() -> BatchResult:
            result = launched.collect()
            void = set(batch.sequence_ids()) - set(self.without_void(batch).sequence_ids())
            result.broken += void
            self.num_unsound += len(void)
            return result

        return LaunchedStep(launched.draw, collect)


def test_a_row_that_nobody_wants_any_more_ends_no_answer_by_its_numbers() -> None:
    """Where a text had ended before it, the picture after that was given up for it."""
    sampling = SamplingParams(max_tokens=30, temperature=1.0, logit_bias={EOS: 5.0})
    requests = [
        make_request(f"{k}", [TextSegment([20, 21])], OutputMode.ALTERNATE, replace(sampling, seed=k), ImageParams(32, 32, num_timesteps=3))
        for k in range(4)
    ]
    house = house_launching_by(UnsoundVoid)
    assert isinstance(house.launcher, UnsoundVoid)
    house.launcher.without_void = house.loaded.scheduler.without_void
    house.submit(*requests)
    ends = ends_of(house.run())
    assert house.launcher.num_unsound > 0
    assert FinishReason.ERROR not in ends.values()


def test_a_step_ahead_that_comes_to_nothing_is_none_that_anybody_is_passed_over_in() -> None:
    """It counted, and was then made after all, so that patience ran out twice as fast."""
    house = make_house(lambda *_: 50, limits=SchedulerLimits(max_batch_tokens=8, max_running=4, inter_token_target_s=1e-9))
    house.scheduler.submit(make_request("picture", [TextSegment([7] * 20)], OutputMode.IMAGE))
    num_steps, num_refused = 1, 0
    while not (batch := house.scheduler.schedule()).is_divisible:
        ahead = house.scheduler.schedule_ahead(batch)
        num_steps += 2 - ahead.is_empty
        num_refused += ahead.is_empty
        for step in (batch, ahead):
            if not step.is_empty:
                house.scheduler.commit(step, house.runner.execute(step))
    assert num_refused > 0, "what follows is a long pass"
    assert house.scheduler.running[0].last_served_step == num_steps
