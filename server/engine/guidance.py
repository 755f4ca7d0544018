"""Which guidance branches an image needs at which step, and what each branch's context holds (spec 6.2, 6.3, 8.4).

A branch whose coefficient is zero is not computed; two branches whose contexts hold the same segments are computed once; a context
that no step needs is never prefilled.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from model.guidance_rules import GuidanceMode
from server.engine.segments import ContextSegment, DroppedImage, PictureSegment, TextTokens
from server.messages import ImageParams


class Branch(Enum):
    """What a velocity is conditioned on. BAGEL uses FULL, NO_TEXT, NO_IMAGE; ILLUME uses FULL, IMAGES_ONLY, NOTHING."""

    FULL = "full"
    NO_TEXT = "no_text"
    NO_IMAGE = "no_image"
    IMAGES_ONLY = "images_only"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class BranchPlan:
    """The distinct contexts of one image: ``segments[k]`` is what context ``k`` holds; ``context_of`` maps branches to contexts."""

    segments: list[list[ContextSegment]]
    context_of: dict[Branch, int]


def active_branches(params: ImageParams, timestep: float) -> list[Branch]:
    """List the branches whose coefficient is not zero at ``timestep`` (shifted, in (0, 1]); FULL is always first.

    The interval is compared in float32, as the reference compares its float32 timesteps.
    """
    low, high = np.float32(params.interval[0]), np.float32(params.interval[1])
    if not low < np.float32(timestep) <= high:
        return [Branch.FULL]
    if params.guidance is GuidanceMode.BAGEL:
        return _bagel_branches(params)
    return _illume_branches(params)


def _bagel_branches(params: ImageParams) -> list[Branch]:
    if params.text_scale <= 1.0:
        return [Branch.FULL]
    return [Branch.FULL, Branch.NO_TEXT] + ([Branch.NO_IMAGE] if params.image_scale > 1.0 else [])


def _illume_branches(params: ImageParams) -> list[Branch]:
    branches = [Branch.FULL]
    if params.image_scale != params.text_scale:
        branches.append(Branch.IMAGES_ONLY)
    if params.image_scale != 1.0:
        branches.append(Branch.NOTHING)
    return branches


def plan_branches(
    history: list[ContextSegment], params: ImageParams, timesteps: list[float], negative: TextTokens | None, *, counts_dropped_images: bool
) -> BranchPlan:
    """Decide the contexts an image needs, over all its timesteps; context 0 is always the full one.

    Args:
        history: the segments of the full context.
        params: the image's guidance settings.
        timesteps: every timestep the image will be evaluated at.
        negative: a text that takes the dropped text's place in NO_TEXT, or None.
        counts_dropped_images: whether a dropped image still advances the shared position.
    """
    needed = {branch for timestep in timesteps for branch in active_branches(params, timestep)}
    segments: list[list[ContextSegment]] = [history]
    context_of = {Branch.FULL: 0}
    for branch in Branch:
        if branch is Branch.FULL or branch not in needed:
            continue
        held = _held_segments(branch, history, counts_dropped_images)
        if branch is Branch.NO_TEXT and negative is not None:
            held = [*held, negative]
        uids = [segment.uid for segment in held]
        match = next((k for k, other in enumerate(segments) if [segment.uid for segment in other] == uids), None)
        if match is None:
            segments.append(held)
            match = len(segments) - 1
        context_of[branch] = match
    return BranchPlan(segments, context_of)


def _held_segments(branch: Branch, history: list[ContextSegment], counts_dropped_images: bool) -> list[ContextSegment]:
    match branch:
        case Branch.FULL:
            return history
        case Branch.NO_TEXT:
            return _without_last_text(history)
        case Branch.NO_IMAGE:
            return _drop_images([s for s in history if not (isinstance(s, TextTokens) and s.is_thought)], counts_dropped_images)
        case Branch.IMAGES_ONLY:
            return [s for s in history if not isinstance(s, TextTokens)]
        case Branch.NOTHING:
            return _drop_images([s for s in history if not isinstance(s, TextTokens)], counts_dropped_images)


def _without_last_text(history: list[ContextSegment]) -> list[ContextSegment]:
    """Keep what stood before the last text and any thought after it; a history that ends in a picture is kept whole (spec 6.3)."""
    for index in range(len(history) - 1, -1, -1):
        segment = history[index]
        if not isinstance(segment, TextTokens):
            return history[: index + 1]
        if not segment.is_thought:
            return history[:index]
    return []


def _drop_images(segments: list[ContextSegment], counts_dropped_images: bool) -> list[ContextSegment]:
    kept: list[ContextSegment] = []
    for segment in segments:
        if not isinstance(segment, PictureSegment):
            kept.append(segment)
        elif counts_dropped_images:
            kept.append(DroppedImage(-segment.uid))
    return kept
