"""The header of a safetensors file, read and checked before a single weight is believed.

Format: 8 bytes little-endian header length, that many bytes of JSON ``{name: {dtype, shape, data_offsets}}``, then the tensors' bytes
(huggingface/safetensors: README.md). Read here and not through the library so that the API process needs no torch, and so that a
wrong file is refused with its name, its tensor and the numbers. Used by `model.config` (shapes) and `model.weights` (bytes).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from model.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own cap; BAGEL's header is about 150 kB."""

LENGTH_BYTES = 8

DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies: ``num_bytes`` bytes from ``offset``, counted from the start of the file ``path``."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read every tensor's place in the file ``path``, by name, in the order of the bytes.

    Raises:
        CheckpointError: the file is missing, truncated, or its header contradicts itself or the file's size.
    """
    if not path.is_file():
        raise CheckpointError.missing_file(path, "model weights")
    entries, data_start = _read_entries(path)
    tensors = [_stored_tensor(path, name, entry, data_start) for name, entry in entries.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.num_bytes))
    _check_extent(path, tensors, data_start)
    return {tensor.name: tensor for tensor in tensors}


def _read_entries(path: Path) -> tuple[dict[str, object], int]:
    """Return the header's JSON object and where the tensors' bytes start."""
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(LENGTH_BYTES)
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < LENGTH_BYTES or header_bytes > min(file_bytes - LENGTH_BYTES, MAX_HEADER_BYTES):
            raise CheckpointError.in_file(
                path,
                f"not a safetensors file or truncated: the header claims {header_bytes} bytes, the file has {file_bytes}, "
                f"at most {MAX_HEADER_BYTES} are allowed",
            )
        header = file.read(header_bytes)
    try:
        entries = json.loads(header, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError.in_file(path, f"the safetensors header is not valid JSON: {error}") from error
    if not isinstance(entries, dict):
        raise CheckpointError.in_file(path, "the safetensors header is not a JSON object")
    return entries, LENGTH_BYTES + header_bytes


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name occurs twice")
    return names


def _stored_tensor(path: Path, name: str, entry: object, data_start: int) -> StoredTensor:
    if not isinstance(entry, dict):
        raise CheckpointError.in_tensor(path, name, "its header entry is not an object")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CheckpointError.in_tensor(path, name, f"unknown dtype {dtype!r}; known are {', '.join(DTYPE_BYTES)}")
    shape = _natural_numbers(path, name, "shape", entry.get("shape"))
    offsets = _natural_numbers(path, name, "data_offsets", entry.get("data_offsets"))
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError.in_tensor(path, name, f"data_offsets {list(offsets)} are no range")
    num_bytes = offsets[1] - offsets[0]
    expected_bytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if num_bytes != expected_bytes:
        raise CheckpointError.in_tensor(
            path, name, f"shape {list(shape)} of {dtype} takes {expected_bytes} bytes, the header gives it {num_bytes}"
        )
    return StoredTensor(path, name, dtype, shape, data_start + offsets[0], num_bytes)


def _natural_numbers(path: Path, name: str, field: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(number) is int and number >= 0 for number in value):
        raise CheckpointError.in_tensor(path, name, f"{field} {value!r} is not a list of natural numbers")
    return tuple(value)


def _check_extent(path: Path, tensors: list[StoredTensor], data_start: int) -> None:
    """Check that the tensors lie one after another, without overlap or gap, and end where the file ends."""
    file_bytes = path.stat().st_size
    position = data_start
    for tensor in tensors:
        end = tensor.offset + tensor.num_bytes
        if tensor.offset != position:
            raise CheckpointError.in_tensor(path, tensor.name, f"starts at byte {tensor.offset}, expected {position}: overlap or gap")
        if end > file_bytes:
            raise CheckpointError.in_tensor(
                path,
                tensor.name,
                f"shape {list(tensor.shape)} of {tensor.dtype} ends at byte {end}, the file has only {file_bytes}: it is truncated",
            )
        position = end
    if position != file_bytes:
        raise CheckpointError.in_file(path, f"{file_bytes - position} bytes belong to no tensor")
