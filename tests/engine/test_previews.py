"""Previews: spread over the steps, numbered, small, before their picture, and without effect on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from server.engine.link import LocalLink
from server.engine.options import EngineOptions
from server.engine.preview_steps import preview_after, preview_steps
from server.engine.process import load_engine
from server.messages import ImageParams, OutputMode, Request, SamplingParams, StepReport, TextSegment

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
IMAGE = ImageParams(64, 96, num_timesteps=9, interval=(0.0, 1.0), seed=3, num_previews=3)


@pytest.fixture(scope="module")
def reports() -> list[StepReport]:
    """Draw two pictures with three previews each beside one without, in the same batches."""
    link = LocalLink()
    loaded = load_engine(EngineOptions(str(CHECKPOINT), num_pages=512), link)
    for name, image in (("shown", replace(IMAGE, max_images=2)), ("plain", replace(IMAGE, num_previews=0))):
        loaded.engine.submit(Request(name, [TextSegment([5, 6])], OutputMode.IMAGE, SamplingParams(), image))
    while loaded.scheduler.has_work:
        loaded.engine.step()
    return list(link.reports)


@pytest.mark.parametrize(
    ("num_steps", "num_previews", "expected"), [(49, 3, [12, 24, 36]), (8, 1, [4]), (3, 3, [1, 2]), (1, 3, []), (9, 0, [])]
)
def test_previews_are_spread_over_the_steps_and_none_follows_the_last(num_steps: int, num_previews: int, expected: list[int]) -> None:
    assert preview_steps(num_steps, num_previews) == expected
    assert [step for step in range(1, num_steps + 1) if preview_after(step, num_steps, num_previews) is not None] == expected


def test_each_picture_is_preceded_by_its_previews(reports: list[StepReport]) -> None:
    seen = [(output.index, "preview") for report in reports for output in report.previews]
    order: list[tuple[int, str]] = []
    for report in reports:
        order += [(preview.index, "preview") for preview in report.previews]
        order += [(image.index, "picture") for image in report.images if image.request_id == "shown"]

    assert seen == [(0, "preview")] * 3 + [(1, "preview")] * 3
    assert order == [*seen[:3], (0, "picture"), *seen[3:], (1, "picture")]


def test_previews_say_which_they_are_and_when_they_were_painted(reports: list[StepReport]) -> None:
    first = [preview for report in reports for preview in report.previews if preview.index == 0]

    assert [(preview.request_id, preview.preview, preview.step, preview.num_steps) for preview in first] == [
        ("shown", 0, 2, 8),
        ("shown", 1, 4, 8),
        ("shown", 2, 6, 8),
    ]
    assert {(preview.picture.height, preview.picture.width) for preview in first} == {(64, 96)}
    assert len({preview.picture.rgb for preview in first}) == 3


def test_previews_leave_the_picture_as_it_is(reports: list[StepReport]) -> None:
    pictures = {output.request_id: output.picture for report in reports for output in report.images if output.index == 0}

    assert pictures["shown"] == pictures["plain"]
