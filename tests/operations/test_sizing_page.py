"""The operators' page of sizes says what the memory plan computes, and the plan computes what ``plait doctor`` says of a device."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.memory_plan import FORMATS, GIB, PAGE_SIZE, MemoryPlan, table
from model.config import BagelConfig
from model.shipped import STORYBOOK
from server.cli.doctor.checkpoint import check_memory, read_checkpoint
from server.cli.doctor.machine import Accelerator
from server.engine.memory_plan import picture_rows
from server.settings import Settings

GPU = Accelerator("a GPU", True, 2 * GIB, 2 * GIB, True, (9, 0))
ASKED = {
    "bfloat16": {"dtype": "bfloat16"},
    "fp8": {"dtype": "bfloat16", "quantization": "fp8"},
    "fp8-kv": {"dtype": "bfloat16", "kv_dtype": "fp8"},
    "float32": {"dtype": "float32"},
}
PAGE = (Path(__file__).parents[2] / "docs" / "operations" / "sizing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kept_as", FORMATS)
def test_the_tables_of_the_page_are_the_plan_s(kept_as: str) -> None:
    _, after = PAGE.split(f"<!-- bagel-7b {kept_as} -->\n")
    shown = after.partition("\n\n")[0].splitlines()
    devices = [float(gib) for gib in re.findall(r"^\| (\d+) GiB", "\n".join(shown), re.MULTILINE)]
    assert len(devices) >= 3
    assert shown == table(MemoryPlan.of_model(BagelConfig.named("bagel-7b"), FORMATS[kept_as]), devices)


@pytest.mark.parametrize("kept_as", FORMATS)
def test_the_sentences_of_the_page_are_the_plan_s(kept_as: str) -> None:
    plan = MemoryPlan.of_model(BagelConfig.named("bagel-7b"), FORMATS[kept_as])
    assert f"{plan.weights / GIB:.2f} GiB of weights" in PAGE
    assert f"{plan.working / GIB:.2f} GiB" in PAGE
    assert f"{plan.page // PAGE_SIZE:,} bytes" in PAGE


@pytest.mark.parametrize("side", [512, 1024])
def test_rows_of_pictures_on_the_page_are_the_engine_s(side: int) -> None:
    config = BagelConfig.named("bagel-7b")
    assert f"{picture_rows(config, config.vit_transform, side, side):,} rows at {side} × {side}" in PAGE


@pytest.mark.parametrize("kept_as", FORMATS)
def test_doctor_plans_the_same_pages_for_a_device(kept_as: str) -> None:
    plan = MemoryPlan.of_model(BagelConfig.from_directory(STORYBOOK), FORMATS[kept_as])
    memory, *_ = check_memory(read_checkpoint(STORYBOOK, None), GPU, Settings.model_validate(ASKED[kept_as]))
    assert f" {plan.num_pages(GPU.free_bytes):,} pages " in memory.says


def test_doctor_names_8_bit_floats_where_they_would_help() -> None:
    checkpoint, small = read_checkpoint(STORYBOOK, None), replace(GPU, free_bytes=32 << 20)
    (memory,) = check_memory(checkpoint, small, Settings.model_validate({"dtype": "bfloat16"}))
    assert "too little memory" in memory.says and "--quantization fp8" in (memory.remedy or "")
    (memory,) = check_memory(checkpoint, replace(small, capability=(8, 0)), Settings.model_validate({"dtype": "bfloat16"}))
    assert "fp8" not in (memory.remedy or "")
