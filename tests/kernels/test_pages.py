from __future__ import annotations

import pytest
import torch

from kernels import reference
from kernels.kv_pages import KvPages
from kernels.pages import copy_pages, write_pages
from tests.kernels.ragged import Row, Segment, SegmentKind, Shape, build_case, decode, denoise


@pytest.mark.parametrize("records_gradients", [False, True], ids=["native", "torch"])
@pytest.mark.parametrize("page_size", [1, 5, 16])
def test_kept_tokens_land_in_their_slots_and_nowhere_else(page_size: int, records_gradients: bool) -> None:
    rows = [decode(page_size - 1), decode(page_size), denoise(3, 4), Row(7, (Segment(SegmentKind.TEXT, 9),))]
    case = build_case(rows, Shape(num_kv_heads=2, group=1, head_dim=24, page_size=page_size), seed=page_size).to(torch.float32)
    k_expected, v_expected = case.k_pages.clone(), case.v_pages.clone()
    reference.write_pages(case.k, case.v, KvPages(k_expected, v_expected), case.plan)
    fused = torch.cat([case.k, case.v], dim=1)
    with torch.set_grad_enabled(records_gradients):
        write_pages(case.k, fused[:, case.k.shape[1] :], case.pages, case.plan)
    torch.testing.assert_close(case.k_pages, k_expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(case.v_pages, v_expected, rtol=0, atol=0, equal_nan=True)


def test_a_step_that_keeps_nothing_writes_nothing() -> None:
    case = build_case([denoise(3, 4)], Shape(num_kv_heads=1, group=1, head_dim=16, page_size=4), seed=1).to(torch.float32)
    before = case.k_pages.clone()
    write_pages(case.k, case.v, case.pages, case.plan)
    torch.testing.assert_close(case.k_pages, before, rtol=0, atol=0, equal_nan=True)


def test_copied_pages_equal_their_source_in_every_layer() -> None:
    pool = torch.randn(3, 2, 6, 4, 2, 8)
    before = pool.clone()
    copy_pages(pool, torch.tensor([0, 4]), torch.tensor([5, 1]))
    assert torch.equal(pool[:, :, [5, 1]], before[:, :, [0, 4]])
    assert torch.equal(pool[:, :, [0, 2, 3, 4]], before[:, :, [0, 2, 3, 4]])


def test_copying_no_page_changes_nothing() -> None:
    pool = torch.randn(1, 2, 2, 4, 1, 8)
    before = pool.clone()
    nothing = torch.empty(0, dtype=torch.int64)
    copy_pages(pool, nothing, nothing)
    assert torch.equal(pool, before)
