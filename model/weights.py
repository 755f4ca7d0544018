"""Loading a model directory's weights and writing them back.

Every stored tensor is accounted for by `model.weight_table`: a missing, unknown or misshapen one is refused by name. Bytes go from the
file through one small buffer straight into the parameter on its device, converted on the way, and nothing is ever unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kernels.expert import ExpertScales
from kernels.fp8 import FP8, Fp8Rows
from kernels.quantize import quantize_rows
from model.bagel import Bagel
from model.checkpoint_files import MAIN_NAMES, VAE_NAME, main_tensors, vae_tensors
from model.config import BagelConfig
from model.config_writer import write_config
from model.errors import CheckpointError
from model.latents import sincos_table
from model.safetensors_header import StoredTensor
from model.safetensors_writer import DTYPE_NAMES, TensorSource, write_safetensors
from model.weight_table import Role, TableLine, is_expert_matrix, main_table, vae_table

Progress = Callable[[str, int, int], None]
"""``(tensor name, bytes done, bytes in all)``, called after each tensor."""

DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
"""What a stored tensor may be."""

BUFFER_BYTES = 16 << 20
"""Host memory the loader needs besides the parameters. A multiple of every element size; larger gains nothing measurable."""

VIT_PREFIX = "vit_model."
VAE_PARAMETERS = "vae."


def load_bagel(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
    *,
    has_fp8_experts: bool = False,
) -> Bagel:
    """Load the model directory ``path`` onto ``device``: the VAE in float32, everything else in ``dtype``.

    With ``has_fp8_experts`` the matrices of both experts become 8-bit floats as they are read, so that they are never there in full width
    but for one. Host memory on top of parameters that themselves live on the host stays near `BUFFER_BYTES`, whatever the model's size.

    Raises:
        CheckpointError: a file is missing, truncated or contradicts itself; a tensor is missing, unknown or of the wrong shape.
    """
    directory = Path(path)
    config = BagelConfig.from_directory(directory)
    lines = [*main_table(config), *vae_table(config.vae)]
    stored = check_weights(directory)
    model = _uninitialised(config, torch.device(device), dtype, has_fp8_experts=has_fp8_experts)
    with torch.no_grad():
        _fill(model, lines, stored, progress)
    return model.eval()


def check_weights(path: str | Path) -> dict[str, StoredTensor]:
    """Return the place of every tensor of a model directory, having seen that they are those its configuration asks for.

    Raises:
        CheckpointError: as `load_bagel`; the bytes of the tensors are not read.
    """
    directory = Path(path)
    config = BagelConfig.from_directory(directory)
    main, vae = main_tensors(directory), vae_tensors(directory)
    _refuse_without_vit(main)
    _check_names(main, main_table(config), directory / MAIN_NAMES[0])
    _check_names(vae, vae_table(config.vae), directory / VAE_NAME)
    return {**main, **vae}


def save_bagel(model: Bagel, path: str | Path) -> None:
    """Write ``model`` as a model directory ``path``: both weight files under the checkpoint's names, and the configuration files.

    The tokenizer's files and ``plait.json`` are the caller's to add.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    write_config(directory, model.config)
    parameters = dict(model.named_parameters())
    for name, lines in ((MAIN_NAMES[0], main_table(model.config)), (VAE_NAME, vae_table(model.config.vae))):
        write_safetensors(directory / name, [_source(parameters[line.parameter], line) for line in lines])


def _uninitialised(config: BagelConfig, device: torch.device, dtype: torch.dtype, *, has_fp8_experts: bool) -> Bagel:
    """Build the model on ``device`` without a host copy, an initialisation or another dtype in between."""
    with torch.device("meta"):
        model = Bagel(config)

    def dtype_of(name: str) -> torch.dtype:
        if name.startswith(VAE_PARAMETERS):
            return torch.float32
        return FP8 if has_fp8_experts and is_expert_matrix(name) else dtype

    empty = {name: torch.empty(values.shape, dtype=dtype_of(name), device=device) for name, values in model.named_parameters()}
    model.load_state_dict(empty, assign=True)
    if has_fp8_experts:
        model.requires_grad_(False)
        for expert in model.experts:
            expert.scales = ExpertScales(*(torch.empty(len(matrix), device=device) for matrix in expert.matrices))
    return model


def _check_names(stored: dict[str, StoredTensor], lines: Sequence[TableLine], expected_file: Path) -> None:
    """Check that a file holds what its table says: every tensor, no other, each in its shape."""
    path = next(iter(stored.values())).path if stored else expected_file
    for line in lines:
        tensor = stored.get(line.name)
        if tensor is None:
            if line.role is Role.TABLE:
                continue
            raise CheckpointError.in_tensor(path, line.name, f"missing; expected shape {list(line.shape)}")
        if tensor.shape != line.shape:
            raise CheckpointError.wrong_shape(tensor.path, line.name, line.shape, tensor.shape)
        if tensor.dtype not in DTYPES:
            raise CheckpointError.in_tensor(tensor.path, line.name, f"expected a floating dtype, found {tensor.dtype}")
    unknown = sorted(stored.keys() - {line.name for line in lines})
    if unknown:
        shown = ", ".join(map(repr, unknown[:8])) + (f" and {len(unknown) - 8} more" if len(unknown) > 8 else "")
        raise CheckpointError.in_file(stored[unknown[0]].path, f"tensors that this model has no place for: {shown}")


def _refuse_without_vit(main: dict[str, StoredTensor]) -> None:
    if main and not any(name.startswith(VIT_PREFIX) for name in main):
        path = next(iter(main.values())).path
        raise CheckpointError.in_file(
            path, f"no {VIT_PREFIX}* tensors: a checkpoint trained without understanding cannot see pictures and is not served"
        )


def _fill(model: Bagel, lines: list[TableLine], stored: dict[str, StoredTensor], progress: Progress | None) -> None:
    """Fill every parameter, in the order the bytes lie in the files; compute the position tables no file holds."""
    parameters, scales = dict(model.named_parameters()), _scales(model)
    bytes_total = sum(tensor.num_bytes for tensor in stored.values())
    bytes_done = 0
    buffer = bytearray(BUFFER_BYTES)
    for line in sorted(lines, key=lambda line: _place(stored.get(line.name))):
        rows = _rows(parameters[line.parameter], line)
        tensor = stored.get(line.name)
        if tensor is None:
            rows.copy_(sincos_table(math.isqrt(line.shape[0]), line.shape[1]))
            continue
        if rows.dtype is FP8:
            _read_as_fp8(Fp8Rows(rows, _rows(scales[line.parameter], line)), tensor, buffer, model.dtype)
        else:
            _read_into(rows, tensor, buffer)
        bytes_done += tensor.num_bytes
        if progress is not None:
            progress(line.name, bytes_done, bytes_total)


def _scales(model: Bagel) -> dict[str, Tensor]:
    """Return the scales of every matrix of 8-bit floats by the matrix's name."""
    by_matrix = {
        id(matrix): scales
        for expert in model.experts
        if expert.scales is not None
        for matrix, scales in zip(expert.matrices, expert.scales.in_order, strict=True)
    }
    return {name: by_matrix[id(values)] for name, values in model.named_parameters() if id(values) in by_matrix}


def _read_as_fp8(rows: Fp8Rows, tensor: StoredTensor, buffer: bytearray, dtype: torch.dtype) -> None:
    """Read a matrix in ``dtype`` and round its rows, which do not depend on each other."""
    wide = torch.empty(rows.values.shape, dtype=dtype, device=rows.values.device)
    _read_into(wide, tensor, buffer)
    rounded = quantize_rows(wide)
    rows.values.copy_(rounded.values)
    rows.scales.copy_(rounded.scales)


def _place(tensor: StoredTensor | None) -> tuple[str, int]:
    return ("", 0) if tensor is None else (str(tensor.path), tensor.offset)


def _rows(parameter: Tensor, line: TableLine) -> Tensor:
    """Return the part of a parameter that one stored tensor is, as a view."""
    return parameter.detach()[line.first_row : line.first_row + line.shape[0]]


def _read_into(rows: Tensor, tensor: StoredTensor, buffer: bytearray) -> None:
    """Read a tensor's bytes through ``buffer`` into ``rows``, converting to its dtype and device.

    Plain reads, not a memory map: mapped pages would count as this process's memory until the kernel takes them back.
    """
    target = rows.flatten()
    assert target.data_ptr() == rows.data_ptr(), "a parameter's rows are contiguous"
    dtype = DTYPES[tensor.dtype]
    position = 0
    with tensor.path.open("rb", buffering=0) as file:
        file.seek(tensor.offset)
        while position < len(target):
            num_values = min(len(target) - position, len(buffer) // dtype.itemsize)
            _read_exactly(file.readinto, memoryview(buffer)[: num_values * dtype.itemsize], tensor)
            target[position : position + num_values].copy_(torch.frombuffer(buffer, dtype=dtype, count=num_values))
            position += num_values


def _read_exactly(readinto: Callable[[memoryview], int | None], view: memoryview, tensor: StoredTensor) -> None:
    while view:
        num_read = readinto(view)
        if not num_read:
            raise CheckpointError.in_tensor(tensor.path, tensor.name, f"the file ended while reading shape {list(tensor.shape)}")
        view = view[num_read:]


def _source(parameter: Tensor, line: TableLine) -> TensorSource:
    return TensorSource(line.name, parameter.dtype, line.shape, lambda: _rows(parameter, line))
