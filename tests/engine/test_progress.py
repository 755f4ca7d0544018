"""Work always goes on: histories in which the scheduler once had work and made empty steps for ever.

Each is played on the state machine of `test_scheduler_machine`, whose own checks watch every step of it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.messages import ImageParams, OutputMode, Request, SamplingParams, TextSegment
from tests.engine.fakes import FakeRunner, make_request
from tests.engine.test_scheduler_machine import IN_STEP, SchedulerMachine

ORDINARY_ID = 50
LONG = SamplingParams(max_tokens=40)
PROMPT = TextSegment([7] * 3)
SLOWLY_DRAWN = make_request("", [PROMPT], OutputMode.IMAGE, image=ImageParams(16, 16, num_timesteps=30, text_scale=1.0, image_scale=1.0))
TARGETS_S = [1e-9, 0.02, 1.0]


def open_machine(target_s: float, num_pages: int) -> SchedulerMachine:
    """Return a machine with pages of one row, whose texts end by their length alone."""
    machine = SchedulerMachine()
    machine.open(num_pages=num_pages, page_size=1, max_batch_tokens=8, target_s=target_s, has_prefix_cache=False, device=IN_STEP)
    machine.runner = FakeRunner(lambda _, __: ORDINARY_ID)
    return machine


def text(num_tokens: int) -> Request:
    return make_request("", [TextSegment([7] * num_tokens)], sampling=LONG)


def step_until_no_page_is_free(machine: SchedulerMachine, target_s: float) -> None:
    """The next token is late then, whatever else is done."""
    while machine.pool.num_free:
        machine.step(1)
    machine.wait(target_s)


@pytest.mark.parametrize("target_s", TARGETS_S)
def test_a_text_that_waits_for_pages_does_not_hold_up_the_picture_that_holds_them(target_s: float) -> None:
    """The picture waited for the text's next token to have passed, and the text for the picture's pages."""
    machine = open_machine(target_s, num_pages=12)
    machine.submit(SLOWLY_DRAWN)
    machine.submit(text(3))
    step_until_no_page_is_free(machine, target_s)

    machine.teardown()


@pytest.mark.parametrize("target_s", TARGETS_S)
def test_a_text_that_waits_for_pages_does_not_hold_up_an_older_prompt(target_s: float) -> None:
    """The prompt had only to take the pages of the younger text, and waited for its next token instead."""
    machine = open_machine(target_s, num_pages=20)
    machine.submit(text(14))
    machine.submit(replace(text(3), priority=1))
    step_until_no_page_is_free(machine, target_s)

    machine.teardown()
