"""Draws that depend on the token under way, by penalties or a grammar, are in steps that run ahead like any other, and say the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtests.gpu.sum_grammars import SumGrammars
from server.engine.batch import Batch, BatchResult
from server.engine.grammar import Grammars
from server.engine.launched_step import LaunchedStep
from server.engine.loop import Engine
from server.engine.options import EngineOptions
from server.engine.process import assemble_engine, model_facts
from server.messages import FinishReason, ImageParams, OutputMode, Picture, Request, SamplingParams, StepReport, TextSegment
from tests.engine.fakes import make_request
from tests.engine.test_batch_invariance import MODEL, PROFILE, TOKENIZER
from tests.engine.test_decode_graphs import Rerun
from tests.engine.test_grammar import GRAMMAR, assert_fits
from tests.engine.test_run_ahead import CHECKPOINT, House, WatchedLauncher, ends_of, tokens_by_request

VOCAB = MODEL.config.llm.vocab_size
EOS = TOKENIZER.eos_id
LONG = 1000
PLAIN = SamplingParams(temperature=1.0, ignore_eos=True, max_tokens=24, logprobs=1)
PENALISED = replace(PLAIN, frequency_penalty=0.4, presence_penalty=0.2, repetition_penalty=1.3, logit_bias={40: 2.0, 41: 3.0})
SUMMED = replace(PLAIN, grammar=str(LONG))
KINDS = {"plain": PLAIN, "penalised": PENALISED, "greedy": replace(PENALISED, temperature=0.0), "summed": SUMMED}
KINDS |= {
    "both": replace(PENALISED, grammar=str(LONG)),
    "at least": replace(PLAIN, ignore_eos=False, min_tokens=20, logit_bias={EOS: 30.0}),
}


def house_of(grammars: Grammars, *, runs_ahead: bool, launches: type[WatchedLauncher] = WatchedLauncher) -> House:
    house = House(runs_ahead=runs_ahead)
    options = EngineOptions(str(CHECKPOINT), num_pages=400, page_size=4, num_threads=1)
    house.loaded = assemble_engine(MODEL, model_facts(MODEL, TOKENIZER, PROFILE), options, house.link, grammars=grammars)
    house.launcher = launches(house.loaded.runner)
    loaded, launcher = house.loaded, house.launcher if runs_ahead else None
    house.engine = Engine(loaded.scheduler, loaded.runner, loaded.pool, house.link, launcher)
    return house


def chats() -> list[Request]:
    """Two of each kind."""
    kinds = [(f"{name} {k}", replace(sampling, seed=k)) for name, sampling in KINDS.items() for k in range(2)]
    return [make_request(name, [TextSegment([20 + k])], sampling=sampling) for k, (name, sampling) in enumerate(kinds)]


@pytest.mark.parametrize("is_captured", [False, True])
def test_chats_of_every_kind_run_ahead_in_all_steps_but_the_first(is_captured: bool) -> None:
    """Also as replays, which all write into the same memory."""
    waiting, ahead = (house_of(SumGrammars(VOCAB), runs_ahead=runs_ahead) for runs_ahead in (False, True))
    if is_captured:
        ahead.loaded.runner.capture_decodes(Rerun())
    for house in (waiting, ahead):
        house.submit(*chats())
    assert tokens_by_request(ahead.run()) == tokens_by_request(waiting.run())
    assert ahead.launcher.num_ahead >= PLAIN.max_tokens - 1


def test_penalties_and_grammars_have_a_say_in_these_chats() -> None:
    """Or the other tests would show nothing."""
    house = house_of(SumGrammars(VOCAB), runs_ahead=True)
    house.submit(*(replace(chat, segments=[TextSegment([20])], sampling=replace(chat.sampling, seed=1)) for chat in chats()[::2]))
    said = {tuple(token.token_id for token in tokens) for tokens in tokens_by_request(house.run()).values()}
    assert len(said) == len(KINDS)


def test_a_chat_with_a_grammar_slows_no_other_and_is_not_slowed() -> None:
    """Each has a token from every step, from its first to its last."""
    house = house_of(SumGrammars(VOCAB), runs_ahead=True)
    house.submit(*chats())
    num_tokens = [len(report.tokens) for report in house.run() if report.tokens]
    assert num_tokens == [2 * len(KINDS)] * 20 + [2 * len(KINDS) - 2] * (PLAIN.max_tokens - 20)


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_a_chat_waits_by_itself_while_its_grammar_is_compiled(runs_ahead: bool) -> None:
    """The whole step waited: a schema on which the library worked for seconds stopped everybody's words and pictures."""
    grammars, alone = SumGrammars(VOCAB), house_of(SumGrammars(VOCAB), runs_ahead=runs_ahead)
    house = house_of(grammars, runs_ahead=runs_ahead)
    summed = make_request("summed", [TextSegment([20])], sampling=SUMMED)
    house.submit(summed, make_request("plain", [TextSegment([21])], sampling=PLAIN))
    grammars.started[0].is_compiled = False
    while "plain" not in ends_of(list(house.link.reports)):
        house.engine.step()
    assert set(tokens_by_request(list(house.link.reports))) == {"plain"}
    grammars.started[0].is_compiled = True
    alone.submit(summed)
    assert tokens_by_request(house.run())["summed"] == tokens_by_request(alone.run())["summed"]


def test_answers_in_json_run_ahead_and_fit_their_schema() -> None:
    sampling = SamplingParams(temperature=1.0, max_tokens=400, grammar=GRAMMAR)
    requests = [make_request(f"{k}", [TextSegment([5, 6, 7 + k])], sampling=replace(sampling, seed=k)) for k in range(6)]
    answers, houses = [], [House(runs_ahead=runs_ahead) for runs_ahead in (False, True)]
    for house in houses:
        house.submit(*requests)
        answers.append(tokens_by_request(house.run()))
        assert set(ends_of(list(house.link.reports)).values()) == {FinishReason.STOP}
    assert answers[0] == answers[1]
    for tokens in answers[1].values():
        assert_fits(TOKENIZER.decode([token.token_id for token in tokens]))
    assert houses[1].launcher.num_ahead > 0.9 * max(map(len, answers[1].values()))


def pictures_of(reports: list[StepReport]) -> dict[str, Picture]:
    return {image.request_id: image.picture for report in reports for image in report.images}


def test_a_grammar_after_which_nothing_may_follow_ends_its_own_request_and_no_step_of_others_is_taken_twice() -> None:
    """The draws of a step fail when its forward pass has been launched: a picture's latents must not have moved on by then."""
    picture = make_request("picture", mode=OutputMode.IMAGE, image=ImageParams(48, 32, num_timesteps=16))
    broken = make_request("broken", sampling=replace(PLAIN, grammar="7"))
    brought = []
    for requests in ([*chats(), picture], [*chats(), picture, broken]):
        house = house_of(SumGrammars(VOCAB), runs_ahead=True)
        house.submit(*requests)
        reports = house.run()
        brought.append((tokens_by_request(reports), pictures_of(reports)))
        assert house.launcher.num_pictures_ahead >= 8
    assert ends_of(reports)["broken"] is FinishReason.ERROR
    assert len(brought[1][0].pop("broken")) == 7
    assert brought[0] == brought[1]


class FailingCollect(WatchedLauncher):
    """Collecting one of its steps raises, when the next has been launched."""

    num_collected = 0

    def launch(self, batch: Batch) -> LaunchedStep:
        launched = super().launch(batch)

        def collect() -> BatchResult:
            self.num_collected += 1
            result = launched.collect()
            if self.num_collected == 9:
                raise RuntimeError("out of memory")
            return result

        return LaunchedStep(launched.draw, collect)


def test_a_step_whose_draws_wait_is_drawn_from_its_own_logits_when_the_one_before_is_run_again() -> None:
    """That writes into the memory of the captured step, which is the same where there is but one text."""
    answers = []
    for launches in (WatchedLauncher, FailingCollect):
        house = house_of(SumGrammars(VOCAB), runs_ahead=True, launches=launches)
        house.loaded.runner.capture_decodes(Rerun())
        house.submit(make_request("alone", sampling=SUMMED))
        answers.append(tokens_by_request(house.run()))
    assert isinstance(house.launcher, FailingCollect) and house.launcher.num_collected > 9
    assert answers[0] == answers[1]
