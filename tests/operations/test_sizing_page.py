"""The operators' page of sizes says what the memory plan computes, and the plan computes what ``plait doctor`` says of a device."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loadtests.memory_plan import ELEMENT_BYTES, GIB, PAGE_SIZE, MemoryPlan, table
from model.config import BagelConfig
from model.shipped import STORYBOOK
from server.cli.doctor.checkpoint import check_memory, read_checkpoint
from server.cli.doctor.machine import Accelerator
from server.engine.memory_plan import picture_rows
from server.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "operations" / "sizing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("dtype", ELEMENT_BYTES)
def test_the_tables_of_the_page_are_the_plan_s(dtype: str) -> None:
    _, after = PAGE.split(f"<!-- bagel-7b {dtype} -->\n")
    shown = after.partition("\n\n")[0].splitlines()
    devices = [float(gib) for gib in re.findall(r"^\| (\d+) GiB", "\n".join(shown), re.MULTILINE)]
    assert len(devices) >= 3
    assert shown == table(MemoryPlan.of_model(BagelConfig.named("bagel-7b"), ELEMENT_BYTES[dtype]), devices)


@pytest.mark.parametrize("dtype", ELEMENT_BYTES)
def test_the_sentences_of_the_page_are_the_plan_s(dtype: str) -> None:
    plan = MemoryPlan.of_model(BagelConfig.named("bagel-7b"), ELEMENT_BYTES[dtype])
    assert f"{plan.weights / GIB:.2f} GiB of weights" in PAGE
    assert f"{plan.page // PAGE_SIZE:,} bytes" in PAGE


@pytest.mark.parametrize("side", [512, 1024])
def test_rows_of_pictures_on_the_page_are_the_engine_s(side: int) -> None:
    config = BagelConfig.named("bagel-7b")
    assert f"{picture_rows(config, config.vit_transform, side, side):,} rows at {side} × {side}" in PAGE


@pytest.mark.parametrize("dtype", ELEMENT_BYTES)
def test_doctor_plans_the_same_pages_for_a_device(dtype: str) -> None:
    checkpoint = read_checkpoint(STORYBOOK, None)
    plan = MemoryPlan.of_model(BagelConfig.from_directory(STORYBOOK), ELEMENT_BYTES[dtype])
    device = Accelerator("a GPU", True, 2 * GIB, 2 * GIB, True, (9, 0))
    memory, *_ = check_memory(checkpoint, device, Settings.model_validate({"dtype": dtype}))
    assert f" {plan.num_pages(2 * GIB):,} pages " in memory.says
