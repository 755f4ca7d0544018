"""Which files of a model directory hold the weights, and where each tensor lies in them.

Uploads differ in names (spec 1.1): ``ema.safetensors``, else ``model.safetensors``, else a sharded index, else one other file. An index
copied from elsewhere, whose shards are not there, does not hide that file. The VAE is always ``ae.safetensors``, whatever an index says.
Imports no torch: `model.config_reader` reads shapes from here, `model.weights` bytes.
"""

from __future__ import annotations

from pathlib import Path

from model.errors import CheckpointError
from model.json_object import JsonObject
from model.safetensors_header import StoredTensor, read_header

MAIN_NAMES = ("ema.safetensors", "model.safetensors")
INDEX_NAME = "model.safetensors.index.json"
VAE_NAME = "ae.safetensors"

MARKER_TENSOR = "language_model.model.embed_tokens.weight"
"""A tensor every main file has; tells a model file of another name from an unrelated one."""


def has_main_file(directory: Path) -> bool:
    """Say whether any weights except the VAE's are there; their content is not looked at."""
    return any(path.name != VAE_NAME for path in directory.glob("*.safetensors"))


def main_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Return the place of every tensor except the VAE's, by name.

    Raises:
        CheckpointError: no file, several candidates, or a broken one.
    """
    for name in MAIN_NAMES:
        if (directory / name).is_file():
            return read_header(directory / name)
    file_by_tensor = _read_index(directory) if (directory / INDEX_NAME).is_file() else {}
    shard_names = sorted(set(file_by_tensor.values()))
    absent = [name for name in shard_names if not (directory / name).is_file()]
    if shard_names and not absent:
        return _sharded_tensors(directory, file_by_tensor)
    candidates = _candidates(directory, shard_names)
    if absent and not candidates:
        raise CheckpointError.missing_file(directory / absent[0], f"a shard named in {INDEX_NAME}")
    return _only(candidates, directory)


def vae_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Return the place of every VAE tensor, by name. Raises `CheckpointError` for a missing or broken file."""
    return read_header(directory / VAE_NAME)


def _read_index(directory: Path) -> dict[str, str]:
    """Return the shard of every tensor that the index places, the VAE's apart."""
    index = JsonObject.read(directory / INDEX_NAME, "the list of shards").child("weight_map")
    file_by_tensor = {name: index.string(name) for name in index.fields}
    for file_name in set(file_by_tensor.values()):
        if Path(file_name).name != file_name:
            raise CheckpointError.in_file(index.path, f"shard {file_name!r} is not a file of this directory")
    return {name: file_name for name, file_name in file_by_tensor.items() if file_name != VAE_NAME}


def _sharded_tensors(directory: Path, file_by_tensor: dict[str, str]) -> dict[str, StoredTensor]:
    shards = {file_name: read_header(directory / file_name) for file_name in sorted(set(file_by_tensor.values()))}
    for name, file_name in file_by_tensor.items():
        if name not in shards[file_name]:
            raise CheckpointError.in_tensor(directory / file_name, name, f"missing, though {INDEX_NAME} places it here")
    for file_name, tensors in shards.items():
        for name in tensors:
            if file_by_tensor.get(name) != file_name:
                raise CheckpointError.in_tensor(directory / file_name, name, f"not placed here by {INDEX_NAME}")
    return {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}


def _candidates(directory: Path, shard_names: list[str]) -> list[dict[str, StoredTensor]]:
    """Return the tensors of each file that may be a whole model: shards of an incomplete set, and the VAE, are none."""
    others = sorted(path for path in directory.glob("*.safetensors") if path.name not in (VAE_NAME, *shard_names))
    return [tensors for tensors in map(read_header, others) if MARKER_TENSOR in tensors]


def _only(candidates: list[dict[str, StoredTensor]], directory: Path) -> dict[str, StoredTensor]:
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = ", ".join(tensors[MARKER_TENSOR].path.name for tensors in candidates)
        raise CheckpointError.in_file(directory, f"several files hold {MARKER_TENSOR!r}: {names}")
    raise CheckpointError.missing_file(
        directory / MAIN_NAMES[0], f"model weights; {MAIN_NAMES[1]}, {INDEX_NAME} or one other file holding {MARKER_TENSOR!r} would do"
    )
