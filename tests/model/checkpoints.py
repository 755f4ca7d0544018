"""Small model directories to break in one way each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_a"

CHECKPOINT_FILES = (
    "ae.safetensors",
    "config.json",
    "ema.safetensors",
    "llm_config.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "vit_config.json",
    "vocab.json",
)


def copy_checkpoint(directory: Path) -> Path:
    """Copy the tiny checkpoint into ``directory`` and return it."""
    for name in CHECKPOINT_FILES:
        shutil.copy(GOLDEN / name, directory)
    return directory


def change_tensors(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Rewrite a safetensors file with its tensors changed in place; what ``change`` returns is ignored."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def change_json(path: Path, **fields: object) -> None:
    """Set fields at the top of a JSON file; the file may be new. A field set to None is removed."""
    value = json.loads(path.read_text()) if path.exists() else {}
    value |= fields
    path.write_text(json.dumps({name: field for name, field in value.items() if field is not None}))


def change_header(path: Path, change: Callable[[dict[str, dict[str, object]]], None]) -> None:
    """Rewrite the header of a safetensors file and leave its bytes as they are."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + length :])
