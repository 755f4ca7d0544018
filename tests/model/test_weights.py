"""Loading and saving model directories, and refusing broken ones by name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kernels.fp8 import FP8, Fp8Rows
from kernels.quantize import quantize_rows
from model.config import BagelConfig
from model.errors import CheckpointError
from model.latents import sincos_table
from model.random_checkpoint import write_random_checkpoint
from model.weight_table import is_expert_matrix, main_table, vae_table
from model.weights import load_bagel, save_bagel
from tests.model.checkpoints import GOLDEN, change_header, change_tensors, copy_checkpoint

Q_PROJ = "language_model.model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return copy_checkpoint(tmp_path)


def test_fused_weights_are_the_stored_ones_row_by_row() -> None:
    stored, model = load_file(GOLDEN / "ema.safetensors"), load_bagel(GOLDEN)
    prefix = "language_model.model.layers.1."
    attention = [stored[f"{prefix}self_attn.{letter}_proj_moe_gen.weight"] for letter in "qkv"]
    feed_forward = [stored[f"{prefix}mlp.{half}_proj.weight"] for half in ("gate", "up")]
    parameters = dict(model.named_parameters())
    assert torch.equal(parameters["layers.1.gen.qkv_weight"], torch.cat(attention).float())
    assert torch.equal(parameters["layers.1.und.gate_up_weight"], torch.cat(feed_forward).float())


def test_saving_writes_the_same_names_and_values(tmp_path: Path) -> None:
    save_bagel(load_bagel(GOLDEN), tmp_path)
    for name in ("ema.safetensors", "ae.safetensors"):
        stored, saved = load_file(GOLDEN / name), load_file(tmp_path / name)
        assert stored.keys() == saved.keys()
        assert all(torch.equal(stored[key].float(), saved[key]) for key in stored)


def test_a_saved_model_loads_again_without_loss(tmp_path: Path) -> None:
    model = load_bagel(GOLDEN, dtype=torch.bfloat16)
    save_bagel(model, tmp_path)
    again = load_bagel(tmp_path, dtype=torch.bfloat16)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_experts_of_8_bit_floats_are_the_stored_ones_rounded_row_by_row() -> None:
    """As large as stored, a fused matrix too; every other parameter is untouched."""
    wide, rounded = load_bagel(GOLDEN), load_bagel(GOLDEN, has_fp8_experts=True)
    others = dict(wide.named_parameters())
    for name, values in rounded.named_parameters():
        if is_expert_matrix(name):
            assert values.dtype is FP8
        else:
            assert torch.equal(values, others[name])
    for expert, expected in zip(rounded.experts, wide.experts, strict=True):
        assert expert.scales is not None
        for matrix, scales, full in zip(expert.matrices, expert.scales.in_order, expected.matrices, strict=True):
            assert torch.equal(Fp8Rows(matrix, scales).wide(), quantize_rows(full.detach()).wide())


def test_experts_rounded_in_memory_are_those_rounded_while_loading() -> None:
    in_memory, loading = load_bagel(GOLDEN), load_bagel(GOLDEN, has_fp8_experts=True)
    for expert, other in zip(in_memory.experts, loading.experts, strict=True):
        expert.round_matrices()
        assert expert.scales is not None and other.scales is not None
        assert all(map(torch.equal, expert.scales.in_order, other.scales.in_order))
        assert all(torch.equal(a.float(), b.float()) for a, b in zip(expert.matrices, other.matrices, strict=True))


def test_the_vae_stays_float32() -> None:
    model = load_bagel(GOLDEN, dtype=torch.bfloat16)
    dtypes = {name.startswith("vae."): values.dtype for name, values in model.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


def test_every_parameter_is_filled_and_no_row_twice() -> None:
    model = load_bagel(GOLDEN)
    filled: dict[str, int] = {}
    for line in [*main_table(model.config), *vae_table(model.config.vae)]:
        assert line.first_row == filled.get(line.parameter, 0)
        filled[line.parameter] = line.first_row + line.shape[0]
    assert filled == {name: len(values) for name, values in model.named_parameters()}


def test_the_released_model_has_the_published_number_of_tensors_and_parameters() -> None:
    """Spec 1.1: 1223 tensors with 14 607 260 128 parameters, and 244 with 83 819 683."""
    config = BagelConfig.named("bagel-7b")
    main, vae = main_table(config), vae_table(config.vae)
    assert (len(main), sum(torch.Size(line.shape).numel() for line in main)) == (1223, 14_607_260_128)
    assert (len(vae), sum(torch.Size(line.shape).numel() for line in vae)) == (244, 83_819_683)


def test_progress_counts_every_byte() -> None:
    seen: list[tuple[str, int, int]] = []
    load_bagel(GOLDEN, progress=lambda name, done, total: seen.append((name, done, total)))
    done = [step[1] for step in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1][2]
    assert len({step[0] for step in seen}) == len(seen)


@pytest.mark.parametrize("name", ["model.safetensors", "model_bf16.safetensors"])
def test_other_names_of_the_weight_file_are_accepted(directory: Path, name: str) -> None:
    (directory / "ema.safetensors").rename(directory / name)
    assert torch.equal(load_bagel(directory).lm_head, load_bagel(GOLDEN).lm_head)


def test_ema_is_preferred_to_model(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"never read")
    assert torch.equal(load_bagel(directory).lm_head, load_bagel(GOLDEN).lm_head)


def test_a_sharded_checkpoint_is_accepted(directory: Path) -> None:
    shard(directory)
    assert torch.equal(load_bagel(directory).lm_head, load_bagel(GOLDEN).lm_head)


def test_a_shard_outside_the_directory_is_refused(directory: Path) -> None:
    shard(directory)
    index = directory / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-2.safetensors", "../model-2.safetensors"))
    with pytest.raises(CheckpointError, match=r"index\.json: shard '\.\./model-2\.safetensors' is not a file of this directory"):
        load_bagel(directory)


def test_an_index_whose_shards_are_not_there_does_not_hide_the_weights(directory: Path) -> None:
    """A fine-tune of one file often comes with the base model's other files, its index among them: the server did not start."""
    write_index(directory, dict.fromkeys(load_file(directory / "ema.safetensors"), "ema.safetensors"))
    (directory / "ema.safetensors").rename(directory / "model_bf16.safetensors")
    assert torch.equal(load_bagel(directory).lm_head, load_bagel(GOLDEN).lm_head)


def test_an_index_may_place_the_vae_too(directory: Path) -> None:
    main, vae = load_file(directory / "ema.safetensors"), load_file(directory / "ae.safetensors")
    (directory / "ema.safetensors").rename(directory / "model_bf16.safetensors")
    write_index(directory, dict.fromkeys(main, "model_bf16.safetensors") | dict.fromkeys(vae, "ae.safetensors"))
    assert torch.equal(load_bagel(directory).lm_head, load_bagel(GOLDEN).lm_head)


@pytest.mark.parametrize("shard_name", ["model-1.safetensors", "model-2.safetensors"])
def test_a_missing_shard_is_named(directory: Path, shard_name: str) -> None:
    """Whichever it is: the shard that is there is not taken for a model of its own."""
    shard(directory)
    (directory / shard_name).unlink()
    with pytest.raises(CheckpointError, match=rf"{re.escape(shard_name)}: no such file \(a shard named in model\.safetensors\.index\.json"):
        load_bagel(directory)


def test_two_files_that_may_be_the_model_are_refused(directory: Path) -> None:
    for name in ("first", "second"):
        shutil.copy(directory / "ema.safetensors", directory / f"{name}.safetensors")
    (directory / "ema.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"several files hold .*: first\.safetensors, second\.safetensors"):
        load_bagel(directory)


def test_a_tensor_missing_from_its_shard_is_refused(directory: Path) -> None:
    shard(directory)
    change_tensors(directory / "model-1.safetensors", lambda tensors: tensors.pop(sorted(tensors)[0]))
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors: tensor .* missing, though"):
        load_bagel(directory)


@pytest.mark.parametrize(
    ("table", "parameter"), [("latent_pos_embed.pos_embed", "latent_positions"), ("vit_pos_embed.pos_embed", "vit_positions")]
)
def test_a_missing_position_table_is_computed(directory: Path, table: str, parameter: str) -> None:
    stored = load_file(GOLDEN / "ema.safetensors")[table].float()
    change_tensors(directory / "ema.safetensors", lambda tensors: tensors.pop(table))
    computed = dict(load_bagel(directory).named_parameters())[parameter]
    assert torch.equal(computed, sincos_table(round(len(stored) ** 0.5), stored.shape[1]))
    # The stored table is rounded to bfloat16: relative 2^-9 (spec 1.3), absolute near zero.
    torch.testing.assert_close(computed, stored, rtol=2**-8, atol=1e-6)


def test_a_stored_position_table_is_preferred() -> None:
    stored = load_file(GOLDEN / "ema.safetensors")["latent_pos_embed.pos_embed"]
    assert torch.equal(load_bagel(GOLDEN).latent_positions, stored.float())


def test_a_missing_tensor_is_named_with_its_shape(directory: Path) -> None:
    change_tensors(directory / "ema.safetensors", lambda tensors: tensors.pop(Q_PROJ))
    with pytest.raises(CheckpointError, match=rf"ema\.safetensors: tensor '{re.escape(Q_PROJ)}': missing; expected shape \[64, 64\]"):
        load_bagel(directory)


def test_an_unknown_tensor_is_named(directory: Path) -> None:
    change_tensors(directory / "ema.safetensors", lambda tensors: tensors.update(surprise=torch.zeros(2)))
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: tensors that this model has no place for: 'surprise'"):
        load_bagel(directory)


def test_a_wrong_shape_is_named_with_the_expected_one(directory: Path) -> None:
    change_tensors(directory / "ema.safetensors", lambda tensors: tensors.update({Q_PROJ: torch.zeros(32, 64)}))
    with pytest.raises(CheckpointError, match=rf"'{re.escape(Q_PROJ)}': expected shape \[64, 64\], found \[32, 64\]"):
        load_bagel(directory)


def test_a_wrong_vae_shape_is_named(directory: Path) -> None:
    change_tensors(directory / "ae.safetensors", lambda tensors: tensors.update({"decoder.conv_out.bias": torch.zeros(4)}))
    with pytest.raises(CheckpointError, match=r"ae\.safetensors: tensor 'decoder\.conv_out\.bias': expected shape \[3\], found \[4\]"):
        load_bagel(directory)


def test_integer_weights_are_refused(directory: Path) -> None:
    change_tensors(directory / "ema.safetensors", lambda tensors: tensors.update({Q_PROJ: torch.zeros(64, 64, dtype=torch.int8)}))
    with pytest.raises(CheckpointError, match="expected a floating dtype, found I8"):
        load_bagel(directory)


def test_a_checkpoint_without_understanding_is_refused(directory: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(("vit_model.", "connector.", "vit_pos_embed."))]:
            del tensors[name]

    change_tensors(directory / "ema.safetensors", drop)
    with pytest.raises(CheckpointError, match=r"no vit_model\.\* tensors"):
        load_bagel(directory)


@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors"])
def test_a_truncated_file_is_refused_with_the_tensor_and_shape(directory: Path, name: str) -> None:
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(
        CheckpointError, match=rf"{re.escape(name)}: tensor '.+': shape \[.*\] of .* the file has only \d+: it is truncated"
    ):
        load_bagel(directory)


@pytest.mark.parametrize("length", [0, 4, 8, 100])
def test_a_file_cut_inside_its_header_is_refused(directory: Path, length: int) -> None:
    path = directory / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: not a safetensors file or truncated"):
        load_bagel(directory)


def test_trailing_bytes_are_refused(directory: Path) -> None:
    with (directory / "ema.safetensors").open("ab") as file:
        file.write(b"extra")
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: 5 bytes belong to no tensor"):
        load_bagel(directory)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dtype", "F33", "unknown dtype 'F33'"),
        ("dtype", "F64", r"shape \[64, 64\] of F64 takes 32768 bytes, the header gives it 8192"),
        ("shape", [64, 63], r"shape \[64, 63\] of BF16 takes 8064 bytes"),
        ("shape", [64, -64], "is not a list of natural numbers"),
        ("shape", "64", "is not a list of natural numbers"),
        ("data_offsets", [8192, 0], "are no range"),
        ("data_offsets", [0, 8192], "overlap or gap"),
        ("data_offsets", [10**15, 10**15 + 8192], "overlap or gap"),
    ],
)
def test_a_tampered_header_is_refused(directory: Path, field: str, value: object, message: str) -> None:
    change_header(directory / "ema.safetensors", lambda header: header[Q_PROJ].update({field: value}))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_bagel(directory)
    assert "ema.safetensors" in str(caught.value)


def test_a_header_that_is_not_json_is_refused(directory: Path) -> None:
    (directory / "ema.safetensors").write_bytes((4).to_bytes(8, "little") + b"{{{{")
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: the safetensors header is not valid JSON"):
        load_bagel(directory)


def test_a_pickle_is_never_opened(directory: Path) -> None:
    (directory / "ema.safetensors").unlink()
    torch.save({Q_PROJ: torch.zeros(64, 64)}, directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: no such file"):
        load_bagel(directory)


def test_a_random_checkpoint_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_checkpoint(tmp_path / name, BagelConfig.named("tiny"), seed)
    a, b, c = ((tmp_path / name / "ema.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_loading_needs_little_memory_besides_the_parameters(tmp_path: Path) -> None:
    """The bound of the issue is 1.2 x the largest tensor + 500 MB; here a tenth of that has to do, less than the file's own size."""
    tiny = BagelConfig.named("tiny")
    wide = replace(BagelConfig.named("mid").llm, num_layers=4)
    config = BagelConfig.build(wide, tiny.vit, tiny.vae, tiny.latent_patch_size, tiny.latent_table_side)
    write_random_checkpoint(tmp_path, config, seed=0)
    largest_bytes = 2 * config.llm.vocab_size * config.llm.hidden_size
    allowed_bytes = 1.2 * largest_bytes + 40e6
    assert (tmp_path / "ema.safetensors").stat().st_size > allowed_bytes
    program = [sys.executable, "-c", MEASURE_MEMORY, str(GOLDEN), str(tmp_path)]
    measured = subprocess.run(program, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert int(measured.stdout) < allowed_bytes


MEASURE_MEMORY = """
import pathlib, sys
from model.weights import load_bagel

def kilobytes(name):  # not getrusage: its peak survives exec, and would be that of the process that started this one
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

load_bagel(sys.argv[1])  # what is imported lazily is imported now
before = kilobytes("VmRSS:")
model = load_bagel(sys.argv[2])
parameters = sum(values.numel() * values.element_size() for values in model.parameters())
print((kilobytes("VmHWM:") - before) * 1024 - parameters)
"""


def shard(directory: Path) -> None:
    """Split ``ema.safetensors`` into two shards and an index."""
    tensors = load_file(directory / "ema.safetensors")
    (directory / "ema.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"model-{1 + index % 2}.safetensors" for index, name in enumerate(names)}
    for file_name in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file_name}, directory / file_name)
    write_index(directory, weight_map)


def write_index(directory: Path, weight_map: dict[str, str]) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
