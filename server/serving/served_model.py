"""What the front knows of the model it serves: everything but the weights. Read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.config import BagelConfig
from model.errors import CheckpointError
from model.profile import Family, FamilyProfile
from model.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The one model of this server, under the name that clients use; ``created`` in Unix seconds."""

    name: str
    created: int
    config: BagelConfig
    profile: FamilyProfile
    tokenizer: Tokenizer

    @classmethod
    def from_directory(cls, path: Path, name: str, family: str | None) -> ServedModel:
        """Read a model directory.

        Raises:
            CheckpointError: a file is missing or has something wrong, or the tokenizer knows more tokens than the model.
        """
        config = BagelConfig.from_directory(path)
        profile = FamilyProfile.from_directory(path, config, None if family is None else Family(family))
        tokenizer = Tokenizer.from_directory(path, profile)
        _refuse_tokens_without_a_row(path, tokenizer, config.llm.vocab_size)
        created = int((path / "llm_config.json").stat().st_mtime)
        return cls(name, created, config, profile, tokenizer)


def _refuse_tokens_without_a_row(path: Path, tokenizer: Tokenizer, num_rows: int) -> None:
    last_id = tokenizer.vocab_size - 1
    if last_id >= num_rows:
        token = f"the tokenizer's token {tokenizer.spelling(last_id)!r} has id {last_id}"
        raise CheckpointError.in_file(path, f"{token}, but the model has rows for 0 to {num_rows - 1} ('vocab_size' in llm_config.json)")
