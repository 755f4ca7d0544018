"""Attention inside pictures: every patch sees every patch of its own picture, none of another's."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.native_kernels import native_kernels, picture_attention_fits


def picture_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """Return ``[n, H, d]`` for ``q, k, v [n, H, d]`` of pictures of ``lengths`` patches, one after the other, scaled by ``d ** -0.5``.

    In float32 on a CPU a picture's result has the same bits whatever the others are.
    """
    if picture_attention_fits(q, k, v) and (native := native_kernels()) is not None:
        return native.picture_attention(q, k, v, list(accumulate(lengths, initial=0)))
    if len(set(lengths)) == 1:
        batch = (len(lengths), lengths[0], *q.shape[1:])
        q, k, v = (x.reshape(batch).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)
    pictures = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    return torch.cat([_one_picture(q, k, v) for q, k, v in pictures])


def _one_picture(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)
