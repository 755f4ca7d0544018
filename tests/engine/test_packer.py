"""The packer: row order, expert order, positions, masks, slots."""

from __future__ import annotations

import operator

import numpy as np
import torch

from server.engine.batch import Batch, DecodeRow, DenoiseRow, DenoiseStep, Draw, Piece, PrefillRow, TextPiece
from server.engine.guidance import Branch
from server.engine.image_steps import EulerStep
from server.engine.packer import Markers, PackedBatch, pack
from server.engine.segments import DroppedImage, VaeImage, VitImage
from server.messages import ImageParams, SamplingParams
from tests.engine.fakes import grey

MARKERS = Markers(boi_id=3, eoi_id=4, latent_stride=16)
DRAW = Draw(SamplingParams(), 0, ())
PAGE_SIZE = 4


def packed(batch: Batch) -> PackedBatch:
    return pack(batch, PAGE_SIZE, MARKERS, torch.device("cpu"))


def denoise(pages: list[int], kv_len: int, rope_pos: int, timestep: float = 0.7) -> DenoiseStep:
    row = DenoiseRow(7, 0, pages, kv_len, rope_pos)
    euler = EulerStep(0, timestep, 0.1, {Branch.FULL: 0}, (0,))
    return DenoiseStep(7, [row], [euler], ImageParams(32, 32), is_last=False, num_row_tokens=6)


def decode(token_id: int, pages: list[int], kv_len: int) -> DecodeRow:
    return DecodeRow(1, pages, kv_len, kv_len, token_id, DRAW)


def test_understanding_tokens_come_first_and_rows_keep_their_order() -> None:
    batch = packed(Batch(decodes=[decode(40, [5], 2)], denoises=[denoise([9], 3, 3)]))

    assert batch.num_und == 3, "the decode token, BOI and EOI"
    assert batch.layout.token_index.tolist() == [0, 1, 3, 4, 5, 6, 2]
    assert batch.und_token_ids.tolist() == [40, 3, 4]
    assert batch.positions.tolist() == [2, 3, 3, 3, 3, 3, 3]


def test_a_latent_row_sees_its_context_and_all_of_itself() -> None:
    layout = packed(Batch(denoises=[denoise([9, 8], 5, 5)])).layout

    assert layout.kv_end.tolist() == [11] * 6
    assert layout.past_len.tolist() == [5]
    assert layout.kv_indices.tolist() == [9, 8]


def test_latents_are_never_kept() -> None:
    layout = packed(Batch(denoises=[denoise([9], 3, 3)])).layout

    assert len(layout.write_slots) == 0


def test_text_is_causal_and_an_image_sees_its_segment() -> None:
    pieces: list[Piece] = [TextPiece((10, 11)), VitImage(1, grey(32, 32), 1, 2), TextPiece((12,))]
    batch = packed(Batch(prefills=[PrefillRow(1, [6, 2], 0, 0, pieces, None)]))

    assert batch.layout.kv_end.tolist() == [1, 2, 6, 6, 6, 6, 7]
    assert batch.positions.tolist() == [0, 1, 2, 2, 2, 2, 3]
    assert batch.vit_index.tolist() == [3, 4]
    assert batch.und_token_ids.tolist() == [10, 11, 3, 0, 0, 4, 12]


def test_slots_follow_the_page_table() -> None:
    batch = packed(Batch(prefills=[PrefillRow(1, [6, 2], 3, 3, [TextPiece((10, 11, 12))], None)]))

    assert batch.layout.write_slots.tolist() == [6 * 4 + 3, 2 * 4 + 0, 2 * 4 + 1]


def test_a_clean_picture_is_written_in_row_order_across_experts() -> None:
    batch = packed(Batch(prefills=[PrefillRow(1, [6, 2], 0, 0, [VaeImage(1, grey(32, 32), 2, 2)], None)]))

    assert batch.layout.write_tokens.tolist() == [0, 2, 3, 4, 5, 1]
    assert batch.layout.write_slots.tolist() == [24, 25, 26, 27, 8, 9]
    assert batch.latent_runs[0].timestep == 0.0


def test_a_one_token_prefill_stands_with_the_decode_rows() -> None:
    closing = PrefillRow(2, [1], 1, 1, [TextPiece((2,))], DRAW)
    long = PrefillRow(3, [3], 0, 0, [TextPiece((10, 11))], None)
    batch = packed(Batch(decodes=[decode(40, [5], 2)], prefills=[long, closing]))

    assert batch.layout.num_single_rows == 2
    assert batch.layout.qo_indptr.tolist() == [0, 1, 2, 4]
    assert [sequence_id for sequence_id, _ in batch.draws] == [1, 2]
    assert batch.draw_index.tolist() == [0, 1]


def test_a_draw_is_from_the_last_row_of_a_chunk() -> None:
    row = PrefillRow(2, [1, 2], 0, 0, [TextPiece((10, 11)), VitImage(1, grey(16, 32), 1, 2)], DRAW)
    batch = packed(Batch(prefills=[row], denoises=[denoise([9], 3, 3)]))

    last = batch.layout.qo_indptr[-1] - 1
    assert batch.draw_index.tolist() == [batch.layout.token_index[last]]


def test_a_dropped_image_moves_the_position_only() -> None:
    row = PrefillRow(2, [1], 0, 0, [DroppedImage(-1), TextPiece((10, 11))], None)
    batch = packed(Batch(prefills=[row]))

    assert batch.positions.tolist() == [1, 2]
    assert batch.layout.kv_end.tolist() == [1, 2]


def test_token_index_is_a_permutation_of_the_batch() -> None:
    vae = VaeImage(1, grey(32, 48), 2, 3)
    rows = [PrefillRow(1, [1, 2, 3], 0, 0, [TextPiece((10, 11)), vae], None)]
    batch = packed(Batch(decodes=[decode(40, [5], 2), decode(41, [7], 3)], denoises=[denoise([9], 3, 3)], prefills=rows))

    assert np.array_equal(np.sort(batch.layout.token_index), np.arange(2 + 6 + 10))
    assert batch.num_gen == 4 + 6


def test_decode_rows_alone_are_packed_as_in_company() -> None:
    rows = [decode(40, [5, 6], 4), decode(41, [7, 1, 2], 9), decode(42, [3], 0)]
    alone = packed(Batch(decodes=rows))
    company = packed(Batch(decodes=rows, denoises=[denoise([9], 3, 3)]))

    num_pages = alone.layout.kv_indptr[-1]
    assert alone.positions.tolist() == company.positions[:3].tolist()
    assert alone.und_token_ids.tolist() == company.und_token_ids[:3].tolist()
    assert alone.draw_index.tolist() == company.draw_index.tolist()
    for name, length in (("qo_indptr", 4), ("kv_end", 3), ("past_len", 3), ("kv_indptr", 4), ("kv_indices", num_pages)):
        assert np.array_equal(operator.attrgetter(name)(alone.layout), operator.attrgetter(name)(company.layout)[:length])
    assert alone.layout.write_tokens.tolist() == company.layout.write_tokens.tolist()
    assert alone.layout.write_slots.tolist() == company.layout.write_slots.tolist()
    assert alone.layout.num_single_rows == 3
