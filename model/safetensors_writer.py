"""Writing a safetensors file tensor by tensor, so that no more than one is in memory (format: huggingface/safetensors, README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

DTYPE_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

HEADER_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor to be written: its name, dtype and shape now, its values when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    values: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        """What the tensor takes in the file."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_safetensors(path: Path, sources: Iterable[TensorSource]) -> None:
    """Write the file ``path``, in the order given; it appears whole or not at all."""
    listed = list(sources)
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for source in listed:
        end = offset + source.num_bytes
        entries[source.name] = {"dtype": DTYPE_NAMES[source.dtype], "shape": list(source.shape), "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % HEADER_ALIGNMENT)
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for source in listed:
            values = source.values().detach()
            assert tuple(values.shape) == source.shape
            stored = values.to(device="cpu", dtype=source.dtype).contiguous()
            file.write(stored.flatten().view(torch.uint8).numpy().data)
    unfinished.replace(path)
