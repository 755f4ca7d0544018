"""Guidance written as the specification prints it (6.2 and 8.4), in float32, one picture at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.json_object import JsonObject


@dataclass(frozen=True, slots=True)
class Guidance:
    """BAGEL's settings: a = text scale, b = image scale."""

    text_scale: float
    image_scale: float
    interval: tuple[float, float]
    renorm: str
    renorm_min: float

    @classmethod
    def read(cls, case: JsonObject) -> Guidance:
        low, high = case.fields["cfg_interval"] if isinstance(case.fields["cfg_interval"], list) else (0.0, 1.0)
        return cls(
            text_scale=case.number("cfg_text_scale"),
            image_scale=case.number("cfg_img_scale"),
            interval=(float(low), float(high)),
            renorm=case.string("cfg_renorm_type"),
            renorm_min=case.number("cfg_renorm_min", 0.0),
        )

    def is_on(self, t: float) -> bool:
        """Say whether guidance applies at flow time ``t``: strict below, inclusive above; bounds rounded to float32, as ``t`` is."""
        low, high = torch.tensor(self.interval).tolist()
        return bool(low < t <= high)


def guided(v: Tensor, u: Tensor | None, w: Tensor | None, guidance: Guidance) -> Tensor:
    """Combine full ``v``, text-dropped ``u`` and image-dropped ``w``, each ``[n, C]`` (spec 6.2). None: the branch is off."""
    if u is None:
        return v
    a, b = guidance.text_scale, guidance.image_scale
    g1 = u + a * (v - u)
    if guidance.renorm == "text_channel":
        g2 = g1 * _ratio(v.norm(dim=-1, keepdim=True), g1.norm(dim=-1, keepdim=True), guidance.renorm_min)
        return g2 if w is None else w + b * (g2 - w)
    g3 = g1 if w is None else w + b * (g1 - w)
    if guidance.renorm == "channel":
        return g3 * _ratio(v.norm(dim=-1, keepdim=True), g3.norm(dim=-1, keepdim=True), guidance.renorm_min)
    assert guidance.renorm == "global"
    return g3 * _ratio(v.norm(), g3.norm(), guidance.renorm_min)


def three_way(v_full: Tensor, v_img: Tensor, v_none: Tensor, text_scale: float, image_scale: float) -> Tensor:
    """ILLUME-X eq. 3 (spec 8.4)."""
    return text_scale * (v_full - v_img) + image_scale * (v_img - v_none) + v_none


def _ratio(norm: Tensor, guided_norm: Tensor, renorm_min: float) -> Tensor:
    return (norm / (guided_norm + 1e-8)).clamp(min=renorm_min, max=1.0)
