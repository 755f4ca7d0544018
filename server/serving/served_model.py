"""What the front knows of the model it serves: everything but the weights. Read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.config import BagelConfig
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
            CheckpointError: a file is missing or has something wrong.
        """
        config = BagelConfig.from_directory(path)
        profile = FamilyProfile.from_directory(path, config, None if family is None else Family(family))
        created = int((path / "llm_config.json").stat().st_mtime)
        return cls(name, created, config, profile, Tokenizer.from_directory(path, profile))
