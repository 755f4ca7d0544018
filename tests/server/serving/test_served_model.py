"""What the front reads of a model directory, and what it refuses before anything is served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.errors import CheckpointError
from server.serving.served_model import ServedModel
from tests.model.checkpoints import change_json, copy_checkpoint


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return copy_checkpoint(tmp_path)


def add_token(directory: Path, content: str, token_id: int) -> None:
    path = directory / "tokenizer.json"
    added = json.loads(path.read_text())["added_tokens"]
    change_json(path, added_tokens=[*added, {**added[-1], "id": token_id, "content": content}])


def test_a_token_that_the_weights_have_no_row_for_is_refused_by_name(directory: Path) -> None:
    """Tokens added beside weights that were not resized: the id met the embedding, which ends an engine on a GPU."""
    change_json(directory / "llm_config.json", vocab_size=312)
    add_token(directory, "<answer>", 312)
    with pytest.raises(CheckpointError, match=r"token '<answer>' has id 312, but the model has rows for 0 to 311 \('vocab_size'"):
        ServedModel.from_directory(directory, "tiny_a", None)


def test_a_tokenizer_may_fill_every_row_and_leave_some_over(directory: Path) -> None:
    for vocab_size in (312, 320):
        change_json(directory / "llm_config.json", vocab_size=vocab_size)
        assert ServedModel.from_directory(directory, "tiny_a", None).tokenizer.vocab_size == 312
