"""From what is asked to what the engine runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from model.guidance_rules import GuidanceMode, Renorm
from model.profile import THINK_IMAGE_PROMPT, THINK_TEXT_PROMPT
from server.errors import ContextLengthExceeded, InvalidValue, PlaitError, UnsupportedParameter
from server.messages import EngineReady, ImageSegment, OutputMode, Request, TextSegment
from server.serving.asks import Ask, Message, Modality, PictureChoices, PicturePart, TextChoices, TextPart
from server.serving.context_budget import NUM_MARKERS, WORDS_FIRST
from server.serving.grammar_writers import GrammarWriters
from server.serving.interest import Interest
from server.serving.picture_files import PictureLimits
from server.serving.picture_intake import PictureIntake
from server.serving.picture_readers import PictureReaders
from server.serving.prepare import Plan, Preparer, PromptLimits
from tests.server.picture_files import picture_uri
from tests.server.running_front import golden_model
from tests.server.scripted_engine import READY

TEXT = frozenset({Modality.TEXT})
IMAGE = frozenset({Modality.IMAGE})
BOTH = frozenset({Modality.TEXT, Modality.IMAGE})
HELLO = Message([TextPart("hello")], "messages[0]")
PICTURE = PicturePart(picture_uri(100, 80), "messages[0].content[1]")


READERS = PictureReaders(golden_model().config, PictureLimits())
WRITERS = GrammarWriters()


@pytest.fixture(scope="module", autouse=True)
def readers() -> Iterator[None]:
    yield
    READERS.close()
    WRITERS.close()


def prepare(ask: Ask, family: str = "bagel", ready: EngineReady = READY) -> Plan:
    return Preparer(golden_model(family), PromptLimits(max_pictures=2), PictureIntake(READERS), WRITERS).prepare(ask, ready, Interest())


def only_request(ask: Ask, family: str = "bagel", ready: EngineReady = READY) -> Request:
    (request,) = prepare(ask, family, ready).requests
    return request


def shapes(request: Request) -> list[str]:
    """Spell the prompt: a text as itself, a picture as the towers that read it."""
    tokenizer = golden_model().tokenizer
    return [
        tokenizer.decode(segment.token_ids) if isinstance(segment, TextSegment) else "<vit>" if segment.vae is None else "<vae+vit>"
        for segment in request.segments
    ]


def test_each_text_is_a_segment_and_neighbouring_texts_of_a_message_are_joined() -> None:
    system = Message([TextPart("be kind")], "messages[0]")
    user = Message([TextPart("look"), TextPart("here"), PICTURE, TextPart("and say"), TextPart("")], "messages[1]")
    assert shapes(only_request(Ask([system, user]))) == ["be kind", "look\nhere", "<vit>", "and say"]


def test_a_picture_goes_to_the_vae_when_the_answer_may_hold_pictures() -> None:
    assert shapes(only_request(Ask([Message([PICTURE], "m")], modalities=IMAGE))) == ["<vae+vit>"]


def test_the_spelling_of_a_special_token_stays_text() -> None:
    request = only_request(Ask([Message([TextPart("a<|vision_start|>b")], "m")]))
    assert shapes(request) == ["a<|vision_start|>b"]


@pytest.mark.parametrize(
    ("family", "modalities", "mode"),
    [
        ("bagel", None, OutputMode.TEXT),
        ("bagel", TEXT, OutputMode.TEXT),
        ("bagel", IMAGE, OutputMode.IMAGE),
        ("bagel", BOTH, OutputMode.ALTERNATE),
        ("interleaved", None, OutputMode.INTERLEAVED),
        ("interleaved", TEXT, OutputMode.TEXT),
        ("interleaved", IMAGE, OutputMode.IMAGE),
        ("interleaved", BOTH, OutputMode.INTERLEAVED),
    ],
)
def test_modalities_and_family_decide_who_draws(family: str, modalities: frozenset[Modality] | None, mode: OutputMode) -> None:
    assert only_request(Ask([HELLO], modalities=modalities), family).mode is mode


def test_without_a_picture_in_the_prompt_the_defaults_are_those_of_text_to_image() -> None:
    image = only_request(Ask([HELLO], modalities=IMAGE)).image
    assert (image.width, image.height) == (128, 128)
    assert (image.image_scale, image.interval, image.renorm) == (1.0, (0.4, 1.0), Renorm.GLOBAL)


def test_with_a_picture_in_the_prompt_the_defaults_and_the_size_are_those_of_an_edit() -> None:
    request = only_request(Ask([Message([PICTURE, TextPart("brighter")], "m")], modalities=IMAGE))
    (source,) = [segment for segment in request.segments if isinstance(segment, ImageSegment)]
    assert source.vae is not None
    assert (request.image.width, request.image.height) == (source.vae.width, source.vae.height)
    assert (request.image.image_scale, request.image.interval, request.image.renorm) == (2.0, (0.0, 1.0), Renorm.TEXT_CHANNEL)


def test_what_the_client_chooses_wins_over_every_default() -> None:
    chosen = PictureChoices(
        size=(64, 32), num_timesteps=7, guidance=GuidanceMode.ILLUME, text_scale=2.5, image_scale=1.5, interval=(0.1, 0.9),
        renorm=Renorm.CHANNEL, renorm_min=0.5, timestep_shift=2.0, seed=5, max_images=3,
    )  # fmt: skip
    image = only_request(Ask([HELLO], modalities=BOTH, pictures=chosen)).image
    assert (image.width, image.height, image.num_timesteps, image.guidance) == (64, 32, 7, GuidanceMode.ILLUME)
    assert (image.text_scale, image.image_scale, image.interval, image.renorm) == (2.5, 1.5, (0.1, 0.9), Renorm.CHANNEL)
    assert (image.renorm_min, image.timestep_shift, image.seed, image.max_images) == (0.5, 2.0, 5, 3)


def test_the_answers_of_one_ask_differ_in_id_and_seed_alone() -> None:
    requests = prepare(Ask([HELLO], n=3, seed=40)).requests
    assert [request.sampling.seed for request in requests] == [40, 41, 42]
    assert len({request.request_id for request in requests}) == 3
    first = requests[0]
    assert all(
        replace(request, request_id="", sampling=first.sampling, image=first.image) == replace(first, request_id="") for request in requests
    )


def test_the_pictures_of_a_prompt_count_among_its_tokens() -> None:
    """As in its usage, where each of the towers that read one has its rows."""
    words, looked_at, drawn_from = Ask([HELLO]), Ask([Message([PICTURE], "m")]), Ask([Message([PICTURE], "m")], modalities=IMAGE)
    config, request = golden_model().config, only_request(drawn_from)
    (picture,) = [segment for segment in request.segments if isinstance(segment, ImageSegment)]
    assert picture.vae is not None
    vit_rows = (picture.vit.width // config.vit.patch_size) * (picture.vit.height // config.vit.patch_size) + NUM_MARKERS
    vae_rows = (picture.vae.width // config.latent_stride) * (picture.vae.height // config.latent_stride) + NUM_MARKERS
    assert prepare(words).num_prompt_tokens == len(golden_model().tokenizer.encode("hello")) + NUM_MARKERS
    assert prepare(looked_at).num_prompt_tokens == vit_rows
    assert prepare(replace(drawn_from, n=3)).num_prompt_tokens == vit_rows + vae_rows


def test_without_a_seed_two_asks_get_different_ones() -> None:
    assert only_request(Ask([HELLO])).sampling.seed != only_request(Ask([HELLO])).sampling.seed


def test_a_negative_seed_becomes_a_number_the_engine_takes() -> None:
    assert 0 <= only_request(Ask([HELLO], seed=-1)).sampling.seed < 2**63


@pytest.mark.parametrize(
    ("modalities", "prompt", "mode", "is_thought"),
    [(TEXT, THINK_TEXT_PROMPT, OutputMode.TEXT, False), (IMAGE, THINK_IMAGE_PROMPT, OutputMode.ALTERNATE, True)],
)
def test_thinking_puts_the_system_prompt_first(modalities: frozenset[Modality], prompt: str, mode: OutputMode, is_thought: bool) -> None:
    request = only_request(Ask([HELLO], modalities=modalities, thinks=True))
    assert shapes(request) == [prompt, "hello"]
    assert (request.mode, request.generated_text_is_thought) == (mode, is_thought)


@pytest.mark.parametrize(
    ("ask", "kind", "param"),
    [
        (Ask([Message([TextPart("")], "m")]), InvalidValue, "messages"),
        (Ask([Message([PICTURE] * 3, "m")]), InvalidValue, "messages"),
        (Ask([HELLO], pictures=PictureChoices()), UnsupportedParameter, "image"),
        (Ask([HELLO], modalities=IMAGE, text=TextChoices(logprobs=0)), UnsupportedParameter, "logprobs"),
        (Ask([HELLO], modalities=BOTH, thinks=True), UnsupportedParameter, "think"),
        (Ask([HELLO], text=TextChoices(min_tokens=5, max_tokens=4)), InvalidValue, "min_tokens"),
        (Ask([HELLO], text=TextChoices(logit_bias={320: 1.0})), InvalidValue, "logit_bias"),
        (Ask([HELLO], modalities=IMAGE, pictures=PictureChoices(size=(72, 64))), InvalidValue, "image.size"),
        (Ask([HELLO], modalities=IMAGE, pictures=PictureChoices(size=(64, 144))), InvalidValue, "image.size"),
        (Ask([HELLO], modalities=IMAGE, pictures=PictureChoices(size=(0, 64))), InvalidValue, "image.size"),
        (
            Ask([HELLO], modalities=IMAGE, pictures=PictureChoices(negative_prompt="blur", guidance=GuidanceMode.ILLUME)),
            UnsupportedParameter,
            "image.negative_prompt",
        ),
        (
            Ask([HELLO], modalities=IMAGE, pictures=PictureChoices(negative_prompt="blur", text_scale=1.0)),
            UnsupportedParameter,
            "image.negative_prompt",
        ),
        (Ask([HELLO], text=TextChoices(max_tokens=2048)), ContextLengthExceeded, "messages"),
        (Ask([Message([TextPart("word " * 3000)], "m")]), ContextLengthExceeded, "messages"),
    ],
)  # fmt: skip
def test_what_the_model_cannot_do_is_refused_by_name(ask: Ask, kind: type[PlaitError], param: str) -> None:
    with pytest.raises(kind) as caught:
        prepare(ask)
    assert caught.value.param == param


def test_texts_that_cannot_fit_by_far_are_refused_before_all_of_them_is_read() -> None:
    """To count what is too much took minutes where a body was full of it."""
    texts = [Message([TextPart("🙂" * 900_000)], f"messages[{place}]") for place in range(8)]
    with pytest.raises(ContextLengthExceeded, match=r"more than 8192 tokens, the context holds 2048"):
        prepare(Ask(texts))


def test_a_prompt_and_answer_that_fill_the_context_exactly_are_taken() -> None:
    """The prompt's rows, BOS and EOS of the answer, and its tokens: one token more is refused."""
    num_prompt = len(golden_model().tokenizer.encode("hello")) + 2
    exact = READY.max_positions - num_prompt - 2
    assert only_request(Ask([HELLO], text=TextChoices(max_tokens=exact))).sampling.max_tokens == exact
    with pytest.raises(ContextLengthExceeded, match=f"{READY.max_positions + 1} positions, the context holds {READY.max_positions}"):
        prepare(Ask([HELLO], text=TextChoices(max_tokens=exact + 1)))


def test_an_answer_whose_length_is_left_open_gets_what_is_left() -> None:
    num_prompt = len(golden_model().tokenizer.encode("hello")) + 2
    assert only_request(Ask([HELLO]), ready=replace(READY, max_positions=100)).sampling.max_tokens == 100 - num_prompt - 2


def test_pictures_left_open_become_fewer_where_the_cache_is_small() -> None:
    free = only_request(Ask([HELLO]), "interleaved")
    tight = only_request(Ask([HELLO]), "interleaved", replace(READY, max_context_rows=400))
    assert free.image.max_images > tight.image.max_images >= 1


@pytest.mark.parametrize("max_context_rows", range(300, 3000, 150))
def test_pictures_left_open_give_way_to_words_left_open(max_context_rows: int) -> None:
    """Else as many pictures as fit would leave a token or two to tell of them."""
    found = only_request(Ask([HELLO]), "interleaved", replace(READY, max_context_rows=max_context_rows))
    assert found.sampling.max_tokens >= min(WORDS_FIRST, READY.max_positions // 2) or found.image.max_images == 1


def test_pictures_asked_for_that_do_not_fit_are_refused() -> None:
    ask = Ask([HELLO], modalities=BOTH, pictures=PictureChoices(max_images=4))
    with pytest.raises(ContextLengthExceeded, match="cache rows"):
        prepare(ask, ready=replace(READY, max_context_rows=400))
