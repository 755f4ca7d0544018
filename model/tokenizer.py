"""Text to token ids and back: the Qwen2.5 byte-level BPE of a model directory.

Read from ``tokenizer.json``, else built from the slow-tokenizer files the reference loads (spec 5.1). Text from outside is encoded
without the added tokens, so that it cannot spell a begin-of-image; decoding works on bytes, so that a stream never shows half a
character. Imports no torch. Segments (BOS, EOS around the ids) are the engine's affair.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from model.errors import CheckpointError
from model.json_object import JsonObject
from model.profile import FamilyProfile

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
VOCAB = "vocab.json"
MERGES = "merges.txt"

QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Where Qwen2's tokenizer cuts text before BPE (huggingface/transformers: models/qwen2/tokenization_qwen2.py)."""


@dataclass(frozen=True, slots=True)
class _Encoders:
    """The same BPE twice: ``plain`` knows no added token, ``special`` does."""

    plain: tokenizers.Tokenizer
    special: tokenizers.Tokenizer


class Tokenizer:
    """The tokenizer of one model; immutable, safe to share between threads."""

    def __init__(self, encoders: _Encoders, source: Path, profile: FamilyProfile) -> None:
        self._encoders = encoders
        self._bytes_by_id = _bytes_by_id(encoders, source)
        self.bos_id = self._required_id(profile.bos, source)
        self.eos_id = self._required_id(profile.eos, source)
        self.boi_id = self._required_id(profile.boi, source)
        self.eoi_id = self._required_id(profile.eoi, source)
        self.end_ids = tuple(self._required_id(name, source) for name in profile.end_token_names)

    @classmethod
    def from_directory(cls, path: str | Path, profile: FamilyProfile) -> Tokenizer:
        """Read the tokenizer of the model directory ``path``.

        Raises:
            CheckpointError: a file is missing or broken, or lacks a token the profile names.
        """
        directory = Path(path)
        if (directory / TOKENIZER_JSON).is_file():
            return cls(_from_tokenizer_json(directory / TOKENIZER_JSON), directory / TOKENIZER_JSON, profile)
        return cls(_from_slow_files(directory), directory / TOKENIZER_CONFIG, profile)

    @property
    def vocab_size(self) -> int:
        """One more than the largest known id; the model may have more rows (spec 9, quirk 12)."""
        return max(self._bytes_by_id) + 1

    def spelling(self, token_id: int) -> str:
        """Return a known token as the vocabulary writes it, for messages; `token_bytes` is what it stands for."""
        spelling: str | None = self._encoders.special.id_to_token(token_id)
        assert spelling is not None, f"no token {token_id}"
        return spelling

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Encode text, without BOS or EOS. The spelling of an added token stays plain text unless ``allow_special``.

        Raises:
            ValueError: the text holds half a surrogate pair, which is no character.
        """
        encoder = self._encoders.special if allow_special else self._encoders.plain
        try:
            # Of the library's calls the one that lets go of Python's lock meanwhile: a long text takes seconds.
            ids: list[int] = encoder.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except TypeError as error:
            raise ValueError("the text holds half a surrogate pair") from error
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids; special tokens and unknown ids give nothing, broken UTF-8 gives replacement characters."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes of one token, perhaps part of a character; empty for special tokens and unknown ids."""
        return self._bytes_by_id.get(token_id, b"")

    def _required_id(self, name: str, source: Path) -> int:
        token_id: int | None = self._encoders.special.token_to_id(name)
        if token_id is None:
            raise CheckpointError.in_file(source, f"the tokenizer has no token {name!r}, which the model family needs")
        return token_id


class StreamDecoder:
    """Decodes one growing answer; holds back the bytes of a character that is not complete."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Take the next token and return the text that became complete with it."""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """End the text: return what was held back, as a replacement character."""
        return self._utf8.decode(b"", final=True)


def _from_tokenizer_json(path: Path) -> _Encoders:
    fields = JsonObject.read(path, "the tokenizer").fields
    without_added = {**fields, "added_tokens": [], "post_processor": None}
    return _Encoders(plain=_parse(path, without_added), special=_parse(path, fields))


def _parse(path: Path, fields: Mapping[str, object]) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(fields))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError.in_file(path, f"not a tokenizer: {error}") from error


def _from_slow_files(directory: Path) -> _Encoders:
    """Build Qwen2's tokenizer from ``vocab.json``, ``merges.txt`` and the added tokens in ``tokenizer_config.json``."""
    vocab_json = JsonObject.read(directory / VOCAB, f"the tokenizer, unless there is a {TOKENIZER_JSON}")
    vocab = {name: _token_id(vocab_json, name) for name in vocab_json.fields}
    merges = _read_merges(directory / MERGES)
    added = _read_added_tokens(directory / TOKENIZER_CONFIG)
    special = _byte_level_bpe(vocab, merges, directory)
    for token_id, token in sorted(added.items()):
        if token.special:
            special.add_special_tokens([token])
        else:
            special.add_tokens([token])
        if special.token_to_id(token.content) != token_id:
            raise CheckpointError.in_file(
                directory / TOKENIZER_CONFIG,
                f"added token {token.content!r} has id {token_id}, but {special.token_to_id(token.content)} follows from {VOCAB}",
            )
    return _Encoders(plain=_byte_level_bpe(vocab, merges, directory), special=special)


def _byte_level_bpe(vocab: dict[str, int], merges: list[tuple[str, str]], directory: Path) -> tokenizers.Tokenizer:
    try:
        return byte_level_tokenizer(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError.in_file(directory / MERGES, f"does not fit {VOCAB}: {error}") from error


def byte_level_tokenizer(model: models.BPE) -> tokenizers.Tokenizer:
    """Return a BPE with what Qwen2.5's has around it: NFC before, its splits into words, and bytes as characters."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _token_id(vocab: JsonObject, name: str) -> int:
    token_id = vocab.fields[name]
    if type(token_id) is not int or token_id < 0:
        raise vocab.wrong(name, "a token id")
    return token_id


def _read_merges(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise CheckpointError.missing_file(path, f"the tokenizer, unless there is a {TOKENIZER_JSON}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError.in_file(path, f"not UTF-8: {error}") from error
    merges = []
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        first, _, second = line.rstrip("\r").partition(" ")
        if not first or not second:
            raise CheckpointError.in_file(path, f"line {number}: expected two tokens, found {line!r}")
        merges.append((first, second))
    return merges


def _read_added_tokens(path: Path) -> dict[int, AddedToken]:
    listed = JsonObject.read(path, f"the special tokens, unless there is a {TOKENIZER_JSON}").child("added_tokens_decoder")
    added = {}
    for key in listed.fields:
        token = listed.child(key)
        if not key.isdecimal():
            raise listed.wrong(key, "a token id as its name")
        added[int(key)] = AddedToken(
            token.string("content"),
            single_word=token.boolean("single_word", False),
            lstrip=token.boolean("lstrip", False),
            rstrip=token.boolean("rstrip", False),
            normalized=token.boolean("normalized", False),
            special=token.boolean("special", False),
        )
    return added


def _bytes_by_id(encoders: _Encoders, source: Path) -> dict[int, bytes]:
    """Return the bytes of every known token; a special token has none."""
    byte_by_char = {char: byte for byte, char in byte_characters().items()}
    known = {}
    for name, token_id in encoders.plain.get_vocab(with_added_tokens=False).items():
        if not all(char in byte_by_char for char in name):
            raise CheckpointError.in_file(source, f"token {name!r} is not byte-level")
        known[token_id] = bytes(byte_by_char[char] for char in name)
    for token_id, token in encoders.special.get_added_tokens_decoder().items():
        known[token_id] = b"" if token.special else token.content.encode("utf-8")
    return known


def byte_characters() -> dict[int, str]:
    """Return the printable character that stands for each byte in a byte-level vocabulary (openai/gpt-2: src/encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}
