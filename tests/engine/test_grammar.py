"""Answers held to a grammar, by the real engine on random weights: whatever the model would rather say, the text fits."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import replace
from pathlib import Path

import llguidance
import pytest
import torch
from pydantic import JsonValue

from kernels.sampling import SamplingRow, sample_tokens
from model.tokenizer import Tokenizer
from server.engine.grammar import Grammars, GrammarStopped, NoGrammars
from server.engine.link import LocalLink
from server.engine.llguidance_grammars import NUM_THREADS, LlguidanceGrammars
from server.engine.loop import Engine
from server.engine.options import EngineOptions
from server.engine.process import LoadedEngine, load_engine
from server.messages import FinishReason, ImageParams, OutputMode, Request, SamplingParams, TextSegment
from server.serving.asks import Ask, ChoiceForm, JsonForm, PatternForm, Tool, ToolUse
from server.serving.grammars import answer_grammar
from tests.server.running_front import golden_model

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
MODEL = golden_model()
VOCAB = MODEL.config.llm.vocab_size
SCHEMA: dict[str, JsonValue] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "colour": {"enum": ["red", "gree\u0144", "blue"]},
        "size": {"type": "integer", "minimum": 1, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "colour", "size", "tags"],
    "additionalProperties": False,
}


def json_grammar(schema: dict[str, JsonValue]) -> str:
    grammar = answer_grammar(Ask([], text_form=JsonForm(schema, "p")))
    assert grammar is not None
    return grammar


GRAMMAR = json_grammar(SCHEMA)
TOO_MANY_STATES, MANY_LETTERS = r"((a{1,100}){1,100}){1,100}b", 1000
"""A pattern, and after so many letters of it there are."""


def request(name: str, grammar: str | None, *, seed: int, max_tokens: int = 400) -> Request:
    sampling = SamplingParams(temperature=1.0, seed=seed, max_tokens=max_tokens, grammar=grammar)
    return Request(name, [TextSegment([5, 6, 7, seed % 250])], OutputMode.TEXT, sampling, ImageParams(32, 32))


def answers(loaded: LoadedEngine, link: LocalLink, requests: list[Request]) -> tuple[dict[str, list[int]], dict[str, FinishReason]]:
    """Run the requests together to their ends: tokens and reasons by name."""
    for one in requests:
        loaded.engine.submit(one)
    while loaded.scheduler.has_work:
        loaded.engine.step()
    tokens: dict[str, list[int]] = {one.request_id: [] for one in requests}
    for report in link.reports:
        for token in report.tokens:
            tokens[token.request_id].append(token.token_id)
    return tokens, {end.request_id: end.reason for report in link.reports for end in report.finished}


def load(num_pages: int = 400) -> tuple[LoadedEngine, LocalLink]:
    link = LocalLink()
    return load_engine(EngineOptions(str(CHECKPOINT), page_size=4, num_pages=num_pages, num_threads=1), link), link


def assert_fits(text: str) -> None:
    """Assert that text is JSON that fits `SCHEMA`."""
    value = json.loads(text)
    assert set(value) == {"name", "colour", "size", "tags"}
    assert len(value["name"]) <= 6 and value["colour"] in ("red", "gree\u0144", "blue")
    assert 1 <= value["size"] <= 99 and all(isinstance(tag, bool) for tag in value["tags"]) and len(value["tags"]) <= 3


def test_every_answer_fits_its_schema_whoever_shares_the_batch() -> None:
    loaded, link = load()
    guided = [request(f"guided-{seed}", GRAMMAR, seed=seed) for seed in range(8)]
    tokens, reasons = answers(loaded, link, [*guided, request("free", None, seed=99, max_tokens=60)])
    alone_engine, alone_link = load()
    alone, _ = answers(alone_engine, alone_link, [request("free", None, seed=99, max_tokens=60)])

    for one in guided:
        assert reasons[one.request_id] is FinishReason.STOP
        assert_fits(MODEL.tokenizer.decode(tokens[one.request_id]))
    assert tokens["free"] == alone["free"], "a neighbour without a grammar says what it says alone"


ARGUMENTS: dict[str, JsonValue] = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}
LAMP = Tool("lamp", "switches the lamp", ARGUMENTS, "p")
SCENE = Tool("scene", None, {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}, "p")
ONE_CALL = ToolUse([LAMP, SCENE], must_call=True, is_parallel=False)
IN_JSON = JsonForm(ARGUMENTS, "p")
CHOICE = ChoiceForm(["yes", 'yes, "ü"\n🙂', "a\\b"], "p")


def matching(pattern: str) -> Ask:
    return Ask([], text_form=PatternForm(pattern, "p"))


def test_a_forced_call_is_made_whatever_the_model_would_say() -> None:
    loaded, link = load()
    grammar = answer_grammar(Ask([], tool_use=ToolUse([LAMP], must_call=True, is_parallel=False)))
    tokens, reasons = answers(loaded, link, [request(f"call-{seed}", grammar, seed=seed) for seed in range(4)])
    texts = [MODEL.tokenizer.decode(token_ids) for token_ids in tokens.values()]
    assert set(reasons.values()) == {FinishReason.STOP}
    assert set(texts) <= {f'<tool_call>\n{{"name": "lamp", "arguments": {{"on": {word}}}}}\n</tool_call>' for word in ("true", "false")}


CALL = '<tool_call>\n{"name": "scene", "arguments": {"n": 2}}\n</tool_call>'


@pytest.mark.parametrize(
    ("ask", "text", "may_end"),
    [
        (Ask([], tool_use=replace(ONE_CALL, must_call=False)), "just words < and tags <tool", True),
        (Ask([], tool_use=replace(ONE_CALL, must_call=False)), f"I look.\n{CALL}", True),
        (Ask([], tool_use=replace(ONE_CALL, must_call=False, is_parallel=True)), f"{CALL}\n{CALL} done", True),
        (Ask([], tool_use=replace(ONE_CALL, is_parallel=True)), f"{CALL}\n{CALL}", True),
        (Ask([], tool_use=replace(ONE_CALL, must_call=False), text_form=IN_JSON), '{"on": true}', True),
        (Ask([], tool_use=replace(ONE_CALL, must_call=False), text_form=IN_JSON), CALL, True),
        (Ask([], tool_use=ONE_CALL, thinks=True), f"<think>hm, <tool_call></think>\n{CALL}", True),
        (Ask([], text_form=IN_JSON, thinks=True), '<think>\nwhat?\n</think>\n\n{"on": false}', True),
        (Ask([], text_form=IN_JSON, thinks=True), "<think>only a thought</think>", False),
        (Ask([], tool_use=ONE_CALL), '<tool_call>\n{"name": "lamp", "arguments": {"on": true', False),
        (Ask([], text_form=CHOICE), "yes", True),
        (Ask([], text_form=CHOICE), 'yes, "ü"\n🙂', True),
        (Ask([], text_form=CHOICE), "a\\b", True),
        (Ask([], text_form=CHOICE, thinks=True), "<think>hm</think>yes", True),
        (Ask([], text_form=CHOICE, tool_use=replace(ONE_CALL, must_call=False)), CALL, True),
        (matching(r"\d{4}-\d{2}"), "2026-1", False),
        (matching(r"^\d{4}-\d{2}$"), "2026-12", True),
        (matching("a/b\nc"), "a/b\nc", True),
        (matching(r"a\/[^/]+"), "a/ü", True),
        (matching(r"\\/"), "\\/", True),
        (matching(r"[\d.]+ \w\D[^\W]"), "3.1 aüz", True),
    ],
)
def test_what_an_ask_allows_can_be_said(ask: Ask, text: str, may_end: bool) -> None:
    grammar = LlguidanceGrammars(MODEL.tokenizer, VOCAB).start(answer_grammar(ask) or "")
    for token_id in MODEL.tokenizer.encode(text):
        assert token_id in allowed_ids(grammar.allowed()), MODEL.tokenizer.token_bytes(token_id)
        grammar.accept(token_id)
    assert (MODEL.tokenizer.eos_id in allowed_ids(grammar.allowed())) is may_end


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (Ask([], tool_use=ONE_CALL), "I would rather talk"),
        (Ask([], tool_use=ONE_CALL), '<tool_call>\n{"name": "leap"'),
        (Ask([], tool_use=ONE_CALL), f"{CALL}\n{CALL}"),
        (Ask([], tool_use=replace(ONE_CALL, must_call=False)), f"{CALL} and more"),
        (Ask([], tool_use=replace(ONE_CALL, must_call=False)), 'so <tool_call>\n{"name": "scene", "arguments": {"n": 3}}'),
        (Ask([], text_form=IN_JSON), '{"off"'),
        (Ask([], text_form=IN_JSON), '\n{"on"'),
        (Ask([], text_form=CHOICE), "yesterday"),
        (matching("ab|cd"), "abcd"),
        (matching(r"\d"), "٣"),
        (matching(r"\w+"), "ü"),
        (matching(r"[^\d]"), "3"),
        (matching("a/\nanswer: TEXT"), "anything"),
    ],
)
def test_what_an_ask_does_not_allow_cannot_be_said(ask: Ask, text: str) -> None:
    grammar = LlguidanceGrammars(MODEL.tokenizer, VOCAB).start(answer_grammar(ask) or "")
    for token_id in MODEL.tokenizer.encode(text):
        if token_id not in allowed_ids(grammar.allowed()):
            return
        grammar.accept(token_id)
    raise AssertionError(f"{text!r} was allowed")


@pytest.mark.parametrize("pattern", [r"(a+)+b", r"(a|aa)*b", r".*(.*(.*(.*a)*b)*c)*d", r"(.*a){20}"])
def test_a_pattern_that_backtracks_elsewhere_is_followed_a_letter_at_a_time(pattern: str) -> None:
    follow(pattern, num_letters=100)


def test_a_pattern_with_more_states_than_the_bounds_is_given_up() -> None:
    with pytest.raises(GrammarStopped):
        follow(TOO_MANY_STATES, MANY_LETTERS)


def follow(pattern: str, num_letters: int) -> None:
    """Write nothing but the letter a."""
    grammar = LlguidanceGrammars(MODEL.tokenizer, VOCAB).start(answer_grammar(matching(pattern)) or "")
    (letter,) = MODEL.tokenizer.encode("a")
    for _ in range(num_letters):
        assert letter in allowed_ids(grammar.allowed())
        grammar.accept(letter)


def test_a_preempted_answer_goes_on_where_its_grammar_was() -> None:
    """The pool holds two answers at most, so that the others lose their pages in the middle and take them up again."""
    loaded, link = load(num_pages=30)
    guided = [request(f"guided-{seed}", GRAMMAR, seed=seed) for seed in range(5)]
    tokens, _ = answers(loaded, link, guided)
    assert loaded.scheduler.num_preemptions > 0
    for one in guided:
        assert_fits(MODEL.tokenizer.decode(tokens[one.request_id]))


def test_a_grammar_that_does_not_compile_fails_its_own_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says why, "the model failed on this request" told nobody what to change, and no step is run again in halves for it."""
    loaded, link = load()
    monkeypatch.setattr(Engine, "_answer", None)
    tokens, reasons = answers(loaded, link, [request("bad", "start: nowhere", seed=1), request("good", GRAMMAR, seed=2)])
    assert reasons == {"bad": FinishReason.ERROR, "good": FinishReason.STOP}
    (failed,) = [end for report in link.reports for end in report.finished if end.request_id == "bad"]
    assert failed.error_code == "form_too_complex" and "simplify" in (failed.error_message or "")
    assert_fits(MODEL.tokenizer.decode(tokens["good"]))


@pytest.mark.parametrize("grammars", [NoGrammars(), LlguidanceGrammars(MODEL.tokenizer, VOCAB)], ids=["missing", "broken"])
def test_a_grammar_that_cannot_be_had_is_said_when_a_token_is_drawn(grammars: Grammars) -> None:
    with pytest.raises(RuntimeError):
        grammars.start("start: nowhere").allowed()


def test_the_state_is_a_function_of_the_tokens_accepted() -> None:
    """Another replica that replays an answer's tokens allows what the first would have."""
    grammars = LlguidanceGrammars(MODEL.tokenizer, VOCAB)
    first, rng, said = grammars.start(GRAMMAR), random.Random(3), list[int]()
    for _ in range(12):
        said.append(rng.choice(allowed_ids(first.allowed())))
        first.accept(said[-1])
    second = grammars.start(GRAMMAR)
    for token_id in said:
        second.accept(token_id)
    assert second.allowed() == first.allowed()


def test_an_answer_that_is_too_much_for_the_bounds_ends_no_other_of_its_grammar() -> None:
    """Copies of what is compiled once share their lexer: the first to stop there stopped all, and all that came later."""
    grammars, (letter,) = LlguidanceGrammars(MODEL.tokenizer, VOCAB), MODEL.tokenizer.encode("a")
    source = answer_grammar(matching(TOO_MANY_STATES)) or ""
    stopped, other = (grammars.start(source) for _ in range(2))
    with pytest.raises(GrammarStopped):
        for _ in range(MANY_LETTERS):
            stopped.allowed()
            stopped.accept(letter)
    for grammar in (other, grammars.start(source)):
        assert letter in allowed_ids(grammar.allowed())
        grammar.accept(letter)
        assert letter in allowed_ids(grammar.allowed())


def test_what_is_given_up_before_it_is_compiled_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """It kept a compiler busy to its end: clients that came and went held up the answers of others."""
    may_go_on, begun = threading.Event(), list[str]()

    def compiled(tokenizer: object, source: str, **options: object) -> None:
        begun.append(source)
        assert may_go_on.wait(60)
        raise ValueError(source)

    monkeypatch.setattr(llguidance, "LLMatcher", compiled)
    grammars = LlguidanceGrammars(MODEL.tokenizer, VOCAB)
    busy = [grammars.start("busy") for _ in range(NUM_THREADS)]
    grammars.start("given up").close()
    last = grammars.start("asked for")
    may_go_on.set()
    for grammar in (*busy, last):
        with pytest.raises(ValueError, match=r"busy|asked for"):
            grammar.allowed()
    assert begun == ["busy"] * NUM_THREADS + ["asked for"]


def test_no_special_token_is_ever_allowed_but_the_end() -> None:
    grammar = LlguidanceGrammars(MODEL.tokenizer, VOCAB).start(json_grammar({"type": "string"}))
    grammar.accept(MODEL.tokenizer.encode('"')[0])
    specials = {token_id for token_id in range(VOCAB) if not MODEL.tokenizer.token_bytes(token_id)}
    assert not specials & set(allowed_ids(grammar.allowed()))
    grammar.accept(MODEL.tokenizer.encode('"')[0])
    assert allowed_ids(grammar.allowed()) == [MODEL.tokenizer.eos_id]


def allowed_ids(allowed: bytes) -> list[int]:
    return [token_id for token_id in range(8 * len(allowed)) if allowed[token_id // 8] >> (token_id % 8) & 1]


@pytest.mark.parametrize("vocab", [9, 32, 40])
def test_only_allowed_tokens_are_drawn(vocab: int) -> None:
    """Bits shorter than the vocabulary forbid the rest; rows without bits are untouched."""
    allowed = bytes([0b0000_0100, 0b1])
    rows = [SamplingRow(allowed=allowed), SamplingRow(), SamplingRow(temperature=1.0, seed=1, allowed=allowed)]
    logits = torch.arange(vocab, dtype=torch.float32).repeat(3, 1)
    first, free, drawn = sample_tokens(logits, rows)
    assert first.token_id == 8 and free.token_id == vocab - 1 and drawn.token_id in (2, 8)


def test_every_tokenizer_of_this_layout_is_understood() -> None:
    """The library sees each token's bytes as our own tokenizer has them."""
    tokenizer: Tokenizer = MODEL.tokenizer
    grammar = LlguidanceGrammars(tokenizer, VOCAB).start('start: "zażółć 🙂"')
    for token_id in tokenizer.encode("zażółć 🙂"):
        assert token_id in allowed_ids(grammar.allowed())
        grammar.accept(token_id)
    assert allowed_ids(grammar.allowed()) == [tokenizer.eos_id]
