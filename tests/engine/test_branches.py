"""Which guidance branches an image computes, and what their contexts hold (spec 6.2, 6.3, 8.4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model.guidance_rules import GuidanceMode
from server.engine.guidance import Branch, BranchPlan, active_branches, plan_branches
from server.engine.segments import ContextSegment, TextTokens, VaeImage, VitImage
from server.messages import ImageParams
from tests.engine.fakes import grey

SYSTEM, PROMPT, ANSWER = (TextTokens(uid, (1, 10 + uid, 2)) for uid in (1, 2, 3))
THOUGHT = TextTokens(9, (1, 50, 2), is_thought=True)
VAE, VIT = VaeImage(4, grey(32, 32), 2, 2), VitImage(5, grey(32, 32), 2, 2)
EDIT = ImageParams(32, 32, text_scale=4.0, image_scale=2.0, interval=(0.0, 1.0))
TEXT_TO_IMAGE = ImageParams(32, 32, text_scale=4.0, image_scale=1.0, interval=(0.4, 1.0))
ILLUME = replace(EDIT, guidance=GuidanceMode.ILLUME)


def plan(history: list[ContextSegment], params: ImageParams = EDIT, *, counts: bool = False) -> BranchPlan:
    return plan_branches(history, params, [1.0, 0.5], None, counts_dropped_images=counts)


def held(branch: Branch, history: list[ContextSegment], params: ImageParams = EDIT) -> list[ContextSegment]:
    result = plan(history, params)
    return result.segments[result.context_of[branch]]


def test_text_to_image_at_default_guidance_computes_two_branches_in_the_interval_and_one_outside() -> None:
    assert active_branches(TEXT_TO_IMAGE, 0.7) == [Branch.FULL, Branch.NO_TEXT]
    assert active_branches(TEXT_TO_IMAGE, 0.3) == [Branch.FULL]


def test_the_interval_is_open_below_and_closed_above() -> None:
    assert active_branches(TEXT_TO_IMAGE, 0.4) == [Branch.FULL]
    assert active_branches(TEXT_TO_IMAGE, 1.0) == [Branch.FULL, Branch.NO_TEXT]


def test_image_guidance_without_text_guidance_does_nothing_in_bagel_mode() -> None:
    assert active_branches(replace(EDIT, text_scale=1.0), 0.7) == [Branch.FULL]


@pytest.mark.parametrize(
    ("text_scale", "image_scale", "expected"),
    [
        (4.0, 1.5, [Branch.FULL, Branch.IMAGES_ONLY, Branch.NOTHING]),
        (4.0, 1.0, [Branch.FULL, Branch.IMAGES_ONLY]),
        (3.0, 3.0, [Branch.FULL, Branch.NOTHING]),
        (1.0, 1.0, [Branch.FULL]),
    ],
)
def test_illume_branches_with_a_zero_coefficient_are_not_computed(text_scale: float, image_scale: float, expected: list[Branch]) -> None:
    assert active_branches(replace(ILLUME, text_scale=text_scale, image_scale=image_scale), 0.7) == expected


def test_an_edit_drops_the_instruction_from_one_branch_and_the_picture_from_the_other() -> None:
    history: list[ContextSegment] = [VAE, VIT, PROMPT]

    assert held(Branch.NO_TEXT, history) == [VAE, VIT]
    assert held(Branch.NO_IMAGE, history) == [PROMPT]


def test_without_pictures_the_image_dropped_branch_is_the_full_one() -> None:
    result = plan([SYSTEM, PROMPT])

    assert result.context_of[Branch.NO_IMAGE] == result.context_of[Branch.FULL] == 0
    assert len(result.segments) == 2


def test_only_the_last_text_is_dropped() -> None:
    assert held(Branch.NO_TEXT, [SYSTEM, PROMPT]) == [SYSTEM]
    assert held(Branch.NO_TEXT, [SYSTEM, PROMPT, VAE, VIT, ANSWER]) == [SYSTEM, PROMPT, VAE, VIT]


def test_a_history_that_ends_in_a_picture_drops_no_text() -> None:
    result = plan([PROMPT, VAE, VIT])

    assert result.context_of[Branch.NO_TEXT] == 0


def test_a_thought_is_in_the_full_context_alone() -> None:
    history: list[ContextSegment] = [SYSTEM, VAE, VIT, PROMPT, THOUGHT]

    assert held(Branch.NO_TEXT, history) == [SYSTEM, VAE, VIT]
    assert held(Branch.NO_IMAGE, history) == [SYSTEM, PROMPT]


def test_illume_branches_hold_pictures_only_and_nothing() -> None:
    history: list[ContextSegment] = [SYSTEM, VAE, VIT, PROMPT]

    assert held(Branch.IMAGES_ONLY, history, ILLUME) == [VAE, VIT]
    assert held(Branch.NOTHING, history, ILLUME) == []


def test_illume_branches_without_pictures_are_one() -> None:
    result = plan([SYSTEM, PROMPT], ILLUME)

    assert result.context_of[Branch.IMAGES_ONLY] == result.context_of[Branch.NOTHING] == 1


def test_a_context_that_no_timestep_needs_is_not_planned() -> None:
    result = plan_branches([VAE, VIT, PROMPT], TEXT_TO_IMAGE, [0.3, 0.1], None, counts_dropped_images=False)

    assert list(result.context_of) == [Branch.FULL]


def test_a_negative_prompt_stands_in_for_the_dropped_text() -> None:
    negative = TextTokens(0, (1, 77, 2))

    result = plan_branches([VAE, VIT, PROMPT], EDIT, [1.0], negative, counts_dropped_images=False)

    assert result.segments[result.context_of[Branch.NO_TEXT]] == [VAE, VIT, negative]


def test_dropped_pictures_keep_their_positions_where_the_family_says_so() -> None:
    result = plan([VAE, VIT, PROMPT], counts=True)
    dropped = result.segments[result.context_of[Branch.NO_IMAGE]]

    assert [segment.num_positions for segment in dropped] == [1, 1, 3]
    assert [segment.num_rows for segment in dropped] == [0, 0, 3]
