"""Text to ids and back."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import BagelConfig
from model.errors import CheckpointError
from model.profile import Family, FamilyProfile
from model.random_checkpoint import ADDED_TOKENS, SPECIAL_TOKENS, write_tokenizer
from model.tokenizer import StreamDecoder, Tokenizer
from tests.model.checkpoints import GOLDEN, change_json

PROFILE = FamilyProfile.of_family(Family.BAGEL, BagelConfig.named("tiny"))
TOKENIZER = Tokenizer.from_directory(GOLDEN, PROFILE)

CHARACTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


SLOW_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")


@pytest.fixture
def slow_files(tmp_path: Path) -> Path:
    for name in SLOW_FILES:
        shutil.copy(GOLDEN / name, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def slow_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("slow")
    for name in SLOW_FILES:
        shutil.copy(GOLDEN / name, directory)
    return Tokenizer.from_directory(directory, PROFILE)


@given(CHARACTERS)
def test_both_kinds_of_files_give_the_same_ids(slow_tokenizer: Tokenizer, text: str) -> None:
    assert TOKENIZER.encode(text) == slow_tokenizer.encode(text)
    assert TOKENIZER.encode(text, allow_special=True) == slow_tokenizer.encode(text, allow_special=True)


@given(st.text(st.characters(codec="ascii"), max_size=40))
def test_ascii_text_survives_the_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize("name", [*SPECIAL_TOKENS, *ADDED_TOKENS])
def test_the_spelling_of_an_added_token_stays_plain_text(name: str) -> None:
    ids = TOKENIZER.encode(f"a {name} b")
    assert TOKENIZER.decode(ids) == f"a {name} b"
    assert TOKENIZER.encode(name, allow_special=True)[0] not in ids


def test_special_and_unknown_ids_decode_to_nothing() -> None:
    assert TOKENIZER.decode([TOKENIZER.bos_id, *TOKENIZER.encode("ok"), TOKENIZER.vocab_size, 10**9]) == "ok"


def test_added_tokens_that_are_text_decode_to_their_spelling() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("<tool_call>", allow_special=True)) == "<tool_call>"


def test_the_vocabulary_ends_after_the_last_known_token() -> None:
    assert TOKENIZER.vocab_size == 312


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        TOKENIZER.encode("a\ud83d")


@given(CHARACTERS)
def test_a_stream_gives_the_whole_text_and_never_half_a_character(text: str) -> None:
    ids = TOKENIZER.encode(text)
    decoder = StreamDecoder(TOKENIZER)
    parts = [decoder.push(token_id) for token_id in ids]
    assert "".join(parts) + decoder.flush() == TOKENIZER.decode(ids)
    assert all("\ufffd" not in part for part in parts) or "\ufffd" in text


def test_a_character_cut_off_at_the_end_is_replaced_when_flushed() -> None:
    decoder = StreamDecoder(TOKENIZER)
    first_byte = TOKENIZER.encode("\N{SLIGHTLY SMILING FACE}")[0]
    assert decoder.push(first_byte) == ""
    assert decoder.flush() == "\ufffd"


@pytest.mark.parametrize("name", SLOW_FILES)
def test_a_missing_file_is_named(slow_files: Path, name: str) -> None:
    (slow_files / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: no such file"):
        Tokenizer.from_directory(slow_files, PROFILE)


def test_a_special_token_the_family_needs_is_required(slow_files: Path) -> None:
    change_json(slow_files / "tokenizer_config.json", added_tokens_decoder=None)
    with pytest.raises(CheckpointError, match=r"has no token '<\|im_start\|>', which the model family needs"):
        Tokenizer.from_directory(slow_files, PROFILE)


def test_an_added_token_with_another_id_is_refused(slow_files: Path) -> None:
    change_json(slow_files / "tokenizer_config.json", added_tokens_decoder={"999": {"content": "<|im_start|>", "special": True}})
    with pytest.raises(CheckpointError, match=r"added token '<\|im_start\|>' has id 999, but 290 follows from vocab\.json"):
        Tokenizer.from_directory(slow_files, PROFILE)


@pytest.mark.parametrize(("name", "content"), [("vocab.json", "[]"), ("merges.txt", "lonely\n"), ("merges.txt", "un known\n")])
def test_a_broken_file_is_named(slow_files: Path, name: str, content: str) -> None:
    (slow_files / name).write_text(content)
    with pytest.raises(CheckpointError, match=name):
        Tokenizer.from_directory(slow_files, PROFILE)


def test_a_broken_tokenizer_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.from_directory(tmp_path, PROFILE)


@pytest.mark.parametrize("vocab_size", [278, 320, 8192])
def test_a_written_tokenizer_knows_exactly_its_vocabulary(tmp_path: Path, vocab_size: int) -> None:
    write_tokenizer(tmp_path, vocab_size)
    tokenizer = Tokenizer.from_directory(tmp_path, PROFILE)
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.decode(tokenizer.encode("Two words, naïve!")) == "Two words, naïve!"


def test_a_vocabulary_too_small_for_the_special_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="277 has no room"):
        write_tokenizer(tmp_path, 277)


def test_other_threads_go_on_while_a_text_is_encoded() -> None:
    """They waited for its end: with a long text whoever read a stream of words did for seconds."""
    encoding = threading.Thread(target=TOKENIZER.encode, args=("🙂" * 200_000,))
    encoding.start()
    num_turns = 0
    while encoding.is_alive():
        encoding.join(0.001)
        num_turns += 1
    assert num_turns > 10
